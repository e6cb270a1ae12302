package platform

import (
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/mm"
)

// A platform may leave a part of a task's registers where the task ran last, and
// fetch it when somebody asks on the task's goroutine. A task that stops may be
// looked at by others for as long as it stands, so it takes everything along.

// stateHolder is what a kernel task is to a platform that is asked for its
// registers.
type stateHolder interface {
	MemoryManager() *mm.MemoryManager
	Arch() *arch.Context64
}

// pull completes the registers of a task that is about to stop, and has them
// loaded anew when it goes on: whoever has stopped it may change them.
//
// A task that was interrupted needs it too. A stub of systrap that has just taken
// a task over from another stub does not yet know, for a few instructions, that
// the vector registers it has are not the task's. If it is interrupted there, it
// goes on with them, unless it is told that they have changed.
func (c *taskContext) pull() {
	t, ok := c.task.(stateHolder)
	if !ok || c.space == nil {
		return
	}
	m := t.MemoryManager()
	// After an execve(2) the registers are new ones, and the place of the old
	// is none that the platform would look for them.
	if m == nil || m.AddressSpace() != c.space {
		return
	}
	if c.Context.PullFullState(c.space, t.Arch()) == nil {
		c.Context.FullStateChanged()
	}
}

// LastCall returns the system call by which a task of the crowd left application
// code last; called is false if it left it by something else, and ran if it has not
// executed any, at least not in this process. The task must stand still.
func (g *Crowd) LastCall(task any) (nr uintptr, called, ran bool) {
	t := g.group.Find(task)
	if t == nil {
		return 0, false, false
	}
	c, is := t.Runner().(*taskContext)
	if !is || c.left == 0 {
		return 0, false, is
	}
	return c.left - 1, true, true
}

// noteFiles notes which table of descriptors the task has: gVisor's execve replaces
// it without a lock, and only the task itself can be sure of it.
func (c *taskContext) noteFiles() {
	if t := c.self.FDTable(); c.files.Load() != t {
		c.files.Store(t)
	}
}

// FDTable returns the table of descriptors that a task of the crowd had when it
// last executed application code; nil if it has not executed any. It comes without a
// reference: it may have none any more.
func (g *Crowd) FDTable(task any) *kernel.FDTable {
	t := g.group.Find(task)
	if t == nil {
		return nil
	}
	if c, is := t.Runner().(*taskContext); is {
		return c.files.Load()
	}
	return nil
}
