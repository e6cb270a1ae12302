package sentry

import (
	"strings"
	"sync"
	"time"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/ktime"
	"aios.dev/aios/sentry/sched"
)

// hintEvery is how often it is told that an agent's hint has changed.
const hintEvery = time.Second

// hinted is what was told of an agent's hints: a change at once, and those that
// follow it soon together.
type hinted struct {
	mu    sync.Mutex
	timer ktime.WheelTimer
	// The timer is set.
	waits bool // +checklocks:mu
	// The hint that was told last, and changes since.
	told    sched.Hint // +checklocks:mu
	by      string     // +checklocks:mu
	changes uint64     // +checklocks:mu
}

// setHint has the scheduler know what somebody says of what the agent does. It
// returns what was said before.
func (a *Agent) setHint(name, by string) (was sched.Hint, err error) {
	h, ok := sched.ParseHint(name)
	if !ok {
		var names []string
		for _, p := range sched.Hints() {
			names = append(names, p.Name)
		}
		return 0, errdefs.New(errdefs.InvalidArgument, "there is no such hint", errdefs.Op("hint"), errdefs.Resource("%q", name),
			errdefs.Fix("say one of %s", strings.Join(names, ", ")))
	}
	a.hinted.mu.Lock()
	defer a.hinted.mu.Unlock()
	g := a.crowd.Group()
	if was = g.Hint(); was == h {
		return was, nil
	}
	g.SetHint(h)
	a.hinted.changes++
	a.hinted.by = by
	if !a.hinted.waits {
		a.tellHintLocked(h)
	}
	return was, nil
}

// +checklocks:a.hinted.mu
func (a *Agent) tellHintLocked(h sched.Hint) {
	t := &a.hinted
	if t.changes == 0 {
		return
	}
	a.s.emit(a, event.CPUHint, &eventv1.CPUHint{Hint: h.String(), Was: t.told.String(), By: t.by, Changes: t.changes})
	t.told, t.changes, t.waits = h, 0, true
	t.timer.Reset(hintEvery)
}

func (a *Agent) tellHint() {
	a.hinted.mu.Lock()
	defer a.hinted.mu.Unlock()
	a.hinted.waits = false
	a.tellHintLocked(a.crowd.Group().Hint())
}

// Hint sets what an agent is taken to do, or tells it if the request names no hint.
func (s *Kernel) Hint(req control.HintRequest) (control.HintReply, error) {
	a, err := s.agent(req.ID)
	if err == nil {
		err = a.mustLive()
	}
	if err != nil {
		return control.HintReply{}, err
	}
	was := a.crowd.Group().Hint()
	if req.Hint != "" {
		if was, err = a.setHint(req.Hint, s.actor(req.Actor).Name); err != nil {
			return control.HintReply{}, err
		}
	}
	return control.HintReply{Hint: a.crowd.Group().Hint().String(), Was: was.String()}, nil
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
	_, err := a.setHint(hint, agent)
	return err
}
