package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/api"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/fabric/semantic"
)

// actor says on whose behalf a call is made, for the audit trail.
func actor(ctx context.Context) control.Actor {
	a := control.Actor{Name: "operator", Correlation: errdefs.CorrelationFrom(ctx)}
	if p, ok := api.PeerFrom(ctx); ok {
		a.Name = fmt.Sprintf("uid:%d", p.UID)
	}
	if b := bearerFrom(ctx); b != nil {
		a.Name = b.actor()
	}
	return a
}

// CapList implements the RPC.
func (d *System) CapList(ctx context.Context, req *apiv1.CapListRequest) (*apiv1.CapListResponse, error) {
	resp := &apiv1.CapListResponse{}
	list := func(dom *domain, id string) error {
		var reply control.CapsReply
		if err := dom.call(ctx, control.MethodCapList, control.CapListRequest{ID: id}, &reply); err != nil {
			return err
		}
		for _, c := range reply.Caps {
			resp.Capabilities = append(resp.Capabilities, d.capProto(dom, c))
		}
		return nil
	}
	if req.GetAgent() != "" {
		r, dom, err := d.findRunning(req.GetAgent())
		if err != nil {
			return nil, err
		}
		return resp, list(dom, r.id)
	}
	for _, dom := range d.liveDomains() {
		if err := list(dom, ""); err != nil && errdefs.CodeOf(err) != errdefs.DomainDied {
			return nil, err
		}
	}
	return resp, nil
}

func (d *System) capProto(dom *domain, c control.Cap) *apiv1.Capability {
	p := &apiv1.Capability{
		Id: string(c.ID), Handle: uint64(c.Handle), Agent: c.Agent, Domain: dom.name, Spec: c.Spec, Parent: string(c.Parent),
		Remote: c.Remote, Origin: string(c.Origin), Badge: c.Badge, Sealed: c.Sealed, LeaseNano: int64(c.Lease),
		Children: uint32(c.Children), Rest: c.Rest,
	}
	d.mu.Lock()
	r := d.agents[c.Agent]
	d.mu.Unlock()
	if r != nil {
		p.AgentName = r.name
	}
	return p
}

// CapGrant implements the RPC.
func (d *System) CapGrant(ctx context.Context, req *apiv1.CapGrantRequest) (*apiv1.CapGrantResponse, error) {
	r, dom, err := d.findRunning(req.GetAgent())
	if err != nil {
		return nil, err
	}
	specs, err := parseGrants(req.GetGrants())
	if err != nil {
		return nil, err
	}
	grants, err := dom.openGrants(ctx, specs, "")
	if err != nil {
		return nil, err
	}
	var reply control.CapsReply
	if err := dom.call(ctx, control.MethodCapGrant, control.GrantRequest{ID: r.id, Grants: grants, Actor: actor(ctx)}, &reply); err != nil {
		return nil, err
	}
	dom.regroup()
	resp := &apiv1.CapGrantResponse{}
	for _, c := range reply.Caps {
		resp.Capabilities = append(resp.Capabilities, d.capProto(dom, c))
	}
	return resp, nil
}

// locate finds the domain and the description of a capability.
func (d *System) locate(ctx context.Context, ref *apiv1.CapRef) (*domain, control.Cap, error) {
	var reply control.CapsReply
	if ref.GetHandle() != 0 {
		r, dom, err := d.findRunning(ref.GetAgent())
		if err != nil {
			return nil, control.Cap{}, err
		}
		if err := dom.call(ctx, control.MethodCapList, control.CapListRequest{ID: r.id}, &reply); err != nil {
			return nil, control.Cap{}, err
		}
		for _, c := range reply.Caps {
			if uint64(c.Handle) == ref.GetHandle() {
				return dom, c, nil
			}
		}
		return nil, control.Cap{}, errdefs.New(errdefs.CapabilityNotFound, "the agent has no such capability, or no longer",
			errdefs.Resource("%s#%d", ref.GetAgent(), ref.GetHandle()), errdefs.Fix("`aiosctl cap ls %s` lists what it has", ref.GetAgent()))
	}
	if !capability.IsID(ref.GetId()) {
		return nil, control.Cap{}, errdefs.New(errdefs.CapabilityInvalid, "not a capability", errdefs.Resource("%q", ref.GetId()),
			errdefs.Fix("give its ID, or AGENT#NUMBER, as `aiosctl cap ls` shows them"))
	}
	for _, dom := range d.liveDomains() {
		err := dom.call(ctx, control.MethodCapList, control.CapListRequest{Cap: capability.ID(ref.GetId())}, &reply)
		if err == nil && len(reply.Caps) > 0 {
			return dom, reply.Caps[0], nil
		}
	}
	return nil, control.Cap{}, noSuchCap(ref)
}

