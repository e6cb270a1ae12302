package lifecycle

import (
	"sync"
	"sync/atomic"
	"time"

	"aios.dev/aios/observe"
)

// Report is what became of one call of a hook.
type Report struct {
	Hook      string
	Operation *Operation
	Phase     Phase
	// Err is the refusal or the failure, nil if there was neither.
	Err error
	// Reason is what a hook that refused said.
	Reason string
	// Vetoed says that it refused; Refused that it failed, and that the operation
	// is not done for that; Abandoned that who asked gave up.
	Vetoed, Refused, Abandoned bool
	Took                       time.Duration
}

// Failed reports whether the hook did not do what it should.
func (r *Report) Failed() bool { return r.Err != nil && !r.Vetoed }

// counts are what a hook did so far. mu is a leaf.
type counts struct {
	calls    atomic.Uint64
	vetoes   atomic.Uint64
	failures atomic.Uint64
	took     observe.Histogram

	mu   sync.Mutex
	last error     // +checklocks:mu
	at   time.Time // +checklocks:mu
}

func (r *Registry) report(e *entry, rep Report) {
	c := e.counts
	c.calls.Add(1)
	c.took.Add(int64(rep.Took))
	if rep.Vetoed {
		c.vetoes.Add(1)
	}
	if rep.Failed() {
		c.failures.Add(1)
		c.mu.Lock()
		c.last, c.at = rep.Err, r.opts.Clock.Now()
		c.mu.Unlock()
	}
	if r.opts.OnReport != nil {
		r.opts.OnReport(rep)
	}
}

// Status is how a hook is.
type Status struct {
	Name  string
	Order int
	Ops   []Op
	// Calls of it so far, and those of them in which it refused or failed.
	Calls, Vetoes, Failures uint64
	// LastErr is its latest failure, and LastAt when that was.
	LastErr error
	LastAt  time.Time
	Took    observe.Latency
}

// Status says how every hook is, in their order.
func (r *Registry) Status() (out []Status) {
	if r == nil {
		return nil
	}
	for _, e := range r.entries {
		c := e.counts
		s := Status{
			Name: e.Name, Order: e.Order, Ops: e.Ops,
			Calls: c.calls.Load(), Vetoes: c.vetoes.Load(), Failures: c.failures.Load(), Took: c.took.Latency(),
		}
		c.mu.Lock()
		s.LastErr, s.LastAt = c.last, c.at
		c.mu.Unlock()
		out = append(out, s)
	}
	return out
}
