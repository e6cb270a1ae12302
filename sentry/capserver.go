package sentry

import (
	"path"
	"slices"
	"strings"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// What the daemon may do with capabilities. Each method ends with the trail
// flushed, so that the daemon has read the records when it reads the reply.

// CapGrant gives a running agent more: all of it or none.
func (s *Kernel) CapGrant(req control.GrantRequest) (control.CapsReply, error) {
	defer s.trail.flush()
	a, err := s.agent(req.ID)
	if err != nil {
		return control.CapsReply{}, err
	}
	if err := a.mustLive(); err != nil {
		return control.CapsReply{}, err
	}
	by := s.actor(req.Actor)
	by.Privileged = true // The daemon has decided.
	var made []*capability.Capability
	var reply control.CapsReply
	for _, g := range req.Grants {
		c, err := a.grant(g, req.Origin, by)
		if err != nil {
			for _, c := range made {
				s.space.Revoke(c, true, by, "another grant of the same request was refused")
			}
			s.clearing.settleFor(a)
			return control.CapsReply{}, err
		}
		made = append(made, c)
		reply.Caps = append(reply.Caps, s.describe(c))
	}
	return reply, nil
}

// CapList returns the capabilities of an agent, one capability, or all.
func (s *Kernel) CapList(req control.CapListRequest) (control.CapsReply, error) {
	var reply control.CapsReply
	if req.Cap != "" {
		c, err := s.space.ByID(req.Cap)
		if err != nil {
			return reply, err
		}
		reply.Caps = append(reply.Caps, s.describe(c))
		return reply, nil
	}
	if req.ID != "" {
		for _, c := range s.space.List(req.ID) {
			reply.Caps = append(reply.Caps, s.describe(c))
		}
		return reply, nil
	}
	for _, c := range s.space.Tree() {
		reply.Caps = append(reply.Caps, s.describe(c))
	}
	return reply, nil
}

// describe translates a capability for the daemon.
func (s *Kernel) describe(c *capability.Capability) control.Cap {
	spec := c.Spec()
	d := control.Cap{
		ID: c.ID(), Handle: c.Handle(), Agent: c.Holder(), Spec: spec.String(), Origin: c.Origin(), Remote: c.Remote(),
		Badge: spec.Badge, Sealed: spec.Sealed, Children: len(s.space.Children(c)), Rest: restOf(c),
	}
	d.Lease, _ = c.Expires()
	if p := c.Parent(); p != nil {
		d.Parent = p.ID()
	}
	if a, ok := s.byID.Load(d.Agent); ok {
		if g := a.(*Agent).grantOf(d.ID); g != nil {
			d.Key = g.key
		}
	}
	return d
}

// restOf says what c has not handed on of its limits, in the words of a grant.
func restOf(c *capability.Capability) string {
	spec := c.Spec()
	rest := c.Remaining()
	if rest == spec.Limits {
		return ""
	}
	whole := capability.Spec{Object: spec.Object, Rights: spec.Rights, Limits: rest}.String()
	bare := capability.Spec{Object: spec.Object, Rights: spec.Rights}.String()
	return strings.TrimPrefix(strings.TrimPrefix(whole, bare), ",")
}

// CapDelegate derives a capability for an agent of this domain.
func (s *Kernel) CapDelegate(req control.CapRequest) (control.Cap, error) {
	defer s.trail.flush()
	c, err := s.space.ByID(req.Cap)
	if err != nil {
		return control.Cap{}, err
	}
	made, err := s.delegate(c, req.To, req.Change, req.Move, s.actor(req.Actor))
	if err != nil {
		return control.Cap{}, err
	}
	return s.describe(made), nil
}

// delegate derives a capability for an agent here and opens what it is for.
func (s *Kernel) delegate(c *capability.Capability, to string, ch capability.Change, move bool, by capability.Actor) (*capability.Capability, error) {
	ch, err := s.namingAgent(c, ch)
	if err != nil {
		return nil, err
	}
	a, err := s.agent(to)
	if err != nil {
		return nil, err
	}
	if err := a.mustLive(); err != nil {
		return nil, err
	}
	from, open := s.holdGrantOf(c) // Before it is moved away, if it is.
	if open {
		defer from.dir.DecRef(a.ctx)
	}
	spec := c.Spec()
	if err := s.mayShare(c, a, move, by); err != nil {
		return nil, err
	}
	if spec.Object.Class == abi.ClassFS && !by.Privileged && to != by.Name {
		if ch, err = s.givenPlace(by.Name, spec, ch); err != nil {
			return nil, err
		}
	}
	if open && move { // What is refused leaves the giver what it has.
		if err := a.mayOpen(from, spec, ch); err != nil {
			return nil, err
		}
	}
	made, err := s.space.Delegate(c, to, ch, move, by)
	if err != nil {
		return nil, err
	}
	if move {
		defer s.settle(c)
	}
	if made.Spec().Object.Class != abi.ClassFS {
		return made, nil
	}
	if open {
		err = a.openDerived(made, from, move)
	} else {
		err = errdefs.New(errdefs.CapabilityRevoked, "what it opens is gone", errdefs.Resource("%s", c.ID()))
	}
	if err != nil {
		by.Privileged = true // Who has moved it away could not take it back.
		dead, _ := s.space.Revoke(made, true, by, "it could not be opened: "+err.Error())
		s.settle(dead...)
		return nil, err
	}
	return made, nil
}

// givenDir is where an agent finds the files that other agents gave it.
const givenDir = "/granted"

// givenPlace decides where files that one agent gives another appear: below a
// directory that no program trusts, so that nobody can slip files into
// another's path. An operator may put them anywhere.
func (s *Kernel) givenPlace(giver string, spec capability.Spec, ch capability.Change) (capability.Change, error) {
	if a := s.findAgent(giver); a != nil && a.name != "" {
		giver = a.name
	}
	mine := path.Join(givenDir, giver)
	object := spec.Object.Name
	if ch.Object != nil {
		object = *ch.Object
	}
	switch {
	case ch.At == nil:
		at := path.Join(mine, object)
		ch.At = &at
	case !strings.HasPrefix(path.Clean(*ch.At), mine+"/"):
		return ch, errdefs.New(errdefs.CapabilityDenied, "an agent may place files in another only below "+mine,
			errdefs.Resource("at=%s", *ch.At), errdefs.Fix("leave at= out, or begin it with %s/", mine))
	}
	return ch, nil
}

// holdGrantOf returns the directory of a grant of files, with a reference; ok
// is false if it is none, or has ended.
func (s *Kernel) holdGrantOf(c *capability.Capability) (d heldDir, ok bool) {
	if a, known := s.byID.Load(c.Holder()); known {
		return a.(*Agent).hold(c)
	}
	return heldDir{}, false
}

// CapExport derives a capability whose image will be in another domain.
func (s *Kernel) CapExport(req control.CapRequest) (control.Cap, error) {
	defer s.trail.flush()
	c, err := s.space.ByID(req.Cap)
	if err != nil {
		return control.Cap{}, err
	}
	if req.Move {
		return control.Cap{}, errdefs.New(errdefs.Unsupported, "a capability cannot be moved to another domain", errdefs.Resource("%s", req.Cap),
			errdefs.Fix("delegate it without moving it"))
	}
	by := s.actor(req.Actor)
	if c.Object().Class == abi.ClassEvent {
		return control.Cap{}, errdefs.New(errdefs.Unsupported, "events are those of one domain; in another, the capability would mean something else",
			errdefs.Op("delegate"), errdefs.Resource("%s", c.Object()), errdefs.Fix("delegate it within the domain; outside, `aiosctl events` sees all domains"))
	}
	if c.Object().Class == abi.ClassRegion {
		return control.Cap{}, errdefs.New(errdefs.Unsupported, "the pages of a region are in one domain", errdefs.Op("delegate"),
			errdefs.Resource("%s", c.Object()), errdefs.Fix("delegate it within the domain"))
	}
	if spec := c.Spec(); spec.Object.Class == abi.ClassFS && !by.Privileged {
		if req.Change, err = s.givenPlace(by.Name, spec, req.Change); err != nil {
			return control.Cap{}, err
		}
	}
	made, err := s.space.DelegateRemote(c, req.To, req.Change, by)
	if err != nil {
		return control.Cap{}, err
	}
	return s.describe(made), nil
}

// CapAttenuate narrows a capability in place.
func (s *Kernel) CapAttenuate(req control.CapRequest) (control.Cap, error) {
	defer s.trail.flush()
	c, err := s.space.ByID(req.Cap)
	if err == nil {
		c, err = s.attenuate(c, req.Change, s.actor(req.Actor))
	}
	if err != nil {
		return control.Cap{}, err
	}
	return s.describe(c), nil
}

func (s *Kernel) attenuate(c *capability.Capability, ch capability.Change, by capability.Actor) (*capability.Capability, error) {
	ch, err := s.namingAgent(c, ch)
	if err != nil {
		return nil, err
	}
	return s.space.Attenuate(c, ch, by)
}

// CapSeal forbids to derive from a capability.
func (s *Kernel) CapSeal(req control.CapRequest) (struct{}, error) {
	defer s.trail.flush()
	c, err := s.space.ByID(req.Cap)
	if err == nil {
		err = s.space.Seal(c, s.actor(req.Actor))
	}
	return struct{}{}, err
}

// CapRenew prolongs a lease.
func (s *Kernel) CapRenew(req control.CapRequest) (control.Cap, error) {
	defer s.trail.flush()
	c, err := s.space.ByID(req.Cap)
	if err == nil {
		err = s.space.Renew(c, req.Lease, s.actor(req.Actor))
	}
	if err != nil {
		return control.Cap{}, err
	}
	return s.describe(c), nil
}

// CapRevoke takes back. What lives on in other domains is the daemon's to
// revoke before it tells anybody that it is done.
func (s *Kernel) CapRevoke(req control.RevokeRequest) (control.RevokeReply, error) {
	defer s.trail.flushSoon()
	by := s.actor(req.Actor)
	var dead []*capability.Capability
	switch {
	case req.Agent != "":
		if _, err := s.agent(req.Agent); err != nil {
			return control.RevokeReply{}, err
		}
		dead = s.space.RevokeHolder(req.Agent, by, req.Reason)
	default:
		c, err := s.revocable(req)
		if c == nil {
			return control.RevokeReply{}, err
		}
		if dead, err = s.space.Revoke(c, !req.KeepSelf, by, req.Reason); err != nil {
			return control.RevokeReply{}, err
		}
	}
	s.settle(dead...)
	reply := control.RevokeReply{Count: len(dead), Exports: s.exportsOf(dead)}
	lost := make(map[string]bool)
	for _, c := range dead {
		if h := c.Holder(); h != "" && !lost[h] {
			lost[h] = true
			reply.Agents = append(reply.Agents, h)
		}
	}
	slices.Sort(reply.Agents)
	return reply, nil
}

// revocable finds what a request names. An image that is not here any more is
// no error: it is as gone as it should be.
func (s *Kernel) revocable(req control.RevokeRequest) (*capability.Capability, error) {
	if req.Origin == "" {
		return s.space.ByID(req.Cap)
	}
	s.imagesMu.Lock()
	defer s.imagesMu.Unlock()
	return s.images[req.Origin], nil
}

// CapExplain says what would happen if the agent did something.
func (s *Kernel) CapExplain(req control.ExplainRequest) (control.ExplainReply, error) {
	a, err := s.agent(req.ID)
	if err != nil {
		return control.ExplainReply{}, err
	}
	if err := a.mustLive(); err != nil {
		return control.ExplainReply{}, err
	}
	v, err := a.explain(req.Op)
	if err != nil {
		return control.ExplainReply{}, err
	}
	r := control.ExplainReply{Allowed: v.Allowed, Why: v.Why, Capability: v.Capability, Missing: v.Missing}
	if v.Errno != 0 {
		r.Errno = abi.ErrnoName(v.Errno)
	}
	return r, nil
}

// mustLive refuses unless the agent runs or is paused.
func (a *Agent) mustLive() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch a.state {
	case abi.StateRunning, abi.StatePaused, abi.StateTemplate, abi.StateStarting:
		return nil
	}
	return errdefs.New(errdefs.AgentNotRunning, "the agent has ended", errdefs.Resource("%s", a.id))
}
