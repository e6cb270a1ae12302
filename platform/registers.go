package platform

import (
	"gvisor.dev/gvisor/pkg/sentry/arch"
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

// pull completes the registers of a task that is about to stop. Whoever has
// stopped it may change them: they are loaded anew when it goes on.
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
