package fabric

import "gvisor.dev/gvisor/pkg/sentry/memmap"

const (
	// chunkSize is what is copied when one byte of a shared chunk is written.
	chunkSize = 64 << 10
	chunkBits = 16
	fanBits   = 6
	fan       = 1 << fanBits
)

// frame is the memory of a chunk.
type frame struct {
	fr   memmap.FileRange
	refs int // leaves that hold it
	// home is the region whose agents may have it mapped; nil for none.
	home *Region
}

// node is a part of a tree. One with more than one reference is shared and does
// not change; so is everything below it.
type node struct {
	refs   int
	kids   *[fan]*node  // of an inner node
	frames *[fan]*frame // of a leaf
}

// tree is the contents of a region or a version. Depth is how many inner nodes
// are on the way to a leaf. Every method needs family.mu.
type tree struct {
	root  *node // nil while empty
	depth int
}

// depthFor is the depth of a tree of so many chunks.
func depthFor(chunks uint64) (depth int) {
	for n := uint64(fan); n < chunks; n <<= fanBits {
		depth++
	}
	return depth
}

func newNode(leaf bool) *node {
	if leaf {
		return &node{refs: 1, frames: new([fan]*frame)}
	}
	return &node{refs: 1, kids: new([fan]*node)}
}

// index is which slot of a node at that height, 0 of a leaf, leads to chunk i.
func index(i uint64, height int) uint64 { return i >> (fanBits * height) & (fan - 1) }

// peek returns the frame of chunk i, or nil, and whether something else holds it
// too.
func (t *tree) peek(i uint64) (f *frame, shared bool) {
	n := t.root
	for h := t.depth; n != nil; h-- {
		shared = shared || n.refs > 1
		if h == 0 {
			f = n.frames[index(i, 0)]
			return f, shared || f != nil && f.refs > 1
		}
		n = n.kids[index(i, h)]
	}
	return nil, false
}

// slot returns where the frame of chunk i is kept, in a leaf that nothing else
// holds.
func (t *tree) slot(i uint64) **frame {
	at := &t.root
	for h := t.depth; ; h-- {
		n := *at
		switch {
		case n == nil:
			n = newNode(h == 0)
			*at = n
		case n.refs > 1:
			n = n.clone()
			*at = n
		}
		if h == 0 {
			return &n.frames[index(i, 0)]
		}
		at = &n.kids[index(i, h)]
	}
}

// clone gives up a reference of n for a node of its own.
func (n *node) clone() *node {
	c := newNode(n.frames != nil)
	if n.frames != nil {
		*c.frames = *n.frames
		for _, f := range c.frames {
			if f != nil {
				f.refs++
			}
		}
	} else {
		*c.kids = *n.kids
		for _, k := range c.kids {
			if k != nil {
				k.refs++
			}
		}
	}
	n.refs--
	return c
}

// share returns another tree with the same contents.
func (t *tree) share() tree {
	if t.root != nil {
		t.root.refs++
	}
	return *t
}

// drop empties t, and calls free for frames that nothing holds any more.
func (t *tree) drop(free func(*frame)) {
	if t.root != nil {
		t.root.drop(free)
	}
	t.root = nil
}

func (n *node) drop(free func(*frame)) {
	if n.refs--; n.refs > 0 {
		return
	}
	if n.frames != nil {
		for _, f := range n.frames {
			if f == nil {
				continue
			}
			if f.refs--; f.refs == 0 {
				free(f)
			}
		}
		return
	}
	for _, k := range n.kids {
		if k != nil {
			k.drop(free)
		}
	}
}

// differ calls do for every chunk that may hold something else in o, which has
// the same depth. Parts that both share are not looked at.
func (t *tree) differ(o *tree, do func(i uint64, a, b *frame)) {
	differ(t.root, o.root, 0, t.depth, do)
}

func differ(a, b *node, base uint64, height int, do func(uint64, *frame, *frame)) {
	if a == b {
		return
	}
	for i := range uint64(fan) {
		at := base<<fanBits + i
		if height > 0 {
			differ(a.kid(i), b.kid(i), at, height-1, do)
		} else if x, y := a.frame(i), b.frame(i); x != y {
			do(at, x, y)
		}
	}
}

func (n *node) kid(i uint64) *node {
	if n == nil {
		return nil
	}
	return n.kids[i]
}

func (n *node) frame(i uint64) *frame {
	if n == nil {
		return nil
	}
	return n.frames[i]
}
