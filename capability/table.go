package capability

import (
	"sync"
	"sync/atomic"
)

// table is what one holder holds.
type table struct {
	holder string

	mu   sync.RWMutex
	caps map[Handle]*Capability // +checklocks:mu
	last Handle                 // +checklocks:mu

	// version counts the changes; written under Space.mu.
	version atomic.Uint64
	cache   atomic.Pointer[snapshot]

	// notify is held while Changed is called; told is the version it has seen.
	notify sync.Mutex
	told   uint64 // +checklocks:notify

	// The rest is guarded by Space.mu.

	gone  bool // the holder was removed
	given int  // how many live nodes are children of what it holds or held
	// The hit of the batch that last touched the table.
	lastBatch *batch
	lastHit   int
}

func newTable(holder string) *table {
	return &table{holder: holder, caps: make(map[Handle]*Capability)}
}

// get returns the capability of a handle, and whether the handle was ever
// given.
func (t *table) get(h Handle) (c *Capability, given bool) {
	t.mu.RLock()
	c, given = t.caps[h], h != 0 && h <= t.last
	t.mu.RUnlock()
	return c, given
}

// all returns what is in the table, in no order.
func (t *table) all() []*Capability {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]*Capability, 0, len(t.caps))
	for _, c := range t.caps {
		out = append(out, c)
	}
	return out
}

func (t *table) len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.caps)
}

// put gives c the next handle.
func (t *table) put(c *Capability) {
	t.mu.Lock()
	t.last++
	c.handle = t.last
	t.caps[c.handle] = c
	t.mu.Unlock()
}

func (t *table) drop(h Handle) {
	t.mu.Lock()
	delete(t.caps, h)
	t.mu.Unlock()
}
