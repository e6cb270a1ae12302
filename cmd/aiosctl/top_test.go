package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// fakeSched answers with one look after the other; the last stays.
type fakeSched struct {
	apiv1.UnimplementedSchedulingServer
	*recorder
	mu    sync.Mutex
	looks []*apiv1.SchedResponse // guarded by mu
}

func (f *fakeSched) Sched(_ context.Context, m *apiv1.SchedRequest) (*apiv1.SchedResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.GetDomain() == "none" {
		return nil, errdefs.New(errdefs.DomainNotFound, "no such domain")
	}
	r := f.looks[0]
	if len(f.looks) > 1 {
		f.looks = f.looks[1:]
	}
	return r, nil
}

// fakeLooks are two looks at a domain of two CPUs, two seconds apart: heavy had
// one and a half CPUs, and web waited.
func fakeLooks() []*apiv1.SchedResponse {
	s := int64(time.Second)
	quota := uint64(250)
	look := func(at, heavy, web, idle int64, switches uint64, waits []uint64, stopped int64) *apiv1.SchedResponse {
		return &apiv1.SchedResponse{Domains: []*apiv1.SchedDomain{
			{Domain: "default", AtNano: at, Waiting: 1, SliceNano: 4e6, Switches: switches, Cpus: []*apiv1.SchedCpu{
				{Cpu: 0, Online: true, Agent: "a00000000000a", AgentName: "heavy", Tid: 12, Task: "evil\x1b[2J", BusyNano: at - s, Switches: switches},
				{Cpu: 1, Online: true, BusyNano: at / 2, Queued: 3},
				{Cpu: 2},
			}, Agents: []*apiv1.SchedAgent{
				{Agent: "a00000000000b", Name: "web", AtNano: at, Class: "fair", Weight: 100, ServiceNano: web, UserNano: web, QuotaMilli: &quota, PeriodNano: 1e8,
					StoppedNano: stopped, Tasks: 2, Waiting: 1, Hint: "waiting-for-model", WaitCounts: waits},
				{Agent: "a00000000000a", Name: "heavy", AtNano: at, Class: "deadline", Weight: 300, ServiceNano: heavy, UserNano: heavy, Tasks: 2, Running: 1, Hint: "none"},
				{Agent: "a00000000000c", AtNano: at, Class: "idle", Weight: 1, ServiceNano: idle, UserNano: idle, Hint: "none"},
			}},
			{Domain: "lab", Error: "it does not answer"},
		}}
	}
	return []*apiv1.SchedResponse{
		look(10*s, 4*s, 1*s, 0, 1000, []uint64{40, 5}, 0),
		look(12*s, 7*s, 1*s+s/10, s/1000, 3000, []uint64{40, 5, 104, 99}, s),
	}
}

func TestTopCompares(t *testing.T) {
	looks := fakeLooks()
	v := compare(looks[0], looks[1])
	v.sort(topOrders[0])
	if len(v.Agents) != 3 || v.Agents[0].Name != "heavy" || v.Agents[1].Name != "web" {
		t.Fatalf("%+v", v.Agents)
	}
	heavy, web := v.Agents[0], v.Agents[1]
	if math.Abs(heavy.CPUs-1.5) > 1e-9 || math.Abs(heavy.Share-0.75) > 1e-9 {
		t.Errorf("heavy had %v CPUs, %v of all; 1.5 and 0.75 of two that are online", heavy.CPUs, heavy.Share)
	}
	if web.Throttled != 0.5 || web.Waits != 99 || web.P99 < 1000 || web.Used != int64(1100*time.Millisecond) {
		t.Errorf("%+v", web)
	}
	d := v.Domains[0]
	if d.Switches != 1000 || d.CPUs[0].Busy != 1 || d.CPUs[1].Busy != 0.5 || d.Busy != 0.75 || v.Domains[1].Error == "" {
		t.Errorf("%+v", d)
	}
	// A domain that has begun anew is not compared with the one before.
	again := compare(looks[1], looks[0])
	again.sort(topOrders[0])
	if got := again.Agents[0].CPUs; math.Abs(got-0.4) > 1e-9 {
		t.Errorf("heavy had %v CPUs since its domain began anew, want 0.4", got)
	}
	for name, first := range map[string]string{"used": "heavy", "wait": "web", "throttled": "web", "name": "a00000000000c"} {
		for _, o := range topOrders {
			if o.name != name {
				continue
			}
			if v.sort(o); v.Agents[0].called() != first {
				t.Errorf("by %s the first is %s, not %s", name, v.Agents[0].called(), first)
			}
		}
	}
}

func TestTopScreen(t *testing.T) {
	looks := fakeLooks()
	v := compare(looks[0], looks[1])
	v.sort(topOrders[0])
	st := topState{at: clockAt, interval: 2 * time.Second, order: topOrders[0]}
	golden(t, "top", []byte(strings.Join(topScreen(v, st, 24, 80), "\n")+"\n"))

	// Many agents and CPUs, on screens of all sizes.
	for i := range 200 {
		one := v.Agents[i%3]
		one.Name = fmt.Sprintf("agent-with-a-long-name-%d", i)
		v.Agents = append(v.Agents, one)
		v.Domains[0].CPUs = append(v.Domains[0].CPUs, v.Domains[0].CPUs[0])
	}
	for rows := range 60 {
		for _, cols := range []int{1, 20, 80, 81, 200} {
			st.paused = rows%2 == 0
			lines := topScreen(v, st, rows, cols)
			if len(lines) > rows {
				t.Fatalf("%d lines on a screen of %d", len(lines), rows)
			}
			agents := 0
			for _, l := range lines {
				if n := utf8.RuneCountInString(l); n > cols {
					t.Fatalf("%d columns on a screen of %d: %q", n, cols, l)
				}
				if strings.Contains(l, " default ") {
					agents++
				}
			}
			if cols >= 80 && rows >= 12 && agents < rows/3 {
				t.Fatalf("of %d lines only %d are agents:\n%s", rows, agents, strings.Join(lines, "\n"))
			}
		}
	}
}

