package alert

import (
	"cmp"
	"slices"
)

// Silence keeps a rule from being told and from being acted on, for one agent
// (an ID) or, with "", for all.
type Silence struct {
	Rule, Agent string
	Until       int64
	// Who wanted it, and why.
	By, Reason string
	// Muted counts the alerts that were not told.
	Muted uint64
}

// MaxSilences is how many silences there may be.
const MaxSilences = 1024

type silenceKey struct{ rule, agent string }

// silences are those that have not ended.
type silences map[silenceKey]*Silence

// end is until when an agent of a rule is silenced; 0 when it is not.
func (s silences) end(rule, agent string, now int64) (until int64) {
	if len(s) == 0 {
		return 0
	}
	for _, key := range []silenceKey{{rule, ""}, {rule, agent}} {
		if one := s[key]; one != nil && one.Until > now {
			until = max(until, one.Until)
		}
	}
	return until
}

// Silence silences a rule from now on; of a silence that there is already only
// the end changes. It reports whether there was room.
func (e *Engine) Silence(now int64, s Silence) bool {
	e.Tick(now)
	key := silenceKey{s.Rule, s.Agent}
	if old := e.silences[key]; old != nil {
		s.Muted = old.Muted
	} else if len(e.silences) >= MaxSilences {
		return false
	}
	e.silences[key] = &s
	e.refresh(now, s.Rule)
	return true
}

// Unsilence ends a silence, and reports whether there was one. What it kept from
// being told and still holds is told now.
func (e *Engine) Unsilence(now int64, rule, agent string) bool {
	e.Tick(now)
	key := silenceKey{rule, agent}
	if e.silences[key] == nil {
		return false
	}
	delete(e.silences, key)
	e.refresh(now, rule)
	return true
}

// refresh looks at the groups of a rule again that were not told.
func (e *Engine) refresh(now int64, rule string) {
	w := e.byName[rule]
	if w == nil {
		return
	}
	for _, g := range w.sorted() {
		if g.state == Firing && !g.told {
			e.update(g, now)
		}
	}
}

// Silences returns those that have not ended, by rule and agent.
func (e *Engine) Silences(now int64) []Silence {
	out := make([]Silence, 0, len(e.silences))
	for key, s := range e.silences {
		if s.Until <= now {
			delete(e.silences, key)
			continue
		}
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b Silence) int { return cmp.Or(cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Agent, b.Agent)) })
	return out
}

// mute counts an alert that is not told with the silence that keeps it.
func (e *Engine) mute(g *group, now int64) *Silence {
	for _, key := range []silenceKey{{g.rule.Name(), g.agent}, {g.rule.Name(), ""}} {
		if s := e.silences[key]; s != nil && s.Until > now {
			s.Muted++
			return s
		}
	}
	return nil
}
