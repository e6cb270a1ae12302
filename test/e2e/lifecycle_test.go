package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"
)

func TestSpawnToRemove(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		id := in.spawn(t, "-i", "--name", "web", "--label", "team=a", "--", "sh", "-c", "echo out; echo err >&2; read x; exit 3")
		all := in.ps(t)
		if len(all) != 1 || all[0].ID != id || all[0].Name != "web" || all[0].Domain != "default" {
			t.Fatalf("%+v", all)
		}
		// The end of its input is its own.
		if r := in.run(t, "attach", "web"); r.status != 3 {
			t.Errorf("attach: %s", r)
		}
		if r := in.run(t, "wait", "web"); r.status != 3 || string(r.stdout) != "web 3\n" {
			t.Errorf("wait: %s", r)
		}
		if all := in.ps(t); len(all) != 0 {
			t.Errorf("ps shows what has ended: %+v", all)
		}
		if all := in.ps(t, "-a"); len(all) != 1 || all[0].State != "exited" || all[0].Exit.Status != 3 {
			t.Errorf("ps -a: %+v", all)
		}
		if r := in.run(t, "logs", "web"); string(r.stdout) != "out\n" || string(r.stderr) != "err\n" {
			t.Errorf("logs: %s", r)
		}
		if r := in.run(t, "logs", "--stderr", "web"); len(r.stdout) != 0 || string(r.stderr) != "err\n" {
			t.Errorf("logs --stderr: %s", r)
		}
		// Waiting again tells the same.
		if r := in.run(t, "wait", id); r.status != 3 {
			t.Errorf("wait: %s", r)
		}
		for _, verb := range [][]string{{"kill"}, {"pause"}, {"resume"}, {"attach"}} {
			if r := in.run(t, append(verb, "web")...); r.status != 125 || !strings.Contains(string(r.stderr), "ended") {
				t.Errorf("%v of an agent that has ended: %s", verb, r)
			}
		}
		in.ok(t, "rm", "web")
		if all := in.ps(t, "-a"); len(all) != 0 {
			t.Errorf("after rm: %+v", all)
		}
		if r := in.run(t, "logs", id); r.status != 125 {
			t.Errorf("logs after rm: %s", r)
		}
	})
}

// TestRunForgets looks right after run has returned: its agent is gone, and
// its name is free.
func TestRunForgets(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		for i := range 20 {
			if r := in.agent(t, "--name", "job", "--", "true"); r.status != 0 {
				t.Fatalf("run %d: %s", i, r)
			}
		}
		if all := in.ps(t, "-a"); len(all) != 0 {
			t.Errorf("%+v", all)
		}
		for i := range 10 {
			in.agent(t, "--keep", "--name", "kept", "--", "sh", "-c", "exit 4")
			if a := in.inspect(t, "kept"); a.State != "exited" || a.Exit.Status != 4 {
				t.Fatalf("run %d: %+v", i, a)
			}
			in.ok(t, "rm", "kept")
		}
		for range 10 {
			in.spawn(t, "--name", "busy", "--", "sleep", "1000")
			in.ok(t, "rm", "-f", "busy")
		}
		if files, _ := filepath.Glob(filepath.Join(in.state, "agents", "*")); len(files) != 0 {
			t.Errorf("files of agents that are gone: %v", files)
		}
	})
}

func TestNameOrID(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		id := in.spawn(t, "--name", "both", "-i", "--", "cat")
		for _, ref := range []string{id, "both"} {
			if got := string(in.ok(t, "exec", ref, "--", "echo", "hi")); got != "hi\n" {
				t.Errorf("%q", got)
			}
			in.ok(t, "pause", ref)
			if a := in.inspect(t, ref); a.State != "paused" || a.ID != id {
				t.Errorf("%+v", a)
			}
			in.ok(t, "resume", ref)
			in.ok(t, "logs", ref)
			in.ok(t, "kill", "-s", "CONT", ref)
			a := in.start(t, "attach", ref)
			a.write("ping " + ref + "\n")
			a.stdout.expect(t, "ping "+ref+"\n")
			must(t, a.cmd.Process.Kill())
			a.wait()
		}
		if r := in.run(t, "rm", "-f", id); r.status != 0 {
			t.Errorf("%s", r)
		}
		if all := in.ps(t, "-a"); len(all) != 0 {
			t.Errorf("%+v", all)
		}
	})
}