func TestTopKeys(t *testing.T) {
	l := &topLoop{a: newBench(t).app, by: topOrders[0], interval: time.Second}
	for _, k := range []byte("pw+x") {
		if l.key(k) {
			t.Fatalf("%q ends it", k)
		}
	}
	if !l.paused || l.by.name != "wait" || l.interval != 2*time.Second {
		t.Errorf("paused %v, by %s, every %v", l.paused, l.by.name, l.interval)
	}
	for range 20 {
		l.key('-')
	}
	if l.key(' '); l.paused || l.interval != topLeast {
		t.Errorf("paused %v, every %v", l.paused, l.interval)
	}
	if !l.key('q') || !l.key(3) {
		t.Error("q and ctrl-c do not end it")
	}
}

func TestTopOnce(t *testing.T) {
	b := newBench(t)
	b.app.clock = ktime.Real
	b.sched.looks = fakeLooks()
	if st := b.run("top", "-i", "100ms"); st != 0 {
		t.Fatalf("status %d: %s", st, b.errOut.String())
	}
	golden(t, "top_once", b.out.Bytes())
	if !strings.Contains(b.errOut.String(), "lab: it does not answer") {
		t.Errorf("it says %q", b.errOut.String())
	}
	b.sched.looks = fakeLooks()
	if st := b.run("top", "-i", "100ms", "-o", "json", "--sort", "wait"); st != 0 {
		t.Fatalf("status %d: %s", st, b.errOut.String())
	}
	var v topView
	if err := json.Unmarshal(b.out.Bytes(), &v); err != nil || len(v.Agents) != 3 || v.Agents[0].Name != "web" || v.Interval != int64(2*time.Second) {
		t.Errorf("%+v, %v", v, err)
	}
	for _, args := range [][]string{{"-i", "1ms"}, {"--sort", "luck"}, {"--domain", "none", "--once"}, {"extra"}} {
		if st := b.run(append([]string{"top"}, args...)...); st == 0 || b.errOut.Len() == 0 {
			t.Errorf("top %q: status %d, %q", args, st, b.errOut.String())
		}
	}
}

func TestSchedShows(t *testing.T) {
	b := newBench(t)
	quota := uint64(250)
	b.sched.looks = []*apiv1.SchedResponse{{Domains: []*apiv1.SchedDomain{{Domain: "default", Agents: []*apiv1.SchedAgent{{
		Agent: "a00000000000a", Name: "web", Class: "deadline", Weight: 200, QuotaMilli: &quota, PeriodNano: 1e8, BurstNano: 2e7, LeftNano: 12e6, Cpus: "0-1",
		Reserved: &apiv1.SchedReservation{RuntimeNano: 2e6, DeadlineNano: 5e6, PeriodNano: 1e7}, Taken: 0.1, Missed: 3, Overruns: 4, Hint: "tool-call",
		Tasks: 2, Running: 1, Waiting: 0, ServiceNano: 5e9, UserNano: 4e9, SystemNano: 1e9, LagNano: -15e5, RequestNano: 3e6,
		Periods: 100, Stops: 20, StoppedNano: 2e9, Switches: 900, Preempted: 80, Migrated: 7,
		Waits: &apiv1.SchedLatency{Count: 1000, P50Nano: 2e4, P99Nano: 3e6, MaxNano: 9e6},
		Threads: []*apiv1.SchedTask{
			{Pid: 1, Tid: 1, Name: "python3", State: "runs", ForNano: 25e5, Cpu: 1, Policy: "normal", Nice: -5, Cpus: "0-1", UserNano: 4e9, SystemNano: 9e8},
			{Pid: 1, Tid: 7, Name: "audio", State: "sleeps", Cpu: -1, Policy: "deadline", Cpus: "0-1", Reserved: &apiv1.SchedReservation{RuntimeNano: 1e6, DeadlineNano: 1e7, PeriodNano: 1e7}, Missed: 3, Lent: true},
		},
	}}}}}}
	if st := b.run("sched", "web"); st != 0 {
		t.Fatalf("status %d: %s", st, b.errOut.String())
	}
	golden(t, "sched", b.out.Bytes())
	if st := b.run("sched", "web", "-o", "json"); st != 0 {
		t.Fatalf("status %d: %s", st, b.errOut.String())
	}
	var v schedAgentView
	if err := json.Unmarshal(b.out.Bytes(), &v); err != nil || *v.QuotaMilli != 250 || v.Lag != -15e5 || *v.Threads[0].CPU != 1 || v.Threads[1].CPU != nil || v.Threads[1].Reservation.Runtime != 1e6 {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestBriefTime(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0ns", 999: "999ns", 1234: "1.2µs", 9960: "10µs", 999_400: "999µs", 999_600: "1.0ms", 12345678: "12ms", 1500 * time.Millisecond: "1.5s",
		99 * time.Second: "99s", 125 * time.Second: "2m05", 3*time.Hour + 7*time.Minute: "3h07", 50 * time.Hour: "50h", -1: "-",
	} {
		if got := briefTime(d); got != want {
			t.Errorf("%d is %q, want %q", d, got, want)
		}
	}
}
