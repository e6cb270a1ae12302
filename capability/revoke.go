package capability

import (
	"aios.dev/aios/errdefs"
)

// batch is what ends in one critical section, and what has to be done about
// it once Space.mu is released.
type batch struct {
	roots []*Capability
	dead  []*Capability // whose doors are to be called
	hits  []hit
	fresh []int // of hits, those with losses not yet recorded
	// after are batches begun earlier that end something below the roots: this
	// one is done when they are. Since they are older, none waits for it.
	after []*batch
	done  chan struct{}
}

// hit is what a batch means to one holder.
type hit struct {
	table *table
	lost  uint64 // not yet recorded
}

// hit has the holder of t told when the batch is finished.
func (b *batch) hit(t *table) int {
	if t.lastBatch != b {
		b.hits = append(b.hits, hit{table: t})
		t.lastBatch, t.lastHit = b, len(b.hits)-1
	}
	return t.lastHit
}

// lose counts a capability that the holder of t loses.
func (b *batch) lose(t *table) {
	i := b.hit(t)
	if b.hits[i].lost == 0 {
		b.fresh = append(b.fresh, i)
	}
	b.hits[i].lost++
}

// newBatch begins a batch, which waits for those that end something at or
// below a capability that is meant.
//
// +checklocks:s.mu
func (s *Space) newBatch(meant func(*Capability) bool) *batch {
	b := &batch{done: make(chan struct{})}
	s.active[b] = struct{}{}
	s.waitFor(b, meant)
	return b
}

// waitFor has b wait for those that end something at or below a capability
// that is meant. All that are active are older, since b is not yet finished
// with the critical section that made it.
//
// +checklocks:s.mu
func (s *Space) waitFor(b *batch, meant func(*Capability) bool) {
	for o := range s.active {
		if o != b && o.concerns(meant) {
			b.after = append(b.after, o)
		}
	}
}

// concerns reports whether a root of b, or something above one, is meant.
func (b *batch) concerns(meant func(*Capability) bool) bool {
	for _, n := range b.roots {
		for ; n != nil; n = n.parent {
			if meant(n) {
				return true
			}
		}
	}
	return false
}

// Revoke ends c and everything derived from it, or, if self is false, only the
// latter, and returns all that ended. When it returns, none of it is live,
// their doors have been told, and so it is with what another Revoke was about
// to end there. To revoke what has ended already is no error. A privileged
// actor may revoke everything, an agent what it holds and what was derived
// from that.
func (s *Space) Revoke(c *Capability, self bool, by Actor, reason string) ([]*Capability, error) {
	if c == nil || c.s != s {
		return nil, errdefs.New(errdefs.CapabilityNotFound, "it is not a capability of this domain", errdefs.Op(OpRevoke),
			errdefs.Fix("list the capabilities that are held"))
	}
	s.mu.Lock()
	if c.dead {
		s.mu.Unlock()
		<-c.end.Load().batch.done
		return nil, nil
	}
	if err := mayTakeBack(c, true, by); err != nil {
		s.mu.Unlock()
		return nil, errdefs.Wrap(err, errdefs.CapabilityDenied, OpRevoke)
	}
	b := s.newBatch(func(n *Capability) bool { return n == c })
	if self {
		s.fell(b, c, Record{Op: OpRevoke, Reason: reason}, by)
	} else {
		s.fellChildren(b, c, Record{Op: OpRevoke, Reason: reason}, by)
	}
	s.mu.Unlock()
	s.finish(b)
	return b.dead, nil
}

// RevokeHolder ends everything that holder holds, with what was derived from
// it, and returns it. An actor that is neither privileged nor the holder gets
// nothing done.
func (s *Space) RevokeHolder(holder string, by Actor, reason string) []*Capability {
	t := s.holder(holder)
	if t == nil || !by.Privileged && by.Name != holder {
		return nil
	}
	return s.revokeTable(t, by, reason, false)
}

// RemoveHolder revokes all that id holds and forgets its table. Whatever it
// moved away stays with those who have it.
func (s *Space) RemoveHolder(id, reason string) {
	if t := s.holder(id); t != nil {
		s.revokeTable(t, Actor{Name: "kernel", Privileged: true}, reason, true)
	}
}

