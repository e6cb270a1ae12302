package sentry

import (
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/errdefs"
)

// Processes that a signal has stopped are stopped in the copy before any other of it
// runs. Their parents have heard of the stop long ago, and may have waited for it: those
// of the copies must not be told again.

// stops has the copies of stopped processes run until they are stopped, which is before
// they execute anything. What their parents' originals have still to wait for, these
// have, too.
func (c *copying) stops() error {
	root := c.s.k.RootPIDNamespace()
	var all []*kernel.Task
	for _, g := range c.f.groups {
		if !g.stopped || g.leader.zombie {
			continue
		}
		g.leader.new.SendGroupSignal(&linux.SignalInfo{Signo: int32(linux.SIGSTOP)})
		for _, tw := range g.tasks {
			c.begun[tw.new] = true
			tw.new.Start(root.IDOfTask(tw.new))
			all = append(all, tw.new)
		}
	}
	late := c.s.cfg.Clock.Now().Add(pauseTimeout)
	for _, t := range all {
		// Its parent is told after it is stopped, and before it waits for the end of that.
		for t.TaskGoroutineState() != kernel.TaskGoroutineStopped {
			if c.s.cfg.Clock.Now().After(late) {
				return errdefs.New(errdefs.Timeout, "a process that had to stop does not", errdefs.Op("clone"))
			}
			nap(c.s.cfg.Clock, 20*time.Microsecond)
		}
	}
	for _, g := range c.f.groups {
		if g.stopped && !g.leader.zombie && !waitable(g.leader.old, false) {
			waitable(g.leader.new, true)
		}
	}
	if len(all) > 0 {
		c.unheard()
	}
	return nil
}

// waitable reports whether the parent of a process has still to wait for its stop. With
// consume it has not any more.
func waitable(leader *kernel.Task, consume bool) bool {
	parent := leader.Parent()
	if parent == nil {
		return false
	}
	_, err := parent.Wait(&kernel.WaitOptions{
		SpecificThreadGroup: leader.ThreadGroup(),
		Events:              kernel.EventChildGroupStop,
		NonCloneTasks:       true,
		CloneTasks:          true,
		SiblingChildren:     true,
		ConsumeEvent:        consume,
		NonBlock:            true,
	})
	return err == nil
}

// unheard takes from the tasks what they have heard of their children. Whoever waited for
// these has heard it before.
func (c *copying) unheard() {
	for _, t := range c.made {
		for {
			if info, err := t.Sigtimedwait(linux.SignalSetOf(linux.SIGCHLD), 0); err != nil || info == nil {
				break
			}
		}
	}
}
