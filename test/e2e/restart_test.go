package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestRestart ends agents and their kernel process, and sees them run again.
func TestRestart(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		in.ok(t, "daemon", "start")
		f := in.follow(t)
		flaky := in.spawn(t, "--name", "flaky", "--restart", "on-failure:2", "--", "sh", "-c", "echo started; exit 3")
		f.wait(t, "agent.restart", about(flaky, "attempt", "2", "from", "definition"))
		f.wait(t, "health.degraded", func(e eventLine) bool { return e.Data["component"] == "agent flaky" })
		eventually(t, "it was started three times", 20*time.Second, func() (bool, string) {
			out := string(in.ok(t, "logs", "flaky"))
			return strings.Count(out, "started") == 3, out
		})
		if r := in.run(t, "health"); r.status != 2 || !strings.Contains(string(r.stdout), "restart budget used up") {
			t.Errorf("health: %s", r)
		}
		in.ok(t, "rm", "flaky")
		well := in.spawn(t, "--name", "well", "--restart", "on-failure", "--", "true")
		f.wait(t, "agent.exit", about(well))

		steady := in.spawn(t, "--name", "steady", "--restart", "always", "--", "sh", "-c", "echo hi; exec sleep 1000")
		plain := in.spawn(t, "--name", "plain", "--", "sleep", "1000")
		kill9(t, in.process(t, "kernel", "default"))
		f.wait(t, "domain.crash", nil)
		f.wait(t, "agent.lost", about(steady))
		f.wait(t, "agent.lost", about(plain))
		f.wait(t, "domain.restart", nil)
		f.wait(t, "agent.restart", about(steady))
		eventually(t, "it runs again", 10*time.Second, func() (bool, string) {
			st := in.inspect(t, "steady").State
			return st == "running", st
		})
		if st := in.inspect(t, "plain").State; st != "lost" {
			t.Errorf("an agent without a policy is %s", st)
		}
		if r := in.run(t, "health"); r.status != 0 {
			t.Errorf("health: %s", r)
		}

		// It has what it was spawned with, and not what was changed since.
		once := in.spawn(t, "--name", "once", "--cpu", "weight=50", "--restart", "on-failure", "--", "sh", "-c", "while ! test -e /tmp/go; do sleep 0.05; done; exit 3")
		in.ok(t, "sched", "set", "once", "weight=300,quota=0.5")
		in.ok(t, "hint", "once", "interactive")
		in.ok(t, "cap", "grant", "once", "net:loopback")
		has := func() string {
			var s struct {
				Weight uint64
				Quota  uint64 `json:"quota_millicpu"`
				Hint   string
			}
			must(t, json.Unmarshal(in.ok(t, "sched", "once", "-o", "json"), &s))
			return fmt.Sprint(s.Weight, s.Quota == 500, " ", s.Hint, " ", strings.Contains(string(in.ok(t, "cap", "ls", "once")), "net:loopback"))
		}
		if got := has(); got != "300 true interactive true" {
			t.Errorf("once has %s", got)
		}
		in.ok(t, "exec", "once", "--", "touch", "/tmp/go")
		f.wait(t, "agent.restart", about(once))
		eventually(t, "it runs again", 10*time.Second, func() (bool, string) {
			st := in.inspect(t, "once").State
			return st == "running", st
		})
		if got := has(); got != "50 false none false" {
			t.Errorf("once has, started again, %s", got)
		}

		in.ok(t, "kill", "steady") // Whoever ends it means it.
		time.Sleep(500 * time.Millisecond)
		if st := in.inspect(t, "steady").State; st != "exited" {
			t.Errorf("an agent that an operator has killed is %s", st)
		}
		for _, bad := range []string{"sometimes", "on-failure:0", "always:x", "no:3"} {
			if r := in.run(t, "spawn", "--restart", bad, "--", "true"); r.status != 125 {
				t.Errorf("--restart %s: %s", bad, r)
			}
		}
	})
}
