package capability

import (
	"strings"

	"aios.dev/aios/errdefs"
)

// Attenuate makes c itself say less, and returns it. What was derived from it
// and says more stands in the way, except that leases are cut short with it.
// What was taken from c's limits goes back to what c was derived from.
func (s *Space) Attenuate(c *Capability, change Change, by Actor) (*Capability, error) {
	s.mu.Lock()
	err := s.attenuateLocked(c, change, by)
	s.mu.Unlock()
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, OpAttenuate)
	}
	c.narrow()
	s.settleWithParent(c)
	return c, nil
}

// Amend has c, which was minted, be for another object of its class and give
// other limits, more or less than before, but no less than what was derived from
// it. Only a privileged actor may.
func (s *Space) Amend(c *Capability, object Object, limits Limits, by Actor) error {
	s.mu.Lock()
	err := s.amendLocked(c, object, limits, by)
	s.mu.Unlock()
	if err != nil {
		return errdefs.Wrap(err, errdefs.Internal, OpAmend, errdefs.Resource("%s", c.id))
	}
	s.settle(c.table)
	return nil
}

// +checklocks:s.mu
func (s *Space) amendLocked(c *Capability, object Object, limits Limits, by Actor) error {
	switch {
	case !by.Privileged:
		return errdefs.New(errdefs.CapabilityDenied, quote(by.Name)+" may not give more than there was", errdefs.Fix("ask the operator"))
	case !c.Live():
		return errdefs.New(errdefs.CapabilityRevoked, "it is no more", errdefs.Fix("grant another"))
	case c.parent != nil || c.origin != "":
		return errdefs.New(errdefs.CapabilityDenied, "it was derived from another", errdefs.Fix("change what it was derived from, or attenuate it"))
	}
	if err := c.table.open(); err != nil {
		return err
	}
	old := c.spec.Load()
	spec := *old
	if object.Class != spec.Object.Class {
		return invalid(object.String(), "it is of another class", "grant one of that class")
	}
	spec.Object, spec.Limits = object, limits
	if err := spec.check(); err != nil {
		return err
	}
	if err := c.childrenFit(&spec); err != nil {
		return err
	}
	c.replace(old, &spec)
	s.record(Record{Op: OpAmend}, c, by)
	return nil
}

// Seal forbids to derive anything more from c.
func (s *Space) Seal(c *Capability, by Actor) error {
	s.mu.Lock()
	err := s.mayUse(c, by)
	if err == nil {
		spec := c.Spec()
		spec.Sealed = true
		c.spec.Store(&spec)
		if c.table != nil {
			c.table.version.Add(1)
		}
		s.record(Record{Op: OpSeal}, c, by)
	}
	s.mu.Unlock()
	if err != nil {
		return errdefs.Wrap(err, errdefs.Internal, OpSeal)
	}
	s.settle(c.table)
	return nil
}

func (s *Space) settleWithParent(c *Capability) {
	if c.parent != nil {
		s.settle(c.table, c.parent.table)
		return
	}
	s.settle(c.table)
}

// +checklocks:s.mu
func (s *Space) attenuateLocked(c *Capability, change Change, by Actor) error {
	if err := s.mayUse(c, by); err != nil {
		return err
	}
	if change.At != nil {
		return invalid(c.Object().String(), "where it appears cannot change in place", "derive one that appears elsewhere")
	}
	old := c.spec.Load()
	spec, err := change.apply(c)
	if err != nil {
		return err
	}
	own := int64(0)
	if spec.Lease != 0 {
		if own = later(s.now(), spec.Lease); own > c.expiry {
			left, _ := c.Expires()
			return exceed(c, "its lease ends in "+left.String(), "ask for no more, or ask whoever gave it to renew it")
		}
	}
	if spec.Limits, err = c.shrunk(change.Limits); err != nil {
		return err
	}
	if err := spec.check(); err != nil {
		return err
	}
	if err := c.childrenFit(&spec); err != nil {
		return err
	}
	lease := spec.Lease
	spec.Lease = old.Lease
	c.replace(old, &spec)
	if own != 0 {
		s.setLease(c, own, lease)
	}
	s.record(Record{Op: OpAttenuate}, c, by)
	return nil
}

