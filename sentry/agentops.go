package sentry

import (
	"encoding/json"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/ctlfs"
	"aios.dev/aios/sentry/ctlfs/command"
)

// ctlAuthority is the kernel as agents ask it through the control tree.
type ctlAuthority struct{ s *Kernel }

var _ ctlfs.Authority = ctlAuthority{}

// Space implements ctlfs.Authority.Space.
func (c ctlAuthority) Space() *capability.Space { return c.s.space }

// Holder implements ctlfs.Authority.Holder.
func (c ctlAuthority) Holder(ctx context.Context) (string, bool) {
	t := kernel.TaskFromContext(ctx)
	if t == nil {
		agent, ok := ctx.Value(holderKey{}).(string)
		return agent, ok
	}
	a := c.s.agentOf(t)
	if a == nil {
		return "", false
	}
	return a.id, true
}

// Actor implements ctlfs.Authority.Actor.
func (c ctlAuthority) Actor(agent string) capability.Actor {
	return capability.Actor{Name: agent, Correlation: errdefs.NewCorrelation()}
}

// Self implements ctlfs.Authority.Self.
func (c ctlAuthority) Self(agent string) (name, domain string) {
	if a, ok := c.s.byID.Load(agent); ok {
		name = a.(*Agent).name
	}
	return name, c.s.cfg.Domain
}

// Delegate implements ctlfs.Authority.Delegate.
func (c ctlAuthority) Delegate(ctx context.Context, by capability.Actor, cap *capability.Capability, to string, ch capability.Change, move bool) (*capability.Capability, error) {
	s := c.s
	if a := s.agentNamed(to); a != nil {
		return s.delegate(cap, a.id, ch, move, by)
	}
	// The daemon knows agents elsewhere; it acts with the authority of this one.
	var ans control.Answer
	var err error
	s.away(ctx, func() {
		ans, err = s.ask(control.Ask{
			Kind: control.AskDelegate, Agent: by.Name, Actor: control.Actor{Name: by.Name, Correlation: by.Correlation},
			Cap: &control.CapRequest{Cap: cap.ID(), To: to, Change: ch, Move: move, Actor: control.Actor{Name: by.Name, Correlation: by.Correlation}},
		})
	})
	if err != nil {
		return nil, err
	}
	if ans.Cap == nil {
		return nil, errdefs.New(errdefs.Protocol, "the daemon made nothing")
	}
	// What is here of it is the node whose image it is.
	return s.space.ByID(ans.Cap.Origin)
}

// away marks ctx's task as asleep while f waits for another process.
func (s *Kernel) away(ctx context.Context, f func()) {
	if t, ok := ctx.(*kernel.Task); ok { // Others do not know their task.
		t.UninterruptibleSleepStart()
		defer t.UninterruptibleSleepFinish()
	}
	f()
}

// Attenuate implements ctlfs.Authority.Attenuate.
func (c ctlAuthority) Attenuate(by capability.Actor, cap *capability.Capability, ch capability.Change) (*capability.Capability, error) {
	defer c.s.trail.flush() // A restore has to know of it.
	return c.s.attenuate(cap, ch, by)
}

// Watch implements ctlfs.Authority.Watch.
func (c ctlAuthority) Watch(agent string, want *command.Watch, ready func()) (ctlfs.Watch, error) {
	a := c.s.findAgent(agent)
	if a == nil {
		return nil, errdefs.New(errdefs.AgentNotRunning, "the agent has ended")
	}
	w, err := a.watch(want, ready)
	if err != nil { // A nil *agentWatch would be a Watch.
		return nil, err
	}
	return w, nil
}

// Renew implements ctlfs.Authority.Renew.
func (c ctlAuthority) Renew(_ context.Context, by capability.Actor, cap *capability.Capability, lease time.Duration) error {
	return c.s.space.Renew(cap, lease, by)
}

// Revoke implements ctlfs.Authority.Revoke.
func (c ctlAuthority) Revoke(ctx context.Context, by capability.Actor, cap *capability.Capability, childrenOnly bool) (int, error) {
	s := c.s
	dead, err := s.space.Revoke(cap, !childrenOnly, by, "")
	if err != nil {
		return 0, err
	}
	s.settle(dead...)
	if exports := s.exportsOf(dead); len(exports) > 0 {
		s.away(ctx, func() {
			_, err = s.ask(control.Ask{
				Kind: control.AskRevoke, Agent: by.Name, Exports: exports, Actor: control.Actor{Name: by.Name, Correlation: by.Correlation},
			})
		})
	}
	return len(dead), errdefs.Wrap(err, errdefs.Internal, "revoke in other domains",
		errdefs.Fix("everything in this domain is revoked; revoke again to reach the others"))
}

