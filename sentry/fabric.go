package sentry

import (
	"cmp"
	"slices"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/context"

	"aios.dev/aios/abi"
	"aios.dev/aios/account"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/fabric"
)

// agentFabric is what an agent has to do with regions.
type agentFabric struct {
	// charged is what its regions may come to need, in bytes; it counts as if it
	// were in use.
	charged atomic.Uint64
	// network says that it could send what it holds to somewhere else.
	network atomic.Bool
}

// bootFabric makes the store of regions. It needs the memory file.
func (s *Kernel) bootFabric() error {
	s.fabric = fabric.NewStore(fabric.Options{
		Memory: s.k.MemoryFile(), Clock: s.cfg.Clock, MaxBytes: s.cfg.MemoryBytes,
		Account: func() uint32 {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.byCgID++
			return s.byCgID
		},
		Charge: s.chargeRegion, Release: s.releaseRegion, Lost: s.lostRegion,
		Lend: s.lendRank, PassOn: s.passOnRank, Reclaim: s.reclaimRank,
	})
	return nil
}

// chargeRegion takes bytes from what the owner of a region may have.
func (s *Kernel) chargeRegion(owner string, bytes uint64) error {
	if owner == "" {
		s.ownRegions.Add(bytes)
		return nil
	}
	a := s.findAgent(owner)
	if a == nil {
		return errdefs.New(errdefs.AgentNotRunning, "the owner has ended", errdefs.Resource("%s", owner))
	}
	m := &a.account.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	if limit := a.memoryLimit(); limit != account.Unlimited {
		used := a.countLocked()
		if bytes > limit-min(used, limit) {
			a.account.ledger.Refuse(account.Memory)
			return errdefs.Newf(errdefs.MemoryLimit, "the agent may have %s of memory and has %d bytes, its regions included", inUnits(limit), used).
				With(errdefs.Resource("%s", owner), errdefs.Fix("ask for less, remove regions or versions, or ask for mem:self with more bytes"))
		}
	}
	a.fabric.charged.Add(bytes)
	a.countLocked()
	return nil
}

func (s *Kernel) releaseRegion(owner string, bytes uint64) {
	if owner == "" {
		s.ownRegions.Add(-bytes)
		return
	}
	if a, ok := s.byID.Load(owner); ok {
		a.(*Agent).fabric.charged.Add(-bytes)
	}
}

// lostRegion tells that an agent's way to a region has ended, and its pages with
// it.
func (s *Kernel) lostRegion(v *fabric.View, bytes uint64) {
	why := ""
	if err := v.Err(0); err != nil {
		why = err.Error()
	}
	c := v.Capability()
	s.publish(event.Event{Type: event.RegionUnmap, Agent: c.Holder(), Payload: &eventv1.Region{
		Name: v.Region().Name(), Owner: v.Region().Owner(), Size: v.Region().Size(), Capability: string(c.ID()),
		Grant: event.Text(c.Spec().String()), Mapped: bytes, Reason: event.Text(why),
	}})
}

// tellRegion publishes what was done with a region.
func (s *Kernel) tellRegion(t event.Type, r *fabric.Region, by capability.Actor, p *eventv1.Region) {
	p.Name, p.Owner, p.Size, p.By = r.Name(), r.Owner(), r.Size(), by.Name
	s.publish(event.Event{Type: t, Agent: r.Owner(), Payload: p, Correlation: by.Correlation})
}

// regionCaps returns the live capabilities to a region, parents before children.
func (s *Kernel) regionCaps(name string) (out []*capability.Capability) {
	for _, c := range s.space.Tree() {
		if o := c.Object(); o.Class == abi.ClassRegion && o.Name == name && c.Live() {
			out = append(out, c)
		}
	}
	return out
}

// heldRegion returns a live capability of an agent to a region with these rights;
// if none has, the error that says so.
func (s *Kernel) heldRegion(agent, name string, want abi.Rights) (*capability.Capability, error) {
	var best *capability.Capability
	for _, c := range s.space.List(agent) {
		if o := c.Object(); o.Class != abi.ClassRegion || o.Name != name || !c.Live() {
			continue
		}
		if c.Rights().Has(want) {
			return c, nil
		}
		best = c
	}
	err := errdefs.New(errdefs.CapabilityDenied, "the agent holds no capability to it with the right "+want.Format(abi.ClassRegion),
		errdefs.Resource("region %s", name), errdefs.Fix("ask for region:%s:%s", name, want.Format(abi.ClassRegion)))
	if best == nil { // Nor is it told that there is one.
		return nil, errdefs.New(errdefs.NotFound, "the agent holds no capability to a region of that name", errdefs.Resource("region %s", name),
			errdefs.Fix("ask for region:%s:%s", name, cmp.Or(want, abi.RegionRead).Format(abi.ClassRegion)))
	}
	return nil, err
}

// openRegion returns what an agent has of a region.
func (s *Kernel) openRegion(agent, name string, want abi.Rights) (*fabric.View, error) {
	c, err := s.heldRegion(agent, name, want)
	if err != nil {
		return nil, err
	}
	r, err := s.fabric.Lookup(name)
	if err != nil {
		return nil, err
	}
	v, err := r.ViewOf(c)
	if err != nil {
		return nil, err
	}
	if a := s.findAgent(agent); a != nil {
		a.barRegions()
	}
	return v, v.Err(want)
}