func noSuchCap(ref *apiv1.CapRef) error {
	return errdefs.New(errdefs.CapabilityNotFound, "no such capability, or no longer", errdefs.Resource("%s", ref.GetId()),
		errdefs.Fix("`aiosctl cap ls` lists what there is, `aiosctl audit query --capability %s` what became of it", ref.GetId()))
}

// changeOf translates a change, of which nil is none; limits are read as in a
// grant of the class.
func changeOf(c *apiv1.CapChange, class abi.Class) (capability.Change, error) {
	if c == nil {
		return capability.Change{}, nil
	}
	ch := capability.Change{Object: c.Object, At: c.At, Badge: c.Badge, Sealed: c.GetSealed()}
	if c.LeaseNano != nil {
		l := time.Duration(c.GetLeaseNano())
		ch.Lease = &l
	}
	if c.Rights == nil && len(c.GetLimits()) == 0 {
		return ch, nil
	}
	// A grant of the class is the one place that knows rights and limits.
	object := "self"
	if info, _ := class.Info(); !info.Self {
		object = "*"
	}
	if class == abi.ClassFS {
		object = "/"
	}
	text := class.String() + ":" + object
	switch {
	case c.Rights != nil:
		text += ":" + c.GetRights()
	case class == abi.ClassFS:
		text += ":ro"
	}
	for _, l := range c.GetLimits() {
		if strings.ContainsAny(l, ",") {
			return ch, errdefs.New(errdefs.InvalidArgument, "one limit at a time", errdefs.Resource("%q", l), errdefs.Fix("repeat --limit"))
		}
		text += "," + l
	}
	s, err := capability.ParseSpec(text)
	if err != nil {
		return ch, err
	}
	if c.Rights != nil {
		ch.Rights = &s.Rights
	}
	if len(c.GetLimits()) > 0 {
		ch.Limits = &s.Limits
	}
	return ch, nil
}

// CapDelegate implements the RPC.
func (d *System) CapDelegate(ctx context.Context, req *apiv1.CapDelegateRequest) (*apiv1.CapDelegateResponse, error) {
	dom, c, err := d.locate(ctx, req.GetCapability())
	if err != nil {
		return nil, err
	}
	spec, err := capability.ParseSpec(c.Spec)
	if err != nil {
		return nil, err
	}
	change, err := changeOf(req.GetChange(), spec.Object.Class)
	if err != nil {
		return nil, err
	}
	to, toDom, err := d.findRunning(req.GetTo())
	if err != nil {
		return nil, err
	}
	r := control.CapRequest{Cap: c.ID, To: to.id, Change: change, Move: req.GetMove(), Actor: actor(ctx)}
	made, err := d.delegate(ctx, dom, toDom, r)
	if err != nil {
		return nil, err
	}
	return &apiv1.CapDelegateResponse{Capability: d.capProto(toDom, made)}, nil
}

// delegate derives a capability for an agent. In another domain it is an image
// of what is derived here.
func (d *System) delegate(ctx context.Context, from, to *domain, r control.CapRequest) (control.Cap, error) {
	var made control.Cap
	if from == to {
		err := from.call(ctx, control.MethodCapDelegate, r, &made)
		return made, err
	}
	d.crossed.Store(true)
	target := r.To
	r.To = to.name + "/" + target
	// The holder may have made links below what it was given.
	var given control.CapsReply
	if err := from.call(ctx, control.MethodCapList, control.CapListRequest{Cap: r.Cap}, &given); err != nil {
		return made, err
	}
	within := ""
	if len(given.Caps) > 0 && given.Caps[0].Key != "" {
		within = rootIn(given.Caps[0].Key)
	}
	var node control.Cap
	if err := from.call(ctx, control.MethodCapExport, r, &node); err != nil {
		return made, err
	}
	made, err := d.image(ctx, to, target, node, within, r.Actor)
	if err != nil {
		// What nobody holds must not stay.
		from.call(ctx, control.MethodCapRevoke, control.RevokeRequest{Cap: node.ID, Reason: "its image could not be made", Actor: r.Actor}, nil)
		return made, err
	}
	return made, nil
}

