package daemon

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"aios.dev/aios/config"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	"aios.dev/aios/event/alert"
	"aios.dev/aios/event/hub"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/ktime"
	"aios.dev/aios/recovery"
)

// alerts has the rules of the configuration at work. The engine decides; here
// is what it is told, and what is done: alertactions.go, alerthook.go. What has
// to outlive the daemon is in a file: alertstate.go.
//
// mu may be taken before the locks of the hub and of health; saveMu before mu.
type alerts struct {
	d      *System
	began  time.Time
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	acting chan struct{} // holds one for each agent that is acted on
	hooks  hookRuns

	saveMu sync.Mutex
	saved  uint64 // +checklocks:saveMu

	mu     sync.Mutex
	engine *alert.Engine         // +checklocks:mu
	last   int64                 // +checklocks:mu
	said   []alert.Change        // +checklocks:mu
	active map[alertKey]*active  // +checklocks:mu
	jobs   map[alertKey][]func() // +checklocks:mu
	// What is to be undone and is not yet.
	undo map[*active]alertKey // +checklocks:mu
	// Counts what has to be saved.
	version uint64                   // +checklocks:mu
	faults  map[string]*actionFaults // +checklocks:mu
	// What a former daemon did that is to be undone.
	orphans []savedAlert        // +checklocks:mu
	sub     *hub.Subscription   // +checklocks:mu
	missed  uint64              // +checklocks:mu
	timer   ktime.Timer         // +checklocks:mu
	due     int64               // +checklocks:mu
	sampler alertSampler        // +checklocks:mu
	shown   map[string]struct{} // +checklocks:mu
	// known says that the domains are that an earlier daemon left: before, that a
	// sample misses an agent says nothing about the agent.
	known   bool // +checklocks:mu
	stopped bool // +checklocks:mu
}

// alertKey names a group of a rule.
type alertKey struct{ rule, group string }

// active is an alert that fires and was told.
type active struct {
	correlation string
	print       string
	group       alert.Group
	// What is in force, or about to be.
	throttle, paused bool
	skipped          bool // there was too much to do
}

// actionFaults are the actions of a rule that failed.
type actionFaults struct {
	count uint64
	err   error
	at    time.Time
}

// compileAlerts examines what the file says of alerts.
func (s *settings) compileAlerts(doc *config.Document) error {
	if len(s.Alerts) > alert.MaxRules {
		return doc.Fail("alerts", errdefs.Newf(errdefs.InvalidArgument, "%d alerts are too many", len(s.Alerts)).
			With(errdefs.Fix("keep at most %d", alert.MaxRules)))
	}
	seen := make(map[string]bool)
	for i := range s.Alerts {
		entry := fmt.Sprintf("alerts[%d]", i)
		rule, key, err := s.Alerts[i].Compile()
		if err == nil {
			key, err = checkHook(rule.Actions())
		}
		if err != nil {
			if key != "" {
				entry += "." + key
			}
			return doc.Fail(entry, err)
		}
		if seen[rule.Name()] {
			return doc.Fail(entry+".name", errdefs.Newf(errdefs.InvalidArgument, "another alert has the name %q", rule.Name()).
				With(errdefs.Fix("choose another")))
		}
		seen[rule.Name()] = true
		s.alerts = append(s.alerts, rule)
	}
	return nil
}

