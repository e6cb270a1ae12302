package alert

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
)

// model is a rule reckoned in the plainest way: all events are kept, and
// everything is looked at anew every nanosecond.
type model struct {
	kind                Kind
	below               bool
	limit, clear        float64
	within, forNS, hold int64
	groups              map[string]*modelGroup
	silences            map[string]int64 // by agent
	now                 int64
	changes             []string
	at                  []int64
	keys                []string
}

type modelGroup struct {
	events []modelEvent
	latest int64
	value  float64
	known  bool
	state  State
	since  int64
	calm   int64
	told   bool
}

type modelEvent struct {
	at int64
	v  float64
}

func (m *model) say(key string, k ChangeKind) {
	m.changes = append(m.changes, fmt.Sprint([]string{"fired", "muted", "resolved"}[k], " ", key, " at ", m.now))
	m.at, m.keys = append(m.at, m.now), append(m.keys, key)
}

// bounds says whether a group is beyond the limit, and whether it is within the
// other.
func (m *model) bounds(g *modelGroup) (beyond, within bool) {
	over := func(a, b float64) bool {
		if m.below {
			return a < b
		}
		return a > b
	}
	switch m.kind {
	case KindRate:
		slot := m.within / slots
		sum := 0.0
		for _, e := range g.events {
			if floorDiv(m.now, slot)-floorDiv(e.at, slot) < slots {
				sum += e.v
			}
		}
		return sum > m.limit, sum <= m.clear
	case KindAbsence:
		gone := m.now-g.latest >= m.within
		return gone, !gone
	case KindValue:
		if !g.known || m.within > 0 && m.now-g.latest >= m.within {
			return false, true
		}
	}
	if !g.known {
		return false, m.kind != KindCounter
	}
	return over(g.value, m.limit), !over(g.value, m.clear)
}

func (m *model) silenced(key string) bool { return m.silences[key] > m.now || m.silences[""] > m.now }

// look looks at a group at this time.
func (m *model) look(key string) {
	g := m.groups[key]
	if g == nil {
		return
	}
	beyond, within := m.bounds(g)
	if g.state == OK && beyond {
		g.state, g.since = Pending, m.now
	}
	if g.state == Pending && !beyond {
		g.state = OK
	}
	if g.state == Pending && m.now-g.since >= m.forNS {
		g.state, g.since, g.calm = Firing, m.now, -1
		if g.told = !m.silenced(key); g.told {
			m.say(key, Fired)
		} else {
			m.say(key, Muted)
		}
		return
	}
	if g.state != Firing {
		return
	}
	if !within {
		g.calm = -1
	} else if g.calm < 0 {
		g.calm = m.now
	}
	if within && m.now-g.calm >= m.hold {
		g.state, g.told = OK, false
		m.say(key, Resolved)
		return
	}
	if !g.told && !m.silenced(key) {
		g.told = true
		m.say(key, Fired)
	}
}

func (m *model) advance(d int64) {
	for range d {
		m.now++
		for key := range m.groups {
			m.look(key)
		}
	}
}

func (m *model) event(key string, at int64, v float64) {
	g := m.groups[key]
	if g == nil {
		g = &modelGroup{latest: at}
		m.groups[key] = g
	}
	g.events = append(g.events, modelEvent{at, v})
	if at >= g.latest {
		g.latest, g.value, g.known = at, v, true
	}
	m.look(key)
}

func (m *model) drop(key string) {
	if g := m.groups[key]; g != nil && m.kind != KindRate {
		delete(m.groups, key)
		if g.state == Firing {
			m.say(key, Resolved)
		}
	}
}

// told are the changes in the order of time and agent: of one time there is no
// order among agents.
func told(changes []string, at []int64, keys []string) []string {
	order := make([]int, len(changes))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Or(cmp.Compare(at[a], at[b]), cmp.Compare(keys[a], keys[b])) })
	out := make([]string, len(changes))
	for i, j := range order {
		out[i] = changes[j]
	}
	return out
}

func number(f float64) *Number {
	n := Number(f)
	return &n
}

// compiled returns a rule, whose times are then set by hand.
func compiled(t testing.TB, c Config) *Rule {
	t.Helper()
	if c.By == "" {
		c.By = "agent"
	}
	c.Severity = "warning"
	r, key, err := c.Compile()
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	return r
}