// image makes the image of an exported capability, of files below within.
func (d *System) image(ctx context.Context, to *domain, agent string, node control.Cap, within string, by control.Actor) (control.Cap, error) {
	spec, err := capability.ParseSpec(node.Spec)
	if err != nil {
		return control.Cap{}, err
	}
	spec.Lease = node.Lease
	if spec.Object.Class == abi.ClassFS && within == "" {
		return control.Cap{}, errdefs.New(errdefs.WrongState, "its directory is not known", errdefs.Resource("%s", node.Spec),
			errdefs.Fix("grant the files to the other agent"))
	}
	grants, err := to.openGrants(ctx, []capability.Spec{spec}, within)
	if err != nil {
		return control.Cap{}, err
	}
	var reply control.CapsReply
	err = to.call(ctx, control.MethodCapGrant, control.GrantRequest{ID: agent, Grants: grants, Origin: node.ID, Actor: by}, &reply)
	if err != nil {
		return control.Cap{}, err
	}
	return reply.Caps[0], nil
}

// CapAttenuate implements the RPC.
func (d *System) CapAttenuate(ctx context.Context, req *apiv1.CapAttenuateRequest) (*apiv1.CapAttenuateResponse, error) {
	dom, c, err := d.locate(ctx, req.GetCapability())
	if err != nil {
		return nil, err
	}
	spec, err := capability.ParseSpec(c.Spec)
	if err != nil {
		return nil, err
	}
	change, err := changeOf(req.GetChange(), spec.Object.Class)
	if err != nil {
		return nil, err
	}
	var made control.Cap
	if err := dom.call(ctx, control.MethodCapAttenuate, control.CapRequest{Cap: c.ID, Change: change, Actor: actor(ctx)}, &made); err != nil {
		return nil, err
	}
	return &apiv1.CapAttenuateResponse{Capability: d.capProto(dom, made)}, nil
}

// CapSeal implements the RPC.
func (d *System) CapSeal(ctx context.Context, req *apiv1.CapSealRequest) (*apiv1.CapSealResponse, error) {
	dom, c, err := d.locate(ctx, req.GetCapability())
	if err != nil {
		return nil, err
	}
	return &apiv1.CapSealResponse{}, dom.call(ctx, control.MethodCapSeal, control.CapRequest{Cap: c.ID, Actor: actor(ctx)}, nil)
}

// CapRenew implements the RPC.
func (d *System) CapRenew(ctx context.Context, req *apiv1.CapRenewRequest) (*apiv1.CapRenewResponse, error) {
	dom, c, err := d.locate(ctx, req.GetCapability())
	if err != nil {
		return nil, err
	}
	var made control.Cap
	r := control.CapRequest{Cap: c.ID, Lease: time.Duration(req.GetLeaseNano()), Actor: actor(ctx)}
	if err := dom.call(ctx, control.MethodCapRenew, r, &made); err != nil {
		return nil, err
	}
	return &apiv1.CapRenewResponse{Capability: d.capProto(dom, made)}, nil
}

// CapRevoke implements the RPC.
func (d *System) CapRevoke(ctx context.Context, req *apiv1.CapRevokeRequest) (*apiv1.CapRevokeResponse, error) {
	r := control.RevokeRequest{KeepSelf: req.GetKeepSelf(), Reason: req.GetReason(), Actor: actor(ctx)}
	var domains []*domain // in one of which it is
	switch ref := req.GetCapability(); {
	case req.GetAllOf() != "":
		rec, in, err := d.findRunning(req.GetAllOf())
		if err != nil {
			return nil, err
		}
		domains, r.Agent = []*domain{in}, rec.id
	case capability.IsID(ref.GetId()) && ref.GetHandle() == 0:
		// Not looked for first: whoever revokes is in a hurry.
		domains, r.Cap = d.liveDomains(), capability.ID(ref.GetId())
	default:
		in, c, err := d.locate(ctx, ref)
		if err != nil {
			return nil, err
		}
		domains, r.Cap = []*domain{in}, c.ID
	}
	var reply control.RevokeReply
	err := noSuchCap(req.GetCapability())
	for _, dom := range domains {
		called := dom.call(ctx, control.MethodCapRevoke, r, &reply)
		code := errdefs.CodeOf(called)
		if code == errdefs.CapabilityNotFound || code == errdefs.DomainDied && len(domains) > 1 {
			continue
		}
		err = called
		break
	}
	if err != nil {
		return nil, err
	}
	more, err := d.revokeImages(ctx, reply.Exports, r.Actor)
	if err != nil {
		return nil, err
	}
	resp := &apiv1.CapRevokeResponse{Count: uint32(reply.Count + more.Count)}
	for _, id := range slices.Concat(reply.Agents, more.Agents) {
		name := id
		d.mu.Lock()
		if rec := d.agents[id]; rec != nil {
			name = rec.label()
		}
		d.mu.Unlock()
		resp.Agents = append(resp.Agents, name)
	}
	slices.Sort(resp.Agents)
	resp.Agents = slices.Compact(resp.Agents)
	return resp, nil
}

