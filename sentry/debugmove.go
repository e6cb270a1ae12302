package sentry

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/kdb/gdbstub"
)

// restarts reports whether a system call with this result is to be begun anew.
func restarts(result uint64) bool {
	_, ok := linuxerr.SyscallRestartErrorFromReturn(uintptr(result))
	return ok
}

// Resume implements gdbstub.Target.
func (d *debugger) Resume(plan gdbstub.Plan) error {
	d.patched = nil
	var going []*kernel.Task
	all := true
	for _, t := range d.tasks() {
		if plan.Of(d.describe(t)).Motion == gdbstub.Stay {
			all = false
			continue
		}
		going = append(going, t)
		// Its program must be there as it was, where it steps.
		if a := plan.Of(d.describe(t)); a.Motion == gdbstub.Step && d.still(t) {
			if m := addressSpaceOf(t); m != nil {
				d.unpatch(m, hostarch.Addr(t.Arch().IP()), 1)
			}
		}
	}
	d.patched = nil
	d.mu.Lock()
	defer d.mu.Unlock()
	m := &move{tripped: make(chan struct{})}
	d.move = m
	// What has happened already comes first: nothing moves then. A signal that
	// is passed on waits with it.
	for _, t := range going {
		if !d.held[t] {
			continue // It is in a call that does not end.
		}
		th := d.thread(t)
		d.passOn(t, th, plan.Of(d.describe(t)).Signal)
		if th.got != nil && !th.told {
			th.told = true
			d.tripLocked(t, gdbstub.Stop{Thread: d.describe(t), Signal: th.got.Signo})
			break
		}
		if stop, ok := d.takeSignal(t); ok {
			th.told = true
			d.tripLocked(t, stop)
			break
		}
	}
	if len(going) == 0 && len(d.tasks()) > 0 {
		d.move = nil
		return errdefs.New(errdefs.WrongState, "no thread would move")
	}
	if m.stop == nil {
		d.holdNew = !all
		for _, t := range going {
			d.startLocked(t, plan.Of(d.describe(t)))
		}
		if len(going) == 0 {
			d.tripLocked(nil, gdbstub.Stop{})
		}
	}
	go d.await(m)
	return nil
}

// passOn gives a thread the signal that the client wants it to get, which is the
// one that it was stopped by, or another, or none.
//
// +checklocks:d.mu
func (d *debugger) passOn(t *kernel.Task, th *debugThread, signal int32) {
	got := th.got
	if got != nil && !th.told {
		return
	}
	th.got, th.letThrough = nil, false
	switch {
	case signal == 0:
	case got != nil && got.Signo == signal && th.fault:
		th.letThrough = true // It raises the exception again.
	case got != nil && got.Signo == signal:
		d.sendLocked(t, th, got)
	default:
		d.sendLocked(t, th, &linux.SignalInfo{Signo: signal, Code: linux.SI_USER})
	}
}

// sendLocked sends a thread a signal that does not stop it again.
//
// +checklocks:d.mu
func (d *debugger) sendLocked(t *kernel.Task, th *debugThread, info *linux.SignalInfo) {
	if t.SendSignal(info) == nil { // It fails if the task has ended.
		th.passing |= linux.SignalSetOf(linux.Signal(info.Signo))
	}
}

// startLocked lets a thread go on.
//
// +checklocks:d.mu
func (d *debugger) startLocked(t *kernel.Task, a gdbstub.Action) {
	th := d.thread(t)
	th.step, th.start, th.end = a.Motion == gdbstub.Step, a.Start, a.End
	th.spent, th.through, th.moves = false, false, true
	if d.held[t] {
		d.restartCall(t, th)
	}
	d.letGoLocked(t)
}

// restartCall begins a system call anew that a debugger has made a thread return
// to: gVisor does so itself only right after the call.
//
// +checklocks:d.mu
func (d *debugger) restartCall(t *kernel.Task, th *debugThread) {
	ac := t.Arch()
	regs := &ac.StateData().Regs
	if th.called || int64(regs.Orig_rax) < 0 {
		return
	}
	switch err, ok := linuxerr.SyscallRestartErrorFromReturn(ac.Return()); {
	case !ok:
	case err == linuxerr.ERESTART_RESTARTBLOCK:
		ac.RestartSyscallWithRestartBlock()
	default:
		ac.RestartSyscall()
	}
}

// Interrupt implements gdbstub.Target.
func (d *debugger) Interrupt() {
	stop := gdbstub.Stop{Signal: int32(linux.SIGINT)}
	if th := d.Threads(); len(th) > 0 {
		stop.Thread = th[0]
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tripLocked(nil, stop)
}
