package daemon

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	"aios.dev/aios/event/alert"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/internal/safefile"
)

// savedAlerts is what of alerts outlives the daemon.
type savedAlerts struct {
	Silences []savedSilence `json:"silences,omitempty"`
	Firing   []savedAlert   `json:"firing,omitempty"`
}

type savedSilence struct {
	Rule   string    `json:"rule"`
	Agent  string    `json:"agent,omitempty"`
	Until  time.Time `json:"until"`
	By     string    `json:"by,omitempty"`
	Reason string    `json:"reason,omitempty"`
	Muted  uint64    `json:"muted,omitempty"`
}

// savedAlert is an alert that fires, and what is in force for it.
type savedAlert struct {
	Rule        string    `json:"rule"`
	Print       string    `json:"print"` // of this version of the rule
	Key         string    `json:"key,omitempty"`
	Agent       string    `json:"agent,omitempty"`
	Name        string    `json:"name,omitempty"`
	Domain      string    `json:"domain,omitempty"`
	Since       time.Time `json:"since"`
	Value       float64   `json:"value"`
	Told        bool      `json:"told,omitempty"`
	Correlation string    `json:"correlation,omitempty"`
	Throttle    bool      `json:"throttle,omitempty"`
	Paused      bool      `json:"paused,omitempty"`
	Resume      bool      `json:"resume,omitempty"`
	// Undo says that it fires no longer, and what is in force is to be undone.
	Undo bool `json:"undo,omitempty"`
}

// load reads what an earlier daemon saved.
func (a *alerts) load() (savedAlerts, error) {
	var s savedAlerts
	raw, err := os.ReadFile(a.path())
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, safefile.Fail(err, "read the states of alerts", a.path())
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, errdefs.Wrap(err, errdefs.HostIO, "read the states of alerts", errdefs.Resource("%s", a.path()),
			errdefs.Fix("move %s away: silences are then gone, and what alerts throttled or paused stays so", filepath.Base(a.path())))
	}
	return s, nil
}

// snapshot is what is to be saved, and which version of it.
func (a *alerts) snapshot() (s savedAlerts, version uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.nowLocked()
	for _, q := range a.engine.Silences(now) {
		s.Silences = append(s.Silences, savedSilence{Rule: q.Rule, Agent: q.Agent, Until: a.wall(q.Until), By: q.By, Reason: q.Reason, Muted: q.Muted})
	}
	for _, st := range a.engine.Status(now) {
		for _, g := range st.Groups {
			if g.State != alert.Firing {
				continue
			}
			f := a.savedOf(st.Rule.Name(), a.active[alertKey{st.Rule.Name(), g.Key}], g)
			f.Print, f.Resume = st.Rule.Print(), resumes(st.Rule)
			s.Firing = append(s.Firing, f)
		}
	}
	for act, key := range a.undo {
		f := a.savedOf(key.rule, act, act.group)
		f.Undo, f.Resume = true, act.paused
		s.Firing = append(s.Firing, f)
	}
	s.Firing = append(s.Firing, a.orphans...)
	return s, a.version
}

// savedOf is what is saved of an alert that fires or is to be undone.
//
// +checklocks:a.mu
func (a *alerts) savedOf(rule string, act *active, g alert.Group) savedAlert {
	f := savedAlert{
		Rule: rule, Key: g.Key, Agent: g.Agent, Name: g.Name, Domain: g.Domain, Since: a.wall(g.Since), Value: g.Value, Told: g.Told,
	}
	if act != nil {
		f.Print, f.Correlation, f.Throttle, f.Paused = act.print, act.correlation, act.throttle, act.paused
	}
	return f
}

func resumes(r *alert.Rule) bool {
	acts := r.Actions()
	return acts != nil && acts.Pause != nil && acts.Pause.Resume
}

// save writes down what outlives the daemon, unless it was since it changed.
func (a *alerts) save() {
	a.mu.Lock()
	want := a.version
	a.mu.Unlock()
	a.saveMu.Lock()
	defer a.saveMu.Unlock()
	if a.saved >= want {
		return
	}
	s, version := a.snapshot()
	raw, err := json.Marshal(s)
	if err == nil {
		err = safefile.Write(a.path(), raw)
	}
	if err != nil {
		a.d.log.Error("saving the states of alerts", "err", err)
		return
	}
	a.saved = version
}

// restore goes on with what an earlier daemon knew. What it did for rules that
// are no more is undone when the domains are known.
func (a *alerts) restore(s savedAlerts) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now, wall := a.nowLocked(), a.d.clock.Now()
	for _, q := range s.Silences {
		if q.Until.After(wall) {
			a.engine.Silence(now, alert.Silence{Rule: q.Rule, Agent: q.Agent, Until: now + int64(q.Until.Sub(wall)), By: q.By, Reason: q.Reason, Muted: q.Muted})
		}
	}
	for _, f := range s.Firing {
		g := alert.Group{
			Key: f.Key, Agent: f.Agent, Name: f.Name, Domain: f.Domain, Since: now + int64(f.Since.Sub(wall)), Value: f.Value, Told: f.Told,
		}
		key := alertKey{f.Rule, f.Key}
		if !f.Undo && f.Told {
			a.active[key] = &active{correlation: f.Correlation, print: f.Print, group: g, throttle: f.Throttle, paused: f.Paused}
		}
		if f.Undo || !a.engine.Restore(now, f.Rule, f.Print, g) {
			delete(a.active, key)
			a.orphans = append(a.orphans, f)
		}
	}
	a.version++
	a.flush()
}

// recovered is called when the domains and agents are known that an earlier
// daemon left.
func (a *alerts) recovered() {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.nowLocked()
	for _, r := range a.d.records() {
		if r.final() {
			a.engine.End(now, r.id, "")
		}
	}
	for key, act := range a.active {
		if act.group.Agent == "" {
			continue
		}
		a.d.mu.Lock()
		there := a.d.agents[act.group.Agent] != nil
		a.d.mu.Unlock()
		if !there {
			a.engine.End(now, key.group, "")
		}
	}
	for _, f := range a.orphans {
		act := &active{
			correlation: f.Correlation, print: f.Print, throttle: f.Throttle, paused: f.Paused,
			group: alert.Group{Key: f.Key, Agent: f.Agent, Name: f.Name, Domain: f.Domain},
		}
		key := alertKey{f.Rule, f.Key}
		if f.Told && !f.Undo {
			a.d.events.Emit(event.Event{Type: event.AlertResolve, Agent: f.Agent, Domain: f.Domain, Correlation: f.Correlation, Payload: &eventv1.Alert{
				Rule: f.Rule, Value: f.Value, Reason: "the rule was changed or taken out while there was no daemon", AgentName: f.Name,
			}})
		}
		a.undo[act] = key
		a.queue(key, func() {
			if f.Agent != "" {
				a.revert(key, act, f.Resume)
			}
			a.mu.Lock()
			delete(a.undo, act)
			a.version++
			a.mu.Unlock()
			a.save()
		})
	}
	a.orphans = nil
	a.version++
	a.flush()
	a.known = true
	a.armSampler()
}
