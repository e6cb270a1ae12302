package sentry

import (
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/usage"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/swap"
)

// swapFrames is the kernel's memory file as the pages of swapObjects are mapped
// from it. Whoever asks where a page is gets a reference with the answer, so that
// the page cannot be put away before it is mapped: what gVisor takes then is that
// reference.
type swapFrames struct {
	*pgalloc.MemoryFile
	sys *swapSystem

	mu   sync.Mutex
	lent map[uint64]int // references that wait to be taken, by offset; +checklocks:mu
}

var _ memmap.File = (*swapFrames)(nil)

func pageAt(off uint64) memmap.FileRange {
	return memmap.FileRange{Start: off, End: off + hostarch.PageSize}
}

// lend takes a reference for whoever maps the page at off next. The caller has one.
func (f *swapFrames) lend(off uint64) {
	f.MemoryFile.IncRef(pageAt(off), 0)
	f.mu.Lock()
	f.lent[off]++
	f.mu.Unlock()
}

// IncRef implements memmap.File.IncRef.
func (f *swapFrames) IncRef(fr memmap.FileRange, memCgID uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for off := fr.Start; off < fr.End; off += hostarch.PageSize {
		switch n := f.lent[off]; n {
		case 0:
			f.MemoryFile.IncRef(pageAt(off), memCgID)
		case 1:
			delete(f.lent, off)
		default:
			f.lent[off] = n - 1
		}
	}
}

// DecRef implements memmap.File.DecRef. A program's memory maps the pages no more: it
// has others in their place, which it has written.
func (f *swapFrames) DecRef(fr memmap.FileRange) {
	f.MemoryFile.DecRef(fr)
	if f.sys.taking.Load() > 0 {
		return // They were taken from it.
	}
	for off := fr.Start; off < fr.End; off += hostarch.PageSize {
		f.sys.mu.Lock()
		p := f.sys.pages[off]
		f.sys.mu.Unlock()
		if p != nil {
			p.replaced()
		}
	}
}

// bytesAt returns the page at off, to which the caller has a reference.
func (f *swapFrames) bytesAt(off uint64) ([]byte, error) {
	blocks, err := f.MapInternal(pageAt(off), hostarch.ReadWrite)
	if err != nil {
		return nil, err
	}
	return blocks.Head().ToSlice(), nil
}

// swapPage is a page of memory that a program does not have in its hands: it is in
// the memory file, where it can be mapped from but not written to, or in a store.
// Several objects may have it.
type swapPage struct {
	home *agentSwap // whose store it is in
	refs atomic.Int32
	// touched is the round in which it was asked for last.
	touched atomic.Uint32
	// place is where it was put last.
	place atomic.Pointer[swapPlace]

	mu sync.Mutex
	// Whether it is in the memory file, and where; the page has a reference.
	resident bool      // +checklocks:mu
	frame    uint64    // +checklocks:mu
	blob     swap.Blob // where it is if it is not resident; +checklocks:mu
}

// swapPlace is a place in an object.
type swapPlace struct {
	o *swapObject
	i uint64
}

// replaced forgets the page if nobody can see it any more: the only program that maps
// its place, and maps it nowhere else, has one of its own there.
func (p *swapPage) replaced() {
	at := p.place.Load()
	if at == nil {
		return
	}
	at.o.mu.Lock()
	defer at.o.mu.Unlock()
	if at.o.pageLocked(at.i) != p || p.refs.Load() != 1 || !at.o.oneMapsLocked() {
		return
	}
	p.mu.Lock()
	gone := p.resident && p.home.sys.frames.HasUniqueRef(pageAt(p.frame))
	p.mu.Unlock()
	if gone { // Nobody asks for it without the object's lock.
		at.o.pages[at.i] = nil
		p.unref()
	}
}

