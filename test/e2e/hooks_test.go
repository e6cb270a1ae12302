package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// script writes a program that hooks run, and returns its path.
func (in *install) script(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(in.dir, name)
	must(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755))
	return path
}

// hookLine is a hook of `hook ls -o json`.
type hookLine struct {
	Name, Breaker, Error    string
	Operations              []string
	Calls, Vetoes, Failures uint64
}

func (in *install) hooks(t testing.TB) map[string]hookLine {
	t.Helper()
	var all []hookLine
	if err := json.Unmarshal(in.ok(t, "hooks", "ls", "-o", "json"), &all); err != nil {
		t.Fatal(err)
	}
	by := make(map[string]hookLine)
	for _, h := range all {
		by[h.Name] = h
	}
	return by
}

// heard is what a hook was given.
type heard struct {
	Phase, Operation, Correlation string
	Agent                         struct {
		ID, Name, Domain, Image string
		Program, Grants         []string
		Labels                  map[string]string
	}
	Program []string
	Signal  int
	Settled bool
	Reason  string
	Exit    *struct{ Code, Signal int }
	Caller  struct {
		Name string
		UID  *uint32
	}
	Outcome *struct {
		Done        bool
		Code, Error string
	}
}

func (h heard) String() string {
	s := h.Phase + " " + h.Operation
	if h.Outcome != nil && !h.Outcome.Done {
		s += " failed"
	}
	return s
}

// listener is a script that writes down what it is given, and what reads that.
func (in *install) listener(t testing.TB, name, more string) (path string, read func() []heard) {
	t.Helper()
	out := filepath.Join(in.dir, name+".out")
	return in.script(t, name, "cat >>"+out+"\n"+more), func() (all []heard) {
		raw, _ := os.ReadFile(out)
		for line := range strings.Lines(string(raw)) {
			var h heard
			if err := json.Unmarshal([]byte(line), &h); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			all = append(all, h)
		}
		return all
	}
}

func names(all []heard) string {
	var out []string
	for _, h := range all {
		out = append(out, h.String())
	}
	return strings.Join(out, ", ")
}

// noWith checks that a command is refused for a hook's reason.
func (in *install) noWith(t testing.TB, why string, args ...string) {
	t.Helper()
	if r := in.run(t, args...); r.status != 125 || !strings.Contains(string(r.stderr), why) {
		t.Errorf("%v: %s", args, r)
	}
}

