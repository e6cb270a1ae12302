package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// spinning computes on one CPU for ever.
const spinning = "i = 0\nprint('ready', flush=True)\nwhile True: i += 1"

// topAgent is an agent in `top -o json`.
type topAgent struct {
	Name, Domain, Class, Hint string
	Weight, Waits             uint64
	Share, CPUs, Throttled    float64
	Used                      int64
	Running, Waiting          uint32
	P50                       int64 `json:"wait_p50"`
	P99                       int64 `json:"wait_p99"`
}

// topSample is `top -o json`.
type topSample struct {
	Interval int64
	Domains  []struct {
		Domain         string
		Busy, Switches float64
		CPUs           []struct {
			CPU            int
			Online         bool
			Busy, Switches float64
			Agent, Task    string
		}
	}
	Agents []topAgent
}

func (in *install) top(t testing.TB, args ...string) (topSample, map[string]topAgent) {
	t.Helper()
	var v topSample
	if err := json.Unmarshal(in.ok(t, append([]string{"top", "-o", "json"}, args...)...), &v); err != nil {
		t.Fatal(err)
	}
	agents := make(map[string]topAgent)
	for _, a := range v.Agents {
		agents[a.Name] = a
	}
	return v, agents
}

// TestTop watches an agent that computes, one that is throttled and one that
// sleeps, by numbers and on a terminal.
func TestTop(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		need(t, "python3")
		in.spawn(t, "--name", "heavy", "--", "python3", "-c", spinning)
		in.spawn(t, "--name", "capped", "--limit", "cpu=0.2", "--", "python3", "-c", spinning)
		in.spawn(t, "--name", "sleeper", "--", "sleep", "1000")
		eventually(t, "what they get is what they should", 40*time.Second, func() (bool, string) {
			v, by := in.top(t, "-i", "1s")
			busy, shares := 0.0, 0.0
			for _, c := range v.Domains[0].CPUs {
				if c.Online {
					busy += c.Busy
				}
			}
			for _, a := range v.Agents {
				shares += a.CPUs
			}
			heavy, capped, sleeper := by["heavy"], by["capped"], by["sleeper"]
			ok := len(v.Domains) == 1 && len(v.Agents) == 3 && v.Agents[0].Name == "heavy" && heavy.CPUs > 0.8 && heavy.CPUs < 1.05 &&
				capped.CPUs > 0.17 && capped.CPUs < 0.23 && capped.Throttled > 0.6 && sleeper.CPUs < 0.01 && sleeper.Running == 0 &&
				heavy.Throttled == 0 && heavy.Class == "fair" && heavy.Weight == 100 && heavy.Hint == "none" && heavy.Used > 0 &&
				busy-shares < 0.05 && shares-busy < 0.05 && v.Domains[0].Switches > 1
			return ok, fmt.Sprintf("%+v, CPUs busy %.3f, agents %.3f", v, busy, shares)
		})
		table := string(in.ok(t, "top", "--once", "-i", "300ms", "--sort", "name"))
		if lines := strings.Split(table, "\n"); !strings.HasPrefix(lines[0], "DOMAIN") || strings.Index(table, "capped") > strings.Index(table, "sleeper") {
			t.Errorf("sorted by name:\n%s", table)
		}

		term := openTerminal(t, 24, 80)
		before := term.mode()
		term.run(in, "top", "-i", "200ms")
		term.expect("3 agents by share")
		term.expect("CPU 0")
		term.press("n")
		term.expect("by name")
		term.press("p")
		term.expect("paused")
		term.resize(5, 40)
		term.expect("more agents")
		term.press("q")
		if st := term.wait(); st != 0 {
			t.Errorf("q: status %d", st)
		}
		term.expect("\x1b[?1049l")
		if after := term.mode(); after != before {
			t.Errorf("it left the terminal in another mode")
		}
	})
}

// TestSched looks at one agent and its threads.
func TestSched(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		need(t, "python3")
		in.spawn(t, "--name", "two", "--limit", "cpu=0.5", "--", "python3", "-c",
			"import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()\n"+spinning)
		eventually(t, "both threads are seen", 40*time.Second, func() (bool, string) {
			var v struct {
				Domain                string
				Quota                 uint64 `json:"quota_millicpu"`
				Tasks                 int
				Service, User, System int64
				Switches, Periods     uint64
				ThrottledPeriods      uint64 `json:"throttled_periods"`
				ThrottledTime         int64  `json:"throttled_time"`
				Waits                 struct{ Count uint64 }
				Threads               []struct {
					TID                   int
					Name, State, CPUs     string
					User, System, Service int64
				}
			}
			if err := json.Unmarshal(in.ok(t, "sched", "two", "-o", "json"), &v); err != nil {
				t.Fatal(err)
			}
			var sum int64
			spins, sleeps := false, false
			for _, th := range v.Threads {
				sum += th.Service
				switch th.State {
				case "runs", "waits":
					spins = spins || th.User > 0
				case "sleeps":
					sleeps = sleeps || th.TID > 1
				}
			}
			ok := v.Quota == 500 && v.Tasks == 2 && len(v.Threads) == 2 && spins && sleeps && v.ThrottledPeriods > 2 && v.ThrottledPeriods <= v.Periods &&
				v.ThrottledTime > 0 && v.Waits.Count > 0 && sum <= v.Service+int64(10*time.Millisecond) && sum > v.Service*9/10 && v.Service > int64(time.Second/2)
			return ok, fmt.Sprintf("%+v", v)
		})
		text := string(in.ok(t, "sched", "two"))
		for _, want := range []string{"0.5 CPU, every 100ms", "python3"} {
			if !strings.Contains(text, want) {
				t.Errorf("it does not say %q:\n%s", want, text)
			}
		}
		if r := in.run(t, "sched", "twoo"); r.status == 0 || !strings.Contains(string(r.stderr), "two") {
			t.Errorf("no suggestion: %s", r)
		}
	})
}
