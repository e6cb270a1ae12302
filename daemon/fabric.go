package daemon

import (
	"context"
	"strings"
	"sync"
	"time"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// fabricService serves the API's service Fabric.
type fabricService struct {
	apiv1.UnimplementedFabricServer
	d *System
	// storing is held while files of regions come to be, are opened or go.
	storing sync.Mutex
}

// ask has the kernel process do something with regions.
func (s *fabricService) ask(ctx context.Context, dom *domain, req control.FabricRequest) (control.FabricReply, error) {
	req.Actor = actor(ctx)
	var reply control.FabricReply
	err := dom.call(ctx, control.MethodFabric, req, &reply)
	return reply, err
}

// do finds the region that ref names, NAME or DOMAIN/NAME, and has something done
// with it.
func (s *fabricService) do(ctx context.Context, ref string, req control.FabricRequest) (*domain, control.FabricReply, error) {
	dom, name, err := s.find(ctx, ref)
	if err != nil {
		return nil, control.FabricReply{}, err
	}
	req.Name = name
	reply, err := s.ask(ctx, dom, req)
	return dom, reply, err
}

func (s *fabricService) find(ctx context.Context, ref string) (*domain, string, error) {
	in, name, told := strings.Cut(ref, "/")
	if !told {
		in, name = "", ref
	}
	var found *domain
	var as string // its name, where ref is a digest
	for _, dom := range s.d.liveDomains() {
		if told && dom.name != in {
			continue
		}
		reply, err := s.ask(ctx, dom, control.FabricRequest{Op: control.FabricList})
		if err != nil {
			if errdefs.CodeOf(err) == errdefs.DomainDied {
				continue
			}
			return nil, "", err
		}
		for _, r := range reply.Regions {
			if r.Name != name && (r.Digest == "" || r.Digest != name) {
				continue
			}
			if found != nil {
				what := "several domains have a region of that name"
				if r.Name != name {
					what = "several regions have these contents"
				}
				return nil, "", errdefs.New(errdefs.InvalidArgument, what, errdefs.Resource("%s", name),
					errdefs.Fix("say which: %s/%s or %s/%s", found.name, as, dom.name, r.Name))
			}
			found, as = dom, r.Name
		}
	}
	if found == nil {
		return nil, "", errdefs.New(errdefs.NotFound, "no domain that runs has such a region", errdefs.Resource("%q", ref),
			errdefs.Fix("`aiosctl fabric ls` lists them"))
	}
	return found, as, nil
}

// inDomain returns the ID of an agent that must be in dom; "" is none.
func (s *fabricService) inDomain(dom *domain, ref string) (string, error) {
	r, in, err := s.d.findRunning(ref)
	if err != nil {
		return "", err
	}
	if in != dom {
		return "", errdefs.New(errdefs.Unsupported, "the pages of a region are in one domain, and the agent is in another",
			errdefs.Resource("agent %s, domain %s", ref, dom.name), errdefs.Fix("start the agent in domain %s", dom.name))
	}
	return r.id, nil
}

func (s *fabricService) region(dom *domain, r control.Region) *apiv1.Region {
	return &apiv1.Region{
		Name: r.Name, Domain: dom.name, Owner: r.Owner, OwnerName: s.d.nameOf(r.Owner), Size: r.Size, Address: r.Addr, Labels: r.Labels, Keep: uint32(r.Keep),
		Lineage: r.Lineage, Digest: r.Digest, AgeNano: int64(r.Age), Resident: r.Resident, Charged: r.Charged, Mapped: r.Mapped,
		Versions: uint32(r.Versions), Rights: r.Rights, Members: uint32(r.Members), Waiters: uint32(r.Waiters),
		Persistent: r.Persistent, Committed: r.Committed, Dirty: r.Dirty, Zeros: r.Zeros,
	}
}

// nameOf returns the name of an agent, "" if it has none or is not known.
func (d *System) nameOf(id string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r := d.agents[id]; r != nil {
		return r.name
	}
	return ""
}

// only returns the region of a reply about one.
func (s *fabricService) only(dom *domain, reply control.FabricReply) *apiv1.Region {
	if len(reply.Regions) == 0 {
		return nil
	}
	return s.region(dom, reply.Regions[0])
}

func versionProto(v control.RegionVersion) *apiv1.RegionVersion {
	return &apiv1.RegionVersion{Number: uint32(v.Number), Comment: v.Comment, AgeNano: int64(v.Age), Charged: v.Charged}
}

// RegionCreate implements the RPC.
func (s *fabricService) RegionCreate(ctx context.Context, req *apiv1.RegionCreateRequest) (*apiv1.RegionCreateResponse, error) {
	ask := control.FabricRequest{
		Op: control.FabricCreate, Name: req.GetName(), Size: req.GetSize(), Labels: req.GetLabels(), Fixed: req.GetFixed(), Keep: int(req.GetKeep()),
		Zeros: req.GetZeros(),
	}
	dom, owner, err := s.place(req.GetOwner(), req.GetDomain(), "create region")
	if err != nil {
		return nil, err
	}
	ask.Agent = owner
	var reply control.FabricReply
	if req.GetPersistent() {
		reply, err = s.createStored(ctx, dom, ask)
	} else {
		reply, err = s.ask(ctx, dom, ask)
	}
	if err != nil {
		return nil, err
	}
	dom.regroup()
	return &apiv1.RegionCreateResponse{Region: s.only(dom, reply)}, nil
}

// RegionList implements the RPC.
func (s *fabricService) RegionList(ctx context.Context, req *apiv1.RegionListRequest) (*apiv1.RegionListResponse, error) {
	resp := &apiv1.RegionListResponse{}
	ask := control.FabricRequest{Op: control.FabricList}
	domains := s.d.liveDomains()
	if req.GetAgent() != "" {
		r, dom, err := s.d.findRunning(req.GetAgent())
		if err != nil {
			return nil, err
		}
		ask.Agent, domains = r.id, []*domain{dom}
	}
	for _, dom := range domains {
		reply, err := s.ask(ctx, dom, ask)
		if err != nil && errdefs.CodeOf(err) != errdefs.DomainDied {
			return nil, err
		}
		for _, r := range reply.Regions {
			resp.Regions = append(resp.Regions, s.region(dom, r))
		}
	}
	if req.GetAgent() == "" {
		resp.Regions = append(resp.Regions, s.stored(resp.Regions)...)
	}
	return resp, nil
}

// RegionShow implements the RPC.
func (s *fabricService) RegionShow(ctx context.Context, req *apiv1.RegionShowRequest) (*apiv1.RegionShowResponse, error) {
	dom, reply, err := s.do(ctx, req.GetRegion(), control.FabricRequest{Op: control.FabricShow})
	if errdefs.CodeOf(err) == errdefs.NotFound && s.keeps(req.GetRegion()) {
		r, versions := s.describeStored(req.GetRegion())
		return &apiv1.RegionShowResponse{Region: r, Stored: versions}, nil
	}
	if err != nil {
		return nil, err
	}
	resp := &apiv1.RegionShowResponse{Region: s.only(dom, reply)}
	for _, v := range reply.Versions {
		resp.Versions = append(resp.Versions, versionProto(v))
	}
	for _, v := range reply.Stored {
		resp.Stored = append(resp.Stored, storedProto(v))
	}
	for _, c := range reply.Caps {
		resp.Capabilities = append(resp.Capabilities, s.d.capProto(dom, c))
	}
	return resp, nil
}

// RegionShare implements the RPC.
func (s *fabricService) RegionShare(ctx context.Context, req *apiv1.RegionShareRequest) (*apiv1.RegionShareResponse, error) {
	dom, name, err := s.find(ctx, req.GetRegion())
	if err != nil {
		return nil, err
	}
	id, err := s.inDomain(dom, req.GetAgent())
	if err != nil {
		return nil, err
	}
	if req.GetLeaseNano() < 0 {
		return nil, errdefs.New(errdefs.InvalidArgument, "the lease is no time to come", errdefs.Op("share region"), errdefs.Fix("leave it out to set none"))
	}
	reply, err := s.ask(ctx, dom, control.FabricRequest{
		Op: control.FabricShare, Name: name, Agent: id, Rights: req.GetRights(), Lease: time.Duration(req.GetLeaseNano()),
	})
	if err != nil {
		return nil, err
	}
	resp := &apiv1.RegionShareResponse{}
	if reply.Cap != nil {
		resp.Capability = s.d.capProto(dom, *reply.Cap)
	}
	return resp, nil
}

// RegionUnshare implements the RPC.
func (s *fabricService) RegionUnshare(ctx context.Context, req *apiv1.RegionUnshareRequest) (*apiv1.RegionUnshareResponse, error) {
	dom, name, err := s.find(ctx, req.GetRegion())
	if err != nil {
		return nil, err
	}
	id, err := s.inDomain(dom, req.GetAgent())
	if err != nil {
		return nil, err
	}
	reply, err := s.ask(ctx, dom, control.FabricRequest{Op: control.FabricUnshare, Name: name, Agent: id})
	return &apiv1.RegionUnshareResponse{Revoked: uint32(reply.Count)}, err
}

// RegionRemove implements the RPC.
func (s *fabricService) RegionRemove(ctx context.Context, req *apiv1.RegionRemoveRequest) (*apiv1.RegionRemoveResponse, error) {
	dom, reply, err := s.do(ctx, req.GetRegion(), control.FabricRequest{Op: control.FabricRemove})
	name := req.GetRegion()[strings.LastIndexByte(req.GetRegion(), '/')+1:]
	switch kept := s.keeps(name); {
	case err == nil:
		dom.regroup()
		if req.GetStored() && kept {
			err = s.removeStored(name)
		}
	case errdefs.CodeOf(err) == errdefs.NotFound && kept && req.GetStored():
		err = s.removeStored(name)
	case errdefs.CodeOf(err) == errdefs.NotFound && kept:
		err = errdefs.New(errdefs.WrongState, "it is kept in a file, and no domain has it open", errdefs.Op("remove region"), errdefs.Resource("%s", name),
			errdefs.Fix("to remove what was committed of it: `aiosctl fabric rm --stored %s`", name))
	}
	if err != nil {
		return nil, err
	}
	return &apiv1.RegionRemoveResponse{Revoked: uint32(reply.Count)}, nil
}

// RegionSeal implements the RPC.
func (s *fabricService) RegionSeal(ctx context.Context, req *apiv1.RegionSealRequest) (*apiv1.RegionSealResponse, error) {
	dom, reply, err := s.do(ctx, req.GetRegion(), control.FabricRequest{Op: control.FabricSeal})
	if err != nil {
		return nil, err
	}
	return &apiv1.RegionSealResponse{Region: s.only(dom, reply)}, nil
}

// RegionSnapshot implements the RPC.
func (s *fabricService) RegionSnapshot(ctx context.Context, req *apiv1.RegionSnapshotRequest) (*apiv1.RegionSnapshotResponse, error) {
	dom, reply, err := s.do(ctx, req.GetRegion(), control.FabricRequest{Op: control.FabricSnapshot, Comment: req.GetComment()})
	if err != nil {
		return nil, err
	}
	dom.regroup()
	resp := &apiv1.RegionSnapshotResponse{}
	for _, v := range reply.Versions {
		resp.Version = versionProto(v)
	}
	return resp, nil
}

// RegionRollback implements the RPC.
func (s *fabricService) RegionRollback(ctx context.Context, req *apiv1.RegionRollbackRequest) (*apiv1.RegionRollbackResponse, error) {
	_, _, err := s.do(ctx, req.GetRegion(), control.FabricRequest{Op: control.FabricRollback, Version: int(req.GetVersion())})
	return &apiv1.RegionRollbackResponse{}, err
}

// RegionFork implements the RPC.
func (s *fabricService) RegionFork(ctx context.Context, req *apiv1.RegionForkRequest) (*apiv1.RegionForkResponse, error) {
	dom, name, err := s.find(ctx, req.GetRegion())
	if err != nil {
		return nil, err
	}
	as := req.GetAs()
	ask := control.FabricRequest{
		Op: control.FabricFork, Name: name, Version: int(req.GetVersion()), As: as.GetName(), Labels: as.GetLabels(), Fixed: as.GetFixed(), Keep: int(as.GetKeep()),
		Zeros: as.GetZeros(),
	}
	if as.GetOwner() != "" {
		if ask.Agent, err = s.inDomain(dom, as.GetOwner()); err != nil {
			return nil, err
		}
	}
	reply, err := s.ask(ctx, dom, ask)
	if err != nil {
		return nil, err
	}
	dom.regroup()
	return &apiv1.RegionForkResponse{Region: s.only(dom, reply)}, nil
}

// RegionDiff implements the RPC.
func (s *fabricService) RegionDiff(ctx context.Context, req *apiv1.RegionDiffRequest) (*apiv1.RegionDiffResponse, error) {
	_, reply, err := s.do(ctx, req.GetRegion(), control.FabricRequest{Op: control.FabricDiff, Version: int(req.GetVersion()), Other: int(req.GetOther())})
	resp := &apiv1.RegionDiffResponse{Bytes: reply.Bytes}
	for _, sp := range reply.Spans {
		resp.Spans = append(resp.Spans, &apiv1.RegionSpan{Start: sp[0], End: sp[1]})
	}
	return resp, err
}

// RegionDrop implements the RPC.
func (s *fabricService) RegionDrop(ctx context.Context, req *apiv1.RegionDropRequest) (*apiv1.RegionDropResponse, error) {
	dom, _, err := s.do(ctx, req.GetRegion(), control.FabricRequest{Op: control.FabricDrop, Version: int(req.GetVersion())})
	if err == nil {
		dom.regroup()
	}
	return &apiv1.RegionDropResponse{}, err
}
