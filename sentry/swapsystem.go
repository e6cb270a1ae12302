package sentry

import (
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/usage"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/swap"
)

// Swap. Memory of an agent that it has not used for a while is kept where it takes
// less room (package swap), and comes back when it is touched, by the program or by
// the kernel on its behalf.
//
//	swapscan.go    what an address space has, page by page
//	swapout.go     anonymous memory becomes a swapObject, while the agent stands still
//	swapobject.go  what is mapped instead, and what a fault finds there
//	swappage.go    one page, in the memory file or in a store
//	swaptiers.go   where stores keep what they are given
//	gate_swap.go   calls that see the difference
//
// To swap out is two steps. First, pages are taken from a mapping: they are still in
// memory, but not mapped, so that to touch one brings it back at little cost and is
// noticed. Then those that were not touched are compressed.
//
// Lock order: the locks of an address space, swapObject.mu, swapPage.mu, and then
// those of swapSystem, stores and the memory file, which are leaves.

// swapSystem is what swap is for all agents.
type swapSystem struct {
	frames *swapFrames
	// zeros are aroundPages pages of nothing, which are never written.
	zeros memmap.FileRange
	// taking counts who takes pages from address spaces.
	taking atomic.Int32

	mu sync.Mutex
	// Pages in the memory file, by offset.
	pages map[uint64]*swapPage // +checklocks:mu
	// How often an address space maps an object.
	spaces map[memmap.MappingSpace]map[*swapObject]int // +checklocks:mu
}

// agentSwap is what an agent has swapped out. It may outlast the agent: copies of
// it have the same pages.
type agentSwap struct {
	sys   *swapSystem
	memID uint32
	store *swap.Store
	// waits notes that a task waits for a page; what it returns that it does no more.
	waits func() func()
	// cached is what of it is in the memory file as pages, slabs what its store
	// has there; both in bytes.
	cached, slabs atomic.Int64
	// ins and outs are pages that came back and that were put away, fileIns and
	// fileOuts those of the file.
	ins, outs, fileIns, fileOuts atomic.Uint64
	// round counts how often pages were looked at for their age.
	round atomic.Uint32
	// never says why nothing of the agent is swapped out, or nil.
	never atomic.Pointer[string]
	// reclaim puts pages away by itself.
	reclaim reclaimer
	// locks is set when a program has locked memory.
	locks atomic.Bool

	fileMu sync.Mutex // taken before the store's
	file   *os.File   // or nil; +checklocks:fileMu
	limit  uint64     // how much of it the agent may use; +checklocks:fileMu
	asking bool       // the daemon is asked for one; +checklocks:fileMu
	ended  bool       // the agent has; +checklocks:fileMu
}

// swapping returns what s has for swap, which is made when it is needed first.
func (s *Kernel) swapping() (*swapSystem, error) {
	s.swapMu.Lock()
	defer s.swapMu.Unlock()
	if s.swapSys != nil {
		return s.swapSys, nil
	}
	mf := s.k.MemoryFile()
	zeros, err := mf.Allocate(aroundPages*hostarch.PageSize, pgalloc.AllocOpts{Kind: usage.System})
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.MemoryLimit, "take memory for swap")
	}
	s.swapSys = &swapSystem{
		frames: &swapFrames{MemoryFile: mf, lent: make(map[uint64]int)}, zeros: zeros,
		pages: make(map[uint64]*swapPage), spaces: make(map[memmap.MappingSpace]map[*swapObject]int),
	}
	s.swapSys.frames.sys = s.swapSys
	s.swapOn.Store(s.swapSys)
	return s.swapSys, nil
}

// swapOf returns what a has swapped out.
func (a *Agent) swapOf() (*agentSwap, error) {
	if sw := a.swap.Load(); sw != nil {
		return sw, nil
	}
	sys, err := a.s.swapping()
	if err != nil {
		return nil, err
	}
	sw := &agentSwap{sys: sys, memID: a.memID, waits: func() func() { return a.stalled(&a.pressure.memory) }}
	sw.store = swap.New(&memoryTier{sw: sw, slabs: make(map[uint32]memmap.FileRange)})
	if !a.swap.CompareAndSwap(nil, sw) {
		sw = a.swap.Load()
	}
	return sw, nil
}

// mapped notes that ms maps o n times more.
func (sys *swapSystem) mapped(ms memmap.MappingSpace, o *swapObject, n int) {
	sys.mu.Lock()
	defer sys.mu.Unlock()
	all := sys.spaces[ms]
	if all == nil {
		all = make(map[*swapObject]int)
		sys.spaces[ms] = all
	}
	if all[o] += n; all[o] == 0 {
		delete(all, o)
	}
	if len(all) == 0 {
		delete(sys.spaces, ms)
	}
}

// objects are those that ms maps.
func (sys *swapSystem) objects(ms memmap.MappingSpace) []*swapObject {
	sys.mu.Lock()
	defer sys.mu.Unlock()
	return slices.Collect(maps.Keys(sys.spaces[ms]))
}

// mappings are where ms maps objects in ar, cut to it.
func (sys *swapSystem) mappings(ms memmap.MappingSpace, ar hostarch.AddrRange) (out []objectMapping) {
	for _, o := range sys.objects(ms) {
		o.mu.Lock()
		for _, m := range o.maps {
			if m.ms != ms || !m.ar.Overlaps(ar) {
				continue
			}
			cut := m.ar.Intersect(ar)
			out = append(out, objectMapping{o, swapMapping{ms, cut, m.off + uint64(cut.Start-m.ar.Start)}})
		}
		o.mu.Unlock()
	}
	return out
}

// objectMapping is a mapping and what it maps.
type objectMapping struct {
	o *swapObject
	swapMapping
}
