package daemon

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/lifecycle"
)

// maxCopies is how many copies one request makes at most.
const maxCopies = 64

// Clone implements the RPC.
func (d *System) Clone(ctx context.Context, req *apiv1.CloneRequest) (*apiv1.CloneResponse, error) {
	count := max(int(req.GetCount()), 1)
	if count > maxCopies {
		return nil, errdefs.Newf(errdefs.InvalidArgument, "%d copies at once are more than %d", count, maxCopies).
			With(errdefs.Op("clone"), errdefs.Resource("%s", req.GetAgent()), errdefs.Fix("make them by several requests"))
	}
	r, dom, err := d.findRunning(req.GetAgent())
	if err != nil {
		return nil, err
	}
	copies, err := d.copiesOf(ctx, r, req.GetName(), count, nil)
	if err != nil {
		return nil, err
	}
	reply, err := d.clone(ctx, r, dom, copies, cloning{
		op: lifecycle.Clone, method: control.MethodClone, reason: fmt.Sprintf("%d copies", len(copies)), pause: req.GetPause(),
	})
	if err != nil {
		for _, c := range copies {
			d.disown(c)
		}
		return nil, err
	}
	resp := &apiv1.CloneResponse{PauseNanos: int64(reply.Pause), ReadyNanos: int64(reply.Ready)}
	for _, c := range copies {
		resp.Copies = append(resp.Copies, c.proto())
	}
	return resp, nil
}

// copiesOf makes the records of copies known; change, if it is not nil, says how they
// differ from the original's.
func (d *System) copiesOf(ctx context.Context, r *record, name string, count int, change func(*apiv1.SpawnRequest)) (copies []*record, err error) {
	defer func() {
		if err != nil {
			for _, c := range copies {
				d.disown(c)
			}
		}
	}()
	for i := range count {
		spec := cloneSpec(r.spec())
		spec.Name, spec.Hostname = name, ""
		if name != "" && count > 1 {
			spec.Name = name + "-" + strconv.Itoa(i+1)
		}
		if spec.Name != "" && !abi.ValidName(spec.Name) {
			return copies, errdefs.New(errdefs.InvalidArgument, strconv.Quote(spec.Name)+" cannot name an agent", errdefs.Op("clone"),
				errdefs.Fix("use 1 to 63 letters, digits, '.', '_' and '-', starting with a letter or digit"))
		}
		// It cannot be started again: what it was when it began was a moment.
		spec.Restart, spec.Isolated, spec.Domain = nil, false, r.domName
		if change != nil {
			change(spec)
		}
		c := newRecord(string(abi.NewAgentID()), spec, r.domName, d.clock.Now())
		c.from, c.special = r.id, r.special
		b := bearerFrom(ctx)
		if b != nil {
			c.tokens = b.IDs
		}
		if err := d.reserve(b, c); err != nil {
			return copies, err
		}
		copies = append(copies, c)
	}
	return copies, nil
}

// cloning is what kind of copies is made.
type cloning struct {
	op             lifecycle.Op
	method, reason string
	pause          bool
	only           *control.Specialize // less authority than the original's
	split          *control.Split      // some of its processes
}

// clone has the kernel process make the copies.
func (d *System) clone(ctx context.Context, r *record, dom *domain, copies []*record, how cloning) (reply control.CloneReply, err error) {
	who := actor(ctx)
	var labels []string
	for _, c := range copies {
		labels = append(labels, c.label())
	}
	call, err := d.askHooks(ctx, how.op, r, func(op *lifecycle.Operation) { op.Copies = labels })
	if err != nil {
		return reply, err
	}
	defer func() { call.Done(err) }()
	req := control.CloneRequest{ID: r.id, Pause: how.pause, Template: copies[0].isTemplate(), Only: how.only, Split: how.split, Actor: who}
	if req.Template {
		req.Ahead = ahead(copies[0].spec().GetTemplate())
	}
	var files []*os.File
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	r.mu.Lock()
	digest := r.digest
	r.mu.Unlock()
	for _, c := range copies {
		f, _, err := d.newLog(c.id)
		if err != nil {
			return reply, err
		}
		files = append(files, f)
		c.mu.Lock()
		c.domain, c.digest = dom, digest
		c.mu.Unlock()
		if err := d.create(c); err != nil {
			return reply, err
		}
		req.Copies = append(req.Copies, control.CloneCopy{ID: c.id, Name: c.name, Hostname: orElse(c.name, c.id)})
	}
	if err := dom.call(ctx, how.method, req, &reply, files...); err != nil {
		switch errdefs.CodeOf(err) {
		case errdefs.AgentNotFound: // It was there.
			return reply, errdefs.New(errdefs.AgentNotRunning, "the agent has ended", errdefs.Op(string(how.op)), errdefs.Resource("%s", r.label()))
		case errdefs.Cancelled, errdefs.DomainDied: // The kernel process may have made them all the same.
			for _, c := range copies {
				go dom.discard(c.id)
			}
		}
		return reply, errdefs.Wrap(err, errdefs.Internal, string(how.op), errdefs.Resource("%s", r.label()))
	}
	for _, c := range copies {
		d.begun(c)
	}
	dom.regroup()
	d.record(audit.Entry{
		Op: string(how.op), Domain: r.domName, Actor: who.Name, Agent: r.id, Target: strings.Join(labels, " "),
		Reason: how.reason, Correlation: who.Correlation,
	})
	return reply, nil
}

// emptied reports whether dom was made for one agent, and neither that nor a copy of
// it is in it any more.
func (d *System) emptied(dom *domain) bool {
	dom.mu.Lock()
	isolated := dom.info.Isolated
	dom.mu.Unlock()
	if !isolated {
		return false
	}
	for _, r := range d.records() {
		if r.domName == dom.name && !r.final() {
			return false
		}
	}
	return true
}
