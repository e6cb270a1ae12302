package filter

import (
	"strings"
	"testing"
	"time"

	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/ktime"
)

func exit() *event.Event {
	return &event.Event{
		Seq: 7, Source: "k1", Wall: int64(time.Hour), Domain: "default", Agent: "a1", Type: event.AgentExit, Severity: event.Warning,
		Payload: &eventv1.AgentExit{Code: 3, Reason: "it was told to"},
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		`topic == "agent.exit"`:                                 true,
		`topic.startsWith("agent.") && data.code == 3`:          true,
		`data.code != 0 && agent_name == "web"`:                 true,
		`data.code > 3`:                                         false,
		`severity >= "warning"`:                                 true,
		`severity > "warning"`:                                  false,
		`severity == "warning" || false`:                        true,
		`data.reason.contains("told") && domain in ["default"]`: true,
		`time < timestamp("1970-01-01T02:00:00Z")`:              true,
		`data.signal_name == "x"`:                               false,
		`data.signal_name == "x" || data.code == 3`:             true,
		`has(data.code) && !has(data.signal_name)`:              true,
		`source == "k1" && correlation == ""`:                   true,
	} {
		f, err := Compile(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, _ := f.Match(exit(), "web"); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		``:                                   "",
		`topic ==`:                           "column",
		`nothing == 1`:                       "undeclared",
		`data.nothing == 3`:                  "no event has a field",
		`1 + 1`:                              "type int",
		`severity >= "loud"`:                 "loud",
		strings.Repeat("(", 500):             "",
		strings.Repeat("true && ", 1000):     "longer",
		`topic.matches("(a+)+$") && nope(1)`: "nope",
	} {
		if f, err := Compile(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, %v", text, f, err)
		}
	}
}

func TestValue(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]float64{
		`data.code`: 3, `data.code * 2`: 6, `1.5 + double(data.code)`: 4.5, `7`: 7, `uint(8)`: 8, `-data.code`: -3,
	} {
		v, err := CompileValue(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, ok := v.Of(exit(), "web"); !ok || got != want {
			t.Errorf("%s: %v, %v", text, got, ok)
		}
	}
	for _, text := range []string{`data.reason`, `data.signal_name`, `1.0 / 0.0`} {
		v, err := CompileValue(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, ok := v.Of(exit(), "web"); ok {
			t.Errorf("%s: %v", text, got)
		}
	}
	for _, text := range []string{`topic`, `data.nothing`, `true`, `severity >=`} {
		if _, err := CompileValue(text); err == nil {
			t.Errorf("%s is a number", text)
		}
	}
}

// TestCostIsBounded gives a filter more to do than it may.
func TestCostIsBounded(t *testing.T) {
	t.Parallel()
	f, err := Compile(`[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, [1,2,3,4,5,6,7,8,9,10].all(d, a+b+c+d > 0))))`)
	if err != nil {
		return // Refused at once is as good.
	}
	if ok, err := f.Match(exit(), ""); ok || err == nil {
		t.Errorf("matched: %v, %v", ok, err)
	}
}

func TestGate(t *testing.T) {
	t.Parallel()
	clock := ktime.NewFake(time.Unix(0, 0))
	sampler, err := NewSampler(0.25)
	if err != nil {
		t.Fatal(err)
	}
	limiter, err := NewLimiter(2, 0, clock)
	if err != nil {
		t.Fatal(err)
	}
	count := func(g Gate, n int) (out [4]int) {
		for range n {
			out[g.Admit(exit(), "", nil)]++
		}
		return out
	}
	if got := count(Gate{Sampler: sampler}, 100); got != [4]int{Pass: 25, Sampled: 75} {
		t.Errorf("sampled: %v", got)
	}
	if got := count(Gate{Limiter: limiter}, 10); got != [4]int{Pass: 2, Limited: 8} {
		t.Errorf("limited: %v", got)
	}
	clock.Advance(time.Second)
	if got := count(Gate{Limiter: limiter}, 10); got != [4]int{Pass: 2, Limited: 8} {
		t.Errorf("limited, a second later: %v", got)
	}
	if got := count(Gate{Floor: event.Error}, 3); got != [4]int{Filtered: 3} {
		t.Errorf("floor: %v", got)
	}
	for _, share := range []float64{0, -1, 1.5} {
		if _, err := NewSampler(share); err == nil {
			t.Errorf("a share of %v", share)
		}
	}
}

func FuzzCompile(f *testing.F) {
	f.Add(`topic == "agent.exit" && data.code != 0`)
	f.Add(`severity >= "warning"`)
	f.Add(`data.args.exists(a, a.contains("x"))`)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Compile(text)
		if err != nil {
			return
		}
		began := time.Now()
		c.Match(exit(), "web")
		if time.Since(began) > 5*time.Second {
			t.Errorf("%q takes too long", text)
		}
	})
}
