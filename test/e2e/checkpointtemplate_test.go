package e2e

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ready returns the IDs of the templates that are ready, by name.
func (in *install) ready(t *testing.T) map[string]string {
	t.Helper()
	var list []struct{ ID, Name, State string }
	must(t, json.Unmarshal(in.ok(t, "template", "ls", "-o", "json"), &list))
	out := make(map[string]string)
	for _, x := range list {
		if x.State != "ready" {
			t.Errorf("%s is %s", x.Name, x.State)
		}
		out[x.Name] = x.ID
	}
	return out
}

// A template is part of a checkpoint of its domain: agents begin from it when the domain
// was restored, and when it went on by itself after its kernel process was killed.
func TestCheckpointKeepsTemplates(t *testing.T) {
	need(t, "python3")
	onEach(t, func(t *testing.T, in *install) {
		id := in.template(t, "py", "--", "python3", "-c", "import json, sys; exec(sys.stdin.read())")
		// Threads of it wait in other calls.
		in.template(t, "busy", "--", "python3", "-c", `import os, select, sys, threading, time
r, w = os.pipe()
said = []
def nap(): time.sleep(0.3); said.append("nap")
def wait(): said.append("wait%d" % len(select.select([r], [], [])[0]))
done = threading.Condition()
def condition():
    with done: said.append("condition%d" % done.wait(60))
threads = [threading.Thread(target=f) for f in (nap, wait, condition)]
for x in threads: x.start()
time.sleep(0.1)
sys.stdin.read()
os.write(w, b"x")
with done: done.notify()
for x in threads: x.join()
print(*sorted(said))`)
		in.spawn(t, "--from", "py", "--name", "waits", "-i")
		works := func(when string) {
			t.Helper()
			for range 2 {
				if r := in.from(t, "py", "print(json.dumps(6*7)); sys.exit(3)"); r.status != 3 || string(r.stdout) != "42\n" {
					t.Errorf("%s: %s", when, r)
				}
				if r := in.from(t, "busy", ""); r.status != 0 || string(r.stdout) != "conditionTrue nap wait1\n" && string(r.stdout) != "condition1 nap wait1\n" {
					t.Errorf("%s: %s", when, r)
				}
			}
			if got := in.ready(t); len(got) != 2 || got["py"] != id {
				t.Errorf("%s: these are ready: %v", when, got)
			}
			if a := in.inspect(t, "waits"); a.State != "running" {
				t.Errorf("%s: %+v", when, a)
			}
		}
		in.ok(t, "domain", "hibernate", "default")
		if got := in.ready(t); len(got) != 0 {
			t.Errorf("saved, these are ready: %v", got)
		}
		in.ok(t, "domain", "restore", "default")
		works("restored")
		if r := in.from(t, "py", `b = bytearray(200 << 20); print("had it")`, "--memory", "64M"); r.status == 0 || strings.Contains(string(r.stdout), "had it") {
			t.Errorf("what begins from a restored template has no limit: %s", r)
		}
		killed := func(when string) {
			t.Helper()
			restored := len(in.past(t, "domain.restore"))
			must(t, syscall.Kill(in.process(t, "kernel", "default"), syscall.SIGKILL))
			eventually(t, when+": it goes on", 60*time.Second, func() (bool, string) {
				return len(in.past(t, "domain.restore")) > restored, string(in.ok(t, "ps", "-a"))
			})
		}
		in.ok(t, "domain", "checkpoint", "default", "--every", "1h")
		killed("killed")
		works("killed")
		// What was removed since does not come back.
		in.ok(t, "template", "rm", "busy")
		killed("removed")
		if got := in.ready(t); len(got) != 1 || got["py"] != id {
			t.Errorf("after one was removed, these are ready: %v", got)
		}
		in.ok(t, "domain", "checkpoint", "default", "--every", "0")
		must(t, syscall.Kill(in.process(t, "kernel", "default"), syscall.SIGKILL))
		eventually(t, "it is lost", 30*time.Second, func() (bool, string) {
			return in.inspect(t, "waits").State == "lost", string(in.ok(t, "ps", "-a"))
		})
		in.template(t, "py", "--", "cat") // Its name is free.
	})
}
