package sentry

import (
	"cmp"
	"os"
	"strings"

	"gvisor.dev/gvisor/pkg/hostarch"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/fabric"
)

// maxSpans is how many parts of a difference are told.
const maxSpans = 1000

// Fabric does something with regions for the daemon.
func (s *Kernel) Fabric(req control.FabricRequest) (control.FabricReply, error) {
	return s.FabricIn(req, nil)
}

// FabricIn is Fabric with the file that a region is kept in, or to be.
func (s *Kernel) FabricIn(req control.FabricRequest, files []*os.File) (control.FabricReply, error) {
	defer s.trail.flush()
	by := s.actor(req.Actor)
	by.Privileged = true // The daemon has decided.
	if kept := req.Persistent || req.Op == control.FabricOpen; kept || len(files) > 0 {
		if !kept || len(files) != 1 {
			return control.FabricReply{}, errdefs.New(errdefs.Protocol, "one file comes with a region that is kept in one, and none with others", errdefs.Resource("region %s", req.Name))
		}
		return s.keptRegion(by, req, files[0])
	}
	return s.doFabric(by, req)
}

// keptRegion makes a region that is kept in a file, or of one.
func (s *Kernel) keptRegion(by capability.Actor, req control.FabricRequest, file *os.File) (control.FabricReply, error) {
	made := false
	reply, err := s.newRegion(by, req, func(spec fabric.Spec) (r *fabric.Region, err error) {
		if req.Op == control.FabricOpen {
			r, err = s.fabric.OpenIn(file, req.Name, spec.Owner, uint64(req.Version))
		} else {
			spec.Name = req.Name
			r, err = s.fabric.CreateIn(spec, file)
		}
		made = err == nil
		return r, err
	})
	if !made {
		file.Close() // Else it is closed with the region.
	}
	return reply, err
}

// doFabric does something with regions for an agent, or for the operator.
func (s *Kernel) doFabric(by capability.Actor, req control.FabricRequest) (reply control.FabricReply, err error) {
	switch req.Op {
	case control.FabricCreate:
		return s.makeRegion(by, req)
	case control.FabricList:
		return s.listRegions(req.Agent)
	}
	want := map[string]abi.Rights{
		control.FabricShow: abi.RegionRead, control.FabricDiff: abi.RegionRead,
		control.FabricShare: abi.RegionShare, control.FabricUnshare: abi.RegionShare, control.FabricRemove: abi.RegionShare,
		control.FabricSeal: abi.RegionSnapshot | abi.RegionWrite, control.FabricSnapshot: abi.RegionSnapshot,
		control.FabricRollback: abi.RegionSnapshot | abi.RegionWrite, control.FabricFork: abi.RegionSnapshot | abi.RegionRead,
		control.FabricDrop: abi.RegionSnapshot, control.FabricCommit: abi.RegionSnapshot | abi.RegionWrite,
	}[req.Op]
	if want == 0 {
		return reply, errdefs.New(errdefs.Unsupported, "there is no such operation on regions", errdefs.Resource("%q", req.Op))
	}
	if req.Name, err = s.regionNamed(by, req.Name, want); err != nil {
		return reply, err
	}
	var held *capability.Capability
	if !by.Privileged {
		if held, err = s.heldRegion(by.Name, req.Name, want); err != nil {
			return reply, err
		}
	}
	r, err := s.fabric.Lookup(req.Name)
	if err != nil {
		return reply, err
	}
	switch req.Op {
	case control.FabricShow:
		reply.Regions = []control.Region{describeRegion(r)}
		reply.Versions = versionsOf(r)
		for _, v := range r.Stored() {
			reply.Stored = append(reply.Stored, storedVersion(v))
		}
		if by.Privileged {
			for _, c := range s.regionCaps(r.Name()) {
				reply.Caps = append(reply.Caps, s.describe(c))
			}
		}
	case control.FabricDiff:
		spans, bytes, err := r.Diff(req.Version, req.Other, maxSpans)
		if err != nil {
			return reply, err
		}
		reply.Bytes = bytes
		for _, sp := range spans {
			reply.Spans = append(reply.Spans, [2]uint64{sp.Start, sp.End})
		}
	case control.FabricShare:
		c, err := s.shareRegion(by, r, held, req)
		if err != nil {
			return reply, err
		}
		d := s.describe(c)
		reply.Cap = &d
	case control.FabricUnshare:
		reply.Count, err = s.unshareRegion(by, r, req.Agent)
	case control.FabricRemove:
		if !by.Privileged && r.Owner() != by.Name {
			return reply, errdefs.New(errdefs.CapabilityDenied, "only its owner removes a region", errdefs.Resource("region %s", r.Name()),
				errdefs.Fix("ask agent %s, or revoke what you hold of it", cmp.Or(r.Owner(), "the operator")))
		}
		reply.Count = s.removeRegion(r, by, "")
	case control.FabricSeal:
		d, err := r.Seal()
		if err != nil {
			return reply, err
		}
		s.tellRegion(event.RegionSeal, r, by, &eventv1.Region{Digest: d.String()})
		reply.Regions = []control.Region{describeRegion(r)}
	case control.FabricSnapshot:
		v, err := r.Snapshot(req.Comment)
		if err != nil {
			return reply, err
		}
		s.tellRegion(event.RegionVersion, r, by, &eventv1.Region{Version: uint32(v.Number), Reason: event.Text(v.Comment)})
		reply.Versions = []control.RegionVersion{control.RegionVersion(v)}
	case control.FabricRollback:
		if err := r.Rollback(req.Version); err != nil {
			return reply, err
		}
		s.tellRegion(event.RegionRollback, r, by, &eventv1.Region{Version: uint32(req.Version)})
	case control.FabricFork:
		return s.forkRegion(by, r, req)
	case control.FabricCommit:
		v, err := r.Commit(req.Comment)
		if err != nil {
			return reply, err
		}
		s.tellRegion(event.RegionVersion, r, by, &eventv1.Region{Version: uint32(v.Number), Committed: true, Reason: event.Text(v.Comment)})
		reply.Stored = []control.StoredVersion{storedVersion(v)}
	case control.FabricDrop:
		err = r.RemoveVersion(req.Version)
	}
	return reply, err
}

