package sentry

import (
	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
)

// SetCPU changes what the agent's own capability to CPU time says: the one that
// it was started with. What it has derived from it, and what others have given
// it, stays.
func (s *Kernel) SetCPU(req control.SetCPURequest) (control.SetCPUReply, error) {
	defer s.trail.flush()
	var none control.SetCPUReply
	a, err := s.agent(req.ID)
	if err == nil {
		err = a.mustLive()
	}
	if err != nil {
		return none, err
	}
	if s.space.HolderClosed(a.id) {
		return none, errdefs.New(errdefs.AgentSealed, "it was specialised: its CPU time is what it is", errdefs.Op("set CPU time"), errdefs.Resource("%s", a.id),
			errdefs.Fix("specialise its original again, with what is needed"))
	}
	a.cpuSetMu.Lock()
	defer a.cpuSetMu.Unlock()
	own := a.ownCPU()
	if own == nil {
		return none, errdefs.New(errdefs.WrongState, "the agent has no CPU time of its own", errdefs.Op("set CPU time"), errdefs.Resource("%s", a.id),
			errdefs.Fix("grant it some: aiosctl cap grant AGENT cpu:self"))
	}
	was := own.Spec()
	reply := control.SetCPUReply{Cap: string(own.ID()), Was: was.String(), Spec: was.String()}
	switch {
	case req.Spec == "":
		return reply, nil
	case req.Was != "" && req.Was != reply.Was:
		return none, errdefs.New(errdefs.WrongState, "somebody else has changed it meanwhile", errdefs.Op("set CPU time"), errdefs.Resource("%s", a.id),
			errdefs.Fix("look at what it is now, and try again"))
	}
	spec, err := capability.ParseSpec(req.Spec)
	if err != nil {
		return none, err
	}
	if spec.Object.Class != abi.ClassCPU {
		return none, errdefs.New(errdefs.InvalidArgument, "it is no grant of CPU time", errdefs.Op("set CPU time"), errdefs.Resource("%s", req.Spec))
	}
	if err := s.hasCPUs(spec.Object); err != nil {
		return none, err
	}
	if spec.Object == was.Object && spec.Limits == was.Limits {
		return reply, nil
	}
	// What was refused to it before is no reason to refuse what is nothing to do
	// with it.
	promise := spec.Object != was.Object || spec.Limits.Reserve != was.Limits.Reserve || spec.Limits.Every != was.Limits.Every
	if promise {
		if err := a.cpuFits(own, &was, &spec); err != nil {
			return none, err
		}
	}
	defer s.trail.flush()
	by := s.actor(req.Actor)
	if err := s.space.Amend(own, spec.Object, spec.Limits, by); err != nil {
		return none, err
	}
	if err := a.cpuRefusal(); err != nil && promise { // Somebody else was faster.
		s.space.Amend(own, was.Object, was.Limits, by) // What fitted before fits.
		return none, err
	}
	reply.Spec = own.Spec().String()
	s.emitFor(a, event.CPUParams, &eventv1.CPUParams{
		By: by.Name, Capability: reply.Cap, Grant: event.Text(reply.Spec), Was: event.Text(reply.Was),
	}, by.Correlation)
	return reply, nil
}

// ownCPU returns the capability to CPU time that the agent was started with, or
// nil.
func (a *Agent) ownCPU() *capability.Capability {
	for _, c := range a.s.space.List(a.id) {
		if c.Live() && c.Object().Class == abi.ClassCPU && c.Parent() == nil && c.Origin() == "" {
			return c
		}
	}
	return nil
}

// cpuFits reports whether the agent can have what it would be granted if its own
// capability, which says was, said spec.
func (a *Agent) cpuFits(own *capability.Capability, was, spec *capability.Spec) error {
	var g cpuGrants
	for _, c := range a.s.space.List(a.id) {
		switch {
		case !c.Live() || c.Object().Class != abi.ClassCPU:
		case c == own:
			left, _ := c.Left(capability.KindReserve)
			given := was.Limits.Reserve - min(left, was.Limits.Reserve)
			g.addSpec(spec, spec.Limits.Reserve-min(given, spec.Limits.Reserve))
		default:
			g.add(c)
		}
	}
	if err := a.crowd.Group().Fits(g.params()); err != nil {
		return errdefs.Wrap(err, errdefs.CPULimit, "set CPU time")
	}
	return nil
}
