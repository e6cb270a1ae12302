package sched

// node is the place of an entity in a tree. While it is in one, what the entity
// is ordered by does not change.
type node struct {
	of *entity
	// Whose entity it is: one of them.
	task *Task
	part *part

	left, right *node
	prio        uint32
	minV        int64 // of the entities in the subtree
	seq         uint64
	in          *tree // nil while in none
}

// tree is entities that wait, by deadline. Each node knows the least virtual
// time beneath it, so the earliest deadline among the eligible is found on one
// way down, as Linux does it for EEVDF. It is a treap: balanced by priorities
// that look random, in expectation.
//
// The zero value is an empty tree.
type tree struct {
	root *node
	n    int
	rand uint32
	seq  uint64
}

// before orders nodes: of equal deadlines, who came first.
func (n *node) before(o *node) bool {
	if d := n.of.deadline - o.of.deadline; d != 0 {
		return d < 0
	}
	return n.seq < o.seq
}

// fix computes what n knows of its subtree.
func (n *node) fix() {
	n.minV = n.of.v
	for _, c := range [2]*node{n.left, n.right} {
		if c != nil && c.minV-n.minV < 0 {
			n.minV = c.minV
		}
	}
}

func (t *tree) empty() bool { return t.root == nil }

func (t *tree) insert(n *node) {
	// xorshift, by Marsaglia: the same on every run.
	t.rand ^= t.rand<<13 | 1
	t.rand ^= t.rand >> 17
	t.rand ^= t.rand << 5
	t.seq++
	n.prio, n.seq, n.in = t.rand, t.seq, t
	n.left, n.right = nil, nil
	t.root = insert(t.root, n)
	t.n++
}

func insert(root, n *node) *node {
	switch {
	case root == nil:
		n.fix()
		return n
	case n.prio > root.prio:
		n.left, n.right = split(root, n)
		n.fix()
		return n
	case n.before(root):
		root.left = insert(root.left, n)
	default:
		root.right = insert(root.right, n)
	}
	root.fix()
	return root
}

// split parts a subtree into what is before n and what is not.
func split(root, n *node) (before, after *node) {
	if root == nil {
		return nil, nil
	}
	if root.before(n) {
		root.right, after = split(root.right, n)
		before = root
	} else {
		before, root.left = split(root.left, n)
		after = root
	}
	root.fix()
	return before, after
}

func (t *tree) remove(n *node) {
	t.root = remove(t.root, n)
	t.n--
	n.left, n.right, n.in = nil, nil, nil
}

func remove(root, n *node) *node {
	if root == n {
		return join(n.left, n.right)
	}
	if n.before(root) {
		root.left = remove(root.left, n)
	} else {
		root.right = remove(root.right, n)
	}
	root.fix()
	return root
}

// join makes one tree of two, all of a before all of b.
func join(a, b *node) *node {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.prio > b.prio:
		a.right = join(a.right, b)
		a.fix()
		return a
	}
	b.left = join(a, b.left)
	b.fix()
	return b
}

// earliest returns the node of the earliest deadline whose virtual time is not
// after v, or nil.
func (t *tree) earliest(v int64) *node {
	n := t.root
	if n == nil || n.minV-v > 0 {
		return nil
	}
	for {
		switch {
		case n.left != nil && n.left.minV-v <= 0:
			n = n.left
		case n.of.v-v <= 0:
			return n
		default:
			n = n.right // It has one that is eligible: nobody else here is.
		}
	}
}

// least returns the node of the least virtual time: who is owed most.
func (t *tree) least() *node {
	n := t.root
	for n != nil && n.of.v != n.minV {
		if n.left != nil && n.left.minV == n.minV {
			n = n.left
		} else {
			n = n.right
		}
	}
	return n
}

// each calls f for every node, in order, until it returns false.
func (t *tree) each(f func(*node) bool) { walk(t.root, f) }

func walk(n *node, f func(*node) bool) bool {
	return n == nil || walk(n.left, f) && f(n) && walk(n.right, f)
}
