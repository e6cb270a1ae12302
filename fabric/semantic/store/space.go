package store

import (
	"sync"

	"aios.dev/aios/fabric/semantic"
	"aios.dev/aios/fabric/semantic/hnsw"
)

// noNode says that an item has no vector.
const noNode = ^uint32(0)

// doc is an item in the index. A slot that is dead is never used again, until the
// index is made anew.
type doc struct {
	key     int64
	version int64
	expires int64 // microseconds; 0: never
	tags    []string
	length  int32 // words
	node    uint32
	vector  bool // it has one
	dead    bool
}

// space is the index of a namespace. It is guarded by Store.mu; the graph looks
// after itself.
type space struct {
	id      int64
	name    string
	dims    int
	docs    []doc
	slots   map[int64]uint32 // by key
	nodes   []uint32         // the slot of each node of the graph
	words   map[string][]posting
	tags    map[string][]uint32
	graph   *hnsw.Graph // nil without vectors
	live    int
	length  int64 // words of all
	sums    sync.Pool
	unsaved int // changes since it was saved
}

func newSpace(id int64, name string, dims int) *space {
	return &space{
		id: id, name: name, dims: dims,
		slots: make(map[int64]uint32), words: make(map[string][]posting), tags: make(map[string][]uint32),
	}
}

// entry is an item that is to be put into the index.
type entry struct {
	doc
	terms  map[string]uint16
	vector []float32
}

// add puts an item in.
func (sp *space) add(e *entry) error {
	slot := uint32(len(sp.docs))
	d := e.doc
	if len(e.vector) > 0 {
		if sp.graph == nil {
			sp.dims = len(e.vector)
			sp.graph = hnsw.New(sp.dims)
		}
		var err error
		if d.node, err = sp.graph.Add(uint64(d.version), e.vector); err != nil {
			return err
		}
	}
	sp.docs = append(sp.docs, d)
	sp.slots[d.key] = slot
	sp.live++
	sp.length += int64(d.length)
	for w, times := range e.terms {
		sp.words[w] = append(sp.words[w], posting{slot, times})
	}
	for _, t := range d.tags {
		sp.tags[t] = append(sp.tags[t], slot)
	}
	if d.node != noNode {
		sp.place(d.node, slot)
	}
	sp.unsaved++
	return nil
}

// place notes the slot of a node.
func (sp *space) place(node, slot uint32) {
	for len(sp.nodes) <= int(node) {
		sp.nodes = append(sp.nodes, noNode)
	}
	sp.nodes[node] = slot
}

// remove takes an item out.
func (sp *space) remove(key int64) {
	slot, ok := sp.slots[key]
	if !ok {
		return
	}
	d := &sp.docs[slot]
	d.dead = true
	delete(sp.slots, key)
	sp.live--
	sp.length -= int64(d.length)
	if d.node != noNode {
		sp.graph.Remove(d.node)
	}
	sp.unsaved++
}

// view is what a caller sees of a space at one time.
type view struct {
	now    int64
	bits   []uint64 // nil: all that is alive
	count  int
	length int64
}

// has says whether a slot is in the view.
func (v *view) has(sp *space, slot uint32) bool {
	if v.bits != nil && v.bits[slot/64]>>(slot%64)&1 == 0 {
		return false
	}
	d := &sp.docs[slot]
	return !d.dead && (d.expires == 0 || d.expires > v.now)
}

// seenBy returns what is seen through any of the scopes and bears all of the tags.
func (sp *space) seenBy(scopes []semantic.Scope, tags []string, now int64) *view {
	v := &view{now: now, count: sp.live, length: sp.length}
	all := len(tags) == 0
	if all {
		all = false
		for i := range scopes {
			all = all || len(scopes[i].Tags) == 0
		}
	}
	if all {
		return v
	}
	n := (len(sp.docs) + 63) / 64
	v.bits = make([]uint64, n)
	one := make([]uint64, n)
	for i := range scopes {
		sp.mark(one, scopes[i].Tags)
		for w := range one {
			v.bits[w] |= one[w]
		}
	}
	if len(tags) > 0 {
		sp.mark(one, tags)
		for w := range one {
			v.bits[w] &= one[w]
		}
	}
	v.count, v.length = 0, 0
	v.each(sp, func(slot uint32) {
		v.count++
		v.length += int64(sp.docs[slot].length)
	})
	return v
}

// expired is how many of the items that a view of everything counts are not seen any
// more, since their time is over; one that is filtered does not count them.
func (sp *space) expired(v *view) (n int) {
	if v.bits != nil {
		return 0
	}
	for i := range sp.docs {
		if d := &sp.docs[i]; !d.dead && d.expires != 0 && d.expires <= v.now {
			n++
		}
	}
	return n
}

// mark sets the bits of the items that bear all of the tags.
func (sp *space) mark(bits []uint64, tags []string) {
	if len(tags) == 0 {
		for i := range bits {
			bits[i] = ^uint64(0)
		}
		if rest := len(sp.docs) % 64; rest != 0 {
			bits[len(bits)-1] = 1<<rest - 1
		}
		return
	}
	clear(bits)
	for _, slot := range sp.tags[tags[0]] {
		bits[slot/64] |= 1 << (slot % 64)
	}
	for _, t := range tags[1:] {
		more := make([]uint64, len(bits))
		for _, slot := range sp.tags[t] {
			more[slot/64] |= 1 << (slot % 64)
		}
		for i := range bits {
			bits[i] &= more[i]
		}
	}
}

// each calls f with every slot of the view.
func (v *view) each(sp *space, f func(slot uint32)) {
	for slot := range uint32(len(sp.docs)) {
		if v.has(sp, slot) {
			f(slot)
		}
	}
}

// Which way the nearest are looked for: so few are compared one by one.
const (
	fewItems    = 4000
	fewOf       = 20 // or one in so many
	searchWidth = 256
)

// byVector ranks the items of a view by the cosine.
func (sp *space) byVector(q []float32, v *view, most int, exact bool) []scored {
	if sp.graph == nil || v.count == 0 {
		return nil
	}
	pass := func(node uint32) bool { return sp.nodes[node] != noNode && v.has(sp, sp.nodes[node]) }
	var hits []hnsw.Hit
	switch {
	case exact:
		hits = sp.graph.Exact(q, most, pass)
	case v.count <= fewItems || v.count*fewOf < sp.live:
		var list []uint32
		v.each(sp, func(slot uint32) {
			if n := sp.docs[slot].node; n != noNode {
				list = append(list, n)
			}
		})
		hits = sp.graph.Among(q, most, list)
	default:
		hits = sp.graph.Search(q, most, max(searchWidth, 2*most), pass)
	}
	out := make([]scored, len(hits))
	for i, h := range hits {
		out[i] = scored{sp.nodes[h.Node], h.Cosine}
	}
	return out
}
