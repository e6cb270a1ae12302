package alert

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/config"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
)

// read reads one rule as a configuration file has it.
func read(text string) (*Rule, string, error) {
	var file struct {
		Alerts []Config `yaml:"alerts"`
	}
	doc, err := config.Parse("f", []byte("alerts:\n  - "+strings.ReplaceAll(text, "\n", "\n    ")))
	if err != nil {
		return nil, "", err
	}
	if err := doc.Decode(&file); err != nil {
		return nil, "", err
	}
	if len(file.Alerts) != 1 {
		return nil, "", nil
	}
	return file.Alerts[0].Compile()
}

func mustRead(t testing.TB, text string) *Rule {
	t.Helper()
	r, key, err := read(text)
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	return r
}

// denials is a rule that many tests have.
const denials = "name: denials\non: [capability.deny]\nrate: {above: 3, within: 10s, value: data.count}"

func deny(agent string) *event.Event {
	return &event.Event{Type: event.CapabilityDeny, Agent: agent, Domain: "default", Payload: &eventv1.CapabilityDeny{Count: 1}}
}

const second = int64(time.Second)

func TestRules(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		denials: "data.count of capability.deny > 3 in 10s",
		"name: a\nthreshold: {counter: memory, above: 64M}\nfor: 5s":                                          "memory > 64 MiB for 5s",
		"name: a\nthreshold: {counter: cpu, below: 0.25}":                                                     "cpu < 0.25",
		"name: a\non: [memory.pressure]\nthreshold: {value: data.percent, above: 91828224}":                   "data.percent > 91828224",
		"name: a\non: [agent.exec]\nabsence: {after: 1m}":                                                     "no agent.exec for 1m",
		"name: a\nby: none\non: ['*']\nrate: {above: 0, within: 1s}\nactions: {hook: {command: [/bin/true]}}": "* > 0 in 1s",
	} {
		r, key, err := read(text)
		if err != nil {
			t.Errorf("%s: %s: %v", text, key, err)
			continue
		}
		if got := r.Condition(); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}

