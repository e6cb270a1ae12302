package sentry

import (
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/fabric"
	"aios.dev/aios/sentry/sched"
)

// What the fabric asks of the scheduler: who waits for a lock lends its owner its
// rank. Who that is the region says, and who may write there writes what he likes:
// the most that comes of it is that he lends his own rank to somebody. It is
// charged to who lends it.

// schedOf returns what the scheduler knows a task of the fabric as, or nil.
func (s *Kernel) schedOf(t fabric.Task) *sched.Task {
	if k, ok := t.(*kernel.Task); ok {
		return s.schedTask(k)
	}
	return nil
}

func (s *Kernel) lendRank(from, to fabric.Task, what uintptr) {
	me, holder := s.schedOf(from), s.schedOf(to)
	if me == nil {
		return
	}
	me.Reclaim()
	if holder != nil && holder != me {
		me.Lend(holder, what)
	}
}

func (s *Kernel) passOnRank(from, to fabric.Task, what uintptr) {
	if me := s.schedOf(from); me != nil {
		me.PassOn(what, s.schedOf(to))
	}
}

func (s *Kernel) reclaimRank(from fabric.Task) {
	if me := s.schedOf(from); me != nil {
		me.Reclaim()
	}
}