// Act implements ctlfs.Authority.Act.
func (c ctlAuthority) Act(_ context.Context, by capability.Actor, cap *capability.Capability, do ctlfs.Action) (string, error) {
	s := c.s
	ref := do.Agent
	if ref == "" {
		ref = cap.Spec().Object.Name
	}
	a := s.agentNamed(ref)
	if a == nil {
		return "", errdefs.New(errdefs.AgentNotFound, "no agent of this domain has that ID or name", errdefs.Resource("%q", ref))
	}
	want := map[string]abi.Rights{
		ctlfs.ActSignal: abi.AgentSignal, ctlfs.ActPause: abi.AgentPause, ctlfs.ActResume: abi.AgentPause, ctlfs.ActInspect: abi.AgentInspect,
	}[do.Verb]
	object := capability.Object{Class: abi.ClassAgent, Name: a.id}
	if !cap.Allows(want) || want == 0 || !cap.Spec().Object.Contains(object) {
		err := errdefs.New(errdefs.CapabilityDenied, "the capability does not allow it", errdefs.Op(do.Verb), errdefs.Resource("%s", ref),
			errdefs.Fix("ask for agent:%s:%s", ref, want.Format(abi.ClassAgent)))
		return "", err
	}
	who := control.By{By: by.Name}
	id := control.AgentRequest{By: who, ID: a.id}
	var err error
	switch do.Verb {
	case ctlfs.ActSignal:
		_, err = s.Signal(control.SignalRequest{By: who, ID: a.id, Signal: int32(do.Signal)})
	case ctlfs.ActPause, ctlfs.ActResume:
		if a.id == by.Name { // It could not be told that it was done.
			return "", errdefs.New(errdefs.InvalidArgument, "an agent cannot pause itself", errdefs.Op(do.Verb))
		}
		if do.Verb == ctlfs.ActPause {
			_, err = s.Pause(id)
		} else {
			_, err = s.Resume(id)
		}
	case ctlfs.ActInspect:
		st, err := s.Inspect(id)
		if err != nil {
			return "", err
		}
		raw, err := json.Marshal(st)
		return string(raw), errdefs.Wrap(err, errdefs.Internal, "encode")
	}
	return "", err
}

// Explain implements ctlfs.Authority.Explain.
func (c ctlAuthority) Explain(_ context.Context, agent, op string) (bool, string, error) {
	v, ok := c.s.byID.Load(agent)
	if !ok {
		return false, "", errdefs.New(errdefs.AgentNotRunning, "the agent has ended")
	}
	e, err := v.(*Agent).explain(op)
	if err != nil {
		return false, "", err
	}
	lines := []string{e.Why}
	if e.Capability != "" {
		lines = append(lines, "through: "+e.Capability)
	}
	if e.Missing != "" {
		lines = append(lines, "missing: "+e.Missing)
	}
	if e.Errno != 0 {
		lines = append(lines, "errno: "+abi.ErrnoName(e.Errno))
	}
	return e.Allowed, strings.Join(lines, "\n"), nil
}

// Stats implements ctlfs.Authority.Stats.
func (c ctlAuthority) Stats(agent string) ([]byte, error) {
	if a := c.s.findAgent(agent); a != nil && c.s.cfg.Chaos {
		a.injected(chaosFile)
	}
	acc, err := c.s.Account(control.AgentRequest{ID: agent})
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(acc)
	return raw, errdefs.Wrap(err, errdefs.Internal, "encode the account")
}

// Denied implements ctlfs.Authority.Denied.
func (c ctlAuthority) Denied(agent, op, object string, why error) {
	c.s.gate.denials.note(Denial{Agent: agent, Operation: "ctl " + op, Object: object, Errno: errdefs.Errno(why), Why: why.Error()})
}

// Past implements ctlfs.Authority.Past.
func (c ctlAuthority) Past(agent string) (ctlfs.Past, error) {
	a := c.s.findAgent(agent)
	if a == nil {
		return ctlfs.Past{}, errdefs.New(errdefs.AgentNotRunning, "the agent has ended")
	}
	text, err := a.past.job.text()
	return ctlfs.Past{Copies: a.past.copies, From: a.past.from, Template: a.past.template, Job: text, Warming: a.warming != nil}, err
}

// Ready implements ctlfs.Authority.Ready.
func (c ctlAuthority) Ready(agent string) bool {
	a := c.s.findAgent(agent)
	if a == nil || a.warming == nil {
		return true
	}
	a.warming.isWarm()
	return false
}

// WantSignal implements ctlfs.Authority.WantSignal.
func (c ctlAuthority) WantSignal(ctx context.Context, agent string, want bool) error {
	a, t := c.s.findAgent(agent), kernel.TaskFromContext(ctx)
	if a == nil || t == nil {
		return errdefs.New(errdefs.AgentNotRunning, "the agent has ended")
	}
	a.notes.setSignal(t.ThreadGroup(), want)
	return nil
}