// TestRefused: what makes no sense is refused, with the key.
func TestRefused(t *testing.T) {
	t.Parallel()
	const rate = "\nrate: {above: 1, within: 1s}"
	for text, want := range map[string]string{
		"name: a b\non: [agent.exit]" + rate:                                                     "name: ",
		"name: a\nby: user\non: [agent.exit]" + rate:                                             "by: ",
		"name: a\non: [agent.exit]":                                                              ": it is not said what must hold",
		"name: a\non: [agent.exit]\nabsence: {after: 1s}" + rate:                                 ": it is not said what must hold",
		"name: a" + rate:                                                                         "on: ",
		"name: a\non: [agent.nothing]" + rate:                                                    "on[0]: ",
		"name: a\non: [agent.exit, alert.*]" + rate:                                              "on[1]: alerts are not made of alerts",
		"name: a\non: [agent.exit]\nfilter: data.nothing == 3" + rate:                            "filter: ",
		"name: a\non: [agent.exit]\nseverity: loud" + rate:                                       "severity: ",
		"name: a\non: [agent.exit]\nrate: {within: 1s}":                                          "rate.above: ",
		"name: a\non: [agent.exit]\nrate: {above: 1}":                                            "rate.within: ",
		"name: a\non: [agent.exit]\nrate: {above: 1, within: 1ms}":                               "rate.within: ",
		"name: a\non: [agent.exit]\nrate: {above: 1, clear: 2, within: 1s}":                      "rate.clear: ",
		"name: a\non: [agent.exit]\nrate: {above: 1, within: 1s, value: topic}":                  "rate.value: ",
		"name: a\non: [agent.exit]\nabsence: {}":                                                 "absence.after: ",
		"name: a\non: [agent.exit]\nfor: 1s\nabsence: {after: 1s}":                               "for: ",
		"name: a\non: [agent.exit]\nhold: 48h" + rate:                                            "hold: ",
		"name: a\nthreshold: {above: 1}":                                                         "threshold: ",
		"name: a\nthreshold: {counter: memory}":                                                  "threshold: ",
		"name: a\nthreshold: {counter: memory, above: 1, below: 1}":                              "threshold: ",
		"name: a\nthreshold: {counter: memroy, above: 1}":                                        "threshold.counter: ",
		"name: a\nthreshold: {counter: memory, above: 1, every: 1ms}":                            "threshold.every: ",
		"name: a\nthreshold: {counter: memory, above: 1, within: 1s}":                            "threshold.within: ",
		"name: a\nthreshold: {counter: memory, below: 2, clear: 1}":                              "threshold.clear: ",
		"name: a\non: [agent.exit]\nthreshold: {counter: memory, above: 1}":                      "on: ",
		"name: a\nthreshold: {value: data.code, above: 1}":                                       "on: ",
		"name: a\nby: domain\non: [agent.exit]\nactions: {kill: true}" + rate:                    "actions: ",
		"name: a\non: [agent.exit]\nactions: {kill: true, pause: {}}" + rate:                     "actions.kill: ",
		"name: a\non: [agent.exit]\nactions: {throttle: {cpu: 0}}" + rate:                        "actions.throttle.cpu: ",
		"name: a\non: [agent.exit]\nactions: {hook: {command: [true]}}" + rate:                   "actions.hook.command: ",
		"name: a\non: [agent.exit]\nactions: {hook: {command: [/bin/true], timeout: 0s}}" + rate: "actions.hook.timeout: ",
		"name: a\non: [agent.exit]\nrate: {above: many, within: 1s}":                             ": f:4:19: alerts[0].rate.above: it is no number",
		"name: a\non: [agent.exit]\nrates: {above: 1}":                                           `there is no key "rates"`,
	} {
		r, key, err := read(text)
		if err == nil || !strings.Contains(key+": "+err.Error(), want) {
			t.Errorf("%s\n  %v, %s: %v, and not %q", text, r, key, err, want)
		}
	}
}

// recorder notes what an engine says.
func recorder() (*Engine, *[]Change) {
	var all []Change
	e := New(func(c Change) { all = append(all, c) })
	return e, &all
}

// TestGroupsAreBounded: what is for one group too many is counted, and room that
// is no longer needed is used again.
func TestGroupsAreBounded(t *testing.T) {
	t.Parallel()
	e, _ := recorder()
	e.Apply(0, []*Rule{mustRead(t, denials)})
	for i := range MaxGroups + 10 {
		e.Event(0, 0, deny(fmt.Sprint("a", i)), "")
	}
	if st := e.Status(0)[0]; len(st.Groups) != MaxGroups || st.Crowded != 10 {
		t.Errorf("%d groups, %d for none", len(st.Groups), st.Crowded)
	}
	e.Event(20*second, 20*second, deny("late"), "")
	if st := e.Status(20 * second)[0]; len(st.Groups) != 1 || st.Crowded != 10 {
		t.Errorf("later %d groups, %d for none", len(st.Groups), st.Crowded)
	}
	if next := e.Tick(100 * second); next != 0 || len(e.Status(100 * second)[0].Groups) != 0 {
		t.Errorf("there is something left to do, at %d", next)
	}
}

