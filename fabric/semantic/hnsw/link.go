package hnsw

import (
	"cmp"
	"slices"
)

// most is how many neighbours a node has in a world.
func most(level int) int {
	if level == 0 {
		return linksLowest
	}
	return links
}

// link ties a node into the worlds that it reaches.
func (g *Graph) link(i uint32) {
	nd := g.node(i)
	v := g.Vector(i)
	height := len(nd.links) - 1
	s := g.borrow()
	defer g.scratch.Put(s)
	at, top, ok := g.descend(s, v, height)
	if !ok {
		if g.entry.CompareAndSwap(-1, int64(height)<<32|int64(i)) {
			return
		}
		at, top, _ = g.descend(s, v, height) // Another one was first.
	}
	from := []Hit{at}
	for level := min(height, top); level >= 0; level-- {
		g.level(s, v, from, buildWidth, level, nil)
		near := slices.Clone(s.best)
		near = slices.DeleteFunc(near, func(h Hit) bool { return h.Node == i })
		from = near
		chosen := g.choose(near, links)
		nd.mu.Lock()
		nd.links[level].Store(&chosen)
		nd.mu.Unlock()
		for _, j := range chosen {
			g.linkBack(j, i, level)
		}
	}
	for height > top { // It is the new way in, unless another one is higher.
		e := g.entry.Load()
		if int(e>>32) >= height || g.entry.CompareAndSwap(e, int64(height)<<32|int64(i)) {
			return
		}
	}
}

// choose picks up to n of the candidates: those that are nearer to the node than
// to any that was picked before, so that ways lead in every direction, and then
// the nearest of the rest.
func (g *Graph) choose(near []Hit, n int) []uint32 {
	slices.SortFunc(near, func(a, b Hit) int { return cmp.Or(cmp.Compare(b.Cosine, a.Cosine), cmp.Compare(a.Node, b.Node)) })
	out := make([]uint32, 0, n)
	var rest []uint32
	for _, h := range near {
		if len(out) == n {
			break
		}
		v := g.Vector(h.Node)
		if slices.ContainsFunc(out, func(j uint32) bool { return dot(v, g.Vector(j)) > h.Cosine }) {
			rest = append(rest, h.Node)
			continue
		}
		out = append(out, h.Node)
	}
	return append(out, rest[:min(n-len(out), len(rest))]...)
}

// linkBack makes i a neighbour of j, which may lose another one by it.
func (g *Graph) linkBack(j, i uint32, level int) {
	nd := g.node(j)
	if level >= len(nd.links) {
		return
	}
	nd.mu.Lock()
	defer nd.mu.Unlock()
	var list []uint32
	if old := nd.links[level].Load(); old != nil {
		list = *old
	}
	if slices.Contains(list, i) {
		return
	}
	if len(list) < most(level) {
		list = append(slices.Clip(list), i)
		nd.links[level].Store(&list)
		return
	}
	v := g.Vector(j)
	near := make([]Hit, 0, len(list)+1)
	for _, k := range append(slices.Clip(list), i) {
		near = append(near, Hit{k, dot(v, g.Vector(k))})
	}
	chosen := g.choose(near, most(level))
	nd.links[level].Store(&chosen)
}