func TestLogs(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		in.spawn(t, "--name", "speaker", "-i", "--", "sh", "-c", "seq 1000; while read line; do echo $line; done; printf unfinished")
		eventually(t, "the log is written", 20*time.Second, func() (bool, string) {
			out := string(in.ok(t, "logs", "speaker"))
			return strings.HasSuffix(out, "\n1000\n"), out
		})
		if got := string(in.ok(t, "logs", "--tail", "3", "speaker")); got != "998\n999\n1000\n" {
			t.Errorf("--tail 3: %q", got)
		}
		f := in.start(t, "logs", "-f", "--tail", "1", "speaker")
		f.stdout.expect(t, "1000\n")
		w := in.start(t, "attach", "speaker")
		w.write("more\n")
		f.stdout.expect(t, "more\n")
		must(t, w.stdin.Close())
		if r := w.wait(); r.status != 0 || !strings.HasSuffix(string(r.stdout), "unfinished") {
			t.Errorf("attach: %s", r)
		}
		if r := f.wait(); r.status != 0 || string(r.stdout) != "1000\nmore\nunfinished" {
			t.Errorf("logs -f: %s", r)
		}
		// It is bytes that are kept, and all of them.
		data := noise(4, 3<<20)
		mount := in.share(t, map[string][]byte{"data": data}) + ":/in"
		id := in.spawn(t, "--mount", mount, "--", "cat", "/in/data")
		in.ok(t, "wait", id)
		if got := in.ok(t, "logs", id); string(got) != string(data) {
			t.Errorf("%d bytes of %d, or others", len(got), len(data))
		}
		// A log does not grow for ever.
		id = in.spawn(t, "--", "sh", "-c", "head -c 40000000 /dev/zero; echo; echo last")
		in.ok(t, "wait", id)
		fi, err := os.Stat(in.inspect(t, id).LogPath)
		must(t, err)
		if fi.Size() > 17<<20 {
			t.Errorf("the log has %d bytes", fi.Size())
		}
		if got := string(in.ok(t, "logs", "--tail", "1", id)); got != "last\n" {
			t.Errorf("the last line is %q", got)
		}
	})
}

func TestExec(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		dir := in.share(t, map[string][]byte{"f": []byte("mounted\n")})
		in.spawn(t, "--name", "host", "--hostname", "inner", "--mount", dir+":/m", "--", "sleep", "1000")
		r := in.run(t, "exec", "host", "--", "sh", "-c", "cat /m/f; hostname; echo err >&2; cat /proc/1/comm; exit 3")
		if r.status != 3 || string(r.stdout) != "mounted\ninner\nsleep\n" || string(r.stderr) != "err\n" {
			t.Errorf("%s", r)
		}
		data := noise(5, 2<<20)
		if r := in.runWith(t, strings.NewReader(string(data)), "exec", "host", "--", "cat"); string(r.stdout) != string(data) {
			t.Errorf("%d bytes of %d, or others", len(r.stdout), len(data))
		}
		r = in.run(t, "exec", "-e", "A=b", "-w", "/tmp", "-u", "1234:56", "host", "--", "sh", "-c", "echo $A; pwd; id -u; id -g")
		if string(r.stdout) != "b\n/tmp\n1234\n56\n" {
			t.Errorf("%s", r)
		}
		in.ok(t, "exec", "-d", "host", "--", "sh", "-c", "echo detached > /tmp/flag; exec sleep 1000")
		eventually(t, "the detached exec acts", 20*time.Second, func() (bool, string) {
			r := in.run(t, "exec", "host", "--", "cat", "/tmp/flag")
			return string(r.stdout) == "detached\n", r.String()
		})
		if r := in.run(t, "exec", "host", "--", "sh", "-c", "kill -TERM $$"); r.status != 143 {
			t.Errorf("%s", r)
		}
		e := in.start(t, "exec", "host", "--", "sh", "-c", "echo ready; exec sleep 1000")
		e.stdout.expect(t, "ready\n")
		in.ok(t, "pause", "host")
		if r := in.run(t, "exec", "host", "--", "true"); r.status != 125 || !strings.Contains(string(r.stderr), "paused") {
			t.Errorf("exec while paused: %s", r)
		}
		in.ok(t, "resume", "host")
		in.ok(t, "kill", "host")
		if r := e.wait(); r.status != 137 {
			t.Errorf("an exec whose agent was killed: %s", r)
		}
		if r := in.run(t, "exec", "host", "--", "true"); r.status != 125 {
			t.Errorf("exec in an agent that has ended: %s", r)
		}
	})
}