// TestReload: a rule that stays as it is keeps its states; alerts of others are
// resolved.
func TestReload(t *testing.T) {
	t.Parallel()
	e, said := recorder()
	keep, change := mustRead(t, denials), mustRead(t, strings.Replace(denials, "name: denials", "name: other", 1))
	e.Apply(0, []*Rule{keep, change})
	for range 4 {
		e.Event(second, second, deny("a"), "web")
	}
	if len(*said) != 2 {
		t.Fatalf("%+v", *said)
	}
	changed := mustRead(t, strings.Replace(denials, "name: denials", "name: other\nnote: new", 1))
	e.Apply(2*second, []*Rule{changed, mustRead(t, denials)})
	if len(*said) != 3 || (*said)[2].Rule != change || (*said)[2].Kind != Resolved || (*said)[2].Why == "" || (*said)[2].Lasted != second {
		t.Fatalf("%+v", (*said)[2:])
	}
	if st := e.Status(2 * second); len(st[0].Groups) != 0 || len(st[1].Groups) != 1 || st[1].Groups[0].State != Firing || st[1].Groups[0].Name != "web" {
		t.Errorf("%+v", st)
	}
	e.Tick(12 * second)
	if len(*said) != 4 || (*said)[3].Rule != keep {
		t.Errorf("%+v", (*said)[3:])
	}
}

// TestAllTogether: counters of a domain and of all add up; a domain that does not
// answer leaves its groups as they are.
func TestAllTogether(t *testing.T) {
	t.Parallel()
	e, said := recorder()
	e.Apply(0, []*Rule{
		mustRead(t, "name: dom\nby: domain\nthreshold: {counter: tasks, above: 5}"),
		mustRead(t, "name: all\nby: none\nthreshold: {counter: tasks, above: 9}"),
		mustRead(t, "name: webs\nfilter: agent_name.startsWith('web')\nthreshold: {counter: tasks, above: 3}"),
	})
	sample := func(agent, domain string, n float64) Sample {
		s := Sample{Agent: agent, Name: agent, Domain: domain}
		s.Set(Tasks, n)
		return s
	}
	fired := func() (out []string) {
		for _, c := range *said {
			out = append(out, fmt.Sprintf("%d %s %s %v", c.Kind, c.Rule.Name(), c.Group.Key, c.Group.Value))
		}
		*said = nil
		return out
	}
	e.Sample(second, []Sample{sample("web1", "d1", 4), sample("db", "d1", 2), sample("x", "d2", 4)}, nil)
	if got := fired(); !slices.Equal(got, []string{"0 dom d1 6", "0 all  10", "0 webs web1 4"}) {
		t.Errorf("%v", got)
	}
	e.Sample(2*second, []Sample{sample("x", "d2", 4)}, map[string]bool{"d1": true})
	if got := fired(); got != nil {
		t.Errorf("while d1 does not answer: %v", got)
	}
	e.Sample(3*second, []Sample{sample("x", "d2", 4)}, nil)
	if got := fired(); !slices.Equal(got, []string{"2 dom d1 6", "2 all  4", "2 webs web1 4"}) {
		t.Errorf("when d1 is gone: %v", got)
	}
}

// TestRestore: what fired under an earlier engine fires, and is resolved when it
// is known to hold no longer.
func TestRestore(t *testing.T) {
	t.Parallel()
	rate, counter := mustRead(t, denials), mustRead(t, "name: mem\nthreshold: {counter: memory, above: 10}")
	was := Group{Key: "a", Agent: "a", Name: "web", Domain: "d", Since: -5 * second, Told: true, Value: 50}
	e, said := recorder()
	e.Apply(0, []*Rule{rate, counter})
	if e.Restore(0, "denials", counter.Print(), was) || e.Restore(0, "nothing", rate.Print(), was) {
		t.Error("another rule was restored")
	}
	if !e.Restore(0, "denials", rate.Print(), was) || !e.Restore(0, "mem", counter.Print(), was) {
		t.Fatal("not restored")
	}
	e.Tick(10*second - 1)
	if len(*said) != 0 {
		t.Fatalf("%+v", *said)
	}
	e.Tick(10 * second)
	if len(*said) != 1 || (*said)[0].Rule != rate || !(*said)[0].Told || (*said)[0].Lasted != 15*second {
		t.Fatalf("%+v", *said)
	}
	s := Sample{Agent: "a", Name: "web", Domain: "d"}
	e.Sample(11*second, []Sample{s}, nil) // Not known yet.
	if len(*said) != 1 {
		t.Fatalf("%+v", *said)
	}
	s.Set(Memory, 9)
	e.Sample(12*second, []Sample{s}, nil)
	if len(*said) != 2 || (*said)[1].Kind != Resolved {
		t.Errorf("%+v", *said)
	}
}