// TestModel drives an engine and the model with the same events, samples, ends,
// silences and passing of time: the same changes come at the same times.
func TestModel(t *testing.T) {
	t.Parallel()
	exit := []string{"agent.exit"}
	plain := map[Kind]*Rule{
		KindRate:    compiled(t, Config{Name: "r", On: exit, Rate: &Rate{Above: number(0), Within: time.Second, Value: "data.code"}}),
		KindValue:   compiled(t, Config{Name: "r", On: exit, Threshold: &Threshold{Value: "data.code", Above: number(0)}}),
		KindAbsence: compiled(t, Config{Name: "r", On: exit, Absence: &Absence{After: time.Second}}),
		KindCounter: compiled(t, Config{Name: "r", Threshold: &Threshold{Counter: "memory", Above: number(0), Every: time.Second}}),
	}
	agents := []string{"a", "b", "c"}
	rapid.Check(t, func(rt *rapid.T) {
		kind := rapid.SampledFrom([]Kind{KindRate, KindValue, KindAbsence, KindCounter}).Draw(rt, "kind")
		m := &model{
			kind: kind, groups: make(map[string]*modelGroup), silences: make(map[string]int64),
			limit: float64(rapid.IntRange(0, 8).Draw(rt, "limit")),
			forNS: int64(rapid.IntRange(0, 10).Draw(rt, "for")), hold: int64(rapid.IntRange(0, 10).Draw(rt, "hold")),
		}
		slack := float64(rapid.IntRange(0, 3).Draw(rt, "slack"))
		m.clear = m.limit - slack
		switch kind {
		case KindRate:
			m.within = slots * int64(rapid.IntRange(1, 4).Draw(rt, "slot"))
			m.clear = max(0, m.clear)
		case KindAbsence:
			m.within, m.forNS = int64(rapid.IntRange(1, 30).Draw(rt, "after")), 0
		case KindValue:
			m.within = int64(rapid.IntRange(0, 30).Draw(rt, "within"))
			fallthrough
		case KindCounter:
			if m.below = rapid.Bool().Draw(rt, "below"); m.below {
				m.clear = m.limit + slack
			}
		}
		r := *plain[kind]
		r.limit, r.clear, r.below, r.within, r.forNS, r.hold = m.limit, m.clear, m.below, m.within, m.forNS, m.hold
		if r.below {
			r.limit, r.clear = -r.limit, -r.clear
		}
		var got, keys []string
		var at []int64
		e := New(func(c Change) {
			got = append(got, fmt.Sprint([]string{"fired", "muted", "resolved"}[c.Kind], " ", c.Group.Key, " at ", c.At))
			at, keys = append(at, c.At), append(keys, c.Group.Key)
		})
		e.Apply(0, []*Rule{&r})
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			agent := rapid.SampledFrom(agents).Draw(rt, "agent")
			switch rapid.SampledFrom([]string{"event", "event", "event", "time", "time", "end", "silence", "unsilence"}).Draw(rt, "step") {
			case "time":
				m.advance(int64(rapid.IntRange(1, 25).Draw(rt, "d")))
				if rapid.Bool().Draw(rt, "tick") { // Else it hears of it later.
					e.Tick(m.now)
				}
			case "event":
				v, age := rapid.IntRange(0, 10).Draw(rt, "v"), int64(rapid.IntRange(0, 25).Draw(rt, "age"))
				if kind != KindCounter {
					m.event(agent, m.now-age, float64(v))
					e.Event(m.now, m.now-age, &event.Event{Type: event.AgentExit, Agent: agent, Payload: &eventv1.AgentExit{Code: int32(v)}}, agent)
					break
				}
				// Others are in domains that do not answer.
				s := Sample{Agent: agent, Domain: "d"}
				s.Set(Memory, float64(v))
				m.event(agent, m.now, float64(v))
				e.Sample(m.now, []Sample{s}, map[string]bool{"d": true})
			case "end":
				m.drop(agent)
				e.End(m.now, agent, "d")
			case "silence":
				key := rapid.SampledFrom([]string{"", agent}).Draw(rt, "whom")
				m.silences[key] = m.now + int64(rapid.IntRange(1, 40).Draw(rt, "until"))
				e.Silence(m.now, Silence{Rule: "r", Agent: key, Until: m.silences[key]})
				for _, a := range agents {
					m.look(a)
				}
			case "unsilence":
				key := rapid.SampledFrom([]string{"", agent}).Draw(rt, "whom")
				delete(m.silences, key)
				e.Unsilence(m.now, "r", key)
				for _, a := range agents {
					m.look(a)
				}
			}
		}
		m.advance(200)
		e.Tick(m.now)
		if got, want := told(got, at, keys), told(m.changes, m.at, m.keys); !slices.Equal(got, want) {
			rt.Fatalf("%+v\nengine: %v\nmodel:  %v", m, got, want)
		}
		for _, g := range e.Status(m.now)[0].Groups {
			want := m.groups[g.Key]
			if want == nil || g.State != want.state || g.State != OK && g.Since != want.since {
				rt.Fatalf("%+v\nengine: %+v\nmodel:  %+v", m, g, want)
			}
		}
	})
}
