package sentry

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/abi"
	"aios.dev/aios/platform"
	"aios.dev/aios/sentry/kdb/gdbstub"
)

// What a debugger sees of the tasks of its agent, each on its own goroutine.

// debuggerOf returns who debugs the agent of a task, or nil.
func (s *Kernel) debuggerOf(ctx context.Context) (*kernel.Task, *debugger) {
	t, ok := ctx.(*kernel.Task)
	if !ok {
		return nil, nil
	}
	a := s.agentOf(t)
	if a == nil {
		return t, nil
	}
	return t, a.debugger.Load()
}

// taskEnters is a hook: a task is about to execute its program.
func (s *Kernel) taskEnters(ctx context.Context, ac *arch.Context64) platform.Order {
	if t, d := s.debuggerOf(ctx); d != nil {
		return d.enters(t, ac)
	}
	return platform.Run
}

// taskLeft is a hook: a task has executed its program.
func (s *Kernel) taskLeft(ctx context.Context, _ *arch.Context64, called bool) {
	if t, d := s.debuggerOf(ctx); d != nil {
		d.left(t, called)
	}
}

// callReturned is called when a system call has been done, before the task looks
// whether it has a signal.
func (s *Kernel) callReturned(t *kernel.Task, call abi.Syscall) {
	if _, d := s.debuggerOf(t); d != nil {
		d.returned(t, call.Name == "exit_group")
	}
}

// enters says what a task is to do.
func (d *debugger) enters(t *kernel.Task, ac *arch.Context64) platform.Order {
	m := t.MemoryManager()
	if !d.in(t) {
		d.returnBorrowed(t, m)
		return platform.Run
	}
	d.mu.Lock()
	th := d.thread(t)
	if th.mm != m {
		was := th.mm
		th.mm = m
		if was != nil { // It executes another program.
			d.breaks.forget(was)
			th.step, th.called, th.spent, th.through = false, false, false, false
			if d.tellExec {
				d.mu.Unlock()
				path := programOf(d.s.dumpContext(d.a), m)
				d.mu.Lock()
				d.tripLocked(t, gdbstub.Stop{Thread: d.describe(t), Signal: int32(linux.SIGTRAP), Exec: path})
			}
		}
	}
	defer d.mu.Unlock()
	if th.spent {
		th.spent = false
		d.tripLocked(t, gdbstub.Stop{Thread: d.describe(t), Signal: int32(linux.SIGTRAP)})
	}
	if _, held := d.held[t]; held {
		return platform.Stay
	}
	if d.holdNew && !th.moves && !th.doomed {
		d.holdLocked(t)
		return platform.Stay
	}
	th.called = false
	th.passing &= t.PendingSignals()
	th.before = ac.IP()
	if th.step && !th.through {
		return platform.Step
	}
	return platform.Run
}

// left is told that a task has left its program.
func (d *debugger) left(t *kernel.Task, called bool) {
	if !d.in(t) {
		return
	}
	d.mu.Lock()
	th := d.thread(t)
	th.called = called
	th.spent = th.spent || called && th.step
	d.mu.Unlock()
	if !called { // Otherwise the call is done first.
		d.catchSignal(t)
	}
}

// returned is told that a system call of a task is done. ends says that it ends
// the process.
func (d *debugger) returned(t *kernel.Task, ends bool) {
	if !d.in(t) {
		return
	}
	if ends {
		d.mu.Lock()
		for _, other := range d.tasks() {
			if other.ThreadGroup() == t.ThreadGroup() {
				d.doomLocked(other)
			}
		}
		d.mu.Unlock()
		return
	}
	d.catchSignal(t)
}

// catchSignal stops a task that is about to get a signal, which it then does not
// get by itself. It must run on the task's goroutine.
func (d *debugger) catchSignal(t *kernel.Task) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.move == nil || d.move.stop != nil {
		return // It stops anyway, and the signal is found when it goes on.
	}
	if stop, ok := d.takeSignal(t); ok {
		d.thread(t).told = d.tripLocked(t, stop)
	}
}

