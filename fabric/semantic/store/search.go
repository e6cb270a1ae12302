package store

import (
	"cmp"
	"context"
	"slices"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/fabric/semantic"
)

// fusionK is the constant of reciprocal rank fusion, as its authors chose it.
const fusionK = 60

// candidates is how many of each ranking are fused.
func candidates(k int) int { return max(4*k, 50) }

// found is an item in the rankings.
type found struct {
	space  *space
	key    int64
	cosine *float64
	bm25   *float64
	score  float64
}

func (s *Store) search(ctx context.Context, req *semantic.Request, reply *semantic.Reply) (any, error) {
	var q semantic.Search
	if err := semantic.Decode(req.Body, &q); err != nil {
		return nil, err
	}
	if err := q.Check(); err != nil {
		return nil, err
	}
	best, err := s.rank(&req.Caller, &q)
	if err != nil {
		return nil, err
	}
	// Some may have gone or changed since; others take their places.
	best = best[:min(len(best), q.K+8)]
	keys := make([]int64, len(best))
	for i, f := range best {
		keys[i] = f.key
	}
	rows, err := s.fetch(ctx, keys, q.Vectors)
	if err != nil {
		return nil, err
	}
	out := semantic.Hits{Hits: []semantic.Hit{}}
	only := semantic.Scope{Tags: q.Tags}
	now := s.now()
	left := room(semantic.MaxAnswer)
	for _, f := range best {
		r := rows[f.key]
		if len(out.Hits) == q.K || r == nil || r.expires != 0 && r.expires <= now ||
			!shows(readable(&req.Caller, f.space.name), r.tags) || !only.Shows(r.tags) {
			continue
		}
		hit := semantic.Hit{Item: r.item(f.space.name, q.Vectors), Score: f.score, Cosine: f.cosine, BM25: f.bm25}
		if !left.takes(&hit.Item) {
			return nil, errdefs.New(errdefs.QuotaExceeded, "the answer would be longer than 3 MiB", errdefs.Op("memory search"),
				errdefs.Fix("ask for fewer items, or without vectors"))
		}
		out.Hits = append(out.Hits, hit)
	}
	reply.Seen, reply.Namespace = len(out.Hits), q.Namespace
	return out, nil
}

// rank returns the best that a caller may see, without reading them.
//
// +checklocksignore
func (s *Store) rank(by *semantic.Caller, q *semantic.Search) ([]*found, error) {
	most := candidates(q.K)
	now := s.now()
	var byText, byVector []*found
	all := make(map[int64]*found)
	reached, compared := false, false
	s.mu.RLock()
	defer s.mu.RUnlock()
	take := func(sp *space, list []scored, into *[]*found, note func(*found, float64)) {
		for _, h := range list {
			key := sp.docs[h.slot].key
			f := all[key]
			if f == nil {
				f = &found{space: sp, key: key}
				all[key] = f
			}
			note(f, float64(h.score))
			*into = append(*into, f)
		}
	}
	for _, name := range s.sortedLocked() {
		if !capability.NamespaceCovers(q.Namespace, name) {
			continue
		}
		scopes := readable(by, name)
		if len(scopes) == 0 {
			continue
		}
		reached = true
		sp := s.spaces[name]
		v := sp.seenBy(scopes, q.Tags, now)
		if q.Mode != semantic.ModeVector {
			take(sp, sp.byWords(q.Text, v, most), &byText, func(f *found, x float64) { f.bm25 = &x })
		}
		if q.Mode != semantic.ModeText && (sp.graph == nil || sp.dims == len(q.Vector)) {
			compared = true
			take(sp, sp.byVector(q.Vector, v, most, q.Exact), &byVector, func(f *found, x float64) { f.cosine = &x })
		}
	}
	if !reached && !mayRead(by, q.Namespace) {
		return nil, semantic.Refusal(semantic.OpSearch, q.Namespace, abi.SemanticRead)
	}
	if q.Mode != semantic.ModeText && reached && !compared {
		return nil, errdefs.Newf(errdefs.InvalidArgument, "no namespace that was searched has vectors of %d dimensions", len(q.Vector)).
			With(errdefs.Op("memory search"), errdefs.Resource("%s", q.Namespace), errdefs.Fix("use the embedding that the items were written with"))
	}
	return fuse(q, byText, byVector, most), nil
}

// mayRead says whether the caller could read some namespace of a pattern.
func mayRead(by *semantic.Caller, pattern string) bool {
	for _, sc := range by.Scopes {
		if !sc.Rights.Has(abi.SemanticRead) {
			continue
		}
		if capability.NamespaceCovers(sc.Pattern, pattern) || capability.NamespaceCovers(pattern, sc.Pattern) {
			return true
		}
	}
	return false
}

// fuse makes one ranking of the two.
func fuse(q *semantic.Search, byText, byVector []*found, most int) []*found {
	down := func(a, b *float64) int { return cmp.Compare(*b, *a) }
	slices.SortStableFunc(byText, func(a, b *found) int { return cmp.Or(down(a.bm25, b.bm25), cmp.Compare(a.key, b.key)) })
	slices.SortStableFunc(byVector, func(a, b *found) int { return cmp.Or(down(a.cosine, b.cosine), cmp.Compare(a.key, b.key)) })
	byText, byVector = byText[:min(len(byText), most)], byVector[:min(len(byVector), most)]
	switch q.Mode {
	case semantic.ModeText:
		for _, f := range byText {
			f.score = *f.bm25
		}
		return byText
	case semantic.ModeVector:
		for _, f := range byVector {
			f.score = *f.cosine
		}
		return byVector
	}
	weight := 0.5
	if q.Weight != nil {
		weight = *q.Weight
	}
	var out []*found
	add := func(list []*found, share float64) {
		for rank, f := range list {
			if f.score == 0 {
				out = append(out, f)
			}
			f.score += share / float64(fusionK+rank+1)
		}
	}
	if weight > 0 {
		add(byVector, weight)
	}
	if weight < 1 {
		add(byText, 1-weight)
	}
	slices.SortStableFunc(out, func(a, b *found) int { return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.key, b.key)) })
	return out
}
