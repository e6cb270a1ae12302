package sentry

import (
	"encoding/binary"
	"fmt"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/sched"
	"aios.dev/aios/sentry/smp"
)

// The calls by which programs say how they want to be scheduled. gVisor keeps
// what they say and does nothing with it; here it reaches the scheduler. What an
// agent may ask for is bounded by its capabilities to CPU time: niceness by their
// priority, CPUs by their object, reservations by what they reserve.

// schedCall returns inner with the scheduler told.
func (s *Kernel) schedCall(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	switch call.Name {
	case "sched_yield":
		return s.yield(inner)
	case "setpriority":
		return s.setPriority(call, inner)
	case "sched_setscheduler":
		return s.setScheduler(call, inner)
	case "sched_getscheduler":
		return s.getScheduler(inner)
	case "sched_setattr":
		return s.setAttr(call, inner)
	case "sched_getattr":
		return s.getAttr(inner)
	case "sched_setaffinity":
		return s.followAfter(call, inner)
	case "sched_rr_get_interval":
		return s.interval(inner)
	case "sched_get_priority_max":
		return priorityOf(99)
	case "sched_get_priority_min":
		return priorityOf(1)
	case "futex":
		return s.inherit(inner)
	}
	return inner
}

// priorityOf returns the call that says which priorities a policy has: those that
// are refused have them, too, and programs are told so by Linux.
func priorityOf(fixed uintptr) kernel.SyscallFn {
	return func(_ *kernel.Task, _ uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		switch args[0].Int() {
		case linux.SCHED_FIFO, linux.SCHED_RR:
			return fixed, nil, nil
		case linux.SCHED_NORMAL, linux.SCHED_BATCH, linux.SCHED_IDLE, linux.SCHED_DEADLINE:
			return 0, nil, nil
		}
		return 0, nil, linuxerr.EINVAL
	}
}

// schedTask returns what the scheduler knows t as, or nil: it has not run yet, or
// is of no agent.
func (s *Kernel) schedTask(t *kernel.Task) *sched.Task {
	if a := s.agentOf(t); a != nil {
		return a.crowd.Group().Find(t)
	}
	return nil
}

// joined is a hook of the platform: t has become a task of the scheduler, and has
// what it inherited.
func (s *Kernel) joined(t *kernel.Task, st *sched.Task) {
	s.follow(t, st)
}

// follow tells the scheduler what gVisor keeps of t.
func (s *Kernel) follow(t *kernel.Task, st *sched.Task) {
	a := st.Attr()
	was := a
	if a.Policy != sched.Deadline {
		a.Policy = policyOf(t.GetScheduler())
	}
	a.Nice = t.Niceness()
	if a != was {
		st.SetAttr(a) // Without a reservation nothing is refused.
	}
	mask := t.CPUMask()
	var set smp.Set
	mask.ForEachCPU(func(cpu uint) { set.Add(int(cpu)) })
	if set == s.cpuSetOf(t.ContainerID()) {
		set = smp.Set{} // All that its agent has, now and later.
	}
	if set != st.Wanted() {
		st.SetCPUs(set)
	}
}

func policyOf(linuxPolicy uint) sched.Policy {
	switch linuxPolicy {
	case linux.SCHED_BATCH:
		return sched.Batch
	case linux.SCHED_IDLE:
		return sched.Idle
	}
	return sched.Normal
}

// target is the task that a call's first argument names, or nil.
func target(t *kernel.Task, tid int32) *kernel.Task {
	if tid == 0 {
		return t
	}
	return t.PIDNamespace().TaskWithID(kernel.ThreadID(tid))
}

// followAfter has the scheduler follow what the call has changed.
func (s *Kernel) followAfter(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		o := target(t, args[0].Int())
		if o != nil && call.Name == "sched_setaffinity" {
			if st := s.schedTask(o); st != nil && st.Attr().Policy == sched.Deadline {
				return 0, nil, linuxerr.EBUSY // As in Linux.
			}
		}
		n, ctrl, err := inner(t, sysno, args)
		if err == nil && o != nil {
			if st := s.schedTask(o); st != nil {
				s.follow(o, st)
			}
		}
		return n, ctrl, err
	}
}

func (s *Kernel) yield(inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		if st := s.schedTask(t); st != nil {
			st.Yield()
			return 0, nil, nil
		}
		return inner(t, sysno, args)
	}
}

