// Package platform puts AIOS between gVisor's kernel and the machine that
// runs an agent's code, and chooses that machine.
//
// A gVisor platform executes application code: it offers address spaces, and
// contexts whose Switch runs one thread until it makes a system call, faults
// or is interrupted. Every entry into and every return from an agent's code
// therefore passes one method, and Wrap stands in front of it.
//
// Key types: Platform and its contexts (the decorator), Hooks (what the kernel
// wants to hear), Crowd (the tasks of an agent, which need a CPU of the scheduler
// to run), Touches (the pages that they touch first), Driver and Drivers (which platforms exist, which of them work on this
// host, and how to choose).
// The drivers are in platform/kvm, platform/systrap and platform/ptrace;
// platform/drivers lists them; platform/fake interprets a few instructions for
// tests without a host platform; platform/platformtest is the contract that all
// of them keep.
//
// It has no locks of its own but that of Touches; that and the scheduler's are leaves. A context's Switch,
// Prepare* and Release are called by the one goroutine of its task; Interrupt and
// Preempt by anybody.
//
// An AddressSpace is never wrapped: platforms assert its concrete type.
//
// Under sentry/ the package must not import anything but sentry/sched and
// sentry/irq, where it counts the tasks that it makes return: hooks get the task
// as the context.Context it is.
package platform

import (
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"

	"aios.dev/aios/sentry/sched"
)

// Hooks is what the kernel wants to hear about the tasks that a platform runs.
// A nil function costs one branch. Hooks run on the task's own goroutine and
// must not block: the task, and whoever waits for it, would block too.
type Hooks struct {
	// FirstSwitch runs once per context, before it first executes
	// application code. task is what the kernel passed to Switch: the
	// *kernel.Task itself. The context belongs to the crowd that it
	// returns, if any.
	FirstSwitch func(task context.Context) *Crowd

	// Joined runs after FirstSwitch, if that returned a crowd: t is what the
	// scheduler knows the task as. It may set how the task is scheduled.
	Joined func(task context.Context, t *sched.Task)

	// Counted runs after Joined, if FirstSwitch returned a crowd, and returns
	// where the task's page faults are counted besides; nil is nowhere.
	Counted func(task context.Context) *FaultCounts

	// Fault runs when application code of a crowd's task has touched memory
	// that is not mapped, before the kernel looks into it: most often the
	// kernel maps it and the task goes on.
	Fault func(task context.Context, ac *arch.Context64, info *linux.SignalInfo, at hostarch.AccessType) FaultAnswer

	// Trap runs when application code of a crowd's task has raised any other
	// exception, before the kernel makes a signal of it. If it reports that
	// it was handled, the kernel hears nothing of it: the task goes on from
	// where its registers say, after a stop that was asked for meanwhile.
	Trap func(task context.Context, ac *arch.Context64, info *linux.SignalInfo) (handled bool)

	// Settled runs once for each exception that the kernel was told of and
	// did not just resolve: before the task next executes application code,
	// which then is a signal's handler or what a debugger inside made it, or
	// when it exits instead.
	Settled func(task context.Context, e *Exception, exits bool)

	// Panicked runs under recover when the platform or a hook has panicked
	// while it ran the task. The task's Switch then returns as if it had been
	// interrupted; the hook sees to it that the task does not go on.
	Panicked func(task context.Context, cause any)

	// Call runs when application code of a crowd's task has made a system
	// call, before the kernel looks at it, if the crowd's calls are watched.
	Call func(task context.Context, ac *arch.Context64)

	// Enter runs before a task of a traced crowd executes application code,
	// and says what it is to do. Registers may be changed.
	Enter func(task context.Context, ac *arch.Context64) Order

	// Left runs after a task of a traced crowd has executed application code,
	// unless by an exception that a hook has handled. called says that it left
	// it by a system call, which the kernel has not looked at yet.
	Left func(task context.Context, ac *arch.Context64, called bool)

	// Clock runs before a task of a crowd that has a clock of its own executes
	// application code. fresh says that it is the first time that the task does so
	// in its address space, or since the crowd has a clock.
	Clock func(task context.Context, fresh bool)

	// Exit runs once for every context that FirstSwitch ran for, with the
	// same task: when the task exits, while it still has its memory manager,
	// or when its context is released without an exit.
	Exit func(task context.Context)
}