// takeSignal takes a signal from a task that it would get next, if that is one
// that stops the program. The task must stand still, or the caller run on its
// goroutine.
//
// +checklocks:d.mu
func (d *debugger) takeSignal(t *kernel.Task) (gdbstub.Stop, bool) {
	want := t.PendingSignals() &^ t.SignalMask() &^ d.pass &^ d.thread(t).passing &^ kernel.UnblockableSignals
	if want == 0 || killed(t) {
		return gdbstub.Stop{}, false
	}
	info, err := t.Sigtimedwait(want, 0)
	if err != nil {
		return gdbstub.Stop{}, false
	}
	th := d.thread(t)
	th.got, th.told, th.fault = info, false, false
	return gdbstub.Stop{Thread: d.describe(t), Signal: info.Signo}, true
}

// trapped sees an exception of a task before anything else does. It is a
// trapFunc.
func (d *debugger) trapped(t *kernel.Task, ac *arch.Context64, info *linux.SignalInfo, at hostarch.AccessType) (handled bool) {
	ip, m := ac.IP(), t.MemoryManager()
	trap := linux.Signal(info.Signo) == linux.SIGTRAP && !at.Any()
	if trap && info.Code != linux.TRAP_TRACE && d.repair(t, m, hostarch.Addr(ip)-1) {
		ac.SetIP(ip - 1)
		return true
	}
	if !d.in(t) {
		return false
	}
	inside := trap && inTrampoline(m, ip)
	if trap && info.Code == linux.TRAP_TRACE && !inside {
		fixPushedFlags(t, m, ac, d.steppedFrom(t))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	th := d.thread(t)
	th.called = false
	switch {
	case trap && info.Code == linux.TRAP_TRACE && th.step:
		switch {
		case inside: // The rest of it is a system call, in one.
			th.through = true
		case uint64(ip) < th.start || uint64(ip) >= th.end:
			d.tripLocked(t, gdbstub.Stop{Thread: d.describe(t), Signal: int32(linux.SIGTRAP)})
		}
		return true
	case trap && info.Code != linux.TRAP_TRACE && d.breaks.at(m, hostarch.Addr(ip)-1) != nil:
		// If something else has happened first, it comes here again.
		ac.SetIP(ip - 1)
		d.tripLocked(t, gdbstub.Stop{Thread: d.describe(t), Signal: int32(linux.SIGTRAP), Breakpoint: true})
		return true
	case th.letThrough:
		th.letThrough = false
		return false
	case d.pass&linux.SignalSetOf(linux.Signal(info.Signo)) != 0:
		return false
	}
	if d.move == nil || d.move.stop != nil {
		d.holdLocked(t)
		if !trap { // It raises the exception again.
			return true
		}
	}
	got := *info
	th.got, th.fault = &got, !trap
	th.told = d.tripLocked(t, gdbstub.Stop{Thread: d.describe(t), Signal: info.Signo})
	return true
}

// steppedFrom is where a task was before the step in progress, 0 if there is
// none.
func (d *debugger) steppedFrom(t *kernel.Task) uintptr {
	d.mu.Lock()
	defer d.mu.Unlock()
	if th := d.thread(t); th.step {
		return th.before
	}
	return 0
}

// exited is told that a task ends.
func (d *debugger) exited(t *kernel.Task) {
	d.returnBorrowed(t, nil)
	if !d.in(t) {
		return
	}
	others := d.tasks()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.letGoLocked(t)
	delete(d.threads, t)
	// Nothing more happens if all the others stand still.
	for _, other := range others {
		if _, held := d.held[other]; !held && other != t {
			return
		}
	}
	stop := gdbstub.Stop{}
	for _, other := range others {
		if other != t {
			stop.Thread = d.describe(other)
			break
		}
	}
	d.tripLocked(nil, stop)
}

// describe is a task as the stub knows it.
func (d *debugger) describe(t *kernel.Task) gdbstub.Thread {
	ns := d.a.ns.pid()
	return gdbstub.Thread{PID: int32(ns.IDOfThreadGroup(t.ThreadGroup())), TID: int32(ns.IDOfTask(t)), Name: t.Name()}
}
