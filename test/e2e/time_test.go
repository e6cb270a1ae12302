package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/ktime"
	"aios.dev/aios/test/ntpserver"
)

// clockStatus is what `aiosctl time -o json` says.
type clockStatus struct {
	Now    time.Time `json:"now"`
	State  string    `json:"state"`
	Offset int64     `json:"offset_ns"`
	Steps  int       `json:"steps"`
	Reason string    `json:"reason"`
	Server []struct {
		Name, State string
		Offset      int64 `json:"offset_ns"`
		Answered    int
		Failed      int
	} `json:"servers"`
}

func (in *install) time(t *testing.T, args ...string) (s clockStatus) {
	t.Helper()
	must(t, json.Unmarshal(in.ok(t, append([]string{"time", "-o", "json"}, args...)...), &s))
	return s
}

// ahead checks by how much AIOS's clock is ahead of the host's.
func (in *install) ahead(t *testing.T, want time.Duration) {
	t.Helper()
	near := func(d time.Duration) bool { return d > want-time.Second && d < want+time.Second }
	if s := in.time(t); !near(time.Duration(s.Offset)) || !near(time.Until(s.Now)) {
		t.Errorf("AIOS's clock is %v ahead, and says %v; not %v", time.Until(s.Now), time.Duration(s.Offset), want)
	}
}

// stamped checks the time of the latest event of a topic.
func (in *install) stamped(t *testing.T, topic, id string, want time.Duration) {
	t.Helper()
	var at time.Time
	eventually(t, topic, 10*time.Second, func() (bool, string) {
		for _, e := range in.past(t, topic) {
			if e.Subject == id {
				at, _ = time.Parse(time.RFC3339Nano, e.Time)
			}
		}
		return !at.IsZero(), ""
	})
	if d := time.Until(at); d < want-20*time.Second || d > want+time.Second {
		t.Errorf("%s is stamped %v ahead of the host's clock, not %v", topic, d, want)
	}
}

// TestTime has AIOS's clock follow time servers of the test: one that is right, one
// that lies, one that is gone; by configuration, by reloading it, and after a
// restart. Kernel processes stamp by the same clock; the host's, and that inside
// agents, stay as they are.
func TestTime(t *testing.T) {
	t.Parallel()
	in := newInstall(t, platforms()[0])
	if out := string(in.ok(t, "time")); !strings.Contains(out, "no time servers are configured") {
		t.Errorf("without servers: %s", out)
	}
	if r := in.run(t, "time", "sync"); r.status == 0 || !strings.Contains(string(r.stderr), "fix: name some") {
		t.Errorf("sync without servers: %s", r)
	}
	id := in.spawn(t, "--name", "early", "--", "sleep", "1000")
	in.stamped(t, "agent.spawn", id, 0)

	const off = 10 * time.Minute
	good := []*ntpserver.Server{ntpserver.Start(t, ktime.Real), ntpserver.Start(t, ktime.Real)}
	liar := ntpserver.Start(t, ktime.Real)
	all := func(b ntpserver.Behaviour) {
		for _, s := range good {
			s.Set(b)
		}
	}
	all(ntpserver.Behaviour{Offset: off})
	liar.Set(ntpserver.Behaviour{Offset: -30 * time.Minute})
	config := "version: 1\ntime: {servers: ['" + good[0].Addr + "', '" + liar.Addr + "', '" + good[1].Addr + "']}\n"
	in.config(t, config)
	in.ok(t, "daemon", "reload")
	in.published(t, "clock.synced")
	in.published(t, "clock.stepped")
	in.ahead(t, off)
	s := in.time(t)
	if s.State != "synchronised" || s.Steps != 1 || len(s.Server) != 3 || s.Server[0].State != "agrees" || s.Server[1].State != "disagrees" || s.Server[1].Offset > int64(-29*time.Minute) {
		t.Errorf("%+v", s)
	}
	// What was started before the step, and after it, and what programs see.
	id = in.spawn(t, "--name", "late", "--", "sleep", "1000")
	in.stamped(t, "agent.spawn", id, off)
	in.ok(t, "kill", "early")
	if r := in.agent(t, "--", "date", "+%s"); r.status != 0 {
		t.Errorf("date: %s", r)
	} else if inside, err := time.ParseDuration(strings.TrimSpace(string(r.stdout)) + "s"); err != nil || time.Since(time.Unix(int64(inside/time.Second), 0)) < -time.Minute {
		t.Errorf("programs in agents do not see the host's clock: %s", r)
	}
	in.ok(t, "health")

	// The next daemon begins where this one was, also when nobody answers.
	all(ntpserver.Behaviour{Silent: true})
	liar.Set(ntpserver.Behaviour{Silent: true})
	in.ok(t, "daemon", "stop")
	in.ok(t, "daemon", "start")
	in.ahead(t, off)
	in.stamped(t, "agent.spawn", in.spawn(t, "--", "true"), off)
	in.published(t, "clock.lost")
	if r := in.run(t, "health"); r.status != 1 || !strings.Contains(string(r.stdout), "no time server answers") {
		t.Errorf("health: %s", r)
	}
	if out := string(in.ok(t, "time")); !strings.Contains(out, "no answer within 2s") || !strings.Contains(out, "fix: see that it runs") {
		t.Errorf("time: %s", out)
	}
	all(ntpserver.Behaviour{Offset: off})
	in.ok(t, "time", "sync")
	in.ok(t, "health")

	in.config(t, "version: 1\n")
	in.ok(t, "daemon", "reload")
	in.ahead(t, 0)
	in.stamped(t, "agent.spawn", in.spawn(t, "--", "true"), 0)

	in.config(t, "version: 1\ntime: {servers: [a b]}\n")
	if r := in.run(t, "daemon", "reload"); r.status != 125 || !strings.Contains(string(r.stderr), `"a b" is no server`) {
		t.Errorf("a server that is none: %s", r)
	}
	in.config(t, "version: 1\n")
	in.ok(t, "daemon", "reload")
}
