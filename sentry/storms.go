package sentry

import (
	"sync/atomic"
	"time"

	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/sentry/trap"
)

// A storm is an agent that raises exceptions as fast as it can. Most of what
// one costs is work of the kernel, which agents' code makes way for: their
// weights do not count there. So an agent in a storm is held back as by a
// quota, until it is quiet for a moment.

const (
	// stormRate is how many exceptions a second are a storm.
	stormRate = 1000
	// holdTime is within how long holdCount are too many for its neighbours.
	holdTime = 100 * time.Millisecond
	// heldMilliCPU is what it may use of the CPUs then, with all its tasks:
	// beside that, it costs its neighbours what one costs that computes.
	heldMilliCPU = 500
	// calmCount is how few there must be within calmTime before it is let go.
	calmCount = 100
	calmTime  = 500 * time.Millisecond
)

// holdCount is how many exceptions within holdTime hold an agent back. Tests, in
// which an exception takes much longer, lower it.
var holdCount = newCount(500)

// actionThrottle is what fault.storm says of an agent that is held back.
const actionThrottle = "throttle"

// tally is how many there were in the present interval, and in its upper half
// which interval that is.
type tally struct{ atomic.Uint64 }

// add counts one, and returns how many there are now.
func (c *tally) add(now, interval time.Duration) uint32 {
	present := uint64(now/interval) & (1<<32 - 1)
	for {
		old := c.Load()
		next := old + 1
		if old>>32 != present {
			next = present<<32 | 1
		}
		if c.CompareAndSwap(old, next) {
			return uint32(next)
		}
	}
}

// storms counts an exception, and sees whether it makes a storm. It runs on the
// goroutine of the task that has raised it.
func (s *Kernel) storms(a *Agent, v trap.Vector) {
	f := &a.faults
	now := s.cfg.Clock.Since(s.started)
	if f.second.add(now, time.Second) == stormRate+1 {
		s.emitStorm(a, v, stormRate, time.Second, "")
	}
	if most := holdCount.Load(); f.lately.add(now, holdTime) == most+1 && f.held.CompareAndSwap(false, true) {
		s.emitStorm(a, v, float64(most), holdTime, actionThrottle)
		s.cfg.Clock.AfterFunc(0, func() {
			a.holdBack(true)
			a.watchStorm(f.counts.Total())
		})
	}
}

func (s *Kernel) emitStorm(a *Agent, v trap.Vector, limit float64, within time.Duration, action string) {
	s.emit(a, event.FaultStorm, &eventv1.FaultStorm{
		Vector: uint32(v), Name: v.String(), Limit: limit, Count: a.faults.counts.Total(), Interval: int64(within), Action: action,
	})
}

// holdBack holds the agent back, or does so no more.
func (a *Agent) holdBack(on bool) {
	a.authMu.Lock()
	defer a.authMu.Unlock()
	a.held = on
	a.requota()
}

// watchStorm lets the agent go when it has raised few exceptions more than the
// total of before, in a while.
func (a *Agent) watchStorm(before uint64) {
	a.s.cfg.Clock.AfterFunc(calmTime, func() {
		total := a.faults.counts.Total()
		switch {
		case a.s.findAgent(a.id) != a: // It has ended.
		case total-before > calmCount:
			a.watchStorm(total)
		default:
			a.holdBack(false)
			a.faults.held.Store(false)
		}
	})
}

func newCount(n uint32) *atomic.Uint32 {
	c := new(atomic.Uint32)
	c.Store(n)
	return c
}