// mayBe reports whether t's agent may have a task of that niceness; if not, the
// refusal is noted.
func (s *Kernel) mayBe(t, o *kernel.Task, call abi.Syscall, nice int) bool {
	a := s.agentOf(t)
	if a == nil || o == nil || nice >= min(o.Niceness(), a.leastNice()) {
		return true
	}
	s.denyCPU(t, call, fmt.Sprintf("niceness %d", nice), fmt.Sprintf("priority=%d", usualPriority-nice))
	return false
}

// denyCPU notes that a call asked for more than the agent's capabilities to CPU
// time give.
func (s *Kernel) denyCPU(t *kernel.Task, call abi.Syscall, what, needs string) {
	s.gate.denials.note(Denial{
		Agent: t.ContainerID(), Operation: call.Name, Object: what, Errno: 1,
		Capability: "cpu:self," + needs, Why: "its capabilities to CPU time do not say " + needs,
	})
}

func (s *Kernel) setPriority(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		if args[0].Int() != linux.PRIO_PROCESS {
			return inner(t, sysno, args)
		}
		o := target(t, args[1].Int())
		if !s.mayBe(t, o, call, min(max(int(args[2].Int()), -20), 19)) {
			return 0, nil, linuxerr.EACCES
		}
		n, ctrl, err := inner(t, sysno, args)
		if err == nil && o != nil {
			if st := s.schedTask(o); st != nil {
				s.follow(o, st)
			}
		}
		return n, ctrl, err
	}
}

func (s *Kernel) setScheduler(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	after := s.followAfter(call, inner)
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		switch policy := args[1].Int() &^ linux.SCHED_RESET_ON_FORK; policy {
		case linux.SCHED_FIFO, linux.SCHED_RR:
			s.gate.denials.note(Denial{
				Agent: t.ContainerID(), Operation: call.Name, Object: fmt.Sprintf("policy %d", policy), Errno: 1, Never: true,
				Why: "a task of fixed priority could keep its agent's others from the CPU for ever; reserve time with sched_setattr instead",
			})
			return 0, nil, linuxerr.EPERM
		}
		s.dropReservation(target(t, args[0].Int()))
		return after(t, sysno, args)
	}
}

// dropReservation gives up a task's reservation, if it has one.
func (s *Kernel) dropReservation(o *kernel.Task) {
	if o == nil {
		return
	}
	if st := s.schedTask(o); st != nil && st.Attr().Policy == sched.Deadline {
		st.SetAttr(sched.Attr{Nice: o.Niceness()})
	}
}

func (s *Kernel) getScheduler(inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		if o := target(t, args[0].Int()); o != nil {
			if st := s.schedTask(o); st != nil && st.Attr().Policy == sched.Deadline {
				return linux.SCHED_DEADLINE, nil, nil
			}
		}
		return inner(t, sysno, args)
	}
}

// Offsets in struct sched_attr.
const (
	attrPolicy   = 4
	attrNice     = 16
	attrRuntime  = 24
	attrDeadline = 32
	attrPeriod   = 40
	attrSize     = 48
)

func (s *Kernel) setAttr(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	after := s.followAfter(call, inner)
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		var raw [attrSize]byte
		if _, err := t.CopyInBytes(args[1].Pointer(), raw[:]); err != nil {
			return inner(t, sysno, args) // It may be a shorter one.
		}
		le := binary.LittleEndian
		o := target(t, args[0].Int())
		switch policy := le.Uint32(raw[attrPolicy:]); policy {
		case linux.SCHED_DEADLINE:
		case linux.SCHED_FIFO, linux.SCHED_RR:
			return 0, nil, linuxerr.EPERM
		default:
			if !s.mayBe(t, o, call, min(max(int(int32(le.Uint32(raw[attrNice:]))), -20), 19)) {
				return 0, nil, linuxerr.EPERM
			}
			s.dropReservation(o)
			return after(t, sysno, args)
		}
		if args[2].Uint() != 0 || le.Uint32(raw[:]) < attrSize {
			return 0, nil, linuxerr.EINVAL
		}
		if o == nil {
			return 0, nil, linuxerr.ESRCH
		}
		if s.agentOf(o) != s.agentOf(t) {
			return 0, nil, linuxerr.EPERM
		}
		st := s.schedTask(o)
		if st == nil {
			return 0, nil, linuxerr.EAGAIN // It has not run yet.
		}
		r := sched.Reservation{Runtime: int64(le.Uint64(raw[attrRuntime:])), Deadline: int64(le.Uint64(raw[attrDeadline:])), Period: int64(le.Uint64(raw[attrPeriod:]))}
		if r.Deadline == 0 {
			r.Deadline = r.Period
		}
		if r.Period == 0 {
			r.Period = r.Deadline
		}
		err := st.SetAttr(sched.Attr{Policy: sched.Deadline, Nice: o.Niceness(), Reserved: r})
		switch errdefs.CodeOf(err) {
		case "":
			return 0, nil, nil
		case errdefs.InvalidArgument:
			return 0, nil, linuxerr.EINVAL
		case errdefs.CPULimit:
			s.denyCPU(t, call, "a reservation", fmt.Sprintf("reserve=%.3g", float64(r.Runtime)/float64(max(min(r.Deadline, r.Period), 1))))
			if a := s.agentOf(t); a != nil && a.crowd.Group().Params().Reserved == (sched.Reservation{}) {
				return 0, nil, linuxerr.EPERM // It was promised nothing.
			}
			return 0, nil, linuxerr.EBUSY
		}
		return 0, nil, linuxerr.EPERM
	}
}