func (s *Space) revokeTable(t *table, by Actor, reason string, remove bool) []*Capability {
	s.mu.Lock()
	if remove {
		t.gone = true
		s.holdersMu.Lock()
		if s.holders[t.holder] == t {
			delete(s.holders, t.holder)
		}
		s.holdersMu.Unlock()
	}
	b := s.newBatch(func(n *Capability) bool { return n.table == t })
	for o := range s.active {
		if o != b && o.touches(t) {
			b.after = append(b.after, o)
		}
	}
	for _, c := range t.all() {
		if !c.dead {
			s.fell(b, c, Record{Op: OpRevoke, Reason: reason}, by)
		}
	}
	s.mu.Unlock()
	s.finish(b)
	return b.dead
}

// touches reports whether the holder of t loses something by b.
func (b *batch) touches(t *table) bool {
	for i := range b.hits {
		if b.hits[i].table == t {
			return true
		}
	}
	return false
}

// fell ends top and everything below it, and whatever is above it that had
// been moved away and now has nothing left below. The record says why.
//
// +checklocks:s.mu
func (s *Space) fell(b *batch, top *Capability, why Record, by Actor) {
	b.roots = append(b.roots, top)
	first := len(b.dead)
	s.cut(b, top, endingOf(b, top, why, by))
	why.Count = uint64(len(b.dead) - first)
	s.record(why, top, by)
	s.recordLosses(b, top, why, by)
}

// fellChildren ends what is below top, and top itself only if it had been
// moved away.
//
// +checklocks:s.mu
func (s *Space) fellChildren(b *batch, top *Capability, why Record, by Actor) {
	b.roots = append(b.roots, top)
	e := endingOf(b, top, why, by)
	for top.firstChild != nil {
		s.cut(b, top.firstChild, e)
	}
	why.Count = uint64(len(b.dead))
	s.record(why, top, by)
	s.recordLosses(b, top, why, by)
}

func endingOf(b *batch, top *Capability, why Record, by Actor) *ending {
	e := &ending{code: errdefs.CapabilityRevoked, what: "was revoked by " + by.Name, reason: why.Reason, root: top.id, batch: b}
	if why.Op == OpExpire {
		e.code, e.what, e.reason = errdefs.LeaseExpired, "came to the end of its lease", ""
	}
	return e
}

// cut takes top from the tree with what is below it, and goes on upwards as
// fell says.
//
// +checklocks:s.mu
func (s *Space) cut(b *batch, top *Capability, e *ending) {
	for {
		first := len(b.dead)
		up := top.parent
		s.unlink(top)
		if up != nil {
			up.giveBack(&top.spec.Load().Limits)
			if up.table != nil {
				b.hit(up.table)
			}
		}
		for n := top; n != nil; n = n.following(top) {
			s.kill(b, n, e)
		}
		for _, n := range b.dead[first:] {
			n.firstChild, n.lastChild, n.prev, n.next = nil, nil, nil, nil
		}
		if up == nil || !up.moved || up.firstChild != nil {
			return
		}
		// Siblings of top may have ended a moment ago, their doors yet to be
		// told; whoever waits for up waits for those.
		s.waitFor(b, func(n *Capability) bool { return n == up })
		top = up
	}
}

// kill ends one node. Its links stay.
//
// +checklocks:s.mu
func (s *Space) kill(b *batch, n *Capability, e *ending) {
	n.end.Store(e)
	n.until.Store(0)
	n.dead = true
	b.dead = append(b.dead, n)
	delete(s.byID, n.number)
	s.unlease(n)
	if p := n.parent; p != nil && p.table != nil {
		p.table.given--
	}
	if t := n.table; t != nil && !n.moved {
		t.drop(n.handle)
		t.version.Add(1)
		b.lose(t)
	}
}

// recordLosses writes what holders other than top's lost.
//
// +checklocks:s.mu
func (s *Space) recordLosses(b *batch, top *Capability, why Record, by Actor) {
	for _, i := range b.fresh {
		h := &b.hits[i]
		if s.audit != nil && h.table != top.table {
			s.pending = append(s.pending, Record{Op: OpLost, Actor: by.Name, Agent: h.table.holder, Cap: top.id,
				Reason: why.Reason, Correlation: by.Correlation, Count: h.lost})
		}
		h.lost = 0
	}
	b.fresh = b.fresh[:0]
}

// finish tells everybody about what ended.
func (s *Space) finish(b *batch) {
	for _, c := range b.dead {
		for _, d := range c.takeDoors() {
			d.Revoke(c)
		}
	}
	for _, h := range b.hits {
		s.tell(h.table)
	}
	for _, o := range b.after {
		<-o.done
	}
	s.drain()
	s.mu.Lock()
	delete(s.active, b)
	s.mu.Unlock()
	close(b.done)
}
