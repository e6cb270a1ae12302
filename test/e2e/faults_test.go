package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"aios.dev/aios/abi"
)

// program compiles a program of testdata and returns the directory it is in.
func (in *install) program(t *testing.T, name string) string {
	t.Helper()
	need(t, "gcc")
	dir := in.share(t, nil)
	out, err := exec.Command("gcc", "-static", "-O0", "-g", "-w", "-o", filepath.Join(dir, name), filepath.Join("testdata", name+".c")).CombinedOutput()
	if err != nil {
		t.Fatalf("gcc: %v: %s", err, out)
	}
	return dir
}

// about matches an event of an agent, with fields.
func about(id string, fields ...string) func(eventLine) bool {
	return func(e eventLine) bool {
		if e.Subject != id {
			return false
		}
		for i := 0; i < len(fields); i += 2 {
			if fmt.Sprint(e.Data[fields[i]]) != fields[i+1] {
				return false
			}
		}
		return true
	}
}

// TestExceptions raises exceptions of every kind that a program can raise
// without a segment or the x87 unit, and applies policies to them.
func TestExceptions(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		dir := in.program(t, "faults")
		in.ok(t, "daemon", "start")
		run := func(kind string, flags ...string) string {
			return in.spawn(t, append(append([]string{"--mount", dir + ":/f"}, flags...), "--", "/f/faults", kind)...)
		}
		// Nobody is told of every exception meanwhile: that would make them few.
		f := in.follow(t, "--topic", "fault.storm")
		storm := run("storm")
		f.wait(t, "fault.storm", about(storm, "name", "page-fault"))
		in.ok(t, "kill", storm)

		f = in.follow(t, "--topic", "fault.*", "--topic", "agent.exit")
		for _, c := range []struct{ kind, name, vector, signal string }{
			{"divide", "divide-error", "<nil>", "8"},
			{"opcode", "invalid-opcode", "6", "4"},
			{"breakpoint", "breakpoint", "3", "5"},
			{"privileged", "general-protection", "13", "11"},
			{"address", "general-protection", "13", "11"},
			{"alignment", "alignment-check", "17", "7"},
			{"null", "page-fault", "14", "11"},
			{"jump", "page-fault", "14", "11"},
		} {
			id := run(c.kind)
			f.wait(t, "fault.exception", about(id, "name", c.name, "vector", c.vector, "signal", c.signal))
			f.wait(t, "agent.exit", about(id, "signal", c.signal))
		}
		handled := run("handled")
		f.wait(t, "fault.exception", about(handled, "handled", "true", "mapping", "null"))
		f.wait(t, "agent.exit", about(handled, "code", "9"))
		double := run("double")
		f.wait(t, "fault.double", about(double))

		// Policies.
		id := run("null", "--on-fault", "kill-agent")
		f.wait(t, "fault.verdict", about(id, "action", "kill-agent", "blame", "agent", "scope", "agent"))
		f.wait(t, "agent.exit", about(id, "signal", "9"))
		id = run("alignment", "--on-fault", "alignment-check=ignore")
		f.wait(t, "agent.exit", about(id, "code", "<nil>", "signal", "<nil>"))
		id = run("opcode", "--on-fault", "freeze")
		f.wait(t, "fault.verdict", about(id, "action", "freeze"))
		eventually(t, "it is paused", 10*time.Second, func() (bool, string) {
			st := in.inspect(t, id).State
			return st == "paused", st
		})
		in.ok(t, "kill", id)
		id = run("null", "--on-fault", "dump")
		f.wait(t, "agent.exit", about(id, "signal", "11"))
		eventually(t, "a dump is kept", 10*time.Second, func() (bool, string) {
			out := string(in.ok(t, "crash", "ls", "-o", "json"))
			return strings.Contains(out, id), out
		})
		id = in.spawn(t, "--mount", dir+":/f", "--on-fault", "deliver,2/1h:kill-agent", "--", "sh", "-c", "for i in 1 2 3 4; do /f/faults null; done; echo all")
		f.wait(t, "fault.verdict", about(id, "action", "kill-agent"))
		if out := string(in.ok(t, "logs", id)); strings.Contains(out, "all") {
			t.Errorf("it went on: %s", out)
		}
		id = in.spawn(t, "--domain", "doomed", "--mount", dir+":/f", "--on-fault", "kill-domain", "--", "/f/faults", "opcode")
		f.wait(t, "fault.triple", about(id))
		eventually(t, "it is lost", 10*time.Second, func() (bool, string) {
			st := in.inspect(t, id).State
			return st == "lost", st
		})
		if entries := in.audit(t, "--op", "verdict"); len(entries) < 5 {
			t.Errorf("verdicts in the audit trail: %+v", entries)
		}
	})
}

