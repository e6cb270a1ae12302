package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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
	onOne(t, func(t *testing.T, in *install) {
		need(t, "python3")
		in.spawn(t, "--name", "heavy", "--", "python3", "-c", spinning)
		in.spawn(t, "--name", "capped", "--limit", "cpu=0.2", "--", "python3", "-c", spinning)
		in.spawn(t, "--name", "sleeper", "--", "sleep", "1000")
		eventually(t, "what they get is what they should", 40*time.Second, func() (bool, string) {
			v, by := in.top(t, "-i", "500ms")
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
				Corrected             int64  `json:"quota_corrected"`
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

// schedSet is what `sched set -o json` says.
type schedSet struct {
	Class, CPUs, Hint string
	Weight, Priority  uint64
	Quota             *uint64 `json:"quota_millicpu"`
	Period, Burst     int64
	Reservation       *struct{ Runtime, Period int64 }
}

func (in *install) schedSet(t testing.TB, args ...string) (v schedSet) {
	t.Helper()
	if err := json.Unmarshal(in.ok(t, append([]string{"sched", "set", "-o", "json"}, args...)...), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestSchedSet changes what agents may use while they compute, and looks at what
// they get; and at what is refused.
func TestSchedSet(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		need(t, "python3")
		in.ok(t, "daemon", "start")
		f := in.follow(t, "--topic", "cpu.*")
		for _, name := range []string{"one", "two"} {
			in.spawn(t, "--name", name, "--cpu", "cpus=0", "--", "python3", "-c", spinning)
		}
		share := func(agent string, least, most float64) {
			t.Helper()
			eventually(t, fmt.Sprintf("%s has %.2f to %.2f", agent, least, most), 40*time.Second, func() (bool, string) {
				_, by := in.top(t, "-i", "500ms")
				return by[agent].CPUs > least && by[agent].CPUs < most, fmt.Sprintf("%+v", by)
			})
		}
		share("one", 0.4, 0.6)
		if v := in.schedSet(t, "one", "weight=300"); v.Weight != 300 || v.CPUs != "0" || v.Class != "fair" || v.Quota != nil || v.Priority != 20 {
			t.Errorf("%+v", v)
		}
		share("one", 0.67, 0.83)
		if e := f.wait(t, "cpu.params", nil); e.Data["was"] != "cpu:0" || e.Data["grant"] != "cpu:0,weight=300" || e.Data["by"] == "" {
			t.Errorf("%+v", e)
		}
		if v := in.schedSet(t, "one", "quota=0.2,period=50ms", "burst=10ms"); v.Weight != 300 || *v.Quota != 200 || v.Period != 50e6 || v.Burst != 10e6 {
			t.Errorf("%+v", v)
		}
		share("one", 0.15, 0.25)
		if v := in.schedSet(t, "one", "quota=none,burst=none", "deadline=30ms/100ms,class=idle,priority=30"); v.Quota != nil || v.Burst != 0 ||
			v.Class != "deadline" || v.Reservation == nil || v.Reservation.Runtime != 30e6 || v.Reservation.Period != 100e6 || v.Priority != 30 {
			t.Errorf("%+v", v)
		}
		// It is idle but for what it is promised.
		share("one", 0.24, 0.4)
		f.wait(t, "cpu.overrun", func(e eventLine) bool { return e.Data["runtime"] == "30000000" || e.Data["runtime"] == 30e6 })

		before := string(in.ok(t, "cap", "ls", "one", "-o", "json"))
		amended := func() int { return len(in.audit(t, "--agent", "one", "--op", "amend")) }
		times := amended()
		if times != 3 {
			t.Errorf("the trail has it %d times", times)
		}
		for _, c := range []struct{ args, code, says string }{
			{"one weight=5,deadline=99ms/100ms", "CPU_LIMIT", "promise"}, {"one cpus=900", "CAPABILITY_INVALID", "no CPU 900"},
			{"onne weight=5", "AGENT_NOT_FOUND", "one"}, {"one weight=0", "INVALID_ARGUMENT", "1 to 10000"},
		} {
			if r := in.run(t, append([]string{"sched", "set"}, strings.Fields(c.args)...)...); r.status != 125 || !strings.Contains(string(r.stderr), c.says) ||
				!strings.Contains(string(r.stderr), "fix: ") {
				t.Errorf("%s: %s", c.args, r)
			}
		}
		if after := string(in.ok(t, "cap", "ls", "one", "-o", "json")); after != before || amended() != times {
			t.Errorf("what was refused changed something:\n%s\n%s", before, after)
		}
		if v := in.schedSet(t, "one", "deadline=none,cpus=all,class=fair,weight=100,priority=20"); v.Reservation != nil || v.CPUs != "all" || v.Class != "fair" {
			t.Errorf("%+v", v)
		}

		in.ok(t, "hint", "two", "speculative")
		if got := string(in.ok(t, "hint", "two")) + string(in.ok(t, "exec", "two", "--", "cat", "/aios/self/hint")); got != "speculative\nspeculative\n" {
			t.Errorf("%q", got)
		}
		if e := f.wait(t, "cpu.hint", nil); e.Data["hint"] != "speculative" || e.Data["was"] != "none" {
			t.Errorf("%+v", e)
		}
		in.ok(t, "sched", "set", "one", "cpus=0")
		share("two", 0.05, 0.2) // An eighth of the weight.
		in.ok(t, "hint", "two", "none")
		share("two", 0.4, 0.6)
		if n := len(in.audit(t, "--agent", "two", "--op", "hint")); n != 2 {
			t.Errorf("the trail has %d hints", n)
		}

		in.ok(t, "kill", "one")
		in.run(t, "wait", "one")
		for _, args := range []string{"sched set one weight=5", "hint one batch", "hint one"} {
			if r := in.run(t, strings.Fields(args)...); r.status != 125 || !strings.Contains(string(r.stderr), "ended") {
				t.Errorf("of one that has ended: %s: %s", args, r)
			}
		}
	})
}

// TestSchedSetByToken has bearers change no more than their grants say, of no
// agents but theirs.
func TestSchedSetByToken(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		for _, name := range []string{"mine", "other"} {
			in.spawn(t, "--name", name, "--", "sleep", "1000")
		}
		at := in.listen(t)
		text, _ := in.issue(t, "--op", "inspect,grant,list", "--agent", "mine", "--grant", "cpu:self,weight=200,cpu=0.5")
		b := in.bearing(at, text)
		if v := b.schedSet(t, "mine", "weight=150,quota=0.4"); v.Weight != 150 || *v.Quota != 400 {
			t.Errorf("%+v", v)
		}
		for _, more := range []string{"weight=201", "quota=none", "quota=0.6", "cpus=0,quota=0.6", "deadline=10ms/100ms", "priority=30"} {
			b.refused(t, "does not give cpu:", "sched", "set", "mine", more)
		}
		b.refused(t, "does not extend to this agent", "sched", "set", "other", "weight=5")
		b.refused(t, "does not extend to this agent", "hint", "other")
		b.refused(t, "does not allow the operation", "hint", "mine", "batch")
		if got := string(b.ok(t, "hint", "mine")); got != "none\n" {
			t.Errorf("%q", got)
		}
		if v := in.schedSet(t, "mine", "weight=150"); *v.Quota != 400 || v.Priority != 20 {
			t.Errorf("%+v", v)
		}
		text, _ = in.issue(t, "--op", "inspect,pause", "--agent", "mine")
		b = in.bearing(at, text)
		b.ok(t, "hint", "mine", "batch")
		b.refused(t, "does not allow the operation", "sched", "set", "mine", "weight=5")
	})
}

// traceFile is what `sched trace` writes.
type traceFile struct {
	OtherData struct {
		Domain            string
		Switches, Dropped uint64
	}
	TraceEvents []struct {
		Name, Ph string
		TS       float64
		PID, TID int
		Args     map[string]any
	}
}

// TestSchedTrace traces two agents that compute, one of which calls its thread
// what breaks files.
func TestSchedTrace(t *testing.T) {
	const wicked = "\"}]\n\x1b[2J<x\\"
	onOne(t, func(t *testing.T, in *install) {
		need(t, "python3")
		in.spawn(t, "--name", "plain", "--cpu", "cpus=0", "--", "python3", "-c", spinning)
		in.spawn(t, "--name", "wicked", "--cpu", "cpus=0,quota=0.3", "--", "python3", "-c",
			"import ctypes\nctypes.CDLL(None).prctl(15, b'\"}]\\n\\x1b[2J<x\\\\')\n"+spinning)
		for _, name := range []string{"plain", "wicked"} {
			eventually(t, name+" computes", 20*time.Second, func() (bool, string) {
				out := string(in.ok(t, "logs", name))
				return strings.Contains(out, "ready"), out
			})
		}
		switches := func() (n uint64) {
			for _, name := range []string{"plain", "wicked"} {
				var v struct{ Switches uint64 }
				must(t, json.Unmarshal(in.ok(t, "sched", name, "-o", "json"), &v))
				n += v.Switches
			}
			return n
		}
		path := filepath.Join(in.dir, "trace.json")
		before := switches()
		in.ok(t, "sched", "trace", "--for", "1500ms", "-o", path)
		most := switches() - before
		read := func(raw []byte) (f traceFile, on map[string]float64, ran uint64) {
			t.Helper()
			if err := json.Unmarshal(raw, &f); err != nil {
				t.Fatal(err)
			}
			cpus, on := 0, make(map[string]float64)
			type slice struct {
				agent string
				since float64
			}
			has, last := make(map[int]slice), 0.0
			for _, e := range f.TraceEvents {
				switch {
				case e.Ph == "M" && e.PID == 1 && strings.HasPrefix(fmt.Sprint(e.Args["name"]), "CPU "):
					cpus++
				case e.Ph == "M" || e.PID != 1 || e.Ph == "C":
					continue
				case e.Ph == "B":
					if s := has[e.TID]; s.agent != "" || e.TS < last {
						t.Errorf("at %v %q begins in %+v", e.TS, e.Name, s)
					}
					has[e.TID] = slice{e.Args["agent"].(string), e.TS}
					if e.Args["began_before"] == nil {
						ran++
					}
				case e.Ph == "E":
					s := has[e.TID]
					if s.agent == "" || e.TS < last {
						t.Errorf("at %v something ends that did not begin", e.TS)
					}
					on[s.agent] += e.TS - s.since
					delete(has, e.TID)
				}
				if e.Ph != "M" {
					last = e.TS
				}
			}
			if len(has) > 0 || cpus == 0 {
				t.Errorf("of %d CPUs, slices of %v do not end", cpus, has)
			}
			return f, on, ran
		}
		raw, err := os.ReadFile(path)
		must(t, err)
		f, on, ran := read(raw)
		if f.OtherData.Dropped != 0 || f.OtherData.Domain != "default" || f.OtherData.Switches != ran || ran > most || ran < most/4 || ran < 20 {
			t.Errorf("%+v, %d switches, at most %d", f.OtherData, ran, most)
		}
		// In microseconds, of one CPU.
		if on["plain"] < 0.6e6 || on["wicked"] < 0.25e6 || on["wicked"] > 0.7e6 || on["plain"]+on["wicked"] > 1.8e6 {
			t.Errorf("%v", on)
		}
		threads, throttled := make(map[any]bool), false
		for _, e := range f.TraceEvents {
			threads[e.Args["thread"]] = true
			throttled = throttled || e.Name == "throttled" && e.Args["throttled"] == 1.0
		}
		if !threads[wicked] || !threads["python3"] || !throttled || strings.ContainsAny(string(raw), "\x1b\x00") {
			t.Errorf("threads %v, throttled %v", threads, throttled)
		}

		_, on, _ = read(in.ok(t, "sched", "trace", "plain", "--for", "500ms"))
		if on["plain"] == 0 || on["others"] == 0 || on["wicked"] != 0 {
			t.Errorf("of one agent: %v", on)
		}
		// Longer, until more has happened than there is room for.
		for long := 500 * time.Millisecond; ; long *= 2 {
			r := in.run(t, "sched", "trace", "--limit", "20", "--for", long.String())
			f, _, _ := read(r.stdout)
			if r.status == 0 && f.OtherData.Dropped > 0 && strings.Contains(string(r.stderr), "found no room") {
				break
			}
			if r.status != 0 || f.OtherData.Dropped > 0 || long > 10*time.Second {
				t.Errorf("%s %+v", r.stderr, f.OtherData)
				break
			}
		}
		at := in.listen(t)
		text, _ := in.issue(t, "--op", "debug", "--agent", "plain")
		b := in.bearing(at, text)
		if _, on, _ = read(b.ok(t, "sched", "trace", "plain", "--for", "500ms")); on["plain"] == 0 || on["wicked"] != 0 {
			t.Errorf("with a token: %v", on)
		}
		b.refused(t, "does not extend to this agent", "sched", "trace", "wicked")
		b.refused(t, "does not extend to this agent", "sched", "trace")

		in.ok(t, "kill", "wicked")
		in.run(t, "wait", "wicked")
		for args, says := range map[string]string{
			"sched trace wicked": "ended", "sched trace nobody": "neither an agent nor a domain", "sched trace --for 500ms -o " + path: "the file exists",
		} {
			if r := in.run(t, strings.Fields(args)...); r.status != 125 || !strings.Contains(string(r.stderr), says) {
				t.Errorf("%s: %s", args, r)
			}
		}
		in.ok(t, "sched", "trace", "default", "--for", "100ms", "-f", "-o", path)

		// Ctrl-C ends it early, and it is written.
		early := filepath.Join(in.dir, "early.json")
		c := in.start(t, "sched", "trace", "plain", "--for", "5m", "-o", early)
		time.Sleep(time.Second)
		c.signal(syscall.SIGINT)
		if r := c.wait(); r.status != 0 {
			t.Fatalf("interrupted: %s", r)
		}
		raw, err = os.ReadFile(early)
		must(t, err)
		if _, on, _ = read(raw); on["plain"] < 0.1e6 || on["plain"] > 30e6 {
			t.Errorf("until it was interrupted: %v", on)
		}
	})
}
