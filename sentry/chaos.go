package sentry

import (
	"time"

	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/abi"
	"aios.dev/aios/ktime"
)

// Failures on demand, for tests: in a kernel that was booted with Config.Chaos,
// and in no other, an agent says with prctl(2) what is to fail next.
const (
	chaosOption = 0x41494f53 // the first argument of prctl; then the call, how, and by how much
	chaosPanic  = 1          // a nil pointer, before the call does anything
	chaosStuck  = 2          // a nil pointer with a shared lock held
	chaosFault  = 3          // a nil pointer at the next page fault
	chaosTrap   = 4          // a nil pointer at the next other exception
	chaosFile   = 5          // a nil pointer when /aios/self/stats is read next
	chaosClock  = 6          // the kernel's clock jumps, at once, by so many seconds
)

// injectFaults lets an agent have a call fail.
func (s *Kernel) injectFaults(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		a := s.agentOf(t)
		if a == nil {
			return inner(t, sysno, args)
		}
		if call.Name == "prctl" && args[0].Uint64() == chaosOption {
			if j, ok := s.cfg.Clock.(*ktime.Jumping); ok && args[2].Uint64() == chaosClock {
				j.Jump(time.Duration(args[3].Int64()) * time.Second)
				return 0, nil, nil
			}
			a.faults.inject.Store(args[1].Uint64()<<8 | args[2].Uint64() | 1<<63)
			return 0, nil, nil
		}
		how := a.faults.inject.Load()
		if how&0xff > chaosStuck || how&(1<<63) == 0 || how>>8&(1<<32-1) != uint64(call.Nr) || !a.faults.inject.CompareAndSwap(how, 0) {
			return inner(t, sysno, args)
		}
		if how&0xff == chaosStuck {
			s.lockForEver()
		}
		panicNow()
		return 0, nil, nil
	}
}

// injected panics if the agent wants that here.
func (a *Agent) injected(how uint64) {
	if now := a.faults.inject.Load(); now&(1<<63) != 0 && now&0xff == how && a.faults.inject.CompareAndSwap(now, 0) {
		panicNow()
	}
}

// panicNow uses a pointer that is nil.
func panicNow() {
	var nothing *kernel.Task
	nothing.ThreadID()
}

// lockForEver takes the lock of agents.
//
// +checklocksignore
func (s *Kernel) lockForEver() { s.mu.Lock() }
