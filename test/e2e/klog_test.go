package e2e

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// TestKernelLog follows the log of a domain, and reads it when the kernel
// process was killed.
func TestKernelLog(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		id := in.spawn(t, "--name", "one", "--domain", "logged", "--", "sleep", "1000")
		in.spawn(t, "--name", "two", "--domain", "logged", "--env", "TOKEN=hunter2", "--", "sh", "-c", "sleep 1000", "hunter2")
		console := in.start(t, "klog", "-f", "logged")
		console.stdout.expect(t, "boot: the domain starts domain=logged")
		if got := string(in.ok(t, "klog", "logged", "--level", "agent=debug")); !strings.Contains(got, "\nagent ") || !strings.Contains(got, "debug") || !strings.Contains(got, "\ngvisor ") {
			t.Errorf("levels: %s", got)
		}
		if r := in.run(t, "klog", "logged", "--level", "nosuch=debug"); r.status != 125 || !strings.Contains(string(r.stderr), "no such subsystem") || !strings.Contains(string(r.stderr), "gvisor") {
			t.Errorf("an unknown subsystem: %s", r)
		}
		if r := in.run(t, "klog", "nosuch"); r.status != 125 || !strings.Contains(string(r.stderr), "fix: ") {
			t.Errorf("an unknown domain: %s", r)
		}
		if r := in.run(t, "klog", "logged", "--crashed"); r.status != 125 || !strings.Contains(string(r.stderr), "no log of a crash") {
			t.Errorf("no crash: %s", r)
		}
		in.ok(t, "pause", "one")
		console.stdout.expect(t, "agent: agent.pause agent="+strings.TrimSpace(id))
		in.ok(t, "resume", "one")
		if got := string(in.ok(t, "exec", "one", "--", "dmesg")); !strings.Contains(got, "agent.pause") {
			t.Errorf("dmesg: %q", got)
		}
		if got := string(in.ok(t, "exec", "two", "--", "dmesg")); !strings.Contains(got, "agent.spawn") || strings.Contains(got, "agent.pause") {
			t.Errorf("dmesg of another: %q", got)
		}
		in.ok(t, "pause", "one") // What is last in the log.

		kill9(t, in.process(t, "kernel", "logged"))
		if r := console.wait(); r.status != 0 {
			t.Errorf("who follows: %s", r)
		}
		last := func(args ...string) (level, msg string) {
			var r result
			eventually(t, "the log says that it is of a crash", 10*time.Second, func() (bool, string) {
				r = in.run(t, append([]string{"klog", "logged", "-o", "json"}, args...)...)
				return r.status == 0 && strings.Contains(string(r.stderr), "crashed"), r.String()
			})
			if bytes.Contains(r.stdout, []byte("hunter2")) {
				t.Errorf("a secret is in the log:\n%s", r.stdout)
			}
			lines := bytes.Split(bytes.TrimSpace(r.stdout), []byte("\n"))
			var rec struct {
				Level, Msg, Agent string
				Seq               int
			}
			must(t, json.Unmarshal(lines[len(lines)-1], &rec))
			return rec.Level, rec.Msg
		}
		if level, msg := last(); level != "notice" || msg != "agent.pause" {
			t.Errorf("the last record of the process that crashed: %s %s", level, msg)
		}
		// The domain runs again; what the crash left is still there.
		in.sh(t, "true", "--domain", "logged")
		if level, msg := last("--crashed"); level != "notice" || msg != "agent.pause" {
			t.Errorf("afterwards: %s %s", level, msg)
		}
		if got := string(in.ok(t, "klog")); !strings.Contains(got, "domain died") {
			t.Errorf("the daemon's own log: %s", got)
		}
	})
}
