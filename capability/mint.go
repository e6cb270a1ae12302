package capability

import (
	"aios.dev/aios/errdefs"
)

// Mint makes a capability out of nothing. Only a privileged actor may.
func (s *Space) Mint(holder string, spec Spec, by Actor) (*Capability, error) {
	return s.mint(holder, spec, "", by)
}

// MintRemoteImage makes the image of a capability that an agent of another
// domain delegated to holder; origin is its ID there.
func (s *Space) MintRemoteImage(holder string, spec Spec, origin ID, by Actor) (*Capability, error) {
	if !IsID(string(origin)) {
		return nil, errdefs.New(errdefs.CapabilityInvalid, "the origin is not the ID of a capability", errdefs.Op("mint"),
			errdefs.Resource("%s", quote(string(origin))), errdefs.Fix("name the capability of the other domain by its ID"))
	}
	return s.mint(holder, spec, origin, by)
}

func (s *Space) mint(holder string, spec Spec, origin ID, by Actor) (*Capability, error) {
	op := errdefs.Op("mint")
	if !by.Privileged {
		return nil, errdefs.New(errdefs.CapabilityDenied, quote(by.Name)+" may not make authority out of nothing", op,
			errdefs.Resource("%s", spec.Object), errdefs.Fix("ask the operator to grant it, or an agent that has it to delegate it"))
	}
	if spec.At == spec.Object.Name {
		spec.At = ""
	}
	if err := spec.check(); err != nil {
		return nil, errdefs.Wrap(err, errdefs.CapabilityInvalid, "mint")
	}
	spec.Object = spec.Object.HeldBy(holder)
	t, err := s.table(holder)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.AgentNotFound, "mint")
	}
	c := &Capability{s: s, table: t, origin: origin}
	s.mu.Lock()
	if err := s.insert(c, spec, by); err != nil {
		s.mu.Unlock()
		return nil, errdefs.Wrap(err, errdefs.CapabilityLimit, "mint", errdefs.Resource("%s", spec.Object))
	}
	s.record(Record{Op: OpMint}, c, by)
	s.mu.Unlock()
	s.settle(t)
	return c, nil
}

// insert makes c, whose parent, table and remote are set, part of the tree.
//
// +checklocks:s.mu
func (s *Space) insert(c *Capability, spec Spec, by Actor) error {
	if t := c.table; t != nil && t.gone {
		return errdefs.New(errdefs.AgentNotFound, "it has ended", errdefs.Resource("%s", t.holder), errdefs.Fix("name an agent that runs"))
	}
	if c.parent == nil || c.parent.table != c.table {
		if err := c.table.open(); err != nil {
			return err
		}
	}
	if err := s.room(c.parent, c.table, by); err != nil {
		return err
	}
	c.id, c.number = newID()
	for s.byID[c.number] != nil {
		c.id, c.number = newID()
	}
	c.spec.Store(&spec)
	c.own, c.expiry = forever, forever
	if p := c.parent; p != nil {
		c.depth, c.expiry = p.depth+1, p.expiry
		if p.table != nil {
			p.table.given++
		}
		p.carve(&spec.Limits)
	}
	if spec.Lease > 0 {
		c.own = later(s.now(), spec.Lease)
		c.expiry = min(c.own, c.expiry)
	}
	c.until.Store(c.expiry)
	s.link(c)
	s.lease(c)
	if c.table != nil {
		c.table.put(c)
		c.table.version.Add(1)
	}
	return nil
}