// TestKillKillsAll leaves no way to outlive the agent: children, sessions of
// their own, orphans, processes that ignore signals, and further programs.
func TestKillKillsAll(t *testing.T) {
	// Every process appends to a file of its own on the host, as long as it lives.
	const beat = `beat() { while :; do echo . >> /m/$1; sleep 0.02; done; }
trap '' TERM INT HUP
beat child & 
setsid sh -c 'while :; do echo . >> /m/session; sleep 0.02; done' &
( ( beat orphan & ) & )
( ( setsid nohup sh -c 'while :; do echo . >> /m/daemon; sleep 0.02; done' >/dev/null 2>&1 & ) & )
beat first`
	names := []string{"first", "child", "session", "orphan", "daemon", "exec"}
	sizes := func(dir string) string {
		var out []string
		for _, n := range names {
			fi, err := os.Stat(filepath.Join(dir, n))
			if err != nil {
				return ""
			}
			out = append(out, fmt.Sprint(n, fi.Size()))
		}
		return strings.Join(out, " ")
	}
	onEach(t, func(t *testing.T, in *install) {
		for _, how := range [][]string{{"kill"}, {"rm", "-f"}, {"kill", "-s", "9", "--all"}} {
			dir := in.share(t, nil)
			in.spawn(t, "--name", "many", "--mount", dir+":/m:rw", "--", "sh", "-c", beat)
			in.ok(t, "exec", "-d", "many", "--", "sh", "-c", "while :; do echo . >> /m/exec; sleep 0.02; done")
			eventually(t, "all processes beat", 20*time.Second, func() (bool, string) {
				s := sizes(dir)
				return s != "", s
			})
			if n := in.inspect(t, "many").Processes; n < len(names) {
				t.Errorf("%d processes", n)
			}
			in.ok(t, append(how, "many")...)
			if how[0] == "kill" {
				if r := in.run(t, "wait", "many"); r.status != 137 {
					t.Errorf("wait: %s", r)
				}
				in.ok(t, "rm", "many")
			}
			after := sizes(dir)
			time.Sleep(200 * time.Millisecond) // Ten beats.
			if now := sizes(dir); now != after {
				t.Errorf("%v: something lives: %s, then %s", how, after, now)
			}
		}
	})
}

// TestFirstProcessTakesTheRest is the same for an agent that ends by itself.
func TestFirstProcessTakesTheRest(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		r := in.agent(t, "--", "sh", "-c", "setsid sleep 1000 & (sleep 1000 &); echo bye; exit 4")
		if r.status != 4 || string(r.stdout) != "bye\n" {
			t.Errorf("%s", r)
		}
		if d := in.domains(t); len(d) != 1 || d[0].Agents != 0 {
			t.Errorf("%+v", d)
		}
	})
}

func TestSignals(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		// Signals are remembered in the order they came.
		in.spawn(t, "--name", "deaf", "--", "python3", "-u", "-c", `
import signal, time, os
for n in list(range(1, 32)) + [34, 40, 64]:
    if n not in (9, 17, 19): signal.signal(n, lambda n, f: os.write(1, b"got %d\n" % n))
if os.fork() == 0:
    signal.signal(10, lambda n, f: os.write(1, b"child got %d\n" % n))
os.write(1, b"ready\n")
while True: time.sleep(0.05)`)
		wait := func(text string) {
			t.Helper()
			eventually(t, text, 20*time.Second, func() (bool, string) {
				out := string(in.ok(t, "logs", "deaf"))
				return strings.Contains(out, text), out
			})
		}
		wait("ready\nready\n")
		for name, n := range map[string]int{"TERM": 15, "SIGHUP": 1, "int": 2, "12": 12, "RTMIN": 34, "RTMIN+6": 40, "64": 64} {
			in.ok(t, "kill", "-s", name, "deaf")
			wait(fmt.Sprintf("got %d\n", n))
		}
		in.ok(t, "kill", "-s", "USR1", "--all", "deaf")
		wait("child got 10\n")
		if r := in.run(t, "kill", "-s", "NOSUCH", "deaf"); r.status != 125 || !strings.Contains(string(r.stderr), "fix: ") {
			t.Errorf("%s", r)
		}
		in.ok(t, "kill", "-s", "STOP", "deaf")
		in.ok(t, "kill", "-s", "CONT", "deaf")
		in.ok(t, "kill", "deaf")
		if r := in.run(t, "wait", "deaf"); r.status != 137 {
			t.Errorf("%s", r)
		}
	})
}

func TestPauseAndResume(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		in.spawn(t, "--name", "counter", "--", "sh", "-c", counter)
		in.spawn(t, "--name", "busy", "--", "python3", "-c", `
import threading
def spin():
    while True: pass
for _ in range(3): threading.Thread(target=spin, daemon=True).start()
n = 0
while True:
    n += 1
    if n % 5000 == 0: print(n, flush=True)`)
		for _, agent := range []string{"counter", "busy"} {
			for range 3 {
				in.progresses(t, agent)
				in.ok(t, "pause", agent)
				at := in.counted(t, agent)
				time.Sleep(200 * time.Millisecond)
				if now := in.counted(t, agent); now != at {
					t.Errorf("%s went from %d to %d while it was paused", agent, at, now)
				}
				if a := in.inspect(t, agent); a.State != "paused" {
					t.Errorf("%+v", a)
				}
				if r := in.run(t, "pause", agent); r.status != 125 || !strings.Contains(string(r.stderr), "resume") {
					t.Errorf("pause of a paused agent: %s", r)
				}
				in.ok(t, "resume", agent)
				if a := in.inspect(t, agent); a.State != "running" {
					t.Errorf("%+v", a)
				}
				in.progresses(t, agent)
			}
			if r := in.run(t, "resume", agent); r.status != 125 {
				t.Errorf("resume of an agent that runs: %s", r)
			}
		}
		// What is paused can be killed, and signals wait for the rest.
		in.ok(t, "pause", "counter", "busy")
		in.ok(t, "kill", "counter")
		if r := in.run(t, "wait", "counter"); r.status != 137 {
			t.Errorf("%s", r)
		}
		in.ok(t, "rm", "-f", "busy")
	})
}