// TestHooks: a hook is told of all that is done to an agent, and one refuses what
// it does not like: nothing of that happens.
func TestHooks(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		listen, told := in.listener(t, "listen", "")
		in.config(t, `version: 1
hooks:
  - {name: listen, on: [spawn, exec, pause, resume, kill, exit], agents: [web-*], before: true, after: true, command: [`+listen+`], order: -1}
  - {name: policy, on: [spawn, exec, pause, kill], before: true, command: [`+in.script(t, "policy", `
case $AIOS_OPERATION-$AIOS_AGENT_NAME in
spawn-prod-*|spawn-web-no|kill-web-keep|pause-web-keep) echo "first line" >&2; echo "not by hand" >&2; exit 4 ;;
spawn-lost-*) exec no-such-command ;;
esac
case $AIOS_OPERATION in exec) grep -q forbidden && { echo "no such program" >&2; exit 1; } ;; esac
exit 0`)+`]}
`)
		in.ok(t, "daemon", "start")
		in.noWith(t, "the hook policy refuses it: not by hand", "spawn", "--name", "prod-1", "--", "sleep", "1000")
		in.noWith(t, "not by hand", "run", "--name", "prod-2", "--", "true")
		in.noWith(t, "its exit status is 127, as of a script with a command that was not found: ", "spawn", "--name", "lost-1", "--", "true")
		if all := in.ps(t, "-a"); len(all) != 0 || len(in.domains(t)) != 0 {
			t.Errorf("of what was refused there is %+v, %+v", all, in.domains(t))
		}
		if len(told()) != 0 {
			t.Errorf("%v", told())
		}
		in.noWith(t, "not by hand", "spawn", "--name", "web-no", "--", "true")
		eventually(t, "who had agreed is told", 20*time.Second, func() (bool, string) { return names(told()) == "before spawn, aborted spawn failed", names(told()) })
		must(t, os.Remove(filepath.Join(in.dir, "listen.out")))

		id := in.spawn(t, "--name", "web-1", "--label", "team=a", "--grant", "net:loopback", "--", "sh", "-c", "sleep 1000")
		in.ok(t, "exec", "web-1", "--", "true")
		in.noWith(t, "no such program", "exec", "web-1", "--", "echo", "forbidden")
		in.ok(t, "pause", "web-1")
		in.ok(t, "resume", "web-1")
		in.ok(t, "kill", "web-1")
		eventually(t, "all is told", 20*time.Second, func() (bool, string) {
			got := slices.DeleteFunc(told(), func(h heard) bool { return h.Phase == "before" })
			return names(got) == "after spawn, after exec, aborted exec failed, after pause, after resume, after kill, after exit", names(got)
		})
		var before []heard
		for _, h := range told() {
			if h.Phase == "before" {
				before = append(before, h)
			}
		}
		if names(before) != "before spawn, before exec, before exec, before pause, before resume, before kill" {
			t.Error(names(before))
		}
		spawn := before[0]
		if spawn.Agent.ID != id || spawn.Agent.Name != "web-1" || spawn.Agent.Domain != "default" || spawn.Agent.Image != "host" || spawn.Agent.Labels["team"] != "a" ||
			!slices.Contains(spawn.Agent.Program, "sleep 1000") || !slices.ContainsFunc(spawn.Agent.Grants, func(g string) bool { return strings.HasPrefix(g, "net:loopback") }) ||
			spawn.Caller.UID == nil || int(*spawn.Caller.UID) != os.Geteuid() || spawn.Caller.Name != fmt.Sprintf("uid:%d", os.Geteuid()) || len(spawn.Correlation) != 16 {
			t.Errorf("%+v", spawn)
		}
		all := told()
		if end := all[len(all)-1]; end.Exit == nil || end.Exit.Signal != 9 || before[5].Signal != 9 || !slices.Equal(before[1].Program, []string{"true"}) {
			t.Errorf("%+v", all)
		}

		// What ends agents cannot be held up for good.
		in.spawn(t, "--name", "web-keep", "--", "sleep", "1000")
		in.noWith(t, "not by hand", "kill", "web-keep")
		in.noWith(t, "not by hand", "pause", "web-keep")
		if all := in.ps(t); len(all) != 1 || all[0].State != "running" {
			t.Errorf("%+v", all)
		}
		in.ok(t, "kill", "--force", "web-keep")
		in.run(t, "wait", "web-keep")
		in.spawn(t, "--name", "web-hog", "--limit", "memory=32M", "--", "sh", "-c", "x=x; while :; do x=$x$x; done")
		in.run(t, "wait", "web-hog")
		eventually(t, "the kernel's own end is told", 20*time.Second, func() (bool, string) {
			all := told()
			return slices.ContainsFunc(all, func(h heard) bool {
				return h.Agent.Name == "web-hog" && h.String() == "after kill" && h.Settled && h.Caller.Name == "kernel" && strings.Contains(h.Reason, "memory")
			}) && slices.ContainsFunc(all, func(h heard) bool { return h.Agent.Name == "web-keep" && h.String() == "after kill" && h.Settled }), fmt.Sprintf("%+v", all)
		})

		// What an agent may do to another is told.
		in.spawn(t, "--name", "web-worker", "--", "sleep", "1000")
		boss := in.spawn(t, "--name", "boss", "--grant", "agent:web-worker:pause", "--", "sleep", "1000")
		in.ok(t, "exec", "boss", "--", "sh", "-c", fmt.Sprintf("echo pause %d > /aios/ctl", in.capOf(t, "boss", "agent:").Handle))
		eventually(t, "what an agent did is told", 20*time.Second, func() (bool, string) {
			all := told()
			return slices.ContainsFunc(all, func(h heard) bool {
				return h.Agent.Name == "web-worker" && h.String() == "after pause" && h.Settled && h.Caller.Name == boss
			}), fmt.Sprintf("%+v", all)
		})

		vetoed := in.past(t, "hook.vetoed")
		if len(vetoed) != 7 || vetoed[0].Data["reason"] != "not by hand" || vetoed[0].Data["name"] != "policy" || vetoed[0].Data["refused"] != true {
			t.Errorf("%+v", vetoed)
		}
		if got := strings.Count(string(in.ok(t, "audit", "query", "--op", "hook")), "(policy: "); got != 7 {
			t.Errorf("%d entries in the audit trail", got)
		}
		if h := in.hooks(t); h["policy"].Vetoes != 7 || h["policy"].Failures != 0 || h["listen"].Calls < 13 || h["listen"].Vetoes != 0 {
			t.Errorf("%+v", h)
		}
	})
}

