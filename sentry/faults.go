package sentry

import (
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/platform"
	"aios.dev/aios/sentry/trap"
)

// agentFaults is what the kernel does with the exceptions of an agent.
type agentFaults struct {
	trapper atomic.Pointer[trapFunc]
	counts  trap.Counts
	second  tally         // exceptions in a second
	lately  tally         // in less
	held    atomic.Bool   // it is held back for a storm
	dumped  atomic.Int64  // when, in nanoseconds of Unix time
	inject  atomic.Uint64 // what is to fail; see chaos.go

	// Set before the agent's first task is made: what its owner wants done, and
	// how often it was.
	policy           trap.FaultPolicy
	violations       trap.ViolationPolicy
	strict           bool // violations is not the plain policy
	ladders          [trap.VectorCount]trap.Ladder
	violationLadders [trap.ViolationCount]trap.Ladder
}

// trapFunc sees the exceptions of an agent's tasks before anything else does,
// each on its task's own goroutine, page faults only if there is nothing to
// map. at is set for page faults. If it reports that it has handled one, there
// is no signal and no policy: the task goes on as ac says, after a stop that it
// has begun. It must not wait.
type trapFunc func(t *kernel.Task, ac *arch.Context64, info *linux.SignalInfo, at hostarch.AccessType) (handled bool)

// setTrapper has f see the agent's exceptions from now on; nil ends that.
func (a *Agent) setTrapper(f trapFunc) {
	if f == nil {
		a.faults.trapper.Store(nil)
		return
	}
	a.faults.trapper.Store(&f)
}

// taskFaulted is a hook: a task has touched memory that it has not mapped yet.
func (s *Kernel) taskFaulted(ctx context.Context, ac *arch.Context64, info *linux.SignalInfo, at hostarch.AccessType) platform.FaultAnswer {
	t, ok := ctx.(*kernel.Task)
	if !ok {
		return platform.FaultUnseen
	}
	a := s.agentOf(t)
	if a == nil {
		return platform.FaultUnseen
	}
	if s.cfg.Chaos {
		a.injected(chaosFault)
	}
	a.grow(faultBytes)
	s.heldBack()
	f, d := a.faults.trapper.Load(), a.debugger.Load()
	if f == nil && d == nil {
		return platform.FaultUnseen
	}
	switch {
	case emulated(t, info, at):
		return platform.FaultUnseen
	case resolve(t, ac, info, at):
		return platform.FaultHandled
	case d != nil && d.trapped(t, ac, info, at), f != nil && (*f)(t, ac, info, at):
		return platform.FaultHandled
	}
	return platform.FaultReal
}

// taskTrapped is a hook: a task has raised an exception that is no page fault.
func (s *Kernel) taskTrapped(ctx context.Context, ac *arch.Context64, info *linux.SignalInfo) (handled bool) {
	t, ok := ctx.(*kernel.Task)
	if !ok {
		return false
	}
	a := s.agentOf(t)
	if a == nil {
		return false
	}
	if s.cfg.Chaos {
		a.injected(chaosTrap)
	}
	if d := a.debugger.Load(); d != nil && d.trapped(t, ac, info, hostarch.NoAccess) {
		return true
	}
	f := a.faults.trapper.Load()
	return f != nil && (*f)(t, ac, info, hostarch.NoAccess)
}

// emulated reports whether a page fault is a system call of an old program,
// made by a jump to a fixed address.
func emulated(t *kernel.Task, info *linux.SignalInfo, at hostarch.AccessType) bool {
	if !at.Execute {
		return false
	}
	_, ok := t.SyscallTable().LookupEmulate(hostarch.Addr(info.Addr()))
	return ok
}

// resolve does what the kernel does about a page fault, and reports whether the
// memory is there now.
func resolve(t *kernel.Task, ac *arch.Context64, info *linux.SignalInfo, at hostarch.AccessType) bool {
	m := t.MemoryManager()
	if m == nil || m.AddressSpace() == nil {
		return false
	}
	return m.HandleUserFault(awake{t}, hostarch.Addr(info.Addr()), at, hostarch.Addr(ac.Stack())) == nil
}

// awake is a task that looks at a fault before the kernel does. The task counts
// as running its program then, from which it cannot go to sleep; a fault that
// waits for a file of the host only looks busy. None of the file systems that
// agents have waits for a page in another way.
type awake struct{ context.Context }

// UninterruptibleSleepStart implements context.Context.
func (awake) UninterruptibleSleepStart() {}

// UninterruptibleSleepFinish implements context.Context.
func (awake) UninterruptibleSleepFinish() {}
