package sentry

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/mm"

	"aios.dev/aios/abi"
)

// Some calls see a difference between anonymous memory and a swapObject that is
// mapped instead: those that make pages zeros again, and those that make a mapping
// longer. And of some programs nothing is swapped out from then on.

// swapCall has inner do what it would to anonymous memory.
func (s *Kernel) swapCall(call abi.Syscall, inner kernel.SyscallFn) kernel.SyscallFn {
	switch call.Name {
	case "madvise":
		return s.swapAdvice(inner)
	case "mremap":
		return s.swapRemap(inner)
	case "mlock", "mlock2":
		return s.swapNote(inner, func(sw *agentSwap) { sw.locks.Store(true) })
	case "mlockall":
		return s.swapNever(inner, "a program has locked all its memory")
	case "io_setup":
		return s.swapNever(inner, "a program has asynchronous I/O")
	}
	return inner
}

// swapNote has f be told of an agent that makes a call, before it is made.
func (s *Kernel) swapNote(inner kernel.SyscallFn, f func(*agentSwap)) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		if a := s.agentOf(t); a != nil {
			sw, err := a.swapOf()
			if err != nil {
				return 0, nil, linuxerr.ENOMEM
			}
			f(sw)
		}
		return inner(t, sysno, args)
	}
}

func (s *Kernel) swapNever(inner kernel.SyscallFn, why string) kernel.SyscallFn {
	return s.swapNote(inner, func(sw *agentSwap) { sw.never.CompareAndSwap(nil, &why) })
}

// swapAdvice is for madvise(2).
func (s *Kernel) swapAdvice(inner kernel.SyscallFn) kernel.SyscallFn {
	leave := s.swapNever(inner, "a program keeps memory from its children")
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		switch args[2].Int() {
		case linux.MADV_DONTFORK:
			return leave(t, sysno, args)
		case linux.MADV_DONTNEED:
		default:
			return inner(t, sysno, args)
		}
		sys, m := s.swapOn.Load(), t.MemoryManager()
		start := hostarch.UntaggedUserAddr(args[0].Pointer())
		length, ok := hostarch.PageRoundUp(args[1].Uint64())
		ar, fits := start.ToRange(length)
		if sys == nil || m == nil || !ok || !fits || length == 0 || !start.IsPageAligned() {
			return inner(t, sysno, args)
		}
		if len(sys.mappings(m, ar)) == 0 {
			return inner(t, sysno, args)
		}
		a := s.agentOf(t)
		if sw := a.swap.Load(); sw == nil || !sw.locks.Load() {
			// First, so that who touches a page while it goes finds nothing else.
			if err := sys.forget(t, m, ar); err != nil {
				return 0, nil, linuxerr.ENOMEM
			}
			return inner(t, sysno, args)
		}
		n, ctrl, err := inner(t, sysno, args)
		if err == nil || linuxerr.Equals(linuxerr.ENOMEM, err) {
			if sys.forget(t, m, ar) != nil {
				return 0, nil, linuxerr.ENOMEM
			}
			m.Invalidate(ar, memmap.InvalidateOpts{})
		}
		return n, ctrl, err
	}
}

// forget has there be nothing in ar, as far as swapObjects are mapped there.
func (sys *swapSystem) forget(t *kernel.Task, m *mm.MemoryManager, ar hostarch.AddrRange) error {
	var sc *scanned
	for _, at := range sys.mappings(m, ar) {
		if at.o.forget(m, at.off, at.off+uint64(at.ar.Length())) {
			continue
		}
		// Others see these pages, too: anonymous memory takes their place here.
		if sc == nil {
			var err error
			if sc, err = scan(t, m, false); err != nil {
				return err
			}
		}
		for i := range sc.mappings {
			vm := &sc.mappings[i]
			if cut := vm.ar.Intersect(at.ar); cut.WellFormed() && cut.Length() > 0 {
				if _, err := m.MMap(t, vm.options(cut)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// forget drops pages of an object that only ms maps, and reports whether it is one.
func (o *swapObject) forget(ms memmap.MappingSpace, from, to uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.soleLocked(ms) {
		return false
	}
	for i := from / hostarch.PageSize; i < min(to/hostarch.PageSize, uint64(len(o.pages))); i++ {
		if p := o.pages[i]; p != nil {
			o.pages[i] = nil
			p.unref()
		}
	}
	return true
}
