package sentry

import (
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"

	"aios.dev/aios/ktime"
)

// A trigger is what a program writes to a file of pressure, as on Linux: that tasks of
// its agent are kept for more than so long in any window of time is an event, for
// which the open file can be polled. It is gone with the open file.

const (
	// Of the windows that there may be.
	triggerWindowMin = 500 * time.Millisecond
	triggerWindowMax = 10 * time.Second
	// triggerLooks is how often in a window the pressure is looked at.
	triggerLooks = 10
	// triggerText is how much of what is written is read, as on Linux.
	triggerText = 31
)

// triggerSpec is what a trigger waits for.
type triggerSpec struct {
	full              bool
	threshold, window time.Duration
}

// parseTrigger reads "some|full THRESHOLD WINDOW", in microseconds.
func parseTrigger(text string) (triggerSpec, bool) {
	var spec triggerSpec
	text, _, _ = strings.Cut(text, "\x00")
	f := strings.Fields(text)
	if len(f) != 3 || f[0] != "some" && f[0] != "full" {
		return spec, false
	}
	threshold, err1 := strconv.ParseUint(f[1], 10, 32)
	window, err2 := strconv.ParseUint(f[2], 10, 32)
	spec = triggerSpec{f[0] == "full", time.Duration(threshold) * time.Microsecond, time.Duration(window) * time.Microsecond}
	ok := err1 == nil && err2 == nil && spec.window >= triggerWindowMin && spec.window <= triggerWindowMax &&
		spec.threshold > 0 && spec.threshold <= spec.window
	return spec, ok
}

// triggerWindow adds up by how much a total has grown in the last window: what it has
// in the current one, and as much of the one before as still counts.
type triggerWindow struct {
	since, value, before time.Duration
}

func (w *triggerWindow) grown(size, now, total time.Duration) time.Duration {
	elapsed, grown := now-w.since, total-w.value
	if elapsed > size {
		w.since, w.value, w.before = now, total, grown
		return grown
	}
	return grown + time.Duration(float64(w.before)*float64(size-elapsed)/float64(size))
}

// pressureTrigger is a trigger that is set.
type pressureTrigger struct {
	a        *Agent
	resource int
	spec     triggerSpec
	notify   func()
	// happened is set by an event, until it is polled for.
	happened atomic.Bool

	mu      sync.Mutex
	window  triggerWindow // +checklocks:mu
	pending bool          // too much was seen, and is not told; +checklocks:mu
	told    bool          // +checklocks:mu
	last    time.Duration // when it was told last; +checklocks:mu
	timer   ktime.Timer   // nil once it has ended; +checklocks:mu
}

// newTrigger sets one; notify is called for each event.
func (a *Agent) newTrigger(resource int, spec triggerSpec, notify func()) *pressureTrigger {
	t := &pressureTrigger{a: a, resource: resource, spec: spec, notify: notify}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.window = triggerWindow{since: time.Duration(a.s.uptimeNS()), value: t.total()}
	t.timer = a.s.cfg.Clock.AfterFunc(spec.window/triggerLooks, t.look)
	return t
}

func (t *pressureTrigger) total() time.Duration {
	some, full := t.a.pressureTotal(t.resource)
	if t.spec.full {
		return full
	}
	return some
}

// look sees whether there was too much, and arms the next look.
func (t *pressureTrigger) look() {
	t.mu.Lock()
	tell := t.lookLocked()
	t.mu.Unlock()
	if tell {
		t.notify()
	}
}

// +checklocks:t.mu
func (t *pressureTrigger) lookLocked() (tell bool) {
	if t.timer == nil || t.a.dying.Load() {
		return false
	}
	now := time.Duration(t.a.s.uptimeNS())
	t.pending = t.window.grown(t.spec.window, now, t.total()) >= t.spec.threshold || t.pending
	// At most once in a window.
	if t.pending && (!t.told || now-t.last >= t.spec.window) {
		t.pending, t.told, t.last = false, true, now
		tell = t.happened.CompareAndSwap(false, true)
	}
	t.timer = t.a.s.cfg.Clock.AfterFunc(t.spec.window/triggerLooks, t.look)
	return tell
}

func (t *pressureTrigger) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
}

// pressureOf says which resource a file of views is about the pressure on.
func (t viewText) pressureOf() (resource int, ok bool) {
	switch t.of {
	case "cgroup/cpu.pressure":
		return pressureCPU, true
	case "cgroup/memory.pressure":
		return pressureMemory, true
	case "cgroup/io.pressure":
		return pressureIO, true
	}
	return 0, false
}