// barRegions keeps from the agent what the labels of regions forbid it now.
func (a *Agent) barRegions() {
	a.barMu.Lock()
	defer a.barMu.Unlock()
	network := a.fabric.network.Load()
	for _, r := range a.s.fabric.List() {
		if !r.Secret() {
			continue
		}
		for _, v := range r.Views() {
			if v.Capability().Holder() == a.id {
				v.Bar(network)
			}
		}
	}
}

// networked says whether a grant reaches beyond the agent's own loopback.
func networked(o capability.Object) bool { return o.Class == abi.ClassNet && o.Name != "loopback" }

// labelsAllow refuses what would have a secret and network meet in an agent that
// is about to be given object.
func (s *Kernel) labelsAllow(agent string, object capability.Object) error {
	if object.Class != abi.ClassRegion && !networked(object) {
		return nil
	}
	network := networked(object)
	names := []string{object.Name}
	if network {
		names = nil
	}
	for _, c := range s.space.List(agent) {
		switch o := c.Object(); {
		case !c.Live():
		case networked(o):
			network = true
		case o.Class == abi.ClassRegion:
			names = append(names, o.Name)
		}
	}
	for _, name := range names {
		if r, err := s.fabric.Lookup(name); err == nil {
			if err := r.MayReach(agent, network); err != nil {
				return err
			}
		}
	}
	return nil
}

// hasRegion refuses a grant of a region that is not there: what is made later
// under its name is somebody else's.
func (s *Kernel) hasRegion(agent string, o capability.Object) error {
	if o.Class == abi.ClassRegion {
		if _, err := s.fabric.Lookup(o.Name); err != nil {
			return err
		}
	}
	return s.labelsAllow(agent, o)
}

// dropRegions removes the regions that an agent owned.
func (a *Agent) dropRegions() {
	for _, r := range a.s.fabric.List() {
		if r.Owner() == a.id {
			a.s.removeRegion(r, capability.Actor{Name: "kernel", Privileged: true}, "its owner has ended")
		}
	}
}

// removeRegion ends a region and every capability to it.
func (s *Kernel) removeRegion(r *fabric.Region, by capability.Actor, why string) int {
	n := 0
	by.Privileged = true // Whoever may remove it has been found out.
	for {
		caps := s.regionCaps(r.Name())
		if len(caps) == 0 {
			break
		}
		dead, err := s.space.Revoke(caps[0], true, by, "the region was removed")
		if err != nil {
			break
		}
		n += len(dead)
	}
	s.fabric.Remove(r)
	s.tellRegion(event.RegionRemove, r, by, &eventv1.Region{Reason: event.Text(why)})
	return n
}

// heldBack waits, on a task's own goroutine and with no locks held, while a
// version of a region is made that the task may be about to write. To gVisor the task
// still executes its program: it must not be told that it sleeps.
func (s *Kernel) heldBack() {
	for _, open := range s.fabric.Held() {
		<-open
	}
}

// ctlRegions lists what an agent can open below /aios/fabric.
func (s *Kernel) ctlRegions(agent string) []*fabric.Region {
	var out []*fabric.Region
	for _, c := range s.space.List(agent) {
		if o := c.Object(); o.Class == abi.ClassRegion && c.Live() {
			if r, err := s.fabric.Lookup(o.Name); err == nil && !slices.Contains(out, r) {
				out = append(out, r)
			}
		}
	}
	return out
}

// mayShare refuses to hand on a capability to a region without the right to, to
// who must not have it, or so that its owner would have lost it.
func (s *Kernel) mayShare(c *capability.Capability, to *Agent, move bool, by capability.Actor) error {
	o := c.Object()
	if o.Class == abi.ClassSemantic && !by.Privileged && !c.Rights().Has(abi.SemanticShare) && to.id != by.Name {
		return errdefs.New(errdefs.CapabilityDenied, "it does not give the right share", errdefs.Op("delegate"), errdefs.Resource("%s", o),
			errdefs.Fix("ask for semantic:%s with the right share", o.Name))
	}
	if o.Class == abi.ClassRegion {
		switch {
		case !by.Privileged && !c.Rights().Has(abi.RegionShare) && to.id != by.Name:
			return errdefs.New(errdefs.CapabilityDenied, "it does not give the right share", errdefs.Op("delegate"), errdefs.Resource("%s", o),
				errdefs.Fix("ask its owner to share it with the other agent, or for region:%s:share", o.Name))
		case move && c.Parent() == nil:
			return errdefs.New(errdefs.Unsupported, "an owner cannot move a region away", errdefs.Op("move"), errdefs.Resource("%s", o),
				errdefs.Fix("delegate it"))
		}
	}
	return s.labelsAllow(to.id, o)
}

// Regions implements ctlfs.Authority.Regions.
func (c ctlAuthority) Regions(agent string) []*fabric.Region { return c.s.ctlRegions(agent) }

// Fabric implements ctlfs.Authority.Fabric.
func (c ctlAuthority) Fabric(ctx context.Context, by capability.Actor, req *control.FabricRequest) (reply control.FabricReply, err error) {
	switch req.Op {
	case control.FabricList:
		req.Agent = by.Name
	case control.FabricCommit: // It waits for the disk.
		c.s.away(ctx, func() { reply, err = c.s.doFabric(by, *req) })
		return reply, errdefs.Wrap(err, errdefs.Internal, "region "+req.Op)
	}
	reply, err = c.s.doFabric(by, *req)
	return reply, errdefs.Wrap(err, errdefs.Internal, "region "+req.Op)
}

// OpenRegion implements ctlfs.Authority.OpenRegion.
func (c ctlAuthority) OpenRegion(agent, name string, want abi.Rights) (*fabric.View, error) {
	return c.s.openRegion(agent, name, want)
}
