package sentry

import (
	"math"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/timerfd"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	gvktime "gvisor.dev/gvisor/pkg/sentry/ktime"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/sentry/clocks"
)

// System calls of agents that have clocks of their own: what says what time it is, and
// what waits for a moment. Calls that wait for so long are as ever. Where gVisor takes a
// moment out of the program's memory itself, what it does with it is done here: a wait
// that is interrupted begins anew with the program's own moment, by what the clock shows
// then.

// clockCalls are the calls of agents with clocks of their own, by name: c is those, a the
// agent. inner is gVisor's.
var clockCalls = map[string]func(c *ownClocks, t *kernel.Task, sysno uintptr, args arch.SyscallArguments, inner kernel.SyscallFn) (uintptr, *kernel.SyscallControl, error){
	"clock_gettime":   (*ownClocks).clockGettime,
	"gettimeofday":    (*ownClocks).gettimeofday,
	"time":            (*ownClocks).time,
	"clock_nanosleep": (*ownClocks).clockNanosleep,
	"futex":           (*ownClocks).futex,
	"timerfd_settime": (*ownClocks).timerfdSettime,
	"timer_settime":   (*ownClocks).timerSettime,
}

// clockCall returns inner for agents whose clocks are the kernel's, and what is to be
// done for the others.
func (s *Kernel) clockCall(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	switch call.Name {
	case "clock_settime":
		return s.clockSettime
	case "settimeofday":
		return s.settimeofday
	}
	own := clockCalls[call.Name]
	if own == nil {
		return inner
	}
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		if c := s.clocksOf(t); c != nil {
			return own(c, t, sysno, args, inner)
		}
		return inner(t, sysno, args)
	}
}

// clocksOf returns the clocks of t's agent, or nil if they are the kernel's.
func (s *Kernel) clocksOf(t *kernel.Task) *ownClocks {
	if !s.clocks.used.Load() {
		return nil
	}
	if a := s.agentOf(t); a != nil {
		return a.clock.own.Load()
	}
	return nil
}

// now returns what the agent's clock shows that programs call id, or false.
func (c *ownClocks) now(id int32) (int64, bool) {
	switch {
	case isWall(id):
		return c.wall(), true
	case !c.has(id):
		return 0, false
	case id == linux.CLOCK_MONOTONIC_RAW:
		return c.monotonic.Inside(c.s.k.MonotonicRawClock().Now().Nanoseconds()), true
	}
	return c.monotonic.Inside(c.s.uptimeNS()), true
}

// ahead is how the agent's CLOCK_REALTIME goes.
func (c *ownClocks) ahead() clocks.Wall { return *c.realtime.Load() }

// kernelClock is the clock of the kernel by which one goes.
func (s *Kernel) kernelClock(w clocks.Wall) gvktime.Clock {
	if w.Steady() {
		return s.k.MonotonicClock()
	}
	return s.k.RealtimeClock()
}

// wall is what the agent's CLOCK_REALTIME shows. It is not changed between the two that
// are read for that: what it shows later would be less.
func (c *ownClocks) wall() int64 {
	c.page.mu.Lock()
	defer c.page.mu.Unlock()
	w := c.ahead()
	return w.Inside(c.s.kernelClock(w).Now().Nanoseconds())
}

// offset is how far that is ahead of the kernel's.
func (c *ownClocks) offset() clocks.Shift {
	w := c.ahead()
	if !w.Steady() {
		return clocks.Shift(w.Inside(0))
	}
	realtime, monotonic, _ := c.s.bothClocks()
	return clocks.Shift(clocks.Shift(w.Inside(monotonic)).Inside(-realtime))
}

func (c *ownClocks) clockGettime(t *kernel.Task, sysno uintptr, args arch.SyscallArguments, inner kernel.SyscallFn) (uintptr, *kernel.SyscallControl, error) {
	ns, ok := c.now(args[0].Int())
	if !ok {
		return inner(t, sysno, args)
	}
	ts := linux.NsecToTimespec(ns)
	_, err := ts.CopyOut(t, args[1].Pointer())
	return 0, nil, err
}

func (c *ownClocks) gettimeofday(t *kernel.Task, sysno uintptr, args arch.SyscallArguments, inner kernel.SyscallFn) (uintptr, *kernel.SyscallControl, error) {
	if at := args[0].Pointer(); at != 0 {
		tv := linux.NsecToTimeval(c.wall())
		if _, err := tv.CopyOut(t, at); err != nil {
			return 0, nil, err
		}
	}
	args[0].Value = 0
	return inner(t, sysno, args) // The zone.
}

