package sentry

import (
	"context"
	"math"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	syscalls "gvisor.dev/gvisor/pkg/sentry/syscalls/linux"
	"gvisor.dev/gvisor/pkg/state"

	"aios.dev/aios/abi"
)

// Some calls end with EINTR when a task stands still for a moment: Linux has them end
// like that when a signal stops a process, and so does gVisor whenever it stops a
// task; others that Linux makes again gVisor does not. A program whose process gets no
// signal need not expect it. So these calls are made again, with the time that was
// left, unless a signal is handled that ends them on Linux too.

// againCall is a call that is made again.
type againCall struct {
	// waits returns how long the call may wait, less than 0 if for any time; known is
	// false if that cannot be made less: then it ends as gVisor has it.
	waits func(t *kernel.Task, args arch.SyscallArguments) (d time.Duration, known bool)
	// how is what goes on with it when there is time left.
	how againHow
	// always is set if Linux makes it again whenever a signal does not say otherwise.
	always bool
}

// againHow names a call that waits on.
type againHow uint64

const (
	againEpoll againHow = iota
	againEpollMasked
	againSignal
)

// againCalls are the calls that wait, and that gVisor ends with EINTR. Of fcntl(2) it is
// who waits for a lock, of open(2) who waits at a named pipe.
var againCalls = func() map[string]againCall {
	forever := func(*kernel.Task, arch.SyscallArguments) (time.Duration, bool) { return -1, true }
	without := func(arg int) func(*kernel.Task, arch.SyscallArguments) (time.Duration, bool) {
		return func(_ *kernel.Task, args arch.SyscallArguments) (time.Duration, bool) {
			return -1, args[arg].Pointer() == 0
		}
	}
	millis := func(_ *kernel.Task, args arch.SyscallArguments) (time.Duration, bool) {
		return time.Duration(args[3].Int()) * time.Millisecond, true
	}
	at := func(arg int) func(*kernel.Task, arch.SyscallArguments) (time.Duration, bool) {
		return func(t *kernel.Task, args arch.SyscallArguments) (time.Duration, bool) {
			addr := args[arg].Pointer()
			if addr == 0 {
				return -1, true
			}
			d := durationAt(t, addr, time.Nanosecond)
			return d, d > 0
		}
	}
	return map[string]againCall{
		"epoll_wait":      {waits: millis, how: againEpoll},
		"epoll_pwait":     {waits: millis, how: againEpollMasked},
		"epoll_pwait2":    {waits: at(3), how: againEpollMasked},
		"rt_sigtimedwait": {waits: at(2), how: againSignal},
		"semop":           {waits: forever},
		"semtimedop":      {waits: without(3)},
		"msgsnd":          {waits: forever},
		"msgrcv":          {waits: forever},
		"io_getevents":    {waits: without(4)},
		"fallocate":       {waits: forever},
		"flock":           {waits: forever, always: true},
		"fcntl":           {waits: forever, always: true},
		"open":            {waits: forever, always: true},
		"openat":          {waits: forever, always: true},
		"openat2":         {waits: forever, always: true},
		"creat":           {waits: forever, always: true},
	}
}()

// againWhen returns inner, made again when no signal has ended it.
func (s *Kernel) againWhen(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	c, ok := againCalls[call.Name]
	if !ok {
		return inner
	}
	if c.always {
		return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
			n, ctrl, err := inner(t, sysno, args)
			if interrupted(err) {
				err = linuxerr.ERESTARTSYS
			}
			return n, ctrl, err
		}
	}
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		began := t.Kernel().MonotonicClock().Now()
		n, ctrl, err := inner(t, sysno, args)
		if !unheard(t, err) {
			return n, ctrl, err
		}
		switch d, known := c.waits(t, args); {
		case !known:
		case d < 0:
			err = linuxerr.ERESTARTNOHAND
		default:
			left := d - t.Kernel().MonotonicClock().Now().Sub(began)
			t.SetSyscallRestartBlock(&waitOn{how: c.how, left: max(left, 0)})
			err = linuxerr.ERESTART_RESTARTBLOCK
		}
		return n, ctrl, err
	}
}

// interrupted reports whether a call was.
func interrupted(err error) bool {
	return err != nil && (linuxerr.Equals(linuxerr.ErrInterrupted, err) || linuxerr.Equals(linuxerr.EINTR, err))
}

// unheard reports whether a call was interrupted, and by no signal.
func unheard(t *kernel.Task, err error) bool {
	return interrupted(err) && t.PendingSignals()&^t.SignalMask() == 0
}

// waitOn is a call that is to wait for the rest of its time. It is part of
// checkpoints.
type waitOn struct {
	how  againHow
	left time.Duration
}

// Restart implements kernel.SyscallRestartBlock.
func (w *waitOn) Restart(t *kernel.Task) (n uintptr, err error) {
	began := t.Kernel().MonotonicClock().Now()
	args := t.Arch().SyscallArgs()
	// A millisecond that has begun counts: it is not to be over too early.
	millis := min((w.left+time.Millisecond-1)/time.Millisecond, math.MaxInt32)
	switch w.how {
	case againSignal:
		n, err = w.signal(t, args)
	case againEpollMasked:
		args[3] = arch.SyscallArgument{Value: uintptr(millis)}
		n, _, err = syscalls.EpollPwait(t, 0, args)
	default:
		args[3] = arch.SyscallArgument{Value: uintptr(millis)}
		n, _, err = syscalls.EpollWait(t, 0, args)
	}
	if unheard(t, err) {
		left := w.left - t.Kernel().MonotonicClock().Now().Sub(began)
		t.SetSyscallRestartBlock(&waitOn{how: w.how, left: max(left, 0)})
		err = linuxerr.ERESTART_RESTARTBLOCK
	}
	return n, err
}

// signal waits for a signal, as rt_sigtimedwait(2) was to.
func (w *waitOn) signal(t *kernel.Task, args arch.SyscallArguments) (uintptr, error) {
	var raw [linux.SignalSetSize]byte
	if _, err := t.CopyInBytes(args[0].Pointer(), raw[:]); err != nil {
		return 0, err
	}
	info, err := t.Sigtimedwait(linux.SignalSet(hostarch.ByteOrder.Uint64(raw[:])), w.left)
	if err != nil {
		return 0, err
	}
	if to := args[1].Pointer(); to != 0 {
		info.FixSignalCodeForUser()
		if _, err := info.CopyOut(t, to); err != nil {
			return 0, err
		}
	}
	return uintptr(info.Signo), nil
}

// StateTypeName implements state.Type.
func (*waitOn) StateTypeName() string { return "aios/sentry.waitOn" }

// StateFields implements state.Type.
func (*waitOn) StateFields() []string { return []string{"how", "left"} }

// StateSave implements state.SaverLoader.
func (w *waitOn) StateSave(to state.Sink) {
	to.Save(0, &w.how)
	to.Save(1, &w.left)
}

// StateLoad implements state.SaverLoader.
func (w *waitOn) StateLoad(_ context.Context, from state.Source) {
	from.Load(0, &w.how)
	from.Load(1, &w.left)
}

func init() { state.Register((*waitOn)(nil)) }
