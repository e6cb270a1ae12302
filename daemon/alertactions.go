package daemon

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/capability/audit"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	"aios.dev/aios/event/alert"
	eventv1 "aios.dev/aios/event/v1"
)

const (
	// actingAtOnce is how many agents are acted on at once, and maxJobs how much
	// there may be to do about one group: an alert that comes and goes faster
	// than that is told, and not acted on.
	actingAtOnce = 16
	maxJobs      = 32
	actTimeout   = 10 * time.Second
	// alertActor begins the name of whoever acts for an alert.
	alertActor = "alert "
	// An agent that is starting is waited for, so long.
	startWait, startPoll = 10 * time.Second, 20 * time.Millisecond
)

// queue has something done about a group, after what is being done.
//
// +checklocks:a.mu
func (a *alerts) queue(key alertKey, job func()) {
	a.jobs[key] = append(a.jobs[key], job)
	if len(a.jobs[key]) == 1 {
		a.work.Go(func() { a.drain(key) })
	}
}

// drain does what there is to do about a group.
func (a *alerts) drain(key alertKey) {
	for {
		a.mu.Lock()
		job := a.jobs[key][0]
		a.mu.Unlock()
		job()
		a.mu.Lock()
		a.jobs[key] = a.jobs[key][1:]
		if len(a.jobs[key]) == 0 {
			delete(a.jobs, key)
			a.mu.Unlock()
			return
		}
		a.mu.Unlock()
	}
}

// noted writes an action into the audit trail, and keeps a failure for people.
func (a *alerts) noted(key alertKey, act *active, action, reason string, err error) {
	e := audit.Entry{
		Op: "alert", Actor: alertActor + key.rule, Domain: act.group.Domain, Agent: act.group.Agent, Target: action,
		Reason: reason, Correlation: act.correlation,
	}
	if err != nil {
		e.Code, e.Reason = string(errdefs.CodeOf(err)), err.Error()
		a.d.log.Warn("an action of an alert failed", "alert", key.rule, "action", action, "agent", act.group.Agent, "err", err)
		a.mu.Lock()
		f := a.faults[key.rule]
		if f == nil {
			f = new(actionFaults)
			a.faults[key.rule] = f
		}
		f.count++
		f.err, f.at = err, a.d.clock.Now()
		a.mu.Unlock()
	}
	a.d.record(e)
}

// act does what a rule says about an alert that fires. What will have to be
// undone is written down before it is done.
func (a *alerts) act(key alertKey, act *active, rule *alert.Rule, said event.Event) {
	acts := rule.Actions()
	if acts == nil {
		a.save()
		return
	}
	if act.skipped {
		a.noted(key, act, "all", "", errdefs.New(errdefs.QuotaExceeded, "the alert comes and goes faster than it can be acted on",
			errdefs.Fix("give the rule hold, for example 1m")))
		return
	}
	a.save()
	by := control.By{By: alertActor + key.rule}
	if p, ok := said.Payload.(*eventv1.Alert); ok {
		by.Reason = alertActor + key.rule + ": " + p.GetReason()
	}
	if t := acts.Throttle; t != nil {
		milli := t.Milli()
		err := a.onAgent(act, control.MethodCeiling, control.CeilingRequest{ID: act.group.Agent, Name: key.rule, MilliCPU: &milli})
		a.noted(key, act, "throttle", by.Reason, err)
	}
	if acts.Pause != nil {
		err := a.onAgent(act, control.MethodPause, control.AgentRequest{By: by, ID: act.group.Agent})
		if err != nil && !(errdefs.CodeOf(err) == errdefs.WrongState && a.pausedByAnother(key, act)) {
			a.mu.Lock()
			act.paused = false // Whoever paused it resumes it.
			a.version++
			a.mu.Unlock()
		} else {
			err = nil
		}
		a.noted(key, act, "pause", by.Reason, err)
	}
	if acts.Kill {
		a.d.endWish(act.group.Agent, alertActor+key.rule+" ended it")
		err := a.onAgent(act, control.MethodSignal, control.SignalRequest{By: by, ID: act.group.Agent, Signal: int32(unix.SIGKILL)})
		if errdefs.CodeOf(err) != errdefs.AgentNotRunning { // Else it has ended already.
			a.noted(key, act, "kill", by.Reason, err)
		}
	}
	if acts.Hook != nil {
		a.hooks.run(key, act, acts.Hook, "firing", said)
	}
}

