package sentry

import (
	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// SetCPU changes what the agent's own capability to CPU time says: the one that
// it was started with. What it has derived from it, and what others have given
// it, stays.
func (s *Kernel) SetCPU(req control.SetCPURequest) (control.SetCPUReply, error) {
	var none control.SetCPUReply
	a, err := s.agent(req.ID)
	if err != nil {
		return none, err
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
	var own *capability.Capability
	for _, c := range s.space.List(a.id) {
		if c.Live() && c.Object().Class == abi.ClassCPU && c.Parent() == nil {
			own = c
			break
		}
	}
	if own == nil {
		return none, errdefs.New(errdefs.WrongState, "the agent has no CPU time of its own", errdefs.Op("set CPU time"), errdefs.Resource("%s", a.id),
			errdefs.Fix("grant it some: aiosctl cap grant AGENT %s", req.Spec))
	}
	was, by := own.Spec(), s.actor(req.Actor)
	if err := s.space.Amend(own, spec.Object, spec.Limits, by); err != nil {
		return none, err
	}
	if err := a.cpuRefusal(); err != nil {
		s.space.Amend(own, was.Object, was.Limits, by) // What fitted before fits.
		return none, err
	}
	return control.SetCPUReply{Cap: string(own.ID()), Was: was.String(), Spec: own.Spec().String()}, nil
}
