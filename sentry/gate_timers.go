package sentry

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/abi"
	"aios.dev/aios/ktime"
	"aios.dev/aios/sentry/irq"
)

// timedCall is a call that ends when its time is up, if nothing else ends it: by
// an interrupt of the timer.
type timedCall struct {
	// asked returns how long a call is to wait at most: 0 or less if its end is
	// no timer's. nil: it is not known.
	asked func(t *kernel.Task, args arch.SyscallArguments) time.Duration
	// expired says whether a call ended because its time was up.
	expired func(n uintptr, err error) bool
	// sleeps is set if asked says exactly when the time is up.
	sleeps bool
}

// The calls that programs wait in. Timers that send signals, and those that are
// files, are gVisor's own business and not seen.
var timedCalls = func() map[string]timedCall {
	slept := func(_ uintptr, err error) bool { return err == nil }
	nothing := func(n uintptr, err error) bool { return n == 0 && err == nil }
	millis := func(arg int) func(*kernel.Task, arch.SyscallArguments) time.Duration {
		return func(_ *kernel.Task, args arch.SyscallArguments) time.Duration {
			return time.Duration(args[arg].Int()) * time.Millisecond
		}
	}
	at := func(arg int, unit time.Duration) func(*kernel.Task, arch.SyscallArguments) time.Duration {
		return func(t *kernel.Task, args arch.SyscallArguments) time.Duration {
			return durationAt(t, args[arg].Pointer(), unit)
		}
	}
	const nanos, micros = time.Nanosecond, time.Microsecond
	return map[string]timedCall{
		"nanosleep":       {at(0, nanos), slept, true},
		"clock_nanosleep": {nil, slept, true}, // askedByClock,
		"poll":            {millis(2), nothing, false},
		"ppoll":           {at(2, nanos), nothing, false},
		"select":          {at(4, micros), nothing, false},
		"pselect6":        {at(4, nanos), nothing, false},
		"epoll_wait":      {millis(3), nothing, false},
		"epoll_pwait":     {millis(3), nothing, false},
		"epoll_pwait2":    {at(3, nanos), nothing, false},
		"futex":           {nil, func(_ uintptr, err error) bool { return err != nil && linuxerr.Equals(linuxerr.ETIMEDOUT, err) }, false},
		"restart_syscall": {nil, nothing, false},
	}
}()

// askedByClock is for clock_nanosleep: the time may be a moment, and not be that
// of a clock on the wall.
func (s *Kernel) askedByClock(t *kernel.Task, args arch.SyscallArguments) time.Duration {
	clock := t.Kernel().MonotonicClock()
	switch args[0].Int() {
	case linux.CLOCK_REALTIME:
		clock = t.Kernel().RealtimeClock()
	case linux.CLOCK_MONOTONIC, linux.CLOCK_BOOTTIME:
	default:
		return 0
	}
	d := durationAt(t, args[2].Pointer(), time.Nanosecond)
	if args[1].Int()&linux.TIMER_ABSTIME != 0 {
		now := clock.Now().Nanoseconds()
		if c := s.clocksOf(t); c != nil {
			now, _ = c.now(args[0].Int())
		}
		d -= time.Duration(now)
	}
	return d
}

// durationAt reads seconds and a part of one, in units; 0 if there are none.
func durationAt(t *kernel.Task, addr hostarch.Addr, unit time.Duration) time.Duration {
	var raw [16]byte
	if addr == 0 {
		return 0
	}
	if _, err := t.CopyInBytes(addr, raw[:]); err != nil {
		return 0
	}
	sec, part := int64(hostarch.ByteOrder.Uint64(raw[:8])), int64(hostarch.ByteOrder.Uint64(raw[8:]))
	if sec < 0 || part < 0 || sec > 1<<32 || part >= int64(time.Second/unit) {
		return 0
	}
	return time.Duration(sec)*time.Second + time.Duration(part)*unit
}

// rousers are timers of a Prompt that nobody has started.
var rousers = sync.Pool{New: func() any { return new(ktime.ExactTimer) }}

// rouseAfter is how much later than a sleeper's timer its rouser ends: not before.
const rouseAfter = 20 * time.Microsecond

// rouse starts a timer that does nothing but end on time: the Go runtime, which
// does not wake on time for the timer of a task that sleeps, then sees that it is
// due.
func (s *Kernel) rouse(d time.Duration) *ktime.ExactTimer {
	t := rousers.Get().(*ktime.ExactTimer)
	s.prompt.Start(t, d+rouseAfter, func() {})
	return t
}

// timeCall counts the ends of calls that a timer brings about.
func (s *Kernel) timeCall(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	tc, ok := timedCalls[call.Name]
	if !ok {
		return inner
	}
	if call.Name == "clock_nanosleep" {
		tc.asked = s.askedByClock
	}
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		var asked time.Duration
		if tc.asked != nil {
			if asked = tc.asked(t, args); asked <= 0 {
				return inner(t, sysno, args)
			}
		}
		var began time.Time
		var rouser *ktime.ExactTimer
		if tc.sleeps {
			began = s.cfg.Clock.Now()
			rouser = s.rouse(asked)
		}
		n, ctrl, err := inner(t, sysno, args)
		if rouser != nil && rouser.Stop() {
			rousers.Put(rouser)
		}
		if tc.expired(n, err) {
			src := s.sourceOf(s.agentOf(t))
			if tc.sleeps {
				src.Observe(irq.Timer, s.cfg.Clock.Since(began)-asked)
			}
			if !src.Raise(irq.Timer) {
				// In a storm, time is up for all at the same moments.
				_, _ = t.BlockWithTimeout(nil, true, src.Coalesce(irq.Timer)) // It ends, or a signal ends it.
			}
		}
		return n, ctrl, err
	}
}