// unact undoes what was done about an alert that fires no longer.
func (a *alerts) unact(key alertKey, act *active, rule *alert.Rule, said event.Event) {
	acts := rule.Actions()
	if acts != nil && !act.skipped {
		a.revert(key, act, acts.Pause != nil && acts.Pause.Resume)
		if acts.Hook != nil && acts.Hook.Resolved {
			a.hooks.run(key, act, acts.Hook, "resolved", said)
		}
	}
	a.mu.Lock()
	delete(a.undo, act)
	a.version++
	a.mu.Unlock()
	a.save()
}

// revert lifts the throttle, and resumes the agent if that is wanted and no
// other alert keeps it.
func (a *alerts) revert(key alertKey, act *active, resume bool) {
	const why = "the alert fires no longer"
	note := func(action string, err error) {
		if errdefs.CodeOf(err) != errdefs.AgentNotRunning { // Else there is nothing left to undo.
			a.noted(key, act, action, why, err)
		}
	}
	if act.throttle {
		note("unthrottle", a.onAgent(act, control.MethodCeiling, control.CeilingRequest{ID: act.group.Agent, Name: key.rule}))
	}
	a.mu.Lock()
	paused := act.paused
	a.mu.Unlock()
	if resume && paused && !a.pausedByAnother(key, act) {
		by := control.By{By: alertActor + key.rule}
		err := a.onAgent(act, control.MethodResume, control.AgentRequest{By: by, ID: act.group.Agent})
		if errdefs.CodeOf(err) != errdefs.WrongState { // Else somebody was faster.
			note("resume", err)
		}
	}
}

// pausedByAnother reports whether another alert keeps the agent paused.
func (a *alerts) pausedByAnother(key alertKey, act *active) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, other := range a.active {
		if k != key && other != act && other.paused && other.group.Agent == act.group.Agent {
			return true
		}
	}
	return false
}

// resumed hears that somebody other than an alert has resumed an agent: what
// happens to it from then on is theirs.
//
// +checklocks:a.mu
func (a *alerts) resumed(agent string) {
	for _, act := range a.active {
		if act.group.Agent == agent && act.paused {
			act.paused = false
			a.version++
		}
	}
}

// onAgent has the kernel process of the alert's agent do something to it.
func (a *alerts) onAgent(act *active, method string, req any) error {
	a.acting <- struct{}{}
	defer func() { <-a.acting }()
	dom, err := a.running(act.group.Agent)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(a.ctx, actTimeout)
	defer cancel()
	return dom.call(ctx, method, req, nil)
}

// running returns the domain of an agent, by its ID alone. One that is starting
// is waited for.
func (a *alerts) running(id string) (*domain, error) {
	late := a.d.clock.Now().Add(startWait)
	for {
		a.d.mu.Lock()
		r := a.d.agents[id]
		a.d.mu.Unlock()
		if r == nil {
			return nil, errdefs.New(errdefs.AgentNotRunning, "the agent is gone", errdefs.Resource("%s", id))
		}
		dom, err := r.running()
		if errdefs.CodeOf(err) != errdefs.WrongState || a.d.clock.Now().After(late) {
			return dom, err
		}
		woken := make(chan struct{})
		a.d.clock.AfterFunc(startPoll, func() { close(woken) })
		select {
		case <-woken:
		case <-a.ctx.Done():
			return nil, err
		}
	}
}

// muted writes down, once, that a silence keeps alerts from being told.
//
// +checklocks:a.mu
func (a *alerts) muted(c alert.Change) {
	s := c.Silence
	if s == nil || s.Muted != 1 {
		return
	}
	e := audit.Entry{
		Op: "alert.muted", Actor: s.By, Domain: c.Group.Domain, Agent: c.Group.Agent, Target: c.Rule.Name(),
		Reason: "silenced until " + a.wall(s.Until).UTC().Format(time.RFC3339) + "; it is not told and not acted on, and neither are those that follow: " + c.Rule.Reason(c.Group.Value, true),
	}
	a.queue(alertKey{c.Rule.Name(), c.Group.Key}, func() {
		a.d.record(e)
		a.save()
	})
}
