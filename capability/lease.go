package capability

import (
	"container/heap"
	"time"

	"aios.dev/aios/errdefs"
)

// later returns when d after now is, which is never forever.
func later(now int64, d time.Duration) int64 {
	if int64(d) >= forever-now {
		return forever - 1
	}
	return now + int64(d)
}

// lease puts c among the leases if it has one of its own; one that it has by
// what is above it ends with that.
//
// +checklocks:s.mu
func (s *Space) lease(c *Capability) {
	if c.own == forever {
		return
	}
	if c.heapIndex < 0 {
		heap.Push(&s.leases, c)
	} else {
		heap.Fix(&s.leases, c.heapIndex)
	}
	s.arm()
}

// +checklocks:s.mu
func (s *Space) unlease(c *Capability) {
	if c.heapIndex >= 0 {
		heap.Remove(&s.leases, c.heapIndex)
	}
}

// closedWake is earlier than every lease, so that no timer is set.
const closedWake = -1

// arm sees to it that the timer goes off no later than the first lease ends.
// One that goes off too early sets the next.
//
// +checklocks:s.mu
func (s *Space) arm() {
	if len(s.leases) == 0 || s.timer != nil && s.wake <= s.leases[0].own || s.wake == closedWake {
		return
	}
	if s.timer != nil {
		s.timer.Stop()
	}
	s.wake = s.leases[0].own
	s.timer = s.clock.AfterFunc(time.Duration(max(1, s.wake-s.now())), s.expire)
}

// expire ends what has outlived its lease.
func (s *Space) expire() {
	s.mu.Lock()
	s.timer = nil
	now := s.now()
	by := Actor{Name: "kernel", Privileged: true}
	if len(s.leases) == 0 || s.leases[0].own > now {
		s.arm()
		s.mu.Unlock()
		return
	}
	b := s.newBatch(func(n *Capability) bool { return n.expiry <= now })
	for len(s.leases) != 0 && s.leases[0].own <= now {
		s.fell(b, s.leases[0], Record{Op: OpExpire, Reason: "lease expired"}, by)
	}
	s.arm()
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

// leaseHeap has the lease on top that ends first, and of those that end at
// the same time the one that is highest in the tree.
type leaseHeap []*Capability

func (h leaseHeap) Len() int { return len(h) }
func (h leaseHeap) Less(i, j int) bool {
	if h[i].own != h[j].own {
		return h[i].own < h[j].own
	}
	return h[i].depth < h[j].depth
}
func (h leaseHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapIndex, h[j].heapIndex = i, j
}

// Push is for container/heap.
func (h *leaseHeap) Push(x any) {
	c := x.(*Capability)
	c.heapIndex = len(*h)
	*h = append(*h, c)
}

// Pop is for container/heap.
func (h *leaseHeap) Pop() any {
	last := len(*h) - 1
	c := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	c.heapIndex = -1
	return c
}
