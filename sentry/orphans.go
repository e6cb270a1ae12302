package sentry

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
)

// orphans are the processes of an agent that were not started by its first
// process. When the parent of one ends, the first process inherits it; should
// that not collect it within orphanGrace of its end, the kernel does, so that
// programs that know nothing of being PID 1 do not gather zombies.
//
// Children that the first process started itself are left alone for ever: it
// may yet want their exit status.
type orphans struct {
	mu   sync.Mutex                       // leaf: taken in hooks of the platform
	kids map[*kernel.ThreadGroup]struct{} // guarded by mu
}

const orphanGrace = time.Second

// taskStarts is called on a task's goroutine before it first runs program
// code.
func (s *Kernel) taskStarts(ctx context.Context) {
	t, ok := ctx.(*kernel.Task)
	if !ok {
		return
	}
	a := s.agentOf(t)
	if a == nil {
		return
	}
	t.SetMemCgID(a.memID)
	tg := t.ThreadGroup()
	parent := t.Parent()
	if parent == nil || tg.Leader() != t || parent.ThreadGroup().IsInitIn(a.ns.pid) {
		return
	}
	a.orph.mu.Lock()
	if a.orph.kids == nil {
		a.orph.kids = make(map[*kernel.ThreadGroup]struct{})
	}
	a.orph.kids[tg] = struct{}{}
	a.orph.mu.Unlock()
}

// taskExits is called on a task's goroutine while it exits.
func (s *Kernel) taskExits(ctx context.Context) {
	t, ok := ctx.(*kernel.Task)
	if !ok {
		return
	}
	a := s.agentOf(t)
	tg := t.ThreadGroup()
	if a == nil || tg.Leader() != t {
		return
	}
	a.orph.mu.Lock()
	_, ours := a.orph.kids[tg]
	delete(a.orph.kids, tg)
	a.orph.mu.Unlock()
	if ours {
		s.cfg.Clock.AfterFunc(orphanGrace, func() { a.collect(tg) })
	}
}

// collect reaps tg if it is a zombie that the first process inherited.
func (a *Agent) collect(tg *kernel.ThreadGroup) {
	leader := tg.Leader()
	if leader == nil || leader.ExitState() != kernel.TaskExitZombie {
		return
	}
	parent := leader.Parent()
	if parent == nil || !parent.ThreadGroup().IsInitIn(a.ns.pid) {
		return // Its own parent lives and may still wait for it.
	}
	parent.Wait(&kernel.WaitOptions{
		SpecificThreadGroup: tg,
		NonCloneTasks:       true,
		CloneTasks:          true,
		SiblingChildren:     true,
		Events:              kernel.EventExit,
		ConsumeEvent:        true,
		NonBlock:            true,
	})
}
