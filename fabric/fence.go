package fabric

import (
	"sync"
	"sync/atomic"

	"aios.dev/aios/errdefs"
)

// Fence holds back those who would write while a version is made.
type Fence struct {
	shut atomic.Bool
	mu   sync.Mutex
	open chan struct{} // closed when it is opened; nil while it is
}

// Wait returns what is closed when nobody is held back, or nil if nobody is.
func (f *Fence) Wait() <-chan struct{} {
	if !f.shut.Load() {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}

func (f *Fence) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open = make(chan struct{})
	f.shut.Store(true)
}

func (f *Fence) lift() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.shut.Store(false)
	close(f.open)
	f.open = nil
}

// Held returns what to wait for, with no locks held, before a task that holds
// views of these regions faults; nil if for nothing. It costs one look while no
// version is made.
func (s *Store) Held() []<-chan struct{} {
	if s.fences.Load() == 0 {
		return nil
	}
	var out []<-chan struct{}
	for _, r := range s.List() {
		if c := r.fence.Wait(); c != nil {
			out = append(out, c)
		}
	}
	return out
}

// maxPasses is how often it is tried to catch a moment in which nobody writes.
const maxPasses = 1000

// still calls do, with family.mu held, at a moment at which no memory maps r to
// be written: what do finds was there at once. Who faults waits until it is over;
// system calls that are under way may write meanwhile, and then it begins again.
//
// Caller holds r.change.
func (r *Region) still(do func()) error {
	r.store.fences.Add(1)
	defer r.store.fences.Add(-1)
	r.fence.close()
	defer r.fence.lift()
	for range maxPasses {
		r.fam.mu.Lock()
		r.written = false
		r.fam.mu.Unlock()
		r.invalidate(false)
		r.fam.mu.Lock()
		if !r.written {
			do()
			r.fam.mu.Unlock()
			return nil
		}
		r.fam.mu.Unlock()
	}
	return errdefs.New(errdefs.Timeout, "somebody writes all the time", errdefs.Resource("region %s", r.name), errdefs.Fix("pause the agents that write, and try again"))
}
