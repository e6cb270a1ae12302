package capability

import (
	"math"
	"slices"
	"strings"

	"aios.dev/aios/abi"
)

// Effective is all that one holder may do, by class. It is a snapshot; nobody
// may change it. A class that is missing gives nothing.
type Effective map[abi.Class]Authority

// Authority is what a holder may do within one class.
type Authority struct {
	// Rights is the union over all objects.
	Rights abi.Rights
	// Objects are in order of name, each with the union of what is held to it.
	Objects []ObjectRights
	// Limits sum up what capabilities have and have not given away; a weight
	// is the largest. One that Limited does not name is 0 here and has no
	// bound: some capability is without it.
	Limits  Limits
	limited uint16
}

// ObjectRights are the rights to one object.
type ObjectRights struct {
	Object Object
	Rights abi.Rights
}

// Limited reports whether a limit is bounded; if not, the field in Limits
// means nothing.
func (a Authority) Limited(k Kind) bool { return a.limited&(1<<k) != 0 }

// Limit returns the bound of a limit; bounded is false if there is none.
func (a Authority) Limit(k Kind) (v uint64, bounded bool) { return a.Limits.Get(k), a.Limited(k) }

// Rights returns the rights that are held within a class, to whatever.
func (e Effective) Rights(c abi.Class) abi.Rights { return e[c].Rights }

// To returns the rights that are held to all of an object.
func (e Effective) To(o Object) abi.Rights {
	var out abi.Rights
	for _, h := range e[o.Class].Objects {
		if h.Object.Contains(o) {
			out |= h.Rights
		}
	}
	return out
}

// snapshot is an Effective that stands until the table changes or a lease in
// it ends.
type snapshot struct {
	version uint64
	until   int64
	what    Effective
}

// Effective returns what holder may do. It costs a walk over its capabilities
// after a change and next to nothing otherwise.
func (s *Space) Effective(holder string) Effective {
	t := s.holder(holder)
	if t == nil {
		return nil
	}
	if c := t.cache.Load(); c != nil && c.version == t.version.Load() && (c.until == forever || s.now() < c.until) {
		return c.what
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &snapshot{version: t.version.Load(), until: forever, what: make(Effective)}
	var sums [16]tally
	t.mu.RLock()
	for _, e := range t.held {
		if n := e.c; n != nil && (n.expiry == forever || n.Live()) {
			c.until = min(c.until, n.expiry)
			sums[n.Object().Class&15].add(n)
		}
	}
	t.mu.RUnlock()
	for class := range sums {
		if sums[class].Rights != 0 {
			c.what[abi.Class(class)] = sums[class].authority()
		}
	}
	t.cache.Store(c)
	return c.what
}

// tally adds up an Authority.
type tally struct {
	Authority
	some, unlimited uint16 // kinds that capabilities have, that some have not
}

func (a *tally) add(c *Capability) {
	spec := c.spec.Load()
	a.Rights |= spec.Rights
	a.Objects = append(a.Objects, ObjectRights{spec.Object, spec.Rights})
	if !spec.spends() {
		return
	}
	for _, key := range keysOf(spec.Object.Class) {
		k := key.kind
		left, limited := c.Left(k)
		if !limited && k.optional() {
			continue
		}
		if !limited {
			a.unlimited |= 1 << k
			continue
		}
		a.some |= 1 << k
		if k.Divisible() {
			a.Limits.Set(k, saturate(a.Limits.Get(k), left))
		} else {
			a.Limits.Set(k, max(a.Limits.Get(k), left))
		}
	}
}

func (a *tally) authority() Authority {
	slices.SortFunc(a.Objects, func(x, y ObjectRights) int { return strings.Compare(x.Object.Name, y.Object.Name) })
	merged := a.Objects[:1]
	for _, o := range a.Objects[1:] {
		if last := &merged[len(merged)-1]; last.Object == o.Object {
			last.Rights |= o.Rights
		} else {
			merged = append(merged, o)
		}
	}
	a.Objects = slices.Clip(merged)
	a.limited = a.some &^ a.unlimited
	for k := range Kind(kinds) {
		if !a.Limited(k) {
			a.Limits.Set(k, 0)
		}
	}
	return a.Authority
}

func saturate(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return math.MaxUint64
	}
	return a + b
}