// regionNamed returns the name of the region that ref names. That may be the digest of
// what is sealed: of a region that the agent which asks holds those rights to, for it
// is told of no other; the operator of any.
func (s *Kernel) regionNamed(by capability.Actor, ref string, want abi.Rights) (string, error) {
	if _, ok := fabric.ParseDigest(ref); !ok {
		return ref, nil
	}
	list := s.fabric.List()
	if !by.Privileged {
		list = s.ctlRegions(by.Name)
	}
	var found, less []string
	for _, r := range list {
		if !r.Is(ref) {
			continue
		}
		if !by.Privileged {
			if _, err := s.heldRegion(by.Name, r.Name(), want); err != nil {
				less = append(less, r.Name())
				continue
			}
		}
		found = append(found, r.Name())
	}
	if len(found) == 0 {
		found = less[:min(len(less), 1)] // It is told what it lacks.
	}
	switch len(found) {
	case 0:
		return "", errdefs.New(errdefs.NotFound, "there is no sealed region with these contents", errdefs.Resource("region %s", ref),
			errdefs.Fix("seal one, or ask for one of its rights"))
	case 1:
		return found[0], nil
	}
	return "", errdefs.New(errdefs.InvalidArgument, "several regions have these contents: "+strings.Join(found, ", "), errdefs.Resource("region %s", ref),
		errdefs.Fix("name one of them"))
}

// ownerOf says whose a new region is: the agent that asks for it, or whom the
// operator names.
func (s *Kernel) ownerOf(by capability.Actor, agent string) (*Agent, error) {
	if !by.Privileged {
		agent = by.Name
	}
	if agent == "" {
		return nil, nil
	}
	a, err := s.agent(agent)
	if err == nil {
		err = a.mustLive()
	}
	return a, err
}

func (s *Kernel) makeRegion(by capability.Actor, req control.FabricRequest) (control.FabricReply, error) {
	return s.newRegion(by, req, func(spec fabric.Spec) (*fabric.Region, error) {
		spec.Name = req.Name
		return s.fabric.Create(spec)
	})
}

func (s *Kernel) forkRegion(by capability.Actor, r *fabric.Region, req control.FabricRequest) (control.FabricReply, error) {
	return s.newRegion(by, req, func(spec fabric.Spec) (*fabric.Region, error) {
		spec.Name = req.As
		return r.Fork(req.Version, spec)
	})
}

// newRegion makes a region and gives its owner every right to it.
func (s *Kernel) newRegion(by capability.Actor, req control.FabricRequest, mk func(fabric.Spec) (*fabric.Region, error)) (reply control.FabricReply, err error) {
	a, err := s.ownerOf(by, req.Agent)
	if err != nil {
		return reply, err
	}
	spec := fabric.Spec{Size: req.Size, Labels: req.Labels, Fixed: req.Fixed, Keep: req.Keep, Zeros: req.Zeros}
	if a != nil {
		spec.Owner = a.id
		if e := s.space.Effective(a.id)[abi.ClassMem]; !e.Rights.Has(abi.MemMap) {
			return reply, errdefs.New(errdefs.CapabilityDenied, "the owner holds no memory", errdefs.Resource("%s", a.id), errdefs.Fix("ask for mem:self:map"))
		}
	}
	r, err := mk(spec)
	if err != nil {
		return reply, err
	}
	if a != nil {
		object := capability.Object{Class: abi.ClassRegion, Name: r.Name()}
		err := s.labelsAllow(a.id, object)
		if err == nil {
			var c *capability.Capability
			root := capability.Actor{Name: by.Name, Privileged: true, Correlation: by.Correlation}
			if c, err = s.space.Mint(a.id, capability.Spec{Object: object, Rights: abi.ClassRegion.All()}, root); err == nil {
				d := s.describe(c)
				reply.Cap = &d
			}
		}
		if err != nil {
			s.fabric.Remove(r)
			return reply, err
		}
	}
	d := describeRegion(r)
	s.tellRegion(event.RegionCreate, r, by, &eventv1.Region{Labels: d.Labels, Lineage: d.Lineage, Address: d.Addr})
	reply.Regions = []control.Region{d}
	return reply, nil
}

