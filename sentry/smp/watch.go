package smp

import (
	"runtime"
	"sync"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// Watch tells when the host allows this process other CPUs than before: because
// CPUs went offline or came back, or its cpuset or its affinity changed. The host
// tells nobody, so the watch looks now and then, always on the same thread, since
// every thread has an affinity of its own. What the host undoes between two looks
// is not seen.
//
// Lock order: telling before mu.
type Watch struct {
	clock ktime.Clock
	every time.Duration
	look  func() (Set, error)
	done  chan struct{}

	// telling is held while functions are called, so that each hears of all
	// changes in order.
	telling sync.Mutex
	hear    []func(Set) // +checklocks:telling

	mu      sync.Mutex
	allowed Set // +checklocks:mu
}

// NewWatch returns a watch that has looked once, with the function that does so,
// and looks at every interval after Start.
func NewWatch(clock ktime.Clock, every time.Duration, look func() (Set, error)) (*Watch, error) {
	allowed, err := look()
	if err == nil && allowed.Empty() {
		err = errdefs.New(errdefs.HostFeature, "the host allows no CPU")
	}
	if err != nil {
		return nil, err
	}
	return &Watch{clock: clock, every: every, look: look, done: make(chan struct{}), allowed: allowed}, nil
}

// Start has the watch look at every interval, until Close.
func (w *Watch) Start() { go w.run() }

// Close ends what Start began. It may be called once.
func (w *Watch) Close() { close(w.done) }

func (w *Watch) run() {
	runtime.LockOSThread() // The thread ends with the goroutine.
	for {
		due := make(chan struct{})
		timer := w.clock.AfterFunc(w.every, func() { close(due) })
		select {
		case <-due:
			w.Look()
		case <-w.done:
			timer.Stop()
			return
		}
	}
}

// Allowed returns what the host allowed at the last look.
func (w *Watch) Allowed() Set {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.allowed
}

// OnChange has f called with the CPUs that are allowed now, and again with what is
// allowed after each change. All such calls come one after the other. f must not
// call OnChange or Look.
func (w *Watch) OnChange(f func(allowed Set)) {
	w.telling.Lock()
	defer w.telling.Unlock()
	w.hear = append(w.hear, f)
	f(w.Allowed())
}

// Look looks at once. When it returns, everybody has heard of a change. A host that
// does not answer, or names no CPU, has changed nothing.
func (w *Watch) Look() {
	w.telling.Lock()
	defer w.telling.Unlock()
	now, err := w.look()
	if err != nil || now.Empty() || !w.set(now) {
		return
	}
	for _, f := range w.hear {
		f(now)
	}
}

// set notes what is allowed, and reports whether that is new.
func (w *Watch) set(now Set) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	changed := now != w.allowed
	w.allowed = now
	return changed
}