// replace has c say spec, and settles the budgets above and below. It needs
// Space.mu.
func (c *Capability) replace(old, spec *Spec) {
	if p := c.parent; p != nil {
		p.giveBack(&old.Limits)
		p.carve(&spec.Limits)
	}
	c.spec.Store(spec)
	for k := range Kind(kinds) {
		if spec.Limits.Get(k) != 0 && k.Divisible() {
			c.carved[k].Store(c.sumOfChildren(k))
		}
	}
	if c.table != nil {
		c.table.version.Add(1)
	}
}

// shrunk returns the limits of c with those of want in their place.
func (c *Capability) shrunk(want *Limits) (Limits, error) {
	spec := c.spec.Load()
	out := spec.Limits
	if want == nil {
		return out, nil
	}
	for k := range Kind(kinds) {
		v, own := want.Get(k), out.Get(k)
		if v == 0 {
			continue
		}
		if k.Beyond(own, v) {
			return out, exceed(c, "it has less than what is asked for, "+formatCount(own), "ask for no more")
		}
		if p := c.parent; own == 0 && p != nil {
			if left, limited := p.Left(k); limited && v > left {
				return out, errdefs.New(errdefs.BudgetExhausted, "what it was derived from has only "+formatCount(left)+" left",
					errdefs.Resource("%s", c.id), errdefs.Fix("ask for at most that"))
			}
		}
		out.Set(k, v)
	}
	return out, nil
}

// childrenFit refuses what would leave c with less than its children have.
func (c *Capability) childrenFit(spec *Spec) error {
	var in []string
	for n := c.firstChild; n != nil; n = n.next {
		child := n.spec.Load()
		if !spec.covers(child) {
			in = append(in, string(n.id))
		}
	}
	if len(in) != 0 {
		return exceed(c, "what was derived from it has more: "+some(in), "revoke or attenuate that first")
	}
	for k := range Kind(kinds) {
		limit := spec.Limits.Get(k)
		if limit == 0 || !k.Divisible() {
			continue
		}
		if sum := c.sumOfChildren(k); sum > limit {
			return errdefs.New(errdefs.BudgetExhausted, "what was derived from it has "+formatCount(sum)+" in all", errdefs.Resource("%s", c.id),
				errdefs.Fix("keep at least that, or revoke some of it: %s", some(c.spenders(k))))
		}
	}
	return nil
}

// covers reports whether a child of what says s may say child, as far as one
// child alone can tell.
func (s *Spec) covers(child *Spec) bool {
	if !s.Rights.Has(child.Rights) || !s.Object.Contains(child.Object) || s.Badge != 0 && s.Badge != child.Badge {
		return false
	}
	for k := range Kind(kinds) {
		limit, part := s.Limits.Get(k), child.Limits.Get(k)
		if k.Beyond(limit, part) || limit != 0 && part == 0 && !k.optional() && (child.spends() || !k.Divisible()) {
			return false
		}
	}
	return true
}

// sumOfChildren adds up what the children of c have of a limit.
func (c *Capability) sumOfChildren(k Kind) uint64 {
	var sum uint64
	for n := c.firstChild; n != nil; n = n.next {
		sum = saturate(sum, n.spec.Load().Limits.Get(k))
	}
	return sum
}

// spenders names the children of c that have something of a limit.
func (c *Capability) spenders(k Kind) []string {
	var out []string
	for n := c.firstChild; n != nil; n = n.next {
		if n.spec.Load().Limits.Get(k) != 0 {
			out = append(out, string(n.id))
		}
	}
	return out
}

// some lists the first few.
func some(ids []string) string {
	const few = 5
	if len(ids) <= few {
		return strings.Join(ids, ", ")
	}
	return strings.Join(ids[:few], ", ") + " and " + formatCount(uint64(len(ids)-few)) + " more"
}
