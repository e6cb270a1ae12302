package daemon

import (
	"context"
	"strconv"
	"strings"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// interruptsService serves the API's service Interrupts.
type interruptsService struct {
	apiv1.UnimplementedInterruptsServer
	d *System
}

// Irqs implements the RPC.
func (i *interruptsService) Irqs(ctx context.Context, req *apiv1.IrqsRequest) (*apiv1.IrqsResponse, error) {
	const op = "list interrupts"
	d, name := i.d, req.GetDomain()
	var ask control.InterruptsRequest
	if req.GetAgent() != "" {
		r, err := d.find(req.GetAgent())
		if err != nil {
			return nil, err
		}
		if name != "" && name != r.domName {
			return nil, errdefs.New(errdefs.InvalidArgument, "the agent is in domain "+r.domName, errdefs.Op(op), errdefs.Resource("%s", name),
				errdefs.Fix("leave the domain out"))
		}
		ask.Agent, name = r.id, r.domName
	}
	dom, err := d.runningDomain(op, orElse(name, defaultDomain))
	if err != nil {
		return nil, err
	}
	var got control.InterruptsReply
	if err := dom.call(ctx, control.MethodInterrupts, ask, &got); err != nil {
		return nil, err
	}
	resp := &apiv1.IrqsResponse{Domain: dom.name, Cpus: uint32(got.CPUs)}
	for _, l := range got.Lines {
		out := &apiv1.IrqLine{
			Line: uint32(l.Line), Name: l.Name, Doc: l.Doc, Counts: l.Counts, Way: l.Way, Maskable: l.Maskable, Routable: l.Routable,
			Masked: l.Masked, Pending: uint32(l.Pending), Cpus: l.CPUs, Priority: uint32(l.Priority), Limit: l.Limit, Throttle: l.Throttle,
			Deferred: l.Deferred, Dropped: l.Dropped, Overflows: l.Overflows, Storms: l.Storms,
			Late: l.Late, P50: l.P50, P99: l.P99, Max: l.Max,
		}
		for _, id := range l.Stormy {
			if r, err := d.find(id); err == nil && r.name != "" {
				id = r.name
			}
			out.Stormy = append(out.Stormy, id)
		}
		resp.Lines = append(resp.Lines, out)
	}
	return resp, nil
}

// IrqSet implements the RPC.
func (i *interruptsService) IrqSet(ctx context.Context, req *apiv1.IrqSetRequest) (*apiv1.IrqSetResponse, error) {
	const op = "set interrupts"
	set := control.SetInterruptsRequest{Line: req.GetLine(), Mask: req.Masked, CPUs: req.Cpus, Limit: req.Limit}
	var said []string
	if req.Masked != nil {
		said = append(said, "masked="+strconv.FormatBool(req.GetMasked()))
	}
	if req.Cpus != nil {
		said = append(said, "cpus="+req.GetCpus())
	}
	if req.Limit != nil {
		said = append(said, "limit="+strconv.FormatUint(req.GetLimit(), 10))
	}
	if req.Priority != nil {
		p := int(min(req.GetPriority(), 1<<16))
		set.Priority = &p
		said = append(said, "priority="+strconv.Itoa(p))
	}
	if len(said) != 1 {
		return nil, errdefs.New(errdefs.InvalidArgument, "one thing about a line is changed at a time", errdefs.Op(op),
			errdefs.Fix("give one of masked, cpus, priority and limit"))
	}
	dom, err := i.d.runningDomain(op, orElse(req.GetDomain(), defaultDomain))
	if err != nil {
		return nil, err
	}
	if err := dom.call(ctx, control.MethodSetInterrupts, set, nil); err != nil {
		return nil, err
	}
	by := actor(ctx)
	i.d.record(audit.Entry{
		Op: "irq", Domain: dom.name, Actor: by.Name, Target: req.GetLine(), Correlation: by.Correlation, Reason: strings.Join(said, " "),
	})
	return &apiv1.IrqSetResponse{}, nil
}