// TestViolations lets agents do what they may not, under a policy.
func TestViolations(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		need(t, "python3")
		in.ok(t, "daemon", "start")
		f := in.follow(t)
		escape := "import ctypes; ctypes.CDLL(None).syscall(246, 0, 0, 0, 0); print('went on', flush=True); import time; time.sleep(1000)"
		socket := "import socket\nwhile True:\n try: socket.socket()\n except OSError: pass"

		id := in.spawn(t, "--on-violation", "escape=kill-agent", "--", "python3", "-c", escape)
		f.wait(t, "fault.verdict", about(id, "action", "kill-agent", "violation", "escape", "blame", "agent"))
		f.wait(t, "agent.exit", about(id, "signal", "9"))
		if out := string(in.ok(t, "logs", id)); out != "" {
			t.Errorf("it went on: %q", out)
		}
		id = in.spawn(t, "--on-violation", "deny", "--", "python3", "-c", escape)
		eventually(t, "it goes on", 20*time.Second, func() (bool, string) {
			out := string(in.ok(t, "logs", id))
			return strings.Contains(out, "went on"), out
		})
		id = in.spawn(t, "--on-violation", "net=deny,100/1h:kill-agent", "--", "python3", "-c", socket)
		f.wait(t, "fault.verdict", about(id, "action", "kill-agent", "violation", "net"))

		id = in.spawn(t, "--grant", "net:loopback", "--on-violation", "quarantine", "--", "python3", "-c", escape)
		f.wait(t, "agent.quarantine", about(id, "revoked", "1"))
		eventually(t, "it is paused", 10*time.Second, func() (bool, string) {
			st := in.inspect(t, id).State
			return st == "paused", st
		})
		for _, c := range in.caps(t, id) {
			if strings.HasPrefix(c.Spec, "net:") {
				t.Errorf("it holds %+v", c)
			}
		}

		for _, c := range []struct{ flags, want string }{
			{"--on-fault bogus", "the actions are: deliver"},
			{"--on-fault page-fault=ignore", "only alignment-check"},
			{"--on-fault nothing=freeze", "the exceptions are: divide-error"},
			{"--on-violation deliver", "the actions are: deny"},
			{"--on-violation deny,0/1s:kill-agent", "ACTION,COUNT/TIME:ACTION"},
			{"--on-violation kill-agent,5/1s:deny", "harder"},
		} {
			r := in.run(t, append(append([]string{"run"}, strings.Fields(c.flags)...), "--", "true")...)
			if r.status != 125 || !strings.Contains(string(r.stderr), c.want) {
				t.Errorf("%s: %s", c.flags, r)
			}
		}
	})
}

// TestPanics has the kernel panic in every system call there is: the agent
// ends, and its neighbour does not notice. With a lock held that agents share
// the domain ends, and no other.
func TestPanics(t *testing.T) {
	t.Parallel()
	in := newInstall(t, platforms()[0])
	in.env = append(in.env, abi.ChaosEnv+"=1")
	dir := in.program(t, "chaos")
	in.ok(t, "daemon", "start")
	neighbour := in.spawn(t, "--name", "neighbour", "--", "sh", "-c", counter)
	in.spawn(t, "--name", "elsewhere", "--domain", "elsewhere", "--", "sh", "-c", counter)

	calls := abi.Syscalls()
	queue := make(chan abi.Syscall)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for call := range queue {
				r := in.run(t, "run", "--mount", dir+":/f", "--", "/f/chaos", fmt.Sprint(call.Nr), "1")
				if r.status != 137 || !strings.Contains(string(r.stderr), "the kernel panicked in "+call.Name+":") {
					t.Errorf("%s: %s", call.Name, r)
				}
			}
		})
	}
	for _, call := range calls {
		if call.Name != "prctl" { // It says what is to fail.
			queue <- call
		}
	}
	close(queue)
	wg.Wait()
	// Beside system calls: a page fault, another exception, a file of the
	// kernel's own.
	for _, how := range []string{"3", "4", "5"} {
		r := in.run(t, "run", "--mount", dir+":/f", "--", "/f/chaos", "0", how)
		if r.status != 137 || !strings.Contains(string(r.stderr), "the kernel panicked ") {
			t.Errorf("%s: %s", how, r)
		}
	}
	in.countsOn(t, "neighbour")
	panics := 0
	for _, line := range strings.Split(string(in.ok(t, "events", "--topic", "kernel.panic", "-o", "json")), "\n") {
		if strings.Contains(line, `"contained":true`) {
			panics++
		}
	}
	if want := len(calls) - 1 + 3; panics != want {
		t.Errorf("%d of %d panics are in the journal as contained", panics, want)
	}
	blamed := 0
	for _, e := range in.audit(t, "--op", "verdict") {
		if strings.Contains(e.Target, "agent ended, AIOS is to blame") {
			blamed++
		}
	}
	if blamed != panics {
		t.Errorf("%d verdicts on %d panics are in the audit trail", blamed, panics)
	}
	if in.inspect(t, neighbour).State != "running" {
		t.Error("the neighbour has ended")
	}

	// The lock of agents, held for ever.
	in.run(t, "run", "--mount", dir+":/f", "--", "/f/chaos", "39", "2")
	eventually(t, "the domain ends", 30*time.Second, func() (bool, string) {
		st := in.inspect(t, neighbour).State
		return st == "lost", st
	})
	in.countsOn(t, "elsewhere")
	if out := string(in.ok(t, "events", "--topic", "kernel.panic", "-n", "1")); !strings.Contains(out, "the lock of agents is held") {
		t.Errorf("why the domain ended: %s", out)
	}
}

// TestNoChaos: what injects failures does nothing where nobody asked for it.
func TestNoChaos(t *testing.T) {
	t.Parallel()
	in := newInstall(t, platforms()[0])
	dir := in.program(t, "chaos")
	if r := in.run(t, "run", "--mount", dir+":/f", "--", "/f/chaos", "39", "1"); r.status != 0 || string(r.stdout) != "returned\n" {
		t.Errorf("%s", r)
	}
}
