package sentry

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/ktime"
	"aios.dev/aios/platform"
)

// orphans are the processes of an agent that were not started by its first
// process. When the parent of one ends, the first process inherits it; should
// that not collect it within orphanGrace of its end, the kernel does, so that
// programs that know nothing of being PID 1 do not gather zombies.
//
// Children that the first process started itself are left alone for ever: it
// may yet want their exit status. So are those whose own parent lives.
type orphans struct {
	mu sync.Mutex // leaf: taken in hooks of the platform
	// When it ended, zero while it runs.
	kids map[*kernel.ThreadGroup]time.Time // +checklocks:mu
	// How many of kids have ended.
	dead int // +checklocks:mu
	// Whether a sweep is due.
	due   bool // +checklocks:mu
	timer ktime.WheelTimer
}

const orphanGrace = time.Second

// taskStarts is called on a task's goroutine before it first runs program
// code.
func (s *Kernel) taskStarts(ctx context.Context) *platform.Crowd {
	t, ok := ctx.(*kernel.Task)
	if !ok {
		return nil
	}
	a := s.agentOf(t)
	if a == nil {
		return nil
	}
	t.SetMemCgID(a.memID)
	a.account.started.Add(1)
	a.account.lastTask.Store(int32(a.ns.pid().IDOfTask(t)))
	if a.unscheduled.Load() {
		return nil
	}
	return a.crowd
}

// taskCloned is called when parent has made the task tid. Who made a process
// is noted here because its parent may have ended before it first runs.
func (s *Kernel) taskCloned(parent *kernel.Task, tid kernel.ThreadID) {
	a := s.agentOf(parent)
	t := parent.PIDNamespace().TaskWithID(tid)
	if a == nil || t == nil || parent.ThreadGroup().IsInitIn(a.ns.pid()) {
		return
	}
	tg := t.ThreadGroup()
	if tg == parent.ThreadGroup() {
		return
	}
	o := &a.orph
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.kids == nil {
		o.kids = make(map[*kernel.ThreadGroup]time.Time)
	}
	o.kids[tg] = time.Time{}
	if t.ExitState() != kernel.TaskExitNone { // taskExits may have come first.
		a.noteEndLocked(tg)
	}
}

// taskExits is called on a task's goroutine while it exits. The end of any
// process may make orphans of zombies that it did not collect.
func (s *Kernel) taskExits(ctx context.Context) {
	t, ok := ctx.(*kernel.Task)
	if !ok {
		return
	}
	a := s.agentOf(t)
	if a == nil {
		return
	}
	if d := a.debugger.Load(); d != nil {
		d.exited(t)
	}
	a.notes.ended(t)
	a.pages.ended(t)
	s.fabric.TaskEnded(t)
	tg := t.ThreadGroup()
	if tg.Leader() != t {
		return
	}
	o := &a.orph
	o.mu.Lock()
	defer o.mu.Unlock()
	a.noteEndLocked(tg)
}

// noteEndLocked notes that tg has ended.
//
// +checklocks:a.orph.mu
func (a *Agent) noteEndLocked(tg *kernel.ThreadGroup) {
	if ended, ours := a.orph.kids[tg]; ours && ended.IsZero() {
		a.orph.kids[tg] = a.s.cfg.Clock.Now()
		a.orph.dead++
	}
	a.armLocked()
}

// armLocked has a sweep done orphanGrace from now, if there is anything to
// sweep.
//
// +checklocks:a.orph.mu
func (a *Agent) armLocked() {
	if a.orph.dead > 0 && !a.orph.due {
		a.orph.due = true
		a.orph.timer.Reset(orphanGrace)
	}
}

// sweep collects the zombies that the first process has inherited and left
// alone for long enough.
func (a *Agent) sweep() {
	o := &a.orph
	now := a.s.cfg.Clock.Now()
	var old []*kernel.ThreadGroup
	o.mu.Lock()
	o.due = false
	again := false
	for tg, ended := range o.kids {
		switch {
		case ended.IsZero():
		case now.Sub(ended) < orphanGrace:
			again = true
		default:
			old = append(old, tg)
		}
	}
	o.mu.Unlock()
	for _, tg := range old {
		gone, retry := a.collect(tg)
		again = again || retry
		if gone {
			o.mu.Lock()
			delete(o.kids, tg)
			o.dead--
			o.mu.Unlock()
		}
	}
	if again {
		o.mu.Lock()
		a.armLocked()
		o.mu.Unlock()
	}
}

// collect reaps tg if it is a zombie that the first process inherited. It
// reports whether tg is gone, and if not, whether it is worth trying again
// before another process ends.
func (a *Agent) collect(tg *kernel.ThreadGroup) (gone, retry bool) {
	leader := tg.Leader()
	if leader == nil || leader.ExitState() == kernel.TaskExitDead {
		return true, false
	}
	parent := leader.Parent()
	if parent == nil || !parent.ThreadGroup().IsInitIn(a.ns.pid()) {
		return false, false // Its own parent lives and may still wait for it.
	}
	wr, err := parent.Wait(&kernel.WaitOptions{
		SpecificThreadGroup: tg,
		NonCloneTasks:       true,
		CloneTasks:          true,
		SiblingChildren:     true,
		Events:              kernel.EventExit,
		ConsumeEvent:        true,
		NonBlock:            true,
	})
	// Threads of a process may go on after its first one has ended.
	return wr != nil && err == nil, true
}