// pressureFD is an open file of pressure.
type pressureFD struct {
	kernfs.DynamicBytesFD
	file  *viewFile
	queue waiter.Queue

	mu      sync.Mutex
	trigger *pressureTrigger // nil: none is set; +checklocks:mu
	// What was saved of one, by whose it is and what it waits for.
	agent string      // +checklocks:mu
	spec  triggerSpec // +checklocks:mu
}

var _ vfs.FileDescriptionImpl = (*pressureFD)(nil)

// Release implements vfs.FileDescriptionImpl.Release.
func (f *pressureFD) Release(ctx context.Context) {
	f.mu.Lock()
	t := f.trigger
	f.mu.Unlock()
	if t != nil {
		t.end()
	}
	f.DynamicBytesFD.Release(ctx)
}

// Write implements vfs.FileDescriptionImpl.Write. It sets the trigger.
func (f *pressureFD) Write(ctx context.Context, src usermem.IOSequence, _ vfs.WriteOptions) (int64, error) {
	if src.NumBytes() == 0 {
		return 0, linuxerr.EINVAL
	}
	var buf [triggerText]byte
	n, err := src.CopyIn(ctx, buf[:min(src.NumBytes(), triggerText)])
	if err != nil {
		return 0, err
	}
	a := f.file.s.viewOf(ctx).a
	spec, ok := parseTrigger(string(buf[:n]))
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.trigger != nil {
		return 0, linuxerr.EBUSY
	}
	if !ok || a == nil {
		return 0, linuxerr.EINVAL
	}
	f.setLocked(a, spec)
	return src.NumBytes(), nil
}

// PWrite implements vfs.FileDescriptionImpl.PWrite.
func (f *pressureFD) PWrite(ctx context.Context, src usermem.IOSequence, _ int64, opts vfs.WriteOptions) (int64, error) {
	return f.Write(ctx, src, opts)
}

// +checklocks:f.mu
func (f *pressureFD) setLocked(a *Agent, spec triggerSpec) {
	resource, _ := f.file.text.pressureOf()
	f.agent, f.spec = a.id, spec
	f.trigger = a.newTrigger(resource, spec, func() { f.queue.Notify(waiter.EventPri) })
}

// Epollable implements vfs.FileDescriptionImpl.Epollable.
func (*pressureFD) Epollable() bool { return true }

// Readiness implements waiter.Waitable.Readiness. Each event is told once.
func (f *pressureFD) Readiness(mask waiter.EventMask) waiter.EventMask {
	ready := waiter.ReadableEvents | waiter.WritableEvents
	f.mu.Lock()
	t := f.trigger
	f.mu.Unlock()
	switch {
	case t == nil:
		ready |= waiter.EventErr | waiter.EventPri
	case mask&waiter.EventPri != 0 && t.happened.CompareAndSwap(true, false):
		ready |= waiter.EventPri
	}
	return ready & mask
}

// EventRegister implements waiter.Waitable.EventRegister.
func (f *pressureFD) EventRegister(e *waiter.Entry) error {
	f.queue.EventRegister(e)
	return nil
}

// EventUnregister implements waiter.Waitable.EventUnregister.
func (f *pressureFD) EventUnregister(e *waiter.Entry) { f.queue.EventUnregister(e) }

// openPressure opens a file of pressure.
func (f *viewFile) openPressure(rp *vfs.ResolvingPath, d *kernfs.Dentry, flags uint32) (*vfs.FileDescription, error) {
	fd := &pressureFD{file: f}
	if err := fd.InitWithImpl(fd, rp.Mount(), d, f, new(vfs.FileLocks), flags, rp.Credentials()); err != nil {
		return nil, err
	}
	return fd.VFSFileDescription(), nil
}

// setAgain sets the trigger of an open file that was restored.
func (f *pressureFD) setAgain(s *Kernel) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a := s.findAgent(f.agent); a != nil && f.trigger == nil {
		f.setLocked(a, f.spec)
	}
}

// copyTrigger sets the trigger of an open file of the original for that of its copy,
// which waits for the copy's own pressure.
func (a *Agent) copyTrigger(from, to *vfs.FileDescription) {
	old, ok := from.Impl().(*pressureFD)
	if !ok {
		return
	}
	old.mu.Lock()
	set, spec := old.trigger != nil, old.spec
	old.mu.Unlock()
	if f, ok := to.Impl().(*pressureFD); ok && set {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.setLocked(a, spec)
	}
}

// mode is how a file of views may be opened: a trigger is written.
func (t viewText) mode() linux.FileMode {
	if _, ok := t.pressureOf(); ok {
		return linux.ModeRegular | 0o666
	}
	return linux.ModeRegular | 0o444
}