func (c *ownClocks) time(t *kernel.Task, _ uintptr, args arch.SyscallArguments, _ kernel.SyscallFn) (uintptr, *kernel.SyscallControl, error) {
	now := linux.TimeT(c.wall() / 1e9)
	if at := args[0].Pointer(); at != 0 {
		if _, err := now.CopyOut(t, at); err != nil {
			return 0, nil, err
		}
	}
	return uintptr(now), nil, nil
}

// moment reads a moment of the agent's clock and returns that of the kernel's by which it
// goes.
func (c *ownClocks) moment(t *kernel.Task, id int32, at hostarch.Addr) (until gvktime.Time, clock gvktime.Clock, err error) {
	var ts linux.Timespec
	if _, err := ts.CopyIn(t, at); err != nil {
		return until, nil, err
	}
	if !ts.Valid() {
		return until, nil, linuxerr.EINVAL
	}
	ns := ts.ToNsecCapped()
	if id == linux.CLOCK_REALTIME {
		w := c.ahead()
		return gvktime.FromNanoseconds(w.Until(ns)), c.s.kernelClock(w), nil
	}
	return gvktime.FromNanoseconds(c.monotonic.Until(ns)), c.s.k.MonotonicClock(), nil
}

// clockNanosleep waits until a moment. As in gVisor, what interrupts it and is no signal
// has it begin anew.
func (c *ownClocks) clockNanosleep(t *kernel.Task, sysno uintptr, args arch.SyscallArguments, inner kernel.SyscallFn) (uintptr, *kernel.SyscallControl, error) {
	id := args[0].Int()
	switch {
	case args[1].Int()&linux.TIMER_ABSTIME == 0:
		return inner(t, sysno, args)
	case id != linux.CLOCK_REALTIME && id != linux.CLOCK_MONOTONIC && id != linux.CLOCK_BOOTTIME:
		return inner(t, sysno, args)
	}
	until, clock, err := c.moment(t, id, args[2].Pointer())
	if err != nil {
		return 0, nil, err
	}
	err = t.BlockWithDeadlineFrom(nil, clock, true, until)
	if linuxerr.Equals(linuxerr.ETIMEDOUT, err) {
		return 0, nil, nil
	}
	if !until.After(clock.Now()) {
		return 0, nil, nil
	}
	return 0, nil, linuxerr.ConvertIntr(err, linuxerr.ERESTARTNOHAND)
}

// futex waits until a moment, for a word or for a lock.
func (c *ownClocks) futex(t *kernel.Task, sysno uintptr, args arch.SyscallArguments, inner kernel.SyscallFn) (uintptr, *kernel.SyscallControl, error) {
	op, timeout := args[1].Int(), args[3].Pointer()
	id := int32(linux.CLOCK_MONOTONIC)
	if op&linux.FUTEX_CLOCK_REALTIME != 0 {
		id = linux.CLOCK_REALTIME
	}
	mask := args[5].Uint()
	lock := op&futexCommand == linux.FUTEX_LOCK_PI
	switch {
	case timeout == 0:
		return inner(t, sysno, args)
	case lock:
		id = linux.CLOCK_REALTIME // It has no choice.
	case op&futexCommand != linux.FUTEX_WAIT_BITSET || mask == 0:
		return inner(t, sysno, args)
	}
	until, clock, err := c.moment(t, id, timeout)
	if err != nil {
		return 0, nil, err
	}
	addr, private, w := args[0].Pointer(), op&linux.FUTEX_PRIVATE_FLAG != 0, t.FutexWaiter()
	if lock {
		locked, err := t.Futex().LockPI(w, t, addr, uint32(t.ThreadID()), private, false)
		if err != nil || locked {
			return 0, nil, err
		}
	} else if err := t.Futex().WaitPrepare(w, t, addr, private, args[2].Uint(), mask); err != nil {
		return 0, nil, err
	}
	err = t.BlockWithDeadlineFrom(w.C, clock, true, until)
	t.Futex().WaitComplete(w, t)
	return 0, nil, linuxerr.ConvertIntr(err, linuxerr.ERESTARTSYS)
}

// until replaces the moment that a timer is set to by that of the kernel's clock. A timer
// that is to be stopped stays that.
func (c *ownClocks) until(its *linux.Itimerspec, realtime bool) {
	ns := its.Value.ToNsecCapped()
	if ns <= 0 {
		return
	}
	if realtime {
		ns = c.wallUntil(ns)
	} else {
		ns = c.monotonic.Until(ns)
	}
	its.Value = linux.NsecToTimespec(ns)
}

// wallUntil returns the moment of the kernel's CLOCK_REALTIME, by which gVisor's timers
// go, when the agent's shows ns.
func (c *ownClocks) wallUntil(ns int64) int64 {
	w := c.ahead()
	until := w.Until(ns)
	if !w.Steady() || until == math.MaxInt64 {
		return until
	}
	_, monotonic, realtime := c.s.bothClocks()
	return max(clocks.Shift(realtime).Inside(until-monotonic), 1)
}