// revokeImages carries a revocation into other domains, and on from there. A
// domain that has died has nothing left to revoke.
func (d *System) revokeImages(ctx context.Context, exports []control.Export, by control.Actor) (control.RevokeReply, error) {
	var all control.RevokeReply
	var failed error
	for len(exports) > 0 {
		e := exports[0]
		exports = exports[1:]
		name, _, _ := strings.Cut(e.Remote, "/")
		d.mu.Lock()
		dom := d.domains[name]
		d.mu.Unlock()
		if dom == nil || dom.connection() == nil {
			continue
		}
		var reply control.RevokeReply
		err := dom.call(ctx, control.MethodCapRevoke, control.RevokeRequest{
			Origin: e.Origin, Reason: "its original in another domain was revoked", Actor: by,
		}, &reply)
		if err != nil && errdefs.CodeOf(err) != errdefs.DomainDied {
			failed = cmp.Or(failed, errdefs.Wrap(err, errdefs.Internal, "revoke in domain", errdefs.Resource("%s", name)))
			continue
		}
		all.Count += reply.Count
		all.Agents = append(all.Agents, reply.Agents...)
		exports = append(exports, reply.Exports...)
	}
	return all, failed
}

// CapExplain implements the RPC.
func (d *System) CapExplain(ctx context.Context, req *apiv1.CapExplainRequest) (*apiv1.CapExplainResponse, error) {
	r, dom, err := d.findRunning(req.GetAgent())
	if err != nil {
		return nil, err
	}
	var reply control.ExplainReply
	if err := dom.call(ctx, control.MethodCapExplain, control.ExplainRequest{ID: r.id, Op: req.GetOperation()}, &reply); err != nil {
		return nil, err
	}
	return &apiv1.CapExplainResponse{
		Allowed: reply.Allowed, Why: reply.Why, Capability: reply.Capability, Missing: reply.Missing, Errno: reply.Errno,
	}, nil
}

// Account implements the RPC.
func (d *System) Account(ctx context.Context, req *apiv1.AccountRequest) (*apiv1.AccountResponse, error) {
	r, dom, err := d.findRunning(req.GetAgent())
	if err != nil {
		return nil, err
	}
	var raw json.RawMessage
	if err := dom.call(ctx, control.MethodAccount, control.AgentRequest{ID: r.id}, &raw); err != nil {
		return nil, err
	}
	return &apiv1.AccountResponse{Snapshot: raw}, nil
}

// answer helps a kernel process with what reaches beyond its domain.
func (dom *domain) answer(q control.Ask) {
	ctx, cancel := background(adoptTimeout)
	defer cancel()
	d := dom.d
	var made *control.Cap
	var memory *semantic.Reply
	var err error
	switch {
	case q.Kind == control.AskEnded:
		d.revokeOriginals(ctx, q.Exports, q.Actor)
		return // Nobody waits.
	case q.Kind == control.AskRevoke:
		_, err = d.revokeImages(ctx, q.Exports, q.Actor)
	case q.Kind == control.AskDelegate && q.Cap != nil:
		made, err = d.delegateFor(ctx, dom, *q.Cap)
	case q.Kind == control.AskMemory && q.Memory != nil:
		memory, err = d.memoryFor(ctx, dom, q.Memory)
	case q.Kind == control.AskSwapFile:
		err = dom.giveSwapFile(ctx, q.Agent)
	default:
		err = errdefs.Newf(errdefs.Unsupported, "no question of kind %q", q.Kind)
	}
	ans := control.NewAnswer(q.Seq, made, err)
	ans.Memory = memory
	dom.notify(control.MethodAnswer, ans)
}

// delegateFor delegates on behalf of an agent of dom to one elsewhere.
func (d *System) delegateFor(ctx context.Context, dom *domain, r control.CapRequest) (*control.Cap, error) {
	to, toDom, err := d.findRunning(r.To)
	if err != nil {
		return nil, err
	}
	r.To = to.id
	made, err := d.delegate(ctx, dom, toDom, r)
	return &made, err
}