// progresses waits until the last number of an agent's log has grown.
func (in *install) progresses(t *testing.T, agent string) {
	t.Helper()
	from := in.counted(t, agent)
	eventually(t, agent+" progresses", 20*time.Second, func() (bool, string) {
		n := in.counted(t, agent)
		return n > from, fmt.Sprintf("from %d to %d", from, n)
	})
}

// TestOrphans has a first process that knows nothing of being one: it never
// waits. Orphans are collected all the same, its own children are not.
func TestOrphans(t *testing.T) {
	const program = `
import os, sys, time
own = os.fork()
if own == 0: os._exit(7)
for _ in range(30):
    middle = os.fork()
    if middle == 0:
        if os.fork() == 0:          # An orphan as soon as its parent has ended.
            time.sleep(0.05)
            os._exit(1)
        os._exit(0)
    os.waitpid(middle, 0)
print("forked", flush=True)
sys.stdin.readline()
pid, status = os.waitpid(own, 0)
print("own", pid == own, os.waitstatus_to_exitcode(status), flush=True)
try: os.waitpid(-1, 0)
except ChildProcessError: print("no more", flush=True)`
	onOne(t, func(t *testing.T, in *install) {
		c := in.startAgent(t, "--name", "careless", "--", "python3", "-c", program)
		c.stdout.expect(t, "forked\n")
		eventually(t, "one zombie is left", 10*time.Second, func() (bool, string) {
			r := in.run(t, "exec", "careless", "--", "sh", "-c", "cat /proc/[0-9]*/stat | grep -c ' Z '")
			return strings.TrimSpace(string(r.stdout)) == "1", r.String()
		})
		c.write("\n")
		c.stdout.expect(t, "own True 7\n")
		c.stdout.expect(t, "no more\n")
		if r := c.wait(); r.status != 0 {
			t.Errorf("%s", r)
		}
	})
}

func TestPsAndInspect(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		if got := string(in.ok(t, "ps", "-o", "json")); strings.TrimSpace(got) != "[]" {
			t.Errorf("an empty list is %q", got)
		}
		in.spawn(t, "--name", "a", "--domain", "one", "--label", "k=v", "--", "sleep", "1000")
		in.spawn(t, "--name", "b", "--domain", "two", "-w", "/tmp", "-e", "X=y", "--memory", "100M", "--", "sh", "-c", "sleep 1000 & wait")
		in.runsInside(t, "b", "sleep")
		if table := string(in.ok(t, "ps")); !strings.Contains(table, "NAME") || !strings.Contains(table, "sleep 1000") {
			t.Errorf("%s", table)
		}
		if all := in.ps(t, "--domain", "one"); len(all) != 1 || all[0].Name != "a" {
			t.Errorf("%+v", all)
		}
		b := in.inspect(t, "b")
		if b.Processes != 2 || len(b.ProcessList) != 2 || b.Memory == 0 {
			t.Errorf("%+v", b)
		}
		var commands []string
		for _, p := range b.ProcessList {
			commands = append(commands, strings.Join(p.Argv, " "))
		}
		sort.Strings(commands)
		if len(commands) != 2 || commands[0] != "sh -c sleep 1000 & wait" || commands[1] != "sleep 1000" {
			t.Errorf("command lines: %q", commands)
		}
		var raw []map[string]any
		must(t, json.Unmarshal(in.ok(t, "inspect", "-o", "json", "a", "b"), &raw))
		if len(raw) != 2 || raw[0]["labels"].(map[string]any)["k"] != "v" || raw[1]["spec"].(map[string]any)["cwd"] != "/tmp" {
			t.Errorf("%v", raw)
		}
		if r := in.run(t, "kill", "a", "nosuch", "b"); r.status != 125 || !strings.Contains(string(r.stderr), "nosuch") {
			t.Errorf("%s", r)
		}
		in.run(t, "wait", "a", "b")
		if all := in.ps(t); len(all) != 0 {
			t.Errorf("the others were not killed: %+v", all)
		}
	})
}
