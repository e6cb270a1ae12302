package capability

import (
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// later returns when d after now is, which is never forever.
func later(now int64, d time.Duration) int64 {
	if int64(d) >= forever-now {
		return forever - 1
	}
	return now + int64(d)
}

// lease has c end with its lease if it has one of its own; one that it has by
// what is above it ends with that. Of what ends at the same moment what is
// highest in the tree comes first, and takes the rest along.
//
// +checklocks:s.mu
func (s *Space) lease(c *Capability) {
	if c.own == forever {
		return
	}
	if c.lease == nil {
		c.lease = new(ktime.ExactTimer)
		c.lease.Init(s.leases, c.depth, func() { s.expire(c) })
	}
	c.lease.ResetAt(time.Duration(c.own))
}

// +checklocks:s.mu
func (s *Space) unlease(c *Capability) {
	if c.lease != nil {
		c.lease.Stop()
	}
}

// expire ends c, which has outlived its lease.
func (s *Space) expire(c *Capability) {
	s.mu.Lock()
	if c.dead {
		s.mu.Unlock()
		return
	}
	if c.own > s.now() { // It was renewed, or the clock was set back.
		s.lease(c)
		s.mu.Unlock()
		return
	}
	b := s.newBatch(func(n *Capability) bool { return n == c })
	s.fell(b, c, Record{Op: OpExpire, Reason: "lease expired"}, Actor{Name: "kernel", Privileged: true})
	s.mu.Unlock()
	s.finish(b)
}

// Renew lets the lease of c run for d from now on. The one who gave c may, at
// any remove, or a privileged actor; not beyond the end of what c was derived
// from. What was derived from c for as long as c lives lives longer with it.
func (s *Space) Renew(c *Capability, d time.Duration, by Actor) error {
	s.mu.Lock()
	err := s.renewLocked(c, d, by)
	s.mu.Unlock()
	if err != nil {
		return errdefs.Wrap(err, errdefs.Internal, OpRenew)
	}
	s.settle(c.table)
	return nil
}

// +checklocks:s.mu
func (s *Space) renewLocked(c *Capability, d time.Duration, by Actor) error {
	if c == nil || c.s != s {
		return errdefs.New(errdefs.CapabilityNotFound, "it is not a capability of this domain", errdefs.Fix("list the capabilities that were given"))
	}
	if c.dead || c.expiry <= s.now() { // One that was moved away can be renewed.
		return c.Err()
	}
	if err := mayTakeBack(c, false, by); err != nil {
		return err
	}
	if err := c.table.open(); err != nil {
		return err
	}
	if d <= 0 {
		return invalid(c.Object().String(), "a lease is longer than nothing", "revoke it to end it now")
	}
	if c.own == forever {
		return invalid(c.Object().String(), "it has no lease of its own", "renew the lease of what it was derived from")
	}
	own := later(s.now(), d)
	if p := c.parent; p != nil && own > p.expiry {
		return exceed(c, "what it was derived from, "+string(p.id)+", ends in "+time.Duration(p.expiry-s.now()).String(),
			"renew that first, or ask for no more")
	}
	s.setLease(c, own, d)
	s.record(Record{Op: OpRenew}, c, by)
	return nil
}

// setLease gives c a lease and has what is below follow.
//
// +checklocks:s.mu
func (s *Space) setLease(c *Capability, own int64, d time.Duration) {
	spec := c.Spec()
	spec.Lease = d
	c.spec.Store(&spec)
	c.own = own
	s.lease(c)
	for n := c; n != nil; n = n.following(c) {
		n.expiry = n.own
		if n.parent != nil {
			n.expiry = min(n.expiry, n.parent.expiry)
		}
		if !n.moved {
			n.until.Store(n.expiry)
		}
		if n.table != nil {
			n.table.version.Add(1)
		}
	}
}