// TestEventsAllocateNothing, for groups that there are.
func TestEventsAllocateNothing(t *testing.T) {
	e, _ := recorder()
	e.Apply(0, []*Rule{
		mustRead(t, "name: rate\non: [capability.deny]\nrate: {above: 1000000, within: 10s}"),
		mustRead(t, "name: gone\non: [capability.deny]\nabsence: {after: 1h}"),
	})
	ev, now := deny("a"), int64(0)
	if n := testing.AllocsPerRun(1000, func() {
		now += int64(time.Millisecond)
		e.Event(now, now, ev, "web")
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzRule reads any text as a rule. One that makes sense can be put to work, is
// the same as itself, and looks at no alerts.
func FuzzRule(f *testing.F) {
	f.Add(denials)
	f.Add("name: a\nthreshold: {counter: memory, above: 64M, clear: 1}\nfor: 5s\nhold: 1m")
	f.Add("name: a\non: [memory.*]\nfilter: data.used > 3\nthreshold: {value: data.used, below: -1e3, within: 1s}")
	f.Add("name: a\non: [agent.exec]\nby: none\nabsence: {after: 1s}\nactions: {hook: {command: [/bin/true, x], timeout: 1s}}")
	f.Add("name: a\non: ['*']\nby: domain\nrate: {above: 0, within: 24h}\nseverity: critical\nnote: x")
	f.Fuzz(func(t *testing.T, text string) {
		r, key, err := read(text)
		if err != nil || r == nil {
			if key != "" && err == nil {
				t.Errorf("%s is wrong, and there is no error", key)
			}
			return
		}
		again, _, err := read(text)
		if err != nil || !r.Same(again) || r.Print() != again.Print() || r.Print() == "" || !reflect.DeepEqual(r.Topics(), again.Topics()) {
			t.Errorf("read again it is another: %v", err)
		}
		for _, topic := range r.Topics() {
			if strings.HasPrefix(topic, "alert.") {
				t.Errorf("it looks at %s", topic)
			}
		}
		if r.Condition() == "" || r.Reason(1, true) == "" || r.Reason(1, false) == "" || r.Show(2048) == "" {
			t.Error("it does not say what it is about")
		}
		e := New(func(Change) {})
		e.Apply(0, []*Rule{r})
		for i := range int64(50) {
			now := i * second
			e.Event(now, now-second/2, deny("a"), "web")
			e.Event(now, now, &event.Event{Type: event.AgentExit, Agent: "b", Domain: "d", Payload: &eventv1.AgentExit{Code: 3}}, "")
			s := Sample{Agent: "a", Domain: "d"}
			s.Set(Memory, float64(i))
			e.Sample(now, []Sample{s}, nil)
		}
		if next := e.Tick(50 * second); next != 0 && next <= 50*second {
			t.Errorf("at %d it was due at %d", 50*second, next)
		}
	})
}

// BenchmarkEvent tells an engine with 64 rules of events that one is about, of a
// thousand agents.
func BenchmarkEvent(b *testing.B) {
	e, _ := recorder()
	var rules []*Rule
	for i := range MaxRules {
		topic := "agent.exit"
		if i == 0 {
			topic = "capability.deny"
		}
		rules = append(rules, mustRead(b, fmt.Sprintf("name: r%d\non: [%s]\nrate: {above: 1000000, within: 10s}", i, topic)))
	}
	e.Apply(0, rules)
	var events []*event.Event
	for i := range 1000 {
		events = append(events, deny(fmt.Sprint("a", i)))
	}
	b.ReportAllocs()
	now := int64(0)
	for i := 0; b.Loop(); i++ {
		now += 10_000
		e.Event(now, now, events[i%len(events)], "web")
	}
}
