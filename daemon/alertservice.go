package daemon

import (
	"context"
	"time"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event/alert"
)

const (
	// maxSilence is how long a silence may be.
	maxSilence = 366 * 24 * time.Hour
	maxReason  = 512 // bytes
)

func noSuchAlert(op, name string) error {
	return errdefs.New(errdefs.NotFound, "the configuration has no such alert", errdefs.Op(op), errdefs.Resource("%s", name),
		errdefs.Fix("`aiosctl alert ls` lists them"))
}

// AlertList implements the RPC.
func (d *System) AlertList(_ context.Context, req *apiv1.AlertListRequest) (*apiv1.AlertListResponse, error) {
	a := d.alerts
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.nowLocked()
	resp := &apiv1.AlertListResponse{Missed: a.missed}
	for _, st := range a.engine.Status(now) {
		if name := st.Rule.Name(); req.GetRule() == "" || req.GetRule() == name {
			resp.Rules = append(resp.Rules, a.ruleProto(st))
		}
	}
	a.flush()
	if req.GetRule() != "" && len(resp.Rules) == 0 {
		return nil, noSuchAlert("show alert", req.GetRule())
	}
	for _, s := range a.engine.Silences(now) {
		if req.GetRule() != "" && req.GetRule() != s.Rule {
			continue
		}
		p := &apiv1.AlertSilenced{
			Rule: s.Rule, Agent: s.Agent, UntilUnixNano: a.wall(s.Until).UnixNano(), By: s.By, Reason: s.Reason, Muted: s.Muted,
		}
		if name, ok := d.eventNames.Load(s.Agent); ok {
			p.AgentName, _ = name.(string)
		}
		resp.Silences = append(resp.Silences, p)
	}
	return resp, nil
}

// ruleProto describes a rule to clients.
//
// +checklocks:a.mu
func (a *alerts) ruleProto(st alert.Status) *apiv1.AlertRule {
	r := st.Rule
	p := &apiv1.AlertRule{
		Name: r.Name(), Kind: r.Kind().String(), By: r.By().String(), Severity: r.Severity().String(), Condition: r.Condition(),
		Filter: r.Filter(), Actions: r.Actions().Names(), Note: r.Note(), HoldNano: int64(r.Hold()), Fired: st.Fired, Crowded: st.Crowded,
	}
	if f := a.faults[r.Name()]; f != nil {
		p.Failed, p.Error, p.ErrorUnixNano = f.count, f.err.Error(), f.at.UnixNano()
	}
	for _, g := range st.Groups {
		q := &apiv1.AlertGroup{
			Agent: g.Agent, AgentName: g.Name, Domain: g.Domain, State: g.State.String(), SinceUnixNano: a.wall(g.Since).UnixNano(),
			Told: g.Told, Fired: g.Fired,
		}
		if g.Known {
			q.Value, q.Shown = g.Value, r.Show(g.Value)
		}
		if g.Silenced != 0 {
			q.SilencedUnixNano = a.wall(g.Silenced).UnixNano()
		}
		if act := a.active[alertKey{r.Name(), g.Key}]; act != nil {
			for _, in := range []struct {
				name string
				on   bool
			}{{"throttle", act.throttle}, {"pause", act.paused}} {
				if in.on {
					q.InForce = append(q.InForce, in.name)
				}
			}
		}
		p.Groups = append(p.Groups, q)
	}
	return p
}

// silenced finds what a silence is about.
func (d *System) silenced(op, rule, ref string) (agent string, err error) {
	a := d.alerts
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, st := range a.engine.Status(a.nowLocked()) {
		if st.Rule.Name() != rule {
			continue
		}
		if ref == "" {
			return "", nil
		}
		if st.Rule.By() != alert.ByAgent {
			return "", errdefs.New(errdefs.InvalidArgument, "the alert is not about single agents", errdefs.Op(op), errdefs.Resource("%s", rule),
				errdefs.Fix("leave --agent out"))
		}
		if abi.IsAgentID(ref) {
			return ref, nil // It may have ended.
		}
		r, err := d.find(ref)
		if err != nil {
			return "", err
		}
		return r.id, nil
	}
	return "", noSuchAlert(op, rule)
}

// AlertSilence implements the RPC.
func (d *System) AlertSilence(ctx context.Context, req *apiv1.AlertSilenceRequest) (*apiv1.AlertSilenceResponse, error) {
	const op = "silence alert"
	length := time.Duration(req.GetForNano())
	switch {
	case length <= 0 || length > maxSilence:
		return nil, errdefs.New(errdefs.InvalidArgument, "nothing is silenced for so long", errdefs.Op(op), errdefs.Resource("%v", length),
			errdefs.Fix("give a duration of up to a year, such as 30m or 7d"))
	case len(req.GetReason()) > maxReason:
		return nil, errdefs.New(errdefs.InvalidArgument, "the reason is too long", errdefs.Op(op), errdefs.Fix("keep it to %d bytes", maxReason))
	}
	agent, err := d.silenced(op, req.GetRule(), req.GetAgent())
	if err != nil {
		return nil, err
	}
	by := actor(ctx)
	a := d.alerts
	a.mu.Lock()
	now := a.nowLocked()
	until := now + int64(length)
	ok := a.engine.Silence(now, alert.Silence{Rule: req.GetRule(), Agent: agent, Until: until, By: by.Name, Reason: req.GetReason()})
	resp := &apiv1.AlertSilenceResponse{UntilUnixNano: a.wall(until).UnixNano()}
	a.changedSilences()
	a.mu.Unlock()
	if !ok {
		return nil, errdefs.Newf(errdefs.QuotaExceeded, "there are %d silences", alert.MaxSilences).
			With(errdefs.Op(op), errdefs.Fix("end one first: `aiosctl alert ls` lists them"))
	}
	a.save()
	d.silenceRecorded("alert.silence", req.GetRule(), agent, "for "+length.String()+because(req.GetReason()), by)
	return resp, nil
}

// changedSilences follows a change to them.
//
// +checklocks:a.mu
func (a *alerts) changedSilences() {
	a.version++
	a.flush()
	a.showHealth()
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

func (d *System) silenceRecorded(op, rule, agent, reason string, by control.Actor) {
	d.record(audit.Entry{Op: op, Actor: by.Name, Agent: agent, Target: rule, Reason: reason, Correlation: by.Correlation})
}

// AlertUnsilence implements the RPC.
func (d *System) AlertUnsilence(ctx context.Context, req *apiv1.AlertUnsilenceRequest) (*apiv1.AlertUnsilenceResponse, error) {
	const op = "unsilence alert"
	agent := req.GetAgent()
	if r, err := d.find(agent); err == nil {
		agent = r.id
	}
	a := d.alerts
	a.mu.Lock()
	ok := a.engine.Unsilence(a.nowLocked(), req.GetRule(), agent)
	a.changedSilences()
	a.mu.Unlock()
	if !ok {
		return nil, errdefs.New(errdefs.NotFound, "it is not silenced", errdefs.Op(op), errdefs.Resource("%s", orElse(req.GetRule()+because(agent), "alert")),
			errdefs.Fix("`aiosctl alert ls` lists the silences"))
	}
	a.save()
	d.silenceRecorded("alert.unsilence", req.GetRule(), agent, "", actor(ctx))
	return &apiv1.AlertUnsilenceResponse{}, nil
}
