package sentry

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/mm"

	"aios.dev/aios/errdefs"
)

// taking takes pages from address spaces whose tasks stand still.
type taking struct {
	sw  *agentSwap
	ctx context.Context
	// taken are pages that were taken, moved is how many bytes.
	taken []*swapPage
	moved uint64
}

// space takes the pages of all mappings of m that may be, and that pick wants.
func (k *taking) space(m *mm.MemoryManager, pick func(hostarch.AddrRange) bool) error {
	sc, err := scan(k.ctx, m, true)
	if err != nil {
		return err
	}
	for i := range sc.mappings {
		vm := &sc.mappings[i]
		if len(vm.own) == 0 && len(vm.shown) == 0 || !pick(vm.ar) {
			continue
		}
		mapped := k.sw.sys.mappings(m, vm.ar)
		switch {
		case len(mapped) == 1 && mapped[0].ar == vm.ar && !vm.locked:
			err = k.again(m, vm, mapped[0])
		case len(mapped) == 0 && vm.anonymous() && len(vm.own) > 0:
			err = k.first(m, vm)
		default:
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// newer are the pages that a mapping has of its own, by their offset in it. Those of
// which there are only zeros are nil.
func (k *taking) newer(vm *scannedMapping) (map[uint64]*swapPage, error) {
	out := make(map[uint64]*swapPage)
	for _, own := range vm.own {
		base := uint64(own.ar.Start - vm.ar.Start)
		for at := uint64(0); at < uint64(own.ar.Length()); at += hostarch.PageSize {
			out[base+at] = nil
		}
		fr := memmap.FileRange{Start: own.off, End: own.off + uint64(own.ar.Length())}
		err := filled(k.sw.sys.frames.FD(), fr, func(r memmap.FileRange) {
			k.sw.takeFrames(r, func(off uint64, p *swapPage) { out[base+off-own.off] = p })
		})
		if err != nil {
			release(out)
			return nil, err
		}
	}
	return out, nil
}

func release(pages map[uint64]*swapPage) {
	for _, p := range pages {
		if p != nil {
			p.unref()
		}
	}
}

// first makes anonymous memory a swapObject.
func (k *taking) first(m *mm.MemoryManager, vm *scannedMapping) error {
	if policy, _, err := m.NumaPolicy(vm.ar.Start); err != nil || policy != linux.MPOL_DEFAULT {
		return nil
	}
	pages, err := k.newer(vm)
	if err != nil {
		return err
	}
	o := &swapObject{sys: k.sw.sys}
	o.pages = make([]*swapPage, vm.ar.Length()/hostarch.PageSize) // +checklocksignore: nobody knows it.
	return k.replace(m, vm, o, pages)
}

// replace has o be mapped with pages in it, to which it owns references, or gives
// them back.
func (k *taking) replace(m *mm.MemoryManager, vm *scannedMapping, o *swapObject, pages map[uint64]*swapPage) error {
	o.mu.Lock()
	for at, p := range pages {
		if p != nil {
			o.setLocked(at/hostarch.PageSize, p)
		}
	}
	had := o.pages
	o.mu.Unlock()
	opts := vm.options(vm.ar)
	opts.Mappable = o
	if _, err := m.MMap(k.ctx, opts); err != nil {
		for _, p := range had {
			if p != nil {
				p.unref()
			}
		}
		return errdefs.Wrap(err, errdefs.Internal, "map pages that are swapped out")
	}
	k.note(pages)
	return nil
}

// note counts pages that were taken.
func (k *taking) note(pages map[uint64]*swapPage) {
	for _, p := range pages {
		if p != nil {
			k.taken = append(k.taken, p)
			k.moved += hostarch.PageSize
		}
	}
}

// again takes what a program has done to a mapping of a swapObject since. Where
// others map the object, too, the mapping gets one of its own.
func (k *taking) again(m *mm.MemoryManager, vm *scannedMapping, at objectMapping) error {
	pages, err := k.newer(vm)
	if err != nil {
		return err
	}
	o := at.o
	o.mu.Lock()
	if !o.soleLocked(m) {
		fresh := &swapObject{sys: k.sw.sys}
		fresh.pages = make([]*swapPage, vm.ar.Length()/hostarch.PageSize) // +checklocksignore: nobody knows it.
		for i := range fresh.pages {
			off := uint64(i) * hostarch.PageSize
			if _, own := pages[off]; own {
				continue
			}
			if p := o.pageLocked((at.off + off) / hostarch.PageSize); p != nil && p.tryRef() {
				fresh.pages[i] = p // +checklocksignore: as above.
			}
		}
		o.mu.Unlock()
		if len(pages) == 0 {
			for _, p := range fresh.pages { // +checklocksignore: as above.
				if p != nil {
					p.unref()
				}
			}
			m.Invalidate(vm.ar, memmap.InvalidateOpts{})
			return nil
		}
		return k.replace(m, vm, fresh, pages)
	}
	var old []*swapPage
	for off, p := range pages {
		if was := o.setLocked((at.off+off)/hostarch.PageSize, p); was != nil {
			old = append(old, was)
		}
	}
	o.mu.Unlock()
	m.Invalidate(vm.ar, memmap.InvalidateOpts{InvalidatePrivate: true})
	for _, p := range old {
		p.unref()
	}
	k.note(pages)
	return nil
}
