package capability

import "time"

// Restriction is what a capability was made to say after it was saved.
type Restriction struct {
	ID ID `json:"id"`
	// Spec is what it said last.
	Spec string `json:"spec"`
	// Ends is when the shortest lease ends that it was given since; zero: it was
	// given none.
	Ends time.Time `json:"ends,omitzero"`
}

// Restrict has what Load has loaded say what it said last, at the moment now of the
// clock of the wall. It returns those of which that is not possible, or that would
// have more than what they were derived from: they are to be revoked. Nobody is told.
func (s *Space) Restrict(list []Restriction, now time.Time) (over []ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range list {
		if !IsID(string(r.ID)) {
			continue
		}
		c := s.byID[r.ID.number()]
		if c == nil || c.dead {
			continue
		}
		said, err := ParseSpec(r.Spec)
		old := c.spec.Load()
		spec, ok := old.follow(&said)
		if err != nil || !ok || !r.Ends.IsZero() && !r.Ends.After(now) {
			over = append(over, r.ID)
			continue
		}
		c.replace(old, &spec)
		if !r.Ends.IsZero() {
			if own := later(s.now(), r.Ends.Sub(now)); own < c.expiry {
				s.setLease(c, own, said.Lease)
			}
		}
	}
	for _, r := range list {
		if c := s.byID[ID(r.ID).number()]; c != nil && !c.dead {
			for n := c.firstChild; n != nil; n = n.next {
				if !c.spec.Load().covers(n.spec.Load()) {
					over = append(over, n.id)
				}
			}
		}
	}
	return over
}

// follow returns s as it was changed to what later says, and false if it cannot have
// been.
func (s *Spec) follow(later *Spec) (Spec, bool) {
	out := *s
	out.Rights &= later.Rights
	out.Limits = later.Limits
	out.Sealed = s.Sealed || later.Sealed
	switch {
	case later.Object.Class != s.Object.Class, out.Rights == 0 && s.Rights != 0:
		return out, false
	case s.Object.Contains(later.Object):
		out.Object = later.Object
	case !later.Object.Contains(s.Object):
		return out, false
	}
	return out, true
}
