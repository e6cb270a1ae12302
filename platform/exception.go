package platform

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"
)

// A page fault is only an exception if the kernel finds nothing to map, and
// whether it does is not known before it has looked. To look from here would
// charge the program with user time that is the kernel's, and the kernel looks
// in a state in which it may sleep. So a fault is left to it, and what it made
// of it is seen from what the task does next: where the registers are unchanged
// the memory is there now. Who must know earlier says so in its Fault hook.

// excepted tells the hooks of what may be an exception, and reports whether one
// of them has handled it.
func (c *taskContext) excepted(task context.Context, ac *arch.Context64, info *linux.SignalInfo, at hostarch.AccessType) bool {
	known := true
	switch {
	case at.Any():
		if c.hooks.Fault == nil {
			return false
		}
		switch c.hooks.Fault(task, ac, info, at) {
		case FaultHandled:
			return true
		case FaultUnseen:
			known = false
		}
	case !synchronous(linux.Signal(info.Signo)):
		return false
	case c.hooks.Trap != nil && c.hooks.Trap(task, ac, info):
		return true
	}
	if c.hooks.Settled != nil {
		c.told = Exception{Info: *info, Access: at, IP: ac.IP(), SP: ac.Stack(), Known: known}
		c.pending = true
	}
	return false
}

// settle is outside Switch so that the hot path stays small.
func (c *taskContext) settle(ac *arch.Context64) {
	c.pending = false
	if c.told.IP != ac.IP() || c.told.SP != ac.Stack() {
		c.hooks.Settled(c.task, &c.told, false)
	}
}

// synchronous reports whether a signal is one that exceptions become.
func synchronous(sig linux.Signal) bool {
	switch sig {
	case linux.SIGILL, linux.SIGTRAP, linux.SIGBUS, linux.SIGFPE, linux.SIGSEGV:
		return true
	}
	return false
}

// contain ends a panic in Switch.
func (c *taskContext) contain(task context.Context, info **linux.SignalInfo, at *hostarch.AccessType, err *error) {
	cause := recover()
	if cause == nil {
		return
	}
	c.pending = false
	*info, *at, *err = nil, hostarch.NoAccess, gvplatform.ErrContextInterrupt
	c.hooks.Panicked(task, cause)
}
