package capability

import (
	"strings"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
)

// Change says how a capability is to differ from the one it is derived from,
// or from what it was. Nil leaves a thing as it is.
type Change struct {
	Object *string
	Rights *abi.Rights
	// Limits of a derived one: nil is all that is left; otherwise every limit
	// that is to be divided must be said. In place, 0 leaves a limit.
	Limits *Limits
	At     *string
	// Lease from now on. A derived one ends with its parent even so.
	Lease *time.Duration
	// Badge can be given once: what has one keeps it.
	Badge  *uint64
	Sealed bool
}

// Delegate derives a capability from c and gives it to the holder to, which
// may be c's own. With move, c leaves the table of its holder and is of no use
// to it any more; it stays in the tree, so that whoever gave it can take it
// back, and ends with the last thing derived from it.
func (s *Space) Delegate(c *Capability, to string, change Change, move bool, by Actor) (*Capability, error) {
	t, err := s.table(to)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.AgentNotFound, OpDelegate)
	}
	return s.derive(c, t, "", change, move, by)
}

// DelegateRemote derives a capability from c for an agent of another domain,
// named "domain/agent". Whoever calls it has its image minted there, and
// revokes that when this one is revoked.
func (s *Space) DelegateRemote(c *Capability, remote string, change Change, by Actor) (*Capability, error) {
	if !validRemote(remote) {
		return nil, errdefs.New(errdefs.CapabilityInvalid, "it does not name an agent of another domain", errdefs.Op(OpDelegate),
			errdefs.Resource("%s", quote(remote)), errdefs.Fix("write DOMAIN/AGENT"))
	}
	return s.derive(c, nil, remote, change, false, by)
}

func (s *Space) derive(c *Capability, to *table, remote string, change Change, move bool, by Actor) (*Capability, error) {
	s.mu.Lock()
	n, b, err := s.deriveLocked(c, to, remote, change, move, by)
	s.mu.Unlock()
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, OpDelegate)
	}
	if b != nil {
		s.finish(b)
	}
	s.settle(c.table, to)
	return n, nil
}

// deriveLocked returns the new node and, if c was moved away, the batch that
// has to be finished.
//
// +checklocks:s.mu
func (s *Space) deriveLocked(c *Capability, to *table, remote string, change Change, move bool, by Actor) (*Capability, *batch, error) {
	if err := s.mayUse(c, by); err != nil {
		return nil, nil, err
	}
	old := c.spec.Load()
	if old.Sealed {
		return nil, nil, errdefs.New(errdefs.CapabilitySealed, "it is sealed: nothing can be derived from it", errdefs.Resource("%s", c.id),
			errdefs.Fix("ask whoever gave it to give it to the other as well"))
	}
	spec, err := change.apply(c)
	if err != nil {
		return nil, nil, err
	}
	if spec.Limits, err = c.share(change.Limits, &spec); err != nil {
		return nil, nil, err
	}
	if err := spec.check(); err != nil {
		return nil, nil, err
	}
	n := &Capability{s: s, table: to, remote: remote, parent: c}
	if err := s.insert(n, spec, by); err != nil {
		return nil, nil, err
	}
	if !move {
		s.record(Record{Op: OpDelegate, Agent: c.whose(), Target: n.whose()}, n, by)
		return n, nil, nil
	}
	s.record(Record{Op: OpDelegate, Agent: c.whose(), Target: n.whose(), Reason: "moved"}, n, by)
	b := s.newBatch(func(n *Capability) bool { return n == c })
	s.part(b, c)
	return n, b, nil
}

// part takes c from the table of its holder and leaves it in the tree.
//
// +checklocks:s.mu
func (s *Space) part(b *batch, c *Capability) {
	c.moved = true
	b.roots = append(b.roots, c)
	c.end.Store(&ending{code: errdefs.CapabilityRevoked, what: "was moved away", root: c.id, batch: b})
	c.until.Store(0)
	b.dead = append(b.dead, c)
	if c.table != nil {
		c.table.drop(c.handle)
		c.table.version.Add(1)
		b.hit(c.table)
	}
}

// apply returns what a capability derived from c, or c itself once it has
// shrunk, says; all but its limits.
func (ch *Change) apply(c *Capability) (Spec, error) {
	spec := *c.spec.Load()
	class := spec.Object.Class
	spec.Lease = 0
	if ch.Object != nil && *ch.Object != spec.Object.Name {
		part := Object{class, *ch.Object}
		if err := part.check(); err != nil {
			return spec, err
		}
		part = part.HeldBy(c.Holder())
		if !spec.Object.Contains(part) {
			return spec, exceed(c, part.String()+" is not within "+spec.Object.String(), "name a part of it")
		}
		if spec.At != "" {
			rest, _ := below(spec.Object.Name, part.Name)
			spec.At = join(spec.At, rest)
		}
		spec.Object = part
	}
	if ch.Rights != nil {
		if extra := *ch.Rights &^ spec.Rights; extra != 0 {
			return spec, exceed(c, "it lacks "+extra.Format(class), "ask for no more than "+spec.Rights.Format(class))
		}
		spec.Rights = *ch.Rights
	}
	if ch.At != nil {
		spec.At = *ch.At
	}
	if spec.At == spec.Object.Name {
		spec.At = ""
	}
	if ch.Lease != nil {
		if *ch.Lease < 0 {
			return spec, invalid(spec.Object.String(), "the lease is negative", "leave it out to have it end with what it is derived from")
		}
		spec.Lease = *ch.Lease
	}
	if ch.Badge != nil && *ch.Badge != spec.Badge {
		if spec.Badge != 0 {
			return spec, exceed(c, "it has a badge, "+formatCount(spec.Badge)+", by which services know who gave it", "leave out the badge")
		}
		spec.Badge = *ch.Badge
	}
	spec.Sealed = spec.Sealed || ch.Sealed
	return spec, nil
}

// join appends rest, which is "" or starts with a slash, to a clean path.
func join(dir, rest string) string {
	if dir == "/" && rest != "" {
		return rest
	}
	return dir + rest
}

func validRemote(remote string) bool {
	domain, agent, ok := strings.Cut(remote, "/")
	return ok && abi.ValidName(domain) && (abi.IsAgentID(agent) || abi.ValidName(agent))
}
