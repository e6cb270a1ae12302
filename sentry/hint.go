package sentry

import (
	"strings"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/sched"
)

// setHint has the scheduler know what the agent says of what it does.
func (a *Agent) setHint(name string) error {
	h, ok := sched.ParseHint(name)
	if !ok {
		var names []string
		for _, p := range sched.Hints() {
			names = append(names, p.Name)
		}
		return errdefs.New(errdefs.InvalidArgument, "there is no such hint", errdefs.Op("hint"), errdefs.Resource("%q", name),
			errdefs.Fix("say one of %s", strings.Join(names, ", ")))
	}
	a.crowd.Group().SetHint(h)
	return nil
}

// Hint sets what an agent is taken to do, or tells it if the request names no hint.
func (s *Kernel) Hint(req control.HintRequest) (control.HintReply, error) {
	a, err := s.agent(req.ID)
	if err != nil {
		return control.HintReply{}, err
	}
	if req.Hint != "" {
		if err := a.setHint(req.Hint); err != nil {
			return control.HintReply{}, err
		}
	}
	return control.HintReply{Hint: a.crowd.Group().Hint().String()}, nil
}

// Hint implements ctlfs.Authority.Hint.
func (c ctlAuthority) Hint(agent string) (string, error) {
	a := c.s.findAgent(agent)
	if a == nil {
		return "", errdefs.New(errdefs.AgentNotRunning, "the agent has ended")
	}
	return a.crowd.Group().Hint().String(), nil
}

// SetHint implements ctlfs.Authority.SetHint.
func (c ctlAuthority) SetHint(agent, hint string) error {
	a := c.s.findAgent(agent)
	if a == nil {
		return errdefs.New(errdefs.AgentNotRunning, "the agent has ended")
	}
	return a.setHint(hint)
}