func (s *Kernel) getAttr(inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		o := target(t, args[0].Int())
		if o == nil || args[2].Uint() < attrSize || args[3].Uint() != 0 {
			return inner(t, sysno, args)
		}
		st := s.schedTask(o)
		if st == nil {
			return inner(t, sysno, args)
		}
		a := st.Attr()
		if a.Policy != sched.Deadline {
			return inner(t, sysno, args)
		}
		var raw [attrSize]byte
		le := binary.LittleEndian
		le.PutUint32(raw[0:], attrSize)
		le.PutUint32(raw[attrPolicy:], linux.SCHED_DEADLINE)
		le.PutUint64(raw[attrRuntime:], uint64(a.Reserved.Runtime))
		le.PutUint64(raw[attrDeadline:], uint64(a.Reserved.Deadline))
		le.PutUint64(raw[attrPeriod:], uint64(a.Reserved.Period))
		_, err := t.CopyOutBytes(args[1].Pointer(), raw[:])
		return 0, nil, err
	}
}

// interval answers with what a task asks for at once.
func (s *Kernel) interval(inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		if args[0].Int() < 0 {
			return 0, nil, linuxerr.EINVAL
		}
		o := target(t, args[0].Int())
		if o == nil {
			return 0, nil, linuxerr.ESRCH
		}
		a := s.agentOf(o)
		if a == nil {
			return inner(t, sysno, args)
		}
		var raw [16]byte
		d := a.crowd.Group().Slice()
		binary.LittleEndian.PutUint64(raw[0:], uint64(d/1e9))
		binary.LittleEndian.PutUint64(raw[8:], uint64(d%1e9))
		_, err := t.CopyOutBytes(args[1].Pointer(), raw[:])
		return 0, nil, err
	}
}

// What futex(2) is asked to do, without its flags.
const (
	futexCommand = ^int32(linux.FUTEX_PRIVATE_FLAG | linux.FUTEX_CLOCK_REALTIME)
	futexLockPI2 = 13
)

// inherit lends the holder of a futex the rank of who waits for it.
//
// Who that is the program's memory says, and a program may write there what it
// likes: the most it can have by it is its own rank for another of its tasks.
func (s *Kernel) inherit(inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		addr := args[0].Pointer()
		switch args[1].Int() & futexCommand {
		case linux.FUTEX_LOCK_PI, futexLockPI2:
			me := s.schedTask(t)
			holder := s.holderOf(t, addr)
			if me == nil || holder == nil || holder == me {
				break
			}
			me.Lend(holder, uintptr(addr))
			defer me.Reclaim()
		case linux.FUTEX_UNLOCK_PI:
			n, ctrl, err := inner(t, sysno, args)
			if me := s.schedTask(t); err == nil && me != nil && me.Borrows() {
				// Others may wait for whoever has it now.
				me.PassOn(uintptr(addr), s.holderOf(t, addr))
			}
			return n, ctrl, err
		}
		return inner(t, sysno, args)
	}
}

// holderOf returns the task that holds the futex at addr, if it is of t's agent.
func (s *Kernel) holderOf(t *kernel.Task, addr hostarch.Addr) *sched.Task {
	var word [4]byte
	if _, err := t.CopyInBytes(addr, word[:]); err != nil {
		return nil
	}
	tid := binary.LittleEndian.Uint32(word[:]) & linux.FUTEX_TID_MASK
	if tid == 0 {
		return nil
	}
	o := t.PIDNamespace().TaskWithID(kernel.ThreadID(tid))
	if o == nil || s.agentOf(o) != s.agentOf(t) {
		return nil
	}
	return s.schedTask(o)
}
