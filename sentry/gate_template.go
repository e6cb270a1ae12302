package sentry

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/memmap"

	"aios.dev/aios/abi"
)

// maxPolled is how many descriptors of one poll(2) are looked at.
const maxPolled = 1 << 10

// warmCall returns inner with a look at what the calls of an agent that becomes a
// template wait for.
func (s *Kernel) warmCall(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	var look func(a *Agent, t *kernel.Task, args arch.SyscallArguments)
	switch call.Name {
	case "read", "readv":
		look = (*Agent).lookAtRead
	case "poll", "ppoll":
		look = (*Agent).lookAtPoll
	case "epoll_wait", "epoll_pwait", "epoll_pwait2":
		look = (*Agent).lookAtEpoll
	case "mmap":
		return s.mapInPieces(inner)
	case "brk":
		return s.heapInPieces(inner)
	default:
		return inner
	}
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		if s.warmers.Load() > 0 {
			if a := s.agentOf(t); a != nil && a.warming != nil {
				look(a, t, args)
			}
		}
		return inner(t, sysno, args)
	}
}

func (a *Agent) lookAtRead(t *kernel.Task, args arch.SyscallArguments) {
	if f := t.GetFile(args[0].Int()); f != nil {
		a.waitsForInput(f)
		f.DecRef(t)
	}
}

func (a *Agent) lookAtPoll(t *kernel.Task, args arch.SyscallArguments) {
	raw := make([]byte, 8*min(args[1].Uint(), maxPolled))
	if _, err := t.CopyInBytes(args[0].Pointer(), raw); err != nil {
		return
	}
	for ; len(raw) > 0; raw = raw[8:] {
		if f := t.GetFile(int32(hostarch.ByteOrder.Uint32(raw))); f != nil {
			a.waitsForInput(f)
			f.DecRef(t)
		}
	}
}

func (a *Agent) lookAtEpoll(t *kernel.Task, args arch.SyscallArguments) {
	ep := t.GetFile(args[0].Int())
	if ep == nil {
		return
	}
	defer ep.DecRef(t)
	var fds []int32
	a.notes.mu.Lock()
	if x := a.notes.files[ep]; x != nil {
		for k := range x.interests {
			fds = append(fds, k.fd)
		}
	}
	a.notes.mu.Unlock()
	for _, fd := range fds {
		if f := t.GetFile(fd); f != nil {
			a.waitsForInput(f)
			f.DecRef(t)
		}
	}
}

// mapInPieces has memory that is mapped while a program warms up be copied page by
// page when a copy of it writes there. gVisor copies up to two megabytes otherwise,
// of what is mostly not written to again, but for stacks.
func (s *Kernel) mapInPieces(inner kernel.SyscallFn) kernel.SyscallFn {
	const own = linux.MAP_PRIVATE | linux.MAP_ANONYMOUS
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		if s.warmers.Load() > 0 && args[3].Uint64()&own == own {
			if a := s.agentOf(t); a != nil && a.warming != nil {
				args[3].Value |= linux.MAP_STACK
			}
		}
		return inner(t, sysno, args)
	}
}

// heapInPieces does the same for the heap of brk(2): what it has just grown by, and
// nobody has seen yet, is mapped once more.
func (s *Kernel) heapInPieces(inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		var a *Agent
		if s.warmers.Load() > 0 {
			a = s.agentOf(t)
		}
		if a == nil || a.warming == nil {
			return inner(t, sysno, args)
		}
		a.warming.brkMu.Lock()
		defer a.warming.brkMu.Unlock()
		m := t.MemoryManager()
		old, _ := m.Brk(t, 0) // It fails, and says where the heap ends.
		now, ctrl, err := inner(t, sysno, args)
		from, ok := old.RoundUp()
		to, fits := hostarch.Addr(now).RoundUp()
		if err != nil || !ok || !fits || from >= to {
			return now, ctrl, err
		}
		// If it fails, the heap is copied in larger pieces.
		_, _ = m.MMap(t, memmap.MMapOpts{
			Addr: from, Length: uint64(to - from), Fixed: true, Unmap: true, Private: true, Stack: true,
			Perms: hostarch.ReadWrite, MaxPerms: hostarch.AnyAccess, Name: "[heap]", NameMut: memmap.NameMutAnon,
		})
		return now, ctrl, err
	}
}