// shareRegion gives an agent a part of the rights to r: those of held, or of the
// owner's if the operator shares it, or, if nobody owns it, any.
func (s *Kernel) shareRegion(by capability.Actor, r *fabric.Region, held *capability.Capability, req control.FabricRequest) (*capability.Capability, error) {
	rights := abi.RegionRead
	if req.Rights != "" {
		var err error
		if rights, err = capability.ParseRights(abi.ClassRegion, req.Rights); err != nil {
			return nil, err
		}
	}
	a := s.agentNamed(req.Agent)
	if a == nil {
		return nil, errdefs.New(errdefs.AgentNotFound, "no agent of this domain has that ID or name", errdefs.Resource("%q", req.Agent),
			errdefs.Fix("regions are shared within a domain"))
	}
	if held == nil && r.Owner() != "" {
		for _, c := range s.regionCaps(r.Name()) {
			if c.Holder() == r.Owner() && c.Parent() == nil {
				held = c
			}
		}
	}
	if held == nil {
		object := capability.Object{Class: abi.ClassRegion, Name: r.Name()}
		if err := s.hasRegion(a.id, object); err != nil {
			return nil, err
		}
		return s.space.Mint(a.id, capability.Spec{Object: object, Rights: rights, Lease: req.Lease}, by)
	}
	ch := capability.Change{Rights: &rights}
	if req.Lease != 0 {
		ch.Lease = &req.Lease
	}
	return s.delegate(held, a.id, ch, false, by)
}

// unshareRegion takes back what an agent holds of r: everything, if the operator
// or the owner says so, or what the one who asks gave it.
func (s *Kernel) unshareRegion(by capability.Actor, r *fabric.Region, agent string) (int, error) {
	a := s.agentNamed(agent)
	if a == nil {
		return 0, errdefs.New(errdefs.AgentNotFound, "no agent of this domain has that ID or name", errdefs.Resource("%q", agent))
	}
	if a.id == r.Owner() {
		return 0, errdefs.New(errdefs.InvalidArgument, "the owner's own right ends with the region", errdefs.Resource("region %s", r.Name()),
			errdefs.Fix("remove the region"))
	}
	n := 0
	by.Privileged = by.Privileged || r.Owner() == by.Name
	var refused error
	for _, c := range s.regionCaps(r.Name()) {
		if c.Holder() != a.id {
			continue
		}
		dead, err := s.space.Revoke(c, true, by, "")
		n += len(dead)
		if err != nil {
			refused = err
		}
	}
	if n == 0 && refused == nil {
		refused = errdefs.New(errdefs.NotFound, "the agent holds nothing of it", errdefs.Resource("region %s, agent %s", r.Name(), agent))
	}
	return n, refused
}

// listRegions lists the regions of the domain, or those that an agent holds a
// capability to.
func (s *Kernel) listRegions(agent string) (reply control.FabricReply, err error) {
	if agent == "" {
		for _, r := range s.fabric.List() {
			reply.Regions = append(reply.Regions, describeRegion(r))
		}
		return reply, nil
	}
	for _, c := range s.space.List(agent) {
		if o := c.Object(); o.Class == abi.ClassRegion && c.Live() {
			if r, err := s.fabric.Lookup(o.Name); err == nil {
				d := describeRegion(r)
				d.Rights, d.Cap = c.Rights().Format(abi.ClassRegion), c.ID()
				reply.Regions = append(reply.Regions, d)
			}
		}
	}
	return reply, nil
}

func describeRegion(r *fabric.Region) control.Region {
	i := r.Info()
	d := control.Region{
		Name: i.Name, Owner: i.Owner, Size: i.Size, Addr: i.Addr, Labels: i.Labels, Keep: i.Keep, Lineage: i.Lineage, Age: i.Age,
		Resident: i.Resident, Charged: i.Charged, Mapped: i.Mapped, Versions: i.Versions, Members: i.Members, Waiters: i.Waiters, Zeros: i.Zeros,
		Persistent: i.Persistent, Committed: i.Committed, Dirty: i.Dirty,
	}
	if i.Sealed != nil {
		d.Digest = i.Sealed.String()
	}
	return d
}

func storedVersion(v fabric.Committed) control.StoredVersion {
	return control.StoredVersion{Number: v.Number, Comment: v.Comment, Time: v.Time, Bytes: v.Pages * hostarch.PageSize}
}

func versionsOf(r *fabric.Region) (out []control.RegionVersion) {
	for _, v := range r.Versions() {
		out = append(out, control.RegionVersion(v))
	}
	return out
}
