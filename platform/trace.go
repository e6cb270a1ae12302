package platform

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"
)

// Order is what a task of a traced crowd does next.
type Order uint8

const (
	// Run is to execute application code as ever.
	Run Order = iota
	// Step is to execute one instruction: then there is a SIGTRAP, a system call,
	// or whatever else the instruction comes to. The program does not see it.
	Step
	// Stay is to execute nothing: Switch returns as if it had been interrupted.
	Stay
)

// What is done for a crowd at each Switch beyond what is done for all.
const (
	watchCalls = 1 << iota // Hooks.Call hears of system calls
	watchRuns              // Hooks.Enter and Hooks.Left are asked
	watchClock             // Hooks.Clock is asked
)

// WatchCalls has Hooks.Call hear of every system call of the crowd's tasks, from
// their next return from application code on.
func (g *Crowd) WatchCalls() { g.watch.Or(watchCalls) }

// OwnClock has Hooks.Clock asked from the next Switch of each of the crowd's tasks
// on.
func (g *Crowd) OwnClock() { g.watch.Or(watchClock) }

// Trace has Hooks.Enter and Hooks.Left see what the crowd's tasks execute, from
// their next Switch on, or ends that.
func (g *Crowd) Trace(on bool) {
	if on {
		g.watch.Or(watchRuns)
	} else {
		g.watch.And(^uint32(watchRuns))
	}
}

// straySteps is how often a step may end in the platform's own code in a row.
const straySteps = 16

// step executes one instruction.
//
// The flag that asks the CPU for it is set while the task executes application
// code and at no other time, so that it gets into no signal frame. A platform
// may load it some instructions before it enters the application; then the step
// ends there, with the application's registers in place but for the instruction
// pointer, and is begun again.
func (c *taskContext) step(ctx context.Context, mm gvplatform.MemoryManager, ac *arch.Context64, cpu int32) (info *linux.SignalInfo, at hostarch.AccessType, err error) {
	if ac.SingleStep() { // The program has asked for it itself.
		return c.Context.Switch(ctx, mm, ac, cpu)
	}
	ip := ac.IP()
	for range straySteps {
		ac.SetSingleStep()
		info, at, err = c.Context.Switch(ctx, mm, ac, cpu)
		ac.ClearSingleStep()
		if err == nil { // The instruction leaves a copy of the flags.
			ac.StateData().Regs.R11 &^= arch.X86TrapFlag
			return info, at, err
		}
		if err != gvplatform.ErrContextSignal || linux.Signal(info.Signo) != linux.SIGTRAP || hostarch.Addr(ac.IP()) < c.of.MaxUserAddress() {
			return info, at, err
		}
		ac.SetIP(ip)
	}
	return nil, hostarch.NoAccess, gvplatform.ErrContextInterrupt
}
