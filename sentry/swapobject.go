package sentry

import (
	"slices"
	"sync"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
)

// aroundPages is how many pages are mapped at once at most, if they lie side by
// side in the memory file.
const aroundPages = 16

// swapObject is what is mapped, privately, instead of anonymous memory that was
// swapped out: the pages of one mapping, of which each is somewhere, or is zeros
// where there is none. What a program writes is in memory of its own, in front of
// them.
//
// An address space that is copied maps the same objects as its original, so what
// is here never changes for those who see it. Pages go when nobody maps their
// place any more; and where only one address space maps the object, its pages may
// be replaced by newer ones, or forgotten.
type swapObject struct {
	sys *swapSystem

	mu    sync.Mutex
	pages []*swapPage   // by offset; it may be mapped beyond; +checklocks:mu
	next  uint64        // what follows what was brought back last; +checklocks:mu
	maps  []swapMapping // +checklocks:mu
}

// swapMapping is one place where an object is mapped.
type swapMapping struct {
	ms  memmap.MappingSpace
	ar  hostarch.AddrRange
	off uint64
}

var _ memmap.Mappable = (*swapObject)(nil)

// AddMapping implements memmap.Mappable.AddMapping.
func (o *swapObject) AddMapping(_ context.Context, ms memmap.MappingSpace, ar hostarch.AddrRange, off uint64, _ bool) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.maps {
		// A mapping that is made longer.
		if m := &o.maps[i]; m.ms == ms && m.ar.End == ar.Start && m.off+uint64(m.ar.Length()) == off {
			m.ar.End = ar.End
			return nil
		}
	}
	o.maps = append(o.maps, swapMapping{ms, ar, off})
	o.sys.mapped(ms, o, 1)
	return nil
}

// CopyMapping implements memmap.Mappable.CopyMapping.
func (o *swapObject) CopyMapping(ctx context.Context, ms memmap.MappingSpace, _, to hostarch.AddrRange, off uint64, writable bool) error {
	return o.AddMapping(ctx, ms, to, off, writable)
}

// RemoveMapping implements memmap.Mappable.RemoveMapping.
func (o *swapObject) RemoveMapping(_ context.Context, ms memmap.MappingSpace, ar hostarch.AddrRange, off uint64, _ bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var rest []swapMapping
	for _, m := range o.maps {
		if m.ms != ms || !m.ar.Overlaps(ar) {
			rest = append(rest, m)
			continue
		}
		if m.ar.Start < ar.Start {
			rest = append(rest, swapMapping{ms, hostarch.AddrRange{Start: m.ar.Start, End: ar.Start}, m.off})
		}
		if m.ar.End > ar.End {
			rest = append(rest, swapMapping{ms, hostarch.AddrRange{Start: ar.End, End: m.ar.End}, m.off + uint64(ar.End-m.ar.Start)})
		}
	}
	o.sys.mapped(ms, o, countSpace(rest, ms)-countSpace(o.maps, ms))
	o.maps = rest
	o.dropLocked(off, off+uint64(ar.Length()))
}

func countSpace(maps []swapMapping, ms memmap.MappingSpace) (n int) {
	for _, m := range maps {
		if m.ms == ms {
			n++
		}
	}
	return n
}

// dropLocked forgets the pages of a range that nobody maps any more.
//
// +checklocks:o.mu
func (o *swapObject) dropLocked(from, to uint64) {
	for i := from / hostarch.PageSize; i < min(to/hostarch.PageSize, uint64(len(o.pages))); i++ {
		at := i * hostarch.PageSize
		if p := o.pages[i]; p != nil && !slices.ContainsFunc(o.maps, func(m swapMapping) bool { return m.has(at) }) {
			o.pages[i] = nil
			p.unref()
		}
	}
	if len(o.maps) == 0 {
		o.pages = nil
	}
}

// has reports whether the mapping shows what is at off of its object.
func (m swapMapping) has(off uint64) bool {
	return m.off <= off && off-m.off < uint64(m.ar.Length())
}

// soleLocked reports whether no other address space than ms maps the object.
//
// +checklocks:o.mu
func (o *swapObject) soleLocked(ms memmap.MappingSpace) bool {
	return !slices.ContainsFunc(o.maps, func(m swapMapping) bool { return m.ms != ms })
}

