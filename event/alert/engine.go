package alert

import (
	"cmp"
	"container/heap"
	"maps"
	"slices"

	"aios.dev/aios/event"
)

// MaxGroups is how many groups one rule has.
const MaxGroups = 1024

// ChangeKind is what happened to an alert.
type ChangeKind uint8

// Kinds of changes.
const (
	Fired    ChangeKind = iota // it holds, and is to be told
	Muted                      // it holds, and a silence keeps it from being told
	Resolved                   // it holds no longer
)

// Change says that an alert fires, or does so no longer.
type Change struct {
	Kind  ChangeKind
	Rule  *Rule
	Group Group
	At    int64
	// Told says of one that is resolved whether it had been told.
	Told bool
	// Why it was resolved though it may still hold; "" when it does not hold.
	Why string
	// Lasted is how long it fired.
	Lasted int64
	// Silence is what mutes it.
	Silence *Silence
}

// Group is a group as others see it.
type Group struct {
	Key, Agent, Name, Domain string
	State                    State
	Since                    int64
	// Value is what was looked at last, if there was something.
	Value float64
	Known bool
	Told  bool
	// Silenced is until when it is not told; 0: it is.
	Silenced int64
	// Fired counts how often it has.
	Fired uint64
}

// work is a rule at work.
type work struct {
	*Rule
	engine *Engine
	slot   int64 // the length of one, of a rate
	groups map[string]*group
	fired  uint64
	// Events and samples that were for no group, since there were too many.
	crowded uint64
}

func (w *work) sorted() []*group {
	all := slices.Collect(maps.Values(w.groups))
	slices.SortFunc(all, func(a, b *group) int { return cmp.Compare(a.key, b.key) })
	return all
}

// Engine has rules at work.
type Engine struct {
	onChange func(Change)
	all      []*work
	byName   map[string]*work
	byType   [][]*work
	due      byDue
	silences silences
	// Scratch space of Sample.
	sums map[string]*sum
}

// sum adds up what the agents of a group have.
type sum struct {
	s     Sample
	value float64
	known bool
}

// New returns an engine without rules. onChange hears of changes, within the
// call that brings them about; it must not call the engine.
func New(onChange func(Change)) *Engine {
	return &Engine{
		onChange: onChange, byName: make(map[string]*work), byType: make([][]*work, len(event.Types())+1),
		silences: make(silences), sums: make(map[string]*sum),
	}
}