func (c *ownClocks) timerfdSettime(t *kernel.Task, sysno uintptr, args arch.SyscallArguments, inner kernel.SyscallFn) (uintptr, *kernel.SyscallControl, error) {
	flags := args[1].Int()
	if flags&linux.TFD_TIMER_ABSTIME == 0 || flags&^(linux.TFD_TIMER_ABSTIME|linux.TFD_TIMER_CANCEL_ON_SET) != 0 {
		return inner(t, sysno, args)
	}
	file := t.GetFile(args[0].Int())
	if file == nil {
		return 0, nil, linuxerr.EBADF
	}
	defer file.DecRef(t)
	timer, ok := file.Impl().(*timerfd.TimerFileDescription)
	if !ok {
		return 0, nil, linuxerr.EINVAL
	}
	var its linux.Itimerspec
	if _, err := its.CopyIn(t, args[2].Pointer()); err != nil {
		return 0, nil, err
	}
	if its.Valid() {
		c.until(&its, timer.Clock() == gvktime.Clock(c.s.k.RealtimeClock()))
	}
	set, err := gvktime.SettingFromItimerspec(its, true, timer.Clock())
	if err != nil {
		return 0, nil, err
	}
	now, was := timer.SetTime(set)
	if at := args[3].Pointer(); at != 0 {
		old := gvktime.ItimerspecFromSetting(now, was)
		_, err = old.CopyOut(t, at)
	}
	return 0, nil, err
}

func (c *ownClocks) timerSettime(t *kernel.Task, sysno uintptr, args arch.SyscallArguments, inner kernel.SyscallFn) (uintptr, *kernel.SyscallControl, error) {
	a := c.s.agentOf(t)
	id := linux.TimerID(args[0].Value)
	if args[1].Int()&linux.TIMER_ABSTIME == 0 || a == nil {
		return inner(t, sysno, args)
	}
	by, ok := a.timerClock(t, id)
	if !ok || !c.has(by) {
		return inner(t, sysno, args)
	}
	var its linux.Itimerspec
	if _, err := its.CopyIn(t, args[2].Pointer()); err != nil {
		return 0, nil, err
	}
	if !its.Valid() {
		return 0, nil, linuxerr.EINVAL
	}
	c.until(&its, isWall(by))
	old, err := t.IntervalTimerSettime(id, its, true)
	if err != nil {
		return 0, nil, err
	}
	if at := args[3].Pointer(); at != 0 {
		_, err = old.CopyOut(t, at)
	}
	return 0, nil, err
}

// timerClock returns the clock that a timer of t's process was made with.
func (a *Agent) timerClock(t *kernel.Task, id linux.TimerID) (int32, bool) {
	a.notes.mu.Lock()
	defer a.notes.mu.Unlock()
	n, ok := a.notes.timers[t.ThreadGroup()][id]
	return n.clock, ok
}

// setFrom sets the clock of t's agent to what a program says.
func (s *Kernel) setFrom(t *kernel.Task, wall int64) (uintptr, *kernel.SyscallControl, error) {
	a := s.agentOf(t)
	if a == nil {
		return 0, nil, linuxerr.EPERM
	}
	if err := a.setWall(wallChange{shows: &wall}, capability.Actor{Name: a.id}); err != nil {
		return 0, nil, linuxerr.EINVAL
	}
	return 0, nil, nil
}

// clockSettime sets the agent's own clock. The gate has asked for the right to.
func (s *Kernel) clockSettime(t *kernel.Task, _ uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	if args[0].Int() != linux.CLOCK_REALTIME {
		return 0, nil, linuxerr.EINVAL
	}
	var ts linux.Timespec
	if _, err := ts.CopyIn(t, args[1].Pointer()); err != nil {
		return 0, nil, err
	}
	if !ts.Valid() {
		return 0, nil, linuxerr.EINVAL
	}
	return s.setFrom(t, ts.ToNsecCapped())
}

// settimeofday is the same. There is no zone to be set.
func (s *Kernel) settimeofday(t *kernel.Task, _ uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	at := args[0].Pointer()
	if at == 0 || args[1].Pointer() != 0 {
		return 0, nil, linuxerr.EPERM
	}
	var tv linux.Timeval
	if _, err := tv.CopyIn(t, at); err != nil {
		return 0, nil, err
	}
	if tv.Usec < 0 || tv.Usec >= 1e6 || tv.Sec < 0 {
		return 0, nil, linuxerr.EINVAL
	}
	return s.setFrom(t, tv.ToNsecCapped())
}