// oneMapsLocked reports whether one address space alone maps the object.
//
// +checklocks:o.mu
func (o *swapObject) oneMapsLocked() bool {
	return len(o.maps) > 0 && o.soleLocked(o.maps[0].ms)
}

// setLocked puts a page, or nil, at i, and returns what was there. It owns the caller's
// reference.
//
// +checklocks:o.mu
func (o *swapObject) setLocked(i uint64, p *swapPage) (was *swapPage) {
	for uint64(len(o.pages)) <= i {
		o.pages = append(o.pages, nil)
	}
	was, o.pages[i] = o.pages[i], p
	if p != nil {
		p.place.Store(&swapPlace{o, i})
	}
	return was
}

// Translate implements memmap.Mappable.Translate.
func (o *swapObject) Translate(_ context.Context, required, optional memmap.MappableRange, _ hostarch.AccessType) ([]memmap.Translation, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	from, to := required.Start/hostarch.PageSize, required.End/hostarch.PageSize
	lo, hi := from, to
	if to-from == 1 {
		lo = max(from&^(aroundPages-1), optional.Start/hostarch.PageSize)
		hi = min(from|(aroundPages-1)+1, optional.End/hostarch.PageSize)
	}
	if to-from == 1 {
		o.readAheadLocked(from, hi)
	}
	var ts []memmap.Translation
	for i := from; i < to; i++ {
		off, err := o.lendLocked(i)
		if err != nil {
			return ts, &memmap.BusError{Err: linuxerr.EFAULT}
		}
		if n := len(ts); n > 0 && ts[n-1].Offset+ts[n-1].Source.Length() == off {
			ts[n-1].Source.End += hostarch.PageSize
			continue
		}
		ts = append(ts, o.translation(i, off))
	}
	t := &ts[0]
	for i := from; len(ts) == 1 && i > lo && t.Offset >= hostarch.PageSize && o.tryLendLocked(i-1, t.Offset-hostarch.PageSize); i-- {
		t.Source.Start -= hostarch.PageSize
		t.Offset -= hostarch.PageSize
	}
	for i := to; len(ts) == 1 && i < hi && o.tryLendLocked(i, t.Offset+t.Source.Length()); i++ {
		t.Source.End += hostarch.PageSize
	}
	return ts, nil
}

// readAheadLocked brings back page i, if it is not in memory, and with it those that
// follow, before hi, if pages are asked for one after the other.
//
// +checklocks:o.mu
func (o *swapObject) readAheadLocked(i, hi uint64) {
	p := o.pageLocked(i)
	if p == nil || !p.away() {
		return
	}
	list := []*swapPage{p}
	for j := i + 1; i == o.next && j < hi; j++ {
		q := o.pageLocked(j)
		if q == nil || q.home != p.home || !q.away() {
			break
		}
		list = append(list, q)
	}
	o.next = i + uint64(len(list))
	if len(list) > 1 {
		fetchAll(list)
	}
}

func (o *swapObject) translation(i, off uint64) memmap.Translation {
	return memmap.Translation{
		Source: memmap.MappableRange{Start: i * hostarch.PageSize, End: (i + 1) * hostarch.PageSize},
		File:   o.sys.frames, Offset: off, Perms: hostarch.AnyAccess,
	}
}

// lendLocked returns where page i is in the memory file, with a reference for who
// maps it.
//
// +checklocks:o.mu
func (o *swapObject) lendLocked(i uint64) (uint64, error) {
	if p := o.pageLocked(i); p != nil {
		p.touched.Store(p.home.round.Load())
		return p.lend()
	}
	off := o.sys.zeros.Start + i%aroundPages*hostarch.PageSize
	o.sys.frames.lend(off)
	return off, nil
}

// tryLendLocked is lendLocked if the page is at off.
//
// +checklocks:o.mu
func (o *swapObject) tryLendLocked(i, off uint64) bool {
	if p := o.pageLocked(i); p != nil {
		return p.tryLend(off)
	}
	if off != o.sys.zeros.Start+i%aroundPages*hostarch.PageSize {
		return false
	}
	o.sys.frames.lend(off)
	return true
}

// +checklocks:o.mu
func (o *swapObject) pageLocked(i uint64) *swapPage {
	if i < uint64(len(o.pages)) {
		return o.pages[i]
	}
	return nil
}

// InvalidateUnsavable implements memmap.Mappable.InvalidateUnsavable.
func (o *swapObject) InvalidateUnsavable(context.Context) error { return nil }
