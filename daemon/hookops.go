package daemon

import (
	"context"
	"slices"

	"golang.org/x/sys/unix"

	"aios.dev/aios/api"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/control"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/images"
	"aios.dev/aios/lifecycle"
)

// hookCall is an operation that hooks have agreed to. Nil: there are no hooks.
type hookCall struct {
	call  *lifecycle.Call
	n     *hookNotices
	agent string
}

// Done has hooks told what became of it.
func (c *hookCall) Done(err error) {
	if c == nil {
		return
	}
	c.call.Done(err)
	c.n.end(c.agent)
}

// askHooks asks the hooks before an operation on an agent; more says what is
// particular to it. If it fails, the operation must not be done; else its outcome
// is told by Done.
func (d *System) askHooks(ctx context.Context, name lifecycle.Op, r *record, more func(*lifecycle.Operation)) (*hookCall, error) {
	reg := d.hooks.registry.Load()
	if reg == nil {
		return nil, nil
	}
	if !reg.Hears(name) { // But perhaps the agent's end, which is told after this.
		d.hooks.notices.begin(r.id)
		return &hookCall{n: &d.hooks.notices, agent: r.id}, nil
	}
	by := actor(ctx)
	op := d.operation(name, r, lifecycle.Caller{Name: by.Name}, by.Correlation)
	if p, ok := api.PeerFrom(ctx); ok {
		op.Caller.UID = &p.UID
	}
	if more != nil {
		more(op)
	}
	d.hooks.notices.begin(r.id)
	call, err := reg.Begin(ctx, op)
	if err != nil {
		d.hooks.notices.end(r.id)
		return nil, err
	}
	return &hookCall{call, &d.hooks.notices, r.id}, nil
}

// operation describes an operation on an agent to hooks.
func (d *System) operation(name lifecycle.Op, r *record, by lifecycle.Caller, correlation string) *lifecycle.Operation {
	req := r.spec()
	op := &lifecycle.Operation{Op: name, Caller: by, Correlation: correlation, Agent: lifecycle.Agent{
		ID: r.id, Name: r.name, Domain: r.domName, Image: imageName(req), Program: req.GetProcess().GetArgv(),
		Profile: req.GetProfile(), Labels: req.GetLabels(), Grants: []string{},
	}}
	if op.Agent.Image != images.HostName {
		img, _ := d.imageNamed(op.Agent.Image) // One that is not there has no program.
		if p, err := process(req.GetProcess(), img.Config, ""); err == nil {
			op.Agent.Program = p.Argv
		}
	}
	given, err := givenBy(req)
	if err != nil {
		return op // The spawn is refused for it.
	}
	own, _ := selfGrants(req.GetLimits(), given)
	for _, s := range slices.Concat(own, given) {
		op.Agent.Grants = append(op.Agent.Grants, s.String())
	}
	return op
}

// askBeforeKill asks the hooks before an agent is ended from outside. With force
// they cannot refuse, unless whoever asks shows a token. Nobody is asked about
// what has ended, or is not there.
func (d *System) askBeforeKill(ctx context.Context, ref string, signal int32, force bool) (*hookCall, error) {
	if d.hooks.registry.Load() == nil {
		return nil, nil
	}
	r, err := d.find(ref)
	if err != nil || r.final() {
		return nil, nil
	}
	return d.askHooks(ctx, lifecycle.Kill, r, func(op *lifecycle.Operation) {
		op.Signal, op.Settled = signal, force && bearerFrom(ctx) == nil
	})
}

// tellExit has hooks told that an agent has ended.
func (d *System) tellExit(r *record, exit *apiv1.Exit) {
	reg := d.hooks.registry.Load()
	if !reg.Hears(lifecycle.Exit) {
		return
	}
	d.hooks.notices.afterwards(r.id, func() {
		op := d.operation(lifecycle.Exit, r, lifecycle.Caller{Name: "kernel"}, "")
		op.End = &lifecycle.End{Code: exit.GetCode(), Signal: exit.GetSignal(), Reason: exit.GetReason()}
		reg.Tell(op)
	})
}

// tellHooks has hooks told of what was done without asking: by alerts, by the
// policies of an agent, by the kernel itself, or by another agent that may.
func (d *System) tellHooks(e event.Event) {
	var name lifecycle.Op
	var by control.By
	switch p := e.Payload.(type) {
	case *eventv1.AgentKill:
		name, by = lifecycle.Kill, control.By{By: p.GetBy(), Reason: p.GetReason()}
	case *eventv1.AgentPause:
		name, by = lifecycle.Pause, control.By{By: p.GetBy()}
		if e.Type == event.AgentResume {
			name = lifecycle.Resume
		}
	}
	reg := d.hooks.registry.Load()
	if by.By == "" || by.By == "operator" || !reg.Hears(name) {
		return // That is asked about where it is done.
	}
	r, err := d.find(e.Agent)
	if err != nil {
		return
	}
	op := d.operation(name, r, lifecycle.Caller{Name: by.By}, e.Correlation)
	op.Reason = by.Reason
	if name == lifecycle.Kill {
		op.Signal = int32(unix.SIGKILL)
	}
	reg.Tell(op)
}