// FaultAnswer is what a Fault hook makes of a page fault.
type FaultAnswer uint8

const (
	// FaultUnseen leaves it to the kernel, and to Settled.
	FaultUnseen FaultAnswer = iota
	// FaultReal leaves it to the kernel, which is known to have nothing to
	// map there: it will make a signal of it.
	FaultReal
	// FaultHandled keeps it from the kernel, as Trap does.
	FaultHandled
)

// Exception is an exception that the kernel was told of.
type Exception struct {
	// Info says of which signal, Access is set for page faults only.
	Info   linux.SignalInfo
	Access hostarch.AccessType
	// IP and SP are where it happened.
	IP, SP uintptr
	// Known says that the Fault or Trap hook has seen that it is one. Another
	// may have been resolved, and the task have got a signal besides.
	Known bool
}

// Platform is a gVisor platform with hooks around its contexts. Everything
// but NewContext is the inner platform's.
type Platform struct {
	gvplatform.Platform
	hooks Hooks
}

// Wrap returns inner with hooks around every context it makes from now on.
func Wrap(inner gvplatform.Platform, hooks Hooks) *Platform {
	return &Platform{Platform: inner, hooks: hooks}
}

// Unwrap returns the platform beneath.
func (p *Platform) Unwrap() gvplatform.Platform { return p.Platform }

// NewContext implements gVisor's Platform.NewContext.
func (p *Platform) NewContext(ctx context.Context) gvplatform.Context {
	c := &taskContext{Context: p.Platform.NewContext(ctx), hooks: &p.hooks, of: p.Platform}
	c.place.wake = make(chan struct{}, 1)
	return c
}

// taskContext decorates the context of one task.
type taskContext struct {
	gvplatform.Context

	// hooks and of, the platform beneath, are immutable.
	hooks *Hooks
	of    gvplatform.Platform

	// task is what the first Switch was given, nil before it and after exit.
	// Only the task goroutine touches it.
	task context.Context

	// crowd is set by the first Switch, for Interrupt to see.
	crowd atomic.Pointer[Crowd]
	place place

	// told is an exception that was left to the kernel, while pending. Only
	// the task goroutine touches them.
	told    Exception
	pending bool

	// fault is the last page fault, until it is known what came of it, and own
	// where it is counted besides. Only the task goroutine touches them.
	fault fault
	own   *FaultCounts

	// space is where the task last executed application code. Only the task
	// goroutine touches it.
	space gvplatform.AddressSpace

	// clocked is the last address space that the Clock hook was told of. Only the
	// task goroutine touches it.
	clocked gvplatform.MemoryManager

	// self is the task again, nil for one of a test of the platform. Only the task
	// goroutine touches it.
	self *kernel.Task

	// files is its table of descriptors, as of when it last executed application
	// code. The task goroutine writes it.
	files atomic.Pointer[kernel.FDTable]

	// left is 0 if the task last left application code by something else than a
	// system call, or has not executed any; else one more than the number of the
	// call. The task goroutine writes it, others read it while the task stands.
	left uintptr
}

