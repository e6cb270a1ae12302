package sentry

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/mm"
)

// mremap(2) takes one mapping at a time, and makes it longer by showing more of what
// it maps. To a program, anonymous memory is one mapping where there are two here, one
// of a swapObject; and what lies behind its part of the object may be another's.

// remapping is one call.
type remapping struct {
	sys         *swapSystem
	t           *kernel.Task
	m           *mm.MemoryManager
	start, to   hostarch.Addr
	was, will   uint64
	move, fixed bool
}

// swapRemap is for mremap(2).
func (s *Kernel) swapRemap(inner kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		r := remapping{
			sys: s.swapOn.Load(), t: t, m: t.MemoryManager(), start: hostarch.UntaggedUserAddr(args[0].Pointer()), to: args[4].Pointer(),
		}
		if r.sys == nil || r.m == nil {
			return inner(t, sysno, args)
		}
		flags := args[3].Uint64()
		r.move, r.fixed = flags&linux.MREMAP_MAYMOVE != 0, flags&linux.MREMAP_FIXED != 0
		var ok, okNew bool
		r.was, ok = hostarch.PageRoundUp(args[1].Uint64())
		r.will, okNew = hostarch.PageRoundUp(args[2].Uint64())
		ar, fits := r.start.ToRange(max(r.was, hostarch.PageSize))
		if !ok || !okNew || !fits || !r.start.IsPageAligned() || r.will == 0 || r.was > 0 && r.will <= r.was && !r.fixed ||
			flags&^(linux.MREMAP_MAYMOVE|linux.MREMAP_FIXED) != 0 || r.fixed && !r.move {
			return inner(t, sysno, args)
		}
		mapped := r.sys.mappings(r.m, ar)
		if len(mapped) == 0 {
			return inner(t, sysno, args)
		}
		if r.was == 0 {
			return 0, nil, linuxerr.EINVAL // As on Linux, of private memory.
		}
		pieces, err := r.pieces(ar)
		if err != nil {
			return 0, nil, err
		}
		if len(pieces) == 0 || len(pieces) == 1 && !mapped[0].o.goesOn(mapped[0].off+r.was, mapped[0].off+max(r.was, r.will)) {
			return inner(t, sysno, args)
		}
		addr, err := r.do(pieces)
		return uintptr(addr), nil, err
	}
}

// goesOn reports whether there is something in a range of the object, or may come to
// be.
func (o *swapObject) goesOn(from, to uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := from / hostarch.PageSize; i < min(to/hostarch.PageSize, uint64(len(o.pages))); i++ {
		if o.pages[i] != nil {
			return true
		}
	}
	for _, m := range o.maps {
		if m.off < to && from < m.off+uint64(m.ar.Length()) {
			return true
		}
	}
	return false
}

// pieces are the mappings that ar consists of, if to the program it is one; none if
// it is not.
func (r *remapping) pieces(ar hostarch.AddrRange) ([]scannedMapping, error) {
	sc, err := scan(r.t, r.m, false)
	if err != nil {
		return nil, linuxerr.ENOMEM
	}
	var out []scannedMapping
	at := ar.Start
	for _, vm := range sc.mappings {
		cut := vm.ar.Intersect(ar)
		if !vm.ar.Overlaps(ar) {
			continue
		}
		own := vm.anonymous() || len(r.sys.mappings(r.m, cut)) > 0
		if cut.Start != at || !own || len(out) > 0 && (vm.perms != out[0].perms || vm.max != out[0].max || vm.name != out[0].name || vm.locked != out[0].locked) {
			return nil, nil
		}
		at = cut.End
		vm.ar = cut
		out = append(out, vm)
	}
	if at != ar.End {
		return nil, nil
	}
	return out, nil
}

// do moves the pieces, and has anonymous memory behind them.
func (r *remapping) do(pieces []scannedMapping) (hostarch.Addr, error) {
	like := &pieces[len(pieces)-1]
	end := r.start + hostarch.Addr(r.was)
	if !r.fixed {
		tail := like.options(hostarch.AddrRange{Start: end, End: end + hostarch.Addr(r.will-r.was)})
		tail.Unmap, tail.NoReplace = false, true
		if _, err := r.m.MMap(r.t, tail); err == nil {
			return r.start, nil
		}
		if !r.move {
			return 0, linuxerr.ENOMEM
		}
	}
	room := like.options(hostarch.AddrRange{Start: r.to, End: r.to + hostarch.Addr(r.will)})
	if r.fixed {
		whole, fits := r.to.ToRange(r.will)
		if !r.to.IsPageAligned() || !fits || whole.Overlaps(hostarch.AddrRange{Start: r.start, End: end}) {
			return 0, linuxerr.EINVAL
		}
	} else {
		room.Addr, room.Fixed, room.Unmap = 0, false, false
	}
	to, err := r.m.MMap(r.t, room)
	if err != nil {
		return 0, err
	}
	for _, vm := range pieces {
		off := vm.ar.Start - r.start
		if uint64(off) >= r.will {
			break
		}
		n := min(uint64(vm.ar.Length()), r.will-uint64(off))
		if _, err := r.m.MRemap(r.t, vm.ar.Start, n, n, mm.MRemapOpts{Move: mm.MRemapMustMove, NewAddr: to + off}); err != nil {
			return 0, err
		}
	}
	if r.was > r.will { // What was not moved is gone, too.
		if err := r.m.MUnmap(r.t, r.start+hostarch.Addr(r.will), r.was-r.will); err != nil {
			return 0, err
		}
	}
	return to, nil
}