// TestHooksThatFail: one that hangs, is killed or is not there refuses, or does
// not count, as the configuration says; and a reload mends it.
func TestHooksThatFail(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		hang := in.script(t, "hang", "exec sleep 1000")
		conf := func(command, policy string) string {
			return "version: 1\nhooks:\n  - {name: h, on: [spawn], before: true, command: [" + command + "], timeout: 300ms, on_failure: " + policy + "}\n"
		}
		file := in.config(t, conf(hang, "refuse"))
		in.ok(t, "daemon", "start")
		spawn := []string{"run", "--", "true"}
		in.noWith(t, "did not end within 300ms", spawn...)
		in.config(t, conf(hang, "go-on"))
		in.ok(t, "daemon", "reload")
		in.ok(t, spawn...)
		if h := in.hooks(t)["h"]; h.Calls != 2 || h.Failures != 2 || h.Vetoes != 0 || !strings.Contains(h.Error, "did not end") {
			t.Errorf("%+v", h)
		}
		if r := in.run(t, "health"); r.status != 1 || !strings.Contains(string(r.stdout), "hook h") {
			t.Errorf("%s", r)
		}

		dies := in.script(t, "dies", "kill -9 $$")
		in.config(t, conf(dies, "refuse"))
		in.ok(t, "daemon", "reload")
		in.noWith(t, "signal: killed", spawn...)
		must(t, os.Remove(dies))
		in.noWith(t, "no such file", spawn...)
		// A file that names it is not taken any more, and says where.
		if r := in.run(t, "daemon", "reload"); r.status != 125 || !strings.Contains(string(r.stderr), file+":3:51: hooks[0].command: ") {
			t.Errorf("%s", r)
		}
		for range 4 {
			in.noWith(t, "h", spawn...)
		}
		in.noWith(t, "calls are not made for now", spawn...)
		in.script(t, "dies", "exit 0")
		eventually(t, "it is tried again", 30*time.Second, func() (bool, string) {
			r := in.run(t, spawn...)
			return r.status == 0, r.String()
		})
		if failed := in.past(t, "hook.failed"); len(failed) < 4 || failed[0].Data["refused"] != true || failed[1].Data["refused"] == true {
			t.Errorf("%+v", failed)
		}
		in.config(t, "version: 1\n")
		in.ok(t, "daemon", "reload")
		if h := in.hooks(t); len(h) != 0 {
			t.Errorf("%+v", h)
		}
		in.ok(t, spawn...)
	})
}

// TestDaemonDiesWhileHooksRun: of the agent that was asked about there is nothing,
// and the program ends with the daemon.
func TestDaemonDiesWhileHooksRun(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		pid := filepath.Join(in.dir, "pid")
		in.config(t, `version: 1
hooks:
  - {name: slow, on: [spawn], agents: [new], before: true, command: [`+in.script(t, "slow", "echo $$ >"+pid+".x; mv "+pid+".x "+pid+"; exec sleep 1000")+`], timeout: 5m}
`)
		in.ok(t, "daemon", "start")
		in.spawn(t, "--name", "old", "--", "sh", "-c", counter)
		c := in.start(t, "spawn", "--name", "new", "--", "sleep", "1000")
		var program string
		eventually(t, "it is asked", 20*time.Second, func() (bool, string) {
			raw, err := os.ReadFile(pid)
			program = strings.TrimSpace(string(raw))
			return err == nil && program != "", ""
		})
		kill9(t, in.process(t, "serve"))
		if r := c.wait(); r.status != 125 {
			t.Errorf("%s", r)
		}
		eventually(t, "the program has ended", 20*time.Second, func() (bool, string) {
			state, err := os.ReadFile("/proc/" + program + "/stat")
			return err != nil || strings.Contains(string(state), ") Z "), string(state)
		})
		in.config(t, "version: 1\n")
		in.ok(t, "daemon", "start")
		if all := in.ps(t, "-a"); len(all) != 1 || all[0].Name != "old" {
			t.Errorf("%+v", all)
		}
		in.countsOn(t, "old")
		in.spawn(t, "--name", "new", "--", "true")
	})
}