// openAlerts puts the rules to work, with what an earlier daemon knew of them.
// The domains are not known yet.
func (d *System) openAlerts(rules []*alert.Rule) error {
	a := &alerts{
		d: d, began: d.clock.Now(), acting: make(chan struct{}, actingAtOnce), active: make(map[alertKey]*active),
		jobs: make(map[alertKey][]func()), undo: make(map[*active]alertKey), faults: make(map[string]*actionFaults),
		shown: make(map[string]struct{}),
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	a.hooks.init(a)
	a.engine = alert.New(a.say) // +checklocksignore: nobody else knows a yet.
	d.alerts = a
	saved, err := a.load()
	if err != nil {
		return err
	}
	d.applyAlerts(rules)
	a.restore(saved)
	return nil
}

func (a *alerts) path() string { return filepath.Join(a.d.paths.Events, "alerts.json") }

// always are topics that are listened to whatever the rules say.
var always = []string{"agent.exit", "agent.lost", "agent.resume", "domain.stop", "domain.crash"}

// applyAlerts has these rules at work and no others. One that has not changed
// goes on undisturbed.
func (d *System) applyAlerts(rules []*alert.Rule) {
	a := d.alerts
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.engine.Apply(a.nowLocked(), rules)
	a.hooks.apply(rules)
	topics := slices.Concat(always, a.engine.Topics())
	switch {
	case a.sub != nil:
		if err := a.sub.Retopic(topics); err != nil { // They are those of types that there are.
			d.log.Error("alerts", "err", err)
		}
	case len(rules) > 0:
		sub, err := d.events.Subscribe(hub.Options{Name: "alerts", Topics: topics, Capacity: maxWaiting})
		if err != nil {
			d.log.Error("alerts", "err", err)
			break
		}
		a.sub = sub
		a.work.Go(func() { a.listen(sub) })
	}
	a.sampler.every = 0
	for _, r := range rules {
		if e := r.Every(); e > 0 && (a.sampler.every == 0 || e < a.sampler.every) {
			a.sampler.every = e
		}
	}
	a.armSampler()
	a.flush()
}

// nowLocked is the time of the engine.
//
// +checklocks:a.mu
func (a *alerts) nowLocked() int64 {
	a.last = max(a.last, int64(a.d.clock.Since(a.began)))
	return a.last
}

// wall translates a time of the engine.
//
// +checklocks:a.mu
func (a *alerts) wall(at int64) time.Time {
	return a.d.clock.Now().Add(time.Duration(at - a.nowLocked()))
}

// stop ends everything; the next daemon goes on with what fires.
func (a *alerts) stop() {
	a.cancel()
	a.mu.Lock()
	a.stopped = true
	if a.timer != nil {
		a.timer.Stop()
	}
	a.sampler.stop()
	if a.sub != nil {
		a.sub.Close()
	}
	a.mu.Unlock()
	a.work.Wait()
	a.save()
}

// listen tells the engine of events, until the daemon ends.
func (a *alerts) listen(sub *hub.Subscription) {
	for {
		e, missed, err := sub.Next(a.ctx)
		switch {
		case err != nil:
			if a.ctx.Err() == nil {
				a.d.log.Error("alerts see no events any more", "err", err)
			}
			return
		case missed != nil:
			a.mu.Lock()
			a.missed += missed.Count
			a.mu.Unlock()
			a.d.log.Warn("alerts did not see events", "count", missed.Count, "why", missed.Why)
		default:
			a.take(&e)
		}
	}
}

// take tells the engine of one event.
func (a *alerts) take(e *event.Event) {
	named, _ := a.d.eventNames.Load(e.Agent)
	name, _ := named.(string)
	age := max(0, a.d.clock.Now().UnixNano()-e.Wall)
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.nowLocked()
	a.engine.Event(now, now-age, e, name)
	switch e.Type {
	case event.AgentExit, event.AgentLost:
		a.engine.End(now, e.Agent, "")
	case event.DomainStop, event.DomainCrash:
		a.engine.End(now, "", e.Domain)
	case event.AgentResume:
		if p, ok := e.Payload.(*eventv1.AgentPause); ok && !strings.HasPrefix(p.GetBy(), alertActor) {
			a.resumed(e.Agent)
		}
	}
	a.flush()
}

// say takes what the engine says.
//
// +checklocks:a.mu
func (a *alerts) say(c alert.Change) { a.said = append(a.said, c) }

// flush tells of what the engine has said, begins to act on it, and has the
// engine called again when it must be.
//
// +checklocks:a.mu
func (a *alerts) flush() {
	next := a.engine.Tick(a.nowLocked())
	for _, c := range a.said {
		a.version++
		switch c.Kind {
		case alert.Fired:
			a.fire(c)
		case alert.Muted:
			a.muted(c)
		case alert.Resolved:
			a.resolve(c)
		}
	}
	if len(a.said) > 0 {
		a.said = a.said[:0]
		a.showHealth()
	}
	if next == a.due || a.stopped {
		return
	}
	if a.timer != nil {
		a.timer.Stop()
	}
	a.due = next
	if next != 0 {
		a.timer = a.d.clock.AfterFunc(time.Duration(next-a.nowLocked()), a.tick)
	}
}

// tick has time pass for the engine.
func (a *alerts) tick() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.due = 0
	if !a.stopped {
		a.flush()
	}
}

