package daemon

import (
	"context"
	"fmt"
	"strconv"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/capability/token"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/lifecycle"
)

// Merge implements the RPC.
func (d *System) Merge(ctx context.Context, req *apiv1.MergeRequest) (*apiv1.MergeResponse, error) {
	switch req.GetConflicts() {
	case "", "ours", "theirs":
	default:
		return nil, errdefs.Newf(errdefs.InvalidArgument, "%.40q is no side of a conflict", req.GetConflicts()).
			With(errdefs.Fix("say ours or theirs, or nothing"))
	}
	r, dom, err := d.findRunning(req.GetAgent())
	if err != nil {
		return nil, err
	}
	into, err := d.originalOf(r, req.GetInto())
	if err != nil {
		return nil, err
	}
	ask := control.MergeRequest{ID: r.id, Into: into.id, DryRun: req.GetDryRun(), Conflicts: req.GetConflicts(), Regions: req.GetRegions(),
		Actor: actor(ctx)}
	reply, err := d.merge(ctx, r, into, dom, ask)
	if err != nil {
		return nil, err
	}
	resp := &apiv1.MergeResponse{
		Into: reply.Into, Merged: reply.Merged, ChangeCount: uint32(reply.ChangeCount), ConflictCount: uint32(reply.ConflictCount),
		PauseNanos: int64(reply.Pause),
	}
	for _, c := range reply.Changes {
		resp.Changes = append(resp.Changes, &apiv1.MergeChange{Path: c.Path, Change: c.Change, Bytes: c.Bytes})
	}
	for _, c := range reply.Conflicts {
		resp.Conflicts = append(resp.Conflicts, &apiv1.MergeConflict{Path: c.Path, Kind: c.Kind})
	}
	return resp, nil
}

// originalOf returns what an agent is a copy of, which want names if it is not empty.
func (d *System) originalOf(r *record, want string) (*record, error) {
	if r.from == "" {
		return nil, errdefs.New(errdefs.WrongState, "the agent is no copy", errdefs.Op("merge"), errdefs.Resource("%s", r.label()),
			errdefs.Fix("name a copy that `aiosctl clone` has made"))
	}
	into, err := d.find(r.from)
	if err != nil {
		return nil, errdefs.New(errdefs.AgentNotRunning, "the agent that it is a copy of has ended", errdefs.Op("merge"), errdefs.Resource("%s", r.label()),
			errdefs.Fix("take what you need of it with `aiosctl exec`"))
	}
	if want != "" {
		named, err := d.find(want)
		if err != nil {
			return nil, err
		}
		if named != into {
			return nil, errdefs.New(errdefs.InvalidArgument, "it is a copy of "+into.label()+", not of "+named.label(), errdefs.Op("merge"),
				errdefs.Resource("%s", r.label()), errdefs.Fix("merge a copy of a copy into that first"))
		}
	}
	return into, nil
}

// merge has the kernel process merge.
func (d *System) merge(ctx context.Context, r, into *record, dom *domain, req control.MergeRequest) (reply control.MergeReply, err error) {
	if !req.DryRun {
		call, err := d.askHooks(ctx, lifecycle.Merge, r, func(op *lifecycle.Operation) { op.Into = into.label() })
		if err != nil {
			return reply, err
		}
		defer func() {
			if err == nil && !reply.Merged {
				call.Done(errdefs.New(errdefs.MergeConflict, strconv.Itoa(reply.ConflictCount)+" conflicts"))
				return
			}
			call.Done(err)
		}()
	}
	if err := dom.call(ctx, control.MethodMerge, req, &reply); err != nil {
		return reply, errdefs.Wrap(err, errdefs.Internal, "merge", errdefs.Resource("%s", r.label()))
	}
	if reply.Merged {
		reason := fmt.Sprintf("%d changes", reply.ChangeCount)
		if reply.ConflictCount > 0 {
			reason += fmt.Sprintf(", %d conflicts: %s", reply.ConflictCount, req.Conflicts)
		}
		d.record(audit.Entry{
			Op: "merge", Domain: r.domName, Actor: req.Actor.Name, Agent: r.id, Target: into.label(), Reason: reason, Correlation: req.Actor.Correlation,
		})
	}
	return reply, nil
}

// merge asks whether the copy may be ended, and files of the other changed, as a
// program in it could.
func (a *asked) merge(m *apiv1.MergeRequest) error {
	if r, err := a.d.find(m.GetAgent()); err == nil && m.GetInto() == "" {
		m.Into = r.from // Of what is no copy: nothing, and that is said.
	}
	if m.GetInto() != "" {
		if err := a.may(token.OpExec, &m.Into); err != nil {
			return err
		}
	}
	return a.may(token.OpSignal, &m.Agent)
}
