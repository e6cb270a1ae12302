package hnsw

import (
	"cmp"
	"slices"
)

// scratch is what a search writes to.
type scratch struct {
	seen  []uint32 // the search by which a node was seen last
	epoch uint32
	open  queue // to be looked at, the nearest first
	best  queue // found, the farthest first
	list  []Hit
}

func (g *Graph) borrow() *scratch {
	s := g.scratch.Get().(*scratch)
	if n := int(g.n.Load()); len(s.seen) < n {
		s.seen = make([]uint32, n+n/2+chunkSize)
		s.epoch = 0
	}
	s.next()
	return s
}

func (s *scratch) next() {
	s.epoch++
	if s.epoch == 0 {
		clear(s.seen)
		s.epoch = 1
	}
	s.open, s.best = s.open[:0], s.best[:0]
}

// visit reports whether a node was not seen by this search. One that was added
// while it runs is passed over.
func (s *scratch) visit(i uint32) bool {
	if int(i) >= len(s.seen) || s.seen[i] == s.epoch {
		return false
	}
	s.seen[i] = s.epoch
	return true
}

// queue is a heap of hits: by the sign, the nearest or the farthest at its head.
type queue []Hit

func (q *queue) push(h Hit, sign float32) {
	*q = append(*q, h)
	s, i := *q, len(*q)-1
	for i > 0 {
		up := (i - 1) / 2
		if sign*s[up].Cosine >= sign*s[i].Cosine {
			break
		}
		s[up], s[i] = s[i], s[up]
		i = up
	}
}

func (q *queue) pop(sign float32) Hit {
	s := *q
	top := s[0]
	last := len(s) - 1
	s[0] = s[last]
	s = s[:last]
	for i := 0; ; {
		down := 2*i + 1
		if down >= last {
			break
		}
		if r := down + 1; r < last && sign*s[r].Cosine > sign*s[down].Cosine {
			down = r
		}
		if sign*s[i].Cosine >= sign*s[down].Cosine {
			break
		}
		s[i], s[down] = s[down], s[i]
		i = down
	}
	*q = s
	return top
}

const (
	nearest  = 1
	farthest = -1
)

// level walks one world from a node and leaves the nearest in s.best. Only those
// that pass take places there; all are steps on the way.
func (g *Graph) level(s *scratch, q []float32, from []Hit, width, level int, pass func(uint32) bool) {
	s.next()
	for _, h := range from {
		if s.visit(h.Node) {
			s.open.push(h, nearest)
			if pass == nil || pass(h.Node) {
				s.best.push(h, farthest)
			}
		}
	}
	for len(s.open) > 0 {
		at := s.open.pop(nearest)
		if len(s.best) >= width && at.Cosine < s.best[0].Cosine {
			return
		}
		nd := g.node(at.Node)
		if level >= len(nd.links) {
			continue
		}
		list := nd.links[level].Load()
		if list == nil {
			continue
		}
		for _, i := range *list {
			if !s.visit(i) {
				continue
			}
			h := Hit{i, dot(q, g.Vector(i))}
			if len(s.best) >= width && h.Cosine <= s.best[0].Cosine {
				continue
			}
			s.open.push(h, nearest)
			if pass == nil || pass(i) {
				s.best.push(h, farthest)
				if len(s.best) > width {
					s.best.pop(farthest)
				}
			}
		}
	}
}

// descend returns the nearest node of the world above level, coming from the top.
func (g *Graph) descend(s *scratch, q []float32, to int) (at Hit, top int, ok bool) {
	e := g.entry.Load()
	if e < 0 {
		return Hit{}, 0, false
	}
	top = int(e >> 32)
	at = Hit{Node: uint32(e)}
	at.Cosine = dot(q, g.Vector(at.Node))
	for level := top; level > to; level-- {
		for moved := true; moved; {
			moved = false
			list := g.node(at.Node).links[level].Load()
			if list == nil {
				break
			}
			for _, i := range *list {
				if c := dot(q, g.Vector(i)); c > at.Cosine {
					at, moved = Hit{i, c}, true
				}
			}
		}
	}
	return at, top, true
}

// Search returns up to k vectors near to q that pass, the nearest first. It keeps
// width candidates at a time: more of them find more of the true nearest, and take
// longer. pass may be nil; removed vectors never pass.
func (g *Graph) Search(q []float32, k, width int, pass func(uint32) bool) []Hit {
	unit := make([]float32, g.dims)
	Normalize(unit, q)
	alive := func(i uint32) bool { return g.Alive(i) && (pass == nil || pass(i)) }
	s := g.borrow()
	defer g.scratch.Put(s)
	// First those outside of the graph: who leaves that list is in the graph.
	s.list = g.compare(s.list[:0], unit, alive)
	if at, _, ok := g.descend(s, unit, 0); ok {
		g.level(s, unit, []Hit{at}, max(width, k), 0, alive)
		s.list = append(s.list, s.best...)
	}
	return nearestOf(s.list, k)
}

// compare compares q with what is not linked.
func (g *Graph) compare(out []Hit, q []float32, pass func(uint32) bool) []Hit {
	g.mu.Lock()
	list := append(slices.Clone(g.busy), g.unlinked...)
	g.mu.Unlock()
	for _, i := range list {
		if pass(i) {
			out = append(out, Hit{i, dot(q, g.Vector(i))})
		}
	}
	return out
}

// Exact compares q with every vector that passes.
func (g *Graph) Exact(q []float32, k int, pass func(uint32) bool) []Hit {
	unit := make([]float32, g.dims)
	Normalize(unit, q)
	var best queue
	for i := range uint32(g.n.Load()) {
		if !g.Alive(i) || pass != nil && !pass(i) {
			continue
		}
		best = keep(best, Hit{i, dot(unit, g.Vector(i))}, k)
	}
	return nearestOf(best, k)
}

// Among compares q with the vectors in list.
func (g *Graph) Among(q []float32, k int, list []uint32) []Hit {
	unit := make([]float32, g.dims)
	Normalize(unit, q)
	var best queue
	for _, i := range list {
		if g.Alive(i) {
			best = keep(best, Hit{i, dot(unit, g.Vector(i))}, k)
		}
	}
	return nearestOf(best, k)
}

func keep(best queue, h Hit, k int) queue {
	switch {
	case len(best) < k:
		best.push(h, farthest)
	case k > 0 && h.Cosine > best[0].Cosine:
		best.pop(farthest)
		best.push(h, farthest)
	}
	return best
}

// nearestOf sorts hits and returns the first k, each node once.
func nearestOf(hits []Hit, k int) []Hit {
	hits = slices.Clone(hits)
	slices.SortFunc(hits, func(a, b Hit) int { return cmp.Or(cmp.Compare(b.Cosine, a.Cosine), cmp.Compare(a.Node, b.Node)) })
	hits = slices.CompactFunc(hits, func(a, b Hit) bool { return a.Node == b.Node })
	return hits[:min(k, len(hits))]
}