// payload is what is said of a change.
func (a *alerts) payload(c alert.Change) *eventv1.Alert {
	limit, below := c.Rule.Limit()
	return &eventv1.Alert{
		Rule: c.Rule.Name(), Kind: c.Rule.Kind().String(), Of: event.Text(c.Rule.Of()), Value: math.Round(c.Group.Value*1000) / 1000, Limit: limit, Below: below,
		Note: event.Text(c.Rule.Note()), AgentName: c.Group.Name,
	}
}

// fire says that an alert fires, and has it acted on.
//
// +checklocks:a.mu
func (a *alerts) fire(c alert.Change) {
	key := alertKey{c.Rule.Name(), c.Group.Key}
	act := &active{correlation: errdefs.NewCorrelation(), print: c.Rule.Print(), group: c.Group}
	p := a.payload(c)
	p.Reason, p.Actions = event.Text(c.Rule.Reason(c.Group.Value, true)), c.Rule.Actions().Names()
	if acts := c.Rule.Actions(); acts != nil {
		act.throttle, act.paused = acts.Throttle != nil, acts.Pause != nil
	}
	act.skipped = len(a.jobs[key]) >= maxJobs
	a.active[key] = act
	said := a.d.events.Emit(event.Event{
		Type: event.AlertFire, Severity: c.Rule.Severity(), Agent: c.Group.Agent, Domain: c.Group.Domain, Correlation: act.correlation, Payload: p,
	})
	a.queue(key, func() { a.act(key, act, c.Rule, said) })
}

// resolve says that an alert fires no longer, and has what was done undone.
//
// +checklocks:a.mu
func (a *alerts) resolve(c alert.Change) {
	key := alertKey{c.Rule.Name(), c.Group.Key}
	act := a.active[key]
	delete(a.active, key)
	if act == nil {
		return
	}
	a.undo[act] = key
	p := a.payload(c)
	p.Lasted, p.Reason = c.Lasted, event.Text(c.Why)
	if c.Why == "" {
		p.Reason = event.Text(c.Rule.Reason(c.Group.Value, false))
	}
	if acts := c.Rule.Actions(); acts != nil {
		if acts.Throttle != nil {
			p.Actions = append(p.Actions, "throttle")
		}
		if acts.Pause != nil && acts.Pause.Resume {
			p.Actions = append(p.Actions, "pause")
		}
	}
	said := a.d.events.Emit(event.Event{
		Type: event.AlertResolve, Agent: c.Group.Agent, Domain: c.Group.Domain, Correlation: act.correlation, Payload: p,
	})
	a.queue(key, func() { a.unact(key, act, c.Rule, said) })
}

func alertComponent(rule string) string { return "alert " + rule }

// maxNamed is how many agents health names.
const maxNamed = 3

// showHealth puts rules that fire, and whose severity is at least error, among
// the components.
//
// +checklocks:a.mu
func (a *alerts) showHealth() {
	showing := make(map[string]struct{})
	for _, st := range a.engine.Status(a.nowLocked()) {
		if st.Rule.Severity() < event.Error {
			continue
		}
		var of []string
		why := ""
		for _, g := range st.Groups {
			if g.State != alert.Firing || g.Silenced != 0 {
				continue
			}
			of = append(of, orElse(g.Name, g.Key))
			why = st.Rule.Condition()
			if g.Known && st.Rule.Kind() != alert.KindAbsence {
				why += ", now " + st.Rule.Show(g.Value)
			}
		}
		if len(of) == 0 {
			continue
		}
		c := recovery.Component{
			Name: alertComponent(st.Rule.Name()), Level: recovery.Degraded, Reason: why,
			Fix: "`aiosctl alert show " + st.Rule.Name() + "` says what it is about; `aiosctl alert silence " + st.Rule.Name() + " --for 1h` keeps it quiet",
		}
		if st.Rule.Severity() >= event.Critical {
			c.Level = recovery.Failed
		}
		if n := len(of); n > maxNamed {
			of = append(of[:maxNamed], fmt.Sprintf("%d more", n-maxNamed))
		}
		if st.Rule.By() != alert.ByNone {
			c.Reason = strings.Join(of, ", ") + ": " + why
		}
		showing[c.Name] = struct{}{}
		a.d.health.Set(c)
	}
	for name := range a.shown {
		if _, still := showing[name]; !still {
			a.d.health.Remove(name)
		}
	}
	a.shown = showing
}

// lookAtAlerts brings health up to date: silences end by themselves.
func (d *System) lookAtAlerts() {
	if a := d.alerts; a != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.showHealth()
		a.flush()
	}
}