// Switch implements gVisor's Context.Switch.
func (c *taskContext) Switch(ctx context.Context, mm gvplatform.MemoryManager, ac *arch.Context64, cpu int32) (info *linux.SignalInfo, at hostarch.AccessType, err error) {
	if c.task == nil {
		c.begin(ctx)
	}
	crowd := c.crowd.Load()
	if crowd == nil {
		return c.Context.Switch(ctx, mm, ac, cpu)
	}
	if c.hooks.Panicked != nil {
		defer c.contain(ctx, &info, &at, &err)
	}
	if c.pending {
		c.settle(ac)
	}
	if c.fault.is {
		c.resolved(crowd, mm, ac)
	}
	order, watch := Run, crowd.watch.Load()
	if watch&watchClock != 0 && c.hooks.Clock != nil {
		c.hooks.Clock(ctx, mm != c.clocked)
		c.clocked = mm
	}
	if watch&watchRuns != 0 && c.hooks.Enter != nil {
		if order = c.hooks.Enter(ctx, ac); order == Stay {
			c.left = 0
			return nil, hostarch.NoAccess, gvplatform.ErrContextInterrupt
		}
	}
	if mm != nil { // Tests of the platform have none.
		c.space = mm.AddressSpace()
	}
	if c.self != nil {
		c.noteFiles()
	}
	crowd.enter(c)
	c.left = 0
	if order == Step {
		info, at, err = c.step(ctx, mm, ac, cpu)
	} else {
		info, at, err = c.Context.Switch(ctx, mm, ac, cpu)
	}
	crowd.exit(c)
	if err == gvplatform.ErrContextSignal && info.Signo == int32(gvplatform.SignalInterrupt) {
		c.pull()
	}
	switch {
	case err == nil: // A system call; kvm gives a signal with it that means nothing.
		c.left = ac.SyscallNo() + 1
		if crowd.watch.Load()&watchCalls != 0 && c.hooks.Call != nil {
			c.hooks.Call(ctx, ac)
		}
	case err == gvplatform.ErrContextSignal:
		if at.Any() {
			crowd.faults.Add(1)
			if n := crowd.touches.Load(); n != nil {
				n.note(mm, hostarch.Addr(info.Addr()), at)
			}
			c.faulted(mm, ac, at)
		}
		if c.excepted(ctx, ac, info, at) {
			return nil, hostarch.NoAccess, gvplatform.ErrContextInterrupt
		}
	}
	if crowd.watch.Load()&watchRuns != 0 && c.hooks.Left != nil {
		c.hooks.Left(ctx, ac, err == nil)
	}
	return info, at, err
}

// begin is outside Switch so that the hot path stays small.
func (c *taskContext) begin(task context.Context) {
	c.task = task
	c.self, _ = task.(*kernel.Task)
	if c.hooks.FirstSwitch != nil {
		if crowd := c.hooks.FirstSwitch(task); crowd != nil {
			crowd.group.Init(&c.place.task, c, task)
			c.place.is = true
			if c.hooks.Joined != nil {
				c.hooks.Joined(task, &c.place.task)
			}
			if c.hooks.Counted != nil {
				c.own = c.hooks.Counted(task)
			}
			c.crowd.Store(crowd)
		}
	}
}

// Interrupt implements gVisor's Context.Interrupt.
func (c *taskContext) Interrupt() {
	crowd := c.crowd.Load()
	if crowd != nil {
		crowd.kicked(&c.place, byKernel)
	}
	c.Context.Interrupt()
	if crowd != nil {
		c.place.interrupted()
	}
}

// leave gives up the task's place, before it stops to need one.
func (c *taskContext) leave() {
	if c.place.is {
		c.place.task.Leave()
	}
}

// PrepareSleep implements gVisor's Context.PrepareSleep.
func (c *taskContext) PrepareSleep() {
	c.leave()
	c.Context.PrepareSleep()
}

// PrepareUninterruptibleSleep implements gVisor's
// Context.PrepareUninterruptibleSleep.
func (c *taskContext) PrepareUninterruptibleSleep() {
	c.fault.slept = true
	c.leave()
	c.Context.PrepareUninterruptibleSleep()
}

// PrepareStop implements gVisor's Context.PrepareStop.
func (c *taskContext) PrepareStop() {
	c.leave()
	c.pull()
	c.Context.PrepareStop()
}

// PrepareExit implements gVisor's Context.PrepareExit.
func (c *taskContext) PrepareExit() {
	c.end()
	c.Context.PrepareExit()
}

// Release implements gVisor's Context.Release. Like PrepareExit it may be
// called for a task that never ran.
func (c *taskContext) Release() {
	c.end()
	c.Context.Release()
}

// end tells the hook once, and lets go of the task.
func (c *taskContext) end() {
	c.leave()
	if c.task == nil {
		return
	}
	task := c.task
	if c.pending {
		c.pending = false
		c.hooks.Settled(task, &c.told, true) // It is not nil, or nothing was.
	}
	if c.place.is {
		c.place.is = false
		c.place.task.Close()
	}
	c.task, c.space, c.clocked = nil, nil, nil
	if c.hooks.Exit != nil {
		c.hooks.Exit(task)
	}
}
