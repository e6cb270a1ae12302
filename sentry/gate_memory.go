package sentry

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/abi"
)

// memoryGuard is asked before an agent's address spaces grow. Its method is
// called on the task's own goroutine.
type memoryGuard interface {
	// MayMap reports whether a call of t may add that many bytes. What it
	// allows may still fail, or be taken by another mapping's place.
	MayMap(t *kernel.Task, bytes uint64) bool
}

// setGuard has g asked from the next call on; nil stops it.
func (a *Agent) setGuard(g memoryGuard) {
	if g == nil {
		a.gate.guard.Store(nil)
		return
	}
	a.gate.guard.Store(&g)
}

// moreMemory is what a call wanted that the guard refused.
const moreMemory = "more memory than its limit"

// guardCall asks the agent's guard before a call that takes memory.
func (s *Kernel) guardCall(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	var growth func(args arch.SyscallArguments) uint64
	switch call.Name {
	case "mmap", "shmget":
		growth = func(args arch.SyscallArguments) uint64 { return args[1].Uint64() }
	case "mremap":
		growth = func(args arch.SyscallArguments) uint64 {
			if args[2].Uint64() <= args[1].Uint64() {
				return 0
			}
			return args[2].Uint64() - args[1].Uint64()
		}
	case "brk":
		return s.guardBrk(call, inner)
	case "fallocate":
		return s.guardFallocate(call, inner)
	case "mlock", "mlock2", "mlockall":
		return s.guardLock(call, inner)
	default:
		return inner
	}
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		if g := s.guardOf(t); g != nil {
			if n := growth(args); n > 0 && !g.MayMap(t, n) {
				s.overLimit(t, call, moreMemory)
				return 0, nil, linuxerr.ENOMEM
			}
		}
		return inner(t, sysno, args)
	}
}

// guardBrk is for brk, which is given an address, and answers with where the
// break is in the end.
func (s *Kernel) guardBrk(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		if g := s.guardOf(t); g != nil && args[0].Value != 0 {
			now, _, _ := inner(t, sysno, arch.SyscallArguments{})
			if args[0].Value > now && !g.MayMap(t, uint64(args[0].Value-now)) {
				s.overLimit(t, call, moreMemory)
				return now, nil, nil
			}
		}
		return inner(t, sysno, args)
	}
}

// tellProtect notes that memory was not made executable. Where that needs a
// right to the file that is mapped, the door of files has said so when it was
// mapped, and the memory manager keeps it: neither asks here.
func (s *Kernel) tellProtect(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		n, ctrl, err := inner(t, sysno, args)
		if args[2].Int()&linux.PROT_EXEC != 0 && linuxerr.Equals(linuxerr.EACCES, err) {
			s.gate.denials.note(Denial{
				Agent: t.ContainerID(), Operation: call.Name, Object: "files that may not be executed", Errno: unix.EACCES,
				Why: "it maps what was granted, or mounted, without the right to execute",
			})
		}
		return n, ctrl, err
	}
}

// guardOf returns the guard of t's agent, or nil.
func (s *Kernel) guardOf(t *kernel.Task) memoryGuard {
	a := s.agentOf(t)
	if a == nil {
		return nil
	}
	g := a.gate.guard.Load()
	if g == nil {
		return nil
	}
	return *g
}
