package capability

// Inherit derives a capability from c for a copy of c's holder. It is like one that
// was delegated, but for what becomes of it when the holder of c is no more: then
// it stays, as if it had been moved away. See Retire.
func (s *Space) Inherit(c *Capability, to string, change Change, by Actor) (*Capability, error) {
	n, err := s.Delegate(c, to, change, false, by)
	if err == nil {
		s.mu.Lock()
		n.heir = true
		s.mu.Unlock()
	}
	return n, err
}

// Retire ends everything that holder holds because the holder is no more, with
// what was derived from it, and returns it. What copies of the holder have of it
// stays theirs: it can still be taken back by whoever gave it to the holder.
func (s *Space) Retire(holder string, by Actor, reason string) []*Capability {
	t := s.holder(holder)
	if t == nil || !by.Privileged && by.Name != holder {
		return nil
	}
	s.mu.Lock()
	b := s.newBatch(func(n *Capability) bool { return n.table == t })
	for o := range s.active {
		if o != b && o.touches(t) {
			b.after = append(b.after, o)
		}
	}
	for _, c := range t.all() {
		if c.dead {
			continue
		}
		heirs := false
		for n := c.firstChild; n != nil; n = n.next {
			heirs = heirs || n.heir
		}
		for n := c.firstChild; heirs && n != nil; {
			next := n.next
			if !n.heir {
				s.fell(b, n, Record{Op: OpRevoke, Reason: reason}, by)
			}
			n = next
		}
		if heirs {
			s.part(b, c)
			s.record(Record{Op: OpDelegate, Agent: c.whose(), Target: c.whose(), Reason: "left to a copy: " + reason}, c, by)
		} else {
			s.fell(b, c, Record{Op: OpRevoke, Reason: reason}, by)
		}
	}
	s.mu.Unlock()
	s.finish(b)
	return b.dead
}