// Apply has these rules at work and no others. One that is the same as before
// goes on as it is; alerts of others are resolved.
func (e *Engine) Apply(now int64, rules []*Rule) {
	e.Tick(now)
	old := e.byName
	e.all, e.byName = nil, make(map[string]*work)
	for i := range e.byType {
		e.byType[i] = nil
	}
	for _, r := range rules {
		w := old[r.Name()]
		if w != nil && w.Same(r) {
			delete(old, r.Name())
		} else {
			w = &work{Rule: r, engine: e, slot: max(1, r.within/slots), groups: make(map[string]*group)}
		}
		e.all = append(e.all, w)
		e.byName[r.Name()] = w
		for _, info := range event.Types() {
			if r.types.Has(info.Type) {
				e.byType[info.Type] = append(e.byType[info.Type], w)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		for _, g := range old[name].sorted() {
			e.drop(g, now, "the rule was changed or taken out")
		}
	}
	for _, w := range e.all {
		if w.kind == KindAbsence && w.by == ByNone && len(w.groups) == 0 {
			g := e.group(w, "", nil)
			g.last = now
			e.update(g, now)
		}
	}
}

// Topics are those of the events that the rules look at.
func (e *Engine) Topics() []string {
	var set event.Set
	for _, w := range e.all {
		set = set.Or(w.types)
	}
	return set.Topics()
}

// group returns the group of a key, and makes it if there is room; else nil.
func (e *Engine) group(w *work, key string, of func(*group)) *group {
	g := w.groups[key]
	if g != nil {
		return g
	}
	if len(w.groups) >= MaxGroups {
		w.crowded++
		return nil
	}
	g = &group{rule: w, key: key, due: never, index: -1, calm: never}
	if of != nil {
		of(g)
	}
	w.groups[key] = g
	return g
}

// Event tells the engine of an event, of an agent of that name, which happened
// at a time that is not later than now.
func (e *Engine) Event(now, at int64, ev *event.Event, agentName string) {
	e.Tick(now)
	at = min(at, now)
	for _, w := range e.byType[ev.Type] {
		key := ev.Agent
		switch w.by {
		case ByDomain:
			key = ev.Domain
		case ByNone:
			key = ""
		}
		if key == "" && w.by != ByNone {
			continue
		}
		if w.filter != nil {
			if ok, err := w.filter.Match(ev, agentName); err != nil || !ok {
				continue
			}
		}
		v, ok := 1.0, true
		if w.value != nil {
			v, ok = w.value.Of(ev, agentName)
		}
		if !ok {
			continue
		}
		g := w.groups[key]
		if g == nil {
			if g = e.group(w, key, nil); g == nil {
				continue
			}
			switch w.by {
			case ByAgent:
				g.agent, g.name, g.domain = ev.Agent, agentName, ev.Domain
			case ByDomain:
				g.domain = ev.Domain
			}
			g.last, g.newest = at, g.slotOf(now)
		}
		switch w.kind {
		case KindRate:
			g.count(now, at, v)
		case KindValue:
			if at >= g.last {
				g.value, g.last, g.known = w.turned(v), at, true
			}
		case KindAbsence:
			g.last = max(g.last, at)
		}
		e.update(g, now)
	}
}

// End tells the engine that an agent, or with agent "" a domain, is no more.
// What there is to know of it then is no longer: rates go on, for it may come
// again.
func (e *Engine) End(now int64, agent, domain string) {
	e.Tick(now)
	for _, w := range e.all {
		if w.kind == KindRate {
			continue
		}
		switch {
		case agent != "" && w.by == ByAgent:
			if g := w.groups[agent]; g != nil {
				e.drop(g, now, "the agent has ended")
			}
		case agent == "" && w.by == ByDomain:
			if g := w.groups[domain]; g != nil {
				e.drop(g, now, "the domain has ended")
			}
		}
	}
}

// Sample tells the engine what the counters of all agents are that run, but for
// those of domains that did not answer.
func (e *Engine) Sample(now int64, all []Sample, silent map[string]bool) {
	e.Tick(now)
	for _, w := range e.all {
		if w.kind == KindCounter && !(w.by == ByNone && len(silent) > 0) {
			e.sample(w, now, all, silent)
		}
	}
}

func (e *Engine) sample(w *work, now int64, all []Sample, silent map[string]bool) {
	clear(e.sums)
	for i := range all {
		s := &all[i]
		key := ""
		switch w.by {
		case ByAgent:
			key = s.Agent
		case ByDomain:
			key = s.Domain
		}
		if w.filter != nil {
			if ok, err := w.filter.Match(&event.Event{Agent: s.Agent, Domain: s.Domain}, s.Name); err != nil || !ok {
				continue
			}
		}
		t := e.sums[key]
		if t == nil {
			t = &sum{s: *s}
			e.sums[key] = t
		}
		if v, known := s.Get(w.counter); known {
			t.value += v
			t.known = true
		}
	}
	for _, key := range slices.Sorted(maps.Keys(e.sums)) {
		t := e.sums[key]
		g := e.group(w, key, func(g *group) {
			switch w.by {
			case ByAgent:
				g.agent, g.name, g.domain = t.s.Agent, t.s.Name, t.s.Domain
			case ByDomain:
				g.domain = t.s.Domain
			}
		})
		if g == nil {
			continue
		}
		if t.known {
			g.value, g.last, g.known = w.turned(t.value), now, true
		}
		e.update(g, now)
	}
	for _, g := range w.sorted() {
		if e.sums[g.key] == nil && !silent[g.domain] {
			e.drop(g, now, "it is not there any more")
		}
	}
}

// Tick brings everything up to date and returns when it is to be called next;
// 0 when there is no need to.
func (e *Engine) Tick(now int64) (next int64) {
	for len(e.due) > 0 && e.due[0].due <= now {
		g := e.due[0]
		e.update(g, g.due)
	}
	if len(e.due) == 0 {
		return 0
	}
	return e.due[0].due
}

// update brings one group up to date, and says what has changed.
func (e *Engine) update(g *group, now int64) {
	since := g.since
	began, ended := g.update(now)
	switch {
	case began, g.state == Firing && !g.told:
		if began {
			g.rule.fired++
		}
		if e.silences.end(g.rule.Name(), g.agent, now) == 0 {
			g.told = true
			e.say(g, Change{Kind: Fired, At: now})
		} else if began {
			e.say(g, Change{Kind: Muted, At: now, Silence: e.mute(g, now)})
		}
		g.due = g.next(now)
	case ended:
		told := g.told
		g.told = false
		e.say(g, Change{Kind: Resolved, At: now, Told: told, Lasted: now - since})
	}
	switch {
	case g.idle():
		e.forget(g)
	case g.index < 0 && g.due != never:
		heap.Push(&e.due, g)
	case g.index >= 0 && g.due == never:
		heap.Remove(&e.due, g.index)
	case g.index >= 0:
		heap.Fix(&e.due, g.index)
	}
}

func (e *Engine) say(g *group, c Change) {
	c.Rule, c.Group = g.rule.Rule, g.shown(c.At)
	e.onChange(c)
}

// drop forgets a group, whatever it stands at.
func (e *Engine) drop(g *group, now int64, why string) {
	e.forget(g)
	if g.state == Firing {
		lasted := now - g.since
		g.to(OK, now)
		e.say(g, Change{Kind: Resolved, At: now, Told: g.told, Lasted: lasted, Why: why})
	}
}

func (e *Engine) forget(g *group) {
	if g.index >= 0 {
		heap.Remove(&e.due, g.index)
	}
	delete(g.rule.groups, g.key)
}

// shown is the group as others see it.
func (g *group) shown(now int64) Group {
	return Group{
		Key: g.key, Agent: g.agent, Name: g.name, Domain: g.domain, State: g.state, Since: g.since,
		Value: g.rule.turned(g.value), Known: g.known || g.rule.kind == KindRate || g.rule.kind == KindAbsence, Told: g.told,
		Silenced: g.rule.engine.silences.end(g.rule.Name(), g.agent, now), Fired: g.fired,
	}
}

// Status is how a rule stands.
type Status struct {
	Rule   *Rule
	Groups []Group
	// Fired counts how often it has, for any group; Crowded what was for no group
	// since there were too many.
	Fired, Crowded uint64
}

// Status returns how the rules stand, in their order.
func (e *Engine) Status(now int64) []Status {
	e.Tick(now)
	out := make([]Status, 0, len(e.all))
	for _, w := range e.all {
		st := Status{Rule: w.Rule, Fired: w.fired, Crowded: w.crowded}
		for _, g := range w.sorted() {
			g.look(now)
			st.Groups = append(st.Groups, g.shown(now))
		}
		out = append(out, st)
	}
	return out
}

// Restore has a group fire that did so under an earlier engine, since a time.
// It is resolved once it is known to hold no longer. It reports whether there is
// such a rule.
func (e *Engine) Restore(now int64, rule, print string, was Group) bool {
	e.Tick(now)
	w := e.byName[rule]
	if w == nil || w.Print() != print {
		return false
	}
	g := e.group(w, was.Key, nil)
	if g == nil {
		return false
	}
	g.agent, g.name, g.domain, g.told = was.Agent, was.Name, was.Domain, was.Told
	g.to(Firing, min(was.Since, now))
	g.calm = never
	g.newest = g.slotOf(now)
	switch w.kind {
	case KindRate:
		g.blind = now + w.within
	case KindValue:
		g.value, g.known, g.last = w.turned(was.Value), true, now
	case KindCounter:
		g.value = w.turned(was.Value) // The first sample says how it is.
	case KindAbsence:
		g.last = now - w.within
	}
	e.update(g, now)
	return true
}
