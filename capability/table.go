package capability

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
)

// table is what one holder holds.
type table struct {
	holder string

	mu sync.RWMutex
	// In the order of their handles, which is that of time. What has left the
	// table is a gap, until there are as many gaps as others.
	held []holding // +checklocks:mu
	gaps int       // +checklocks:mu
	last Handle    // +checklocks:mu

	// version counts the changes; written under Space.mu.
	version atomic.Uint64
	cache   atomic.Pointer[snapshot]

	// notify is held while Changed is called; told is the version it has seen.
	notify sync.Mutex
	told   uint64 // +checklocks:notify

	// The rest is guarded by Space.mu.

	gone   bool // the holder was removed
	closed bool // nothing can be given to it any more
	given  int  // how many live nodes are children of what it holds or held
	// The hit of the batch that last touched the table.
	lastBatch *batch
	lastHit   int
}

// holding is a place in a table; c is nil in a gap.
type holding struct {
	h Handle
	c *Capability
}

func newTable(holder string) *table { return &table{holder: holder} }

// find returns where h is or would be.
//
// +checklocksread:t.mu
func (t *table) find(h Handle) (i int, ok bool) {
	return slices.BinarySearchFunc(t.held, h, func(e holding, h Handle) int { return cmp.Compare(e.h, h) })
}

// get returns the capability of a handle, and whether the handle was ever
// given.
func (t *table) get(h Handle) (c *Capability, given bool) {
	t.mu.RLock()
	if i, ok := t.find(h); ok {
		c = t.held[i].c
	}
	given = h != 0 && h <= t.last
	t.mu.RUnlock()
	return c, given
}

// all returns what is in the table, by handle.
func (t *table) all() []*Capability {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]*Capability, 0, len(t.held)-t.gaps)
	for _, e := range t.held {
		if e.c != nil {
			out = append(out, e.c)
		}
	}
	return out
}

func (t *table) len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.held) - t.gaps
}

// put gives c the next handle.
func (t *table) put(c *Capability) {
	t.mu.Lock()
	t.last++
	c.handle = t.last
	t.held = append(t.held, holding{c.handle, c})
	t.mu.Unlock()
}

func (t *table) drop(h Handle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i, ok := t.find(h)
	if !ok || t.held[i].c == nil {
		return
	}
	t.held[i].c = nil
	t.gaps++
	if 2*t.gaps >= len(t.held) {
		t.held = slices.DeleteFunc(t.held, func(e holding) bool { return e.c == nil })
		t.gaps = 0
	}
}