// tryRef takes a reference, unless there is none any more.
func (p *swapPage) tryRef() bool {
	for {
		n := p.refs.Load()
		if n == 0 {
			return false
		}
		if p.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// unref gives a reference back, and the page with the last.
func (p *swapPage) unref() {
	if p.refs.Add(-1) > 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.resident {
		p.leaveFrameLocked()
	} else {
		p.home.store.Drop(p.blob)
	}
}

// leaveFrameLocked gives the page in the memory file back.
//
// +checklocks:p.mu
func (p *swapPage) leaveFrameLocked() {
	sys := p.home.sys
	sys.mu.Lock()
	if sys.pages[p.frame] == p {
		delete(sys.pages, p.frame)
	}
	sys.mu.Unlock()
	p.resident = false
	p.home.cached.Add(-hostarch.PageSize)
	sys.frames.MemoryFile.DecRef(pageAt(p.frame))
}

// lend has the page be in the memory file, and returns where, with a reference for
// the one who maps it.
func (p *swapPage) lend() (off uint64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.resident {
		if err := p.fetchLocked(); err != nil {
			return 0, err
		}
	}
	p.home.sys.frames.lend(p.frame)
	return p.frame, nil
}

// tryLend is lend for a page that is at off already, and that nobody else has in
// hand.
//
// +checklocksignore: the analysis does not know TryLock.
func (p *swapPage) tryLend(off uint64) bool {
	if !p.mu.TryLock() {
		return false
	}
	defer p.mu.Unlock()
	if !p.resident || p.frame != off {
		return false
	}
	p.home.sys.frames.lend(off)
	return true
}

// fetchLocked brings the page back into the memory file.
//
// +checklocks:p.mu
func (p *swapPage) fetchLocked() error {
	h := p.home
	defer h.waits()()
	fr, err := h.sys.frames.Allocate(hostarch.PageSize, pgalloc.AllocOpts{Kind: usage.Anonymous, MemCgID: h.memID})
	if err != nil {
		return errdefs.Wrap(err, errdefs.MemoryLimit, "take memory for a page that was swapped out")
	}
	if err := p.fillLocked(fr.Start); err != nil {
		h.sys.frames.MemoryFile.DecRef(fr)
		return err
	}
	return nil
}

// away reports whether the page is not in the memory file, nor about to be.
//
// +checklocksignore: the analysis does not know TryLock.
func (p *swapPage) away() bool {
	if !p.mu.TryLock() {
		return false
	}
	defer p.mu.Unlock()
	return !p.resident
}

// fetchAll brings pages of one agent back side by side, as far as that goes: who needs
// one that does not come is told when it is asked for. The caller holds the lock of
// their object.
func fetchAll(list []*swapPage) {
	h := list[0].home
	fr, err := h.sys.frames.Allocate(uint64(len(list))*hostarch.PageSize, pgalloc.AllocOpts{Kind: usage.Anonymous, MemCgID: h.memID})
	if err != nil {
		return
	}
	defer h.waits()()
	for i, p := range list {
		off := fr.Start + uint64(i)*hostarch.PageSize
		if !p.fetchTo(off) {
			h.sys.frames.MemoryFile.DecRef(pageAt(off))
		}
	}
}

// fetchTo brings the page back to off, to which it takes over a reference, and reports
// whether it did.
func (p *swapPage) fetchTo(off uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.resident && p.fillLocked(off) == nil
}

// fillLocked is fetchTo with the lock held, and says what is wrong.
//
// +checklocks:p.mu
func (p *swapPage) fillLocked(off uint64) error {
	h := p.home
	page, err := h.sys.frames.bytesAt(off)
	if err == nil {
		err = h.store.Get(p.blob, page)
	}
	if err != nil {
		return err
	}
	h.ins.Add(1)
	if p.blob.Place == swap.InFile {
		h.fileIns.Add(1)
	}
	h.store.Drop(p.blob)
	p.setFrameLocked(off)
	return nil
}

// setFrameLocked notes that the page is at off, with a reference of its own.
//
// +checklocks:p.mu
func (p *swapPage) setFrameLocked(off uint64) {
	sys := p.home.sys
	p.resident, p.frame, p.blob = true, off, swap.Blob{}
	p.home.cached.Add(hostarch.PageSize)
	sys.mu.Lock()
	sys.pages[off] = p
	sys.mu.Unlock()
}

// putAway moves the page from the memory file into its store, if nobody maps it,
// and reports whether that made room.
func (p *swapPage) putAway() (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.home
	if !p.resident || !h.sys.frames.HasUniqueRef(pageAt(p.frame)) {
		return false, nil
	}
	page, err := h.sys.frames.bytesAt(p.frame)
	if err != nil {
		return false, err
	}
	blob, err := h.store.Put(page)
	if err != nil {
		return false, err
	}
	p.leaveFrameLocked()
	p.blob = blob
	h.outs.Add(1)
	return true, nil
}

// demote moves it from the compressed tier to the file.
func (p *swapPage) demote() (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.resident || p.blob.Place != swap.InMemory || p.refs.Load() == 0 {
		return false, nil
	}
	blob, err := p.home.store.Demote(p.blob)
	p.blob = blob
	return err == nil, err
}

// takeFrames calls f with each page of fr in the memory file, which is somebody's:
// with one that is known already, or a new one of sw. Each comes with a reference.
func (sw *agentSwap) takeFrames(fr memmap.FileRange, f func(off uint64, p *swapPage)) {
	sys := sw.sys
	sys.frames.MemoryFile.IncRef(fr, 0)
	made, round := int64(0), sw.round.Load()-1 // Not touched since it was taken.
	for off := fr.Start; off < fr.End; off += hostarch.PageSize {
		sys.mu.Lock()
		p := sys.pages[off]
		if p != nil && p.tryRef() {
			sys.mu.Unlock()
			sys.frames.MemoryFile.DecRef(pageAt(off)) // It has one.
		} else {
			p = &swapPage{home: sw, resident: true, frame: off} // +checklocksignore: nobody knows it.
			p.refs.Store(1)
			p.touched.Store(round)
			sys.pages[off] = p
			sys.mu.Unlock()
			made += hostarch.PageSize
		}
		f(off, p)
	}
	sw.cached.Add(made)
}
