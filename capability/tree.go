package capability

import (
	"aios.dev/aios/errdefs"
)

// link makes n the youngest child of its parent, or the youngest root.
//
// +checklocks:s.mu
func (s *Space) link(n *Capability) {
	first, last := s.family(n.parent)
	n.prev = *last
	if n.prev != nil {
		n.prev.next = n
	} else {
		*first = n
	}
	*last = n
	s.byID[n.number] = n
}

// unlink takes n, with what is below it, from its parent.
//
// +checklocks:s.mu
func (s *Space) unlink(n *Capability) {
	first, last := s.family(n.parent)
	if n.prev != nil {
		n.prev.next = n.next
	} else {
		*first = n.next
	}
	if n.next != nil {
		n.next.prev = n.prev
	} else {
		*last = n.prev
	}
	n.prev, n.next = nil, nil
}

// family returns where the list of p's children begins and ends.
//
// +checklocks:s.mu
func (s *Space) family(p *Capability) (first, last **Capability) {
	if p == nil {
		return &s.firstRoot, &s.lastRoot
	}
	return &p.firstChild, &p.lastChild
}

// following returns the next node below top in the order of Tree, or nil. It
// needs Space.mu.
func (c *Capability) following(top *Capability) *Capability {
	if c.firstChild != nil {
		return c.firstChild
	}
	for c != top {
		if c.next != nil {
			return c.next
		}
		c = c.parent
	}
	return nil
}

// held reports whether who holds c and may use it. It needs Space.mu.
func (c *Capability) held(who string) bool {
	return c.table != nil && c.table.holder == who && !c.moved && !c.dead && c.Live()
}

// mayUse refuses an actor that does not hold c.
func (s *Space) mayUse(c *Capability, by Actor) error {
	switch {
	case c == nil || c.s != s:
		return errdefs.New(errdefs.CapabilityNotFound, "it is not a capability of this domain", errdefs.Fix("list the capabilities that are held"))
	case !by.Privileged && !c.held(by.Name):
		if c.table != nil && c.table.holder == by.Name && !c.Live() {
			return c.Err()
		}
		return errdefs.New(errdefs.CapabilityDenied, quote(by.Name)+" does not hold it", errdefs.Resource("%s", c.id),
			errdefs.Fix("let its holder do it, or the operator"))
	}
	return c.Err()
}

// mayTakeBack refuses an actor that neither gave c, at any remove, nor, if
// its own will do, holds it.
func mayTakeBack(c *Capability, own bool, by Actor) error {
	if by.Privileged || own && c.held(by.Name) {
		return nil
	}
	for p := c.parent; p != nil; p = p.parent {
		if p.held(by.Name) {
			return nil
		}
	}
	return errdefs.New(errdefs.CapabilityDenied, quote(by.Name)+" holds nothing that it was derived from", errdefs.Resource("%s", c.id),
		errdefs.Fix("let the one who gave it do it, or the operator"))
}

// reserve is the part of a bound, one in so many, that is kept for the holder
// itself or for privileged actors, so that no agent can use up another's room.
const reserve = 8

func full(what string, n int, fix string) error {
	return errdefs.New(errdefs.CapabilityLimit, what+" are at most "+formatCount(uint64(n)), errdefs.Fix("%s", fix))
}

// room refuses one more node when a bound is reached.
//
// +checklocks:s.mu
func (s *Space) room(parent *Capability, to *table, by Actor) error {
	nodes, held := s.maxNodes, s.maxPerHolder
	if !by.Privileged {
		nodes -= nodes / reserve
		if to != nil && to.holder != by.Name {
			held -= held / reserve
		}
	}
	if len(s.byID) >= nodes {
		return full("the capabilities of a domain", nodes, "revoke some, or start another domain")
	}
	if to != nil && to.len() >= held {
		return full("the capabilities that "+quote(by.Name)+" may leave with "+to.holder, held, "revoke some of those")
	}
	if parent == nil {
		return nil
	}
	if t := parent.table; t != nil && !by.Privileged && t.given >= s.maxPerHolder {
		return full("the capabilities that "+t.holder+" may give", s.maxPerHolder, "revoke some that were given")
	}
	if parent.depth >= s.maxDepth {
		return errdefs.New(errdefs.CapabilityDepth, "derivations that follow each other are at most "+formatCount(uint64(s.maxDepth)),
			errdefs.Resource("%s", parent.id), errdefs.Fix("derive it from one nearer to what was granted first"))
	}
	return nil
}
