package sentry

import (
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/abi"
)

// Failures on demand, for tests: in a kernel that was booted with Config.Chaos,
// and in no other, an agent says with prctl(2) which system call is to fail how
// when it makes it next.
const (
	chaosOption = 0x41494f53 // the first argument of prctl; then the call, and how
	chaosPanic  = 1          // a nil pointer, before the call does anything
	chaosStuck  = 2          // a nil pointer with a shared lock held
)

// injectFaults lets an agent have a call fail.
func (s *Kernel) injectFaults(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		a := s.agentOf(t)
		if a == nil {
			return inner(t, sysno, args)
		}
		if call.Name == "prctl" && args[0].Uint64() == chaosOption {
			a.faults.inject.Store(args[1].Uint64()<<8 | args[2].Uint64() | 1<<63)
			return 0, nil, nil
		}
		how := a.faults.inject.Load()
		if how&(1<<63) == 0 || how>>8&(1<<32-1) != uint64(call.Nr) || !a.faults.inject.CompareAndSwap(how, 0) {
			return inner(t, sysno, args)
		}
		if how&0xff == chaosStuck {
			s.lockForEver()
		}
		var nothing *kernel.Task
		return uintptr(nothing.ThreadID()), nil, nil
	}
}

// lockForEver takes the lock of agents.
//
// +checklocksignore
func (s *Kernel) lockForEver() { s.mu.Lock() }
