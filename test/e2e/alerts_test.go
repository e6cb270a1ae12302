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

// alertLine is an alert of `alert ls -o json`.
type alertLine struct {
	Name, State, Error string
	Fired, Failed      uint64
	Groups             []struct {
		Agent, Name, State string
		Value              float64
		Told               bool
		Fired              uint64
		InForce            []string `json:"in_force"`
	}
}

type alertList struct {
	Alerts   []alertLine
	Silences []struct {
		Alert, Agent, Reason string
		Muted                uint64
	}
}

func (in *install) alerts(t testing.TB) (all alertList) {
	t.Helper()
	if err := json.Unmarshal(in.ok(t, "alert", "ls", "-o", "json"), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// alert returns how an alert is, as `alert show` has it.
func (in *install) alert(t testing.TB, name string) (a alertLine) {
	t.Helper()
	if err := json.Unmarshal(in.ok(t, "alert", "show", name, "-o", "json"), &a); err != nil {
		t.Fatal(err)
	}
	return a
}

// quota is that of an agent in thousandths of a CPU; -1 for none.
func (in *install) quota(t testing.TB, agent string) int {
	t.Helper()
	var s struct {
		CPU struct {
			QuotaMilli *int `json:"quota_milli"`
		}
	}
	if err := json.Unmarshal(in.ok(t, "stats", "-o", "json", agent), &s); err != nil {
		t.Fatal(err)
	}
	if s.CPU.QuotaMilli == nil {
		return -1
	}
	return *s.CPU.QuotaMilli
}

// told waits for the n-th event of a topic about a rule, and for no more.
func (in *install) told(t testing.TB, topic, rule string, n int) eventLine {
	t.Helper()
	var got []eventLine
	eventually(t, fmt.Sprintf("%s of %s", topic, rule), 60*time.Second, func() (bool, string) {
		got = slices.DeleteFunc(in.past(t, topic), func(e eventLine) bool { return e.Data["rule"] != rule })
		return len(got) >= n, fmt.Sprintf("%+v\n%s", got, in.ok(t, "alert", "ls"))
	})
	if len(got) != n {
		t.Errorf("%d events of %s, not %d: %+v", len(got), topic, n, got)
	}
	return got[n-1]
}

// hook writes a program that notes what it is given, and returns its path and
// what reads that.
func (in *install) hook(t testing.TB, name, more string) (path string, read func() []eventLine) {
	t.Helper()
	path, out := filepath.Join(in.dir, name), filepath.Join(in.dir, name+".out")
	must(t, os.WriteFile(path, []byte("#!/bin/sh\ncat >>"+out+"\nenv >"+out+".env\necho said by the hook\n"+more), 0o755))
	return path, func() (all []eventLine) {
		raw, _ := os.ReadFile(out)
		for line := range strings.Lines(string(raw)) {
			var e eventLine
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			all = append(all, e)
		}
		return all
	}
}

// audited are the targets of what alerts did to an agent, in order.
func (in *install) audited(t testing.TB, rule, agent string) (actions []string) {
	t.Helper()
	for line := range strings.Lines(string(in.ok(t, "audit", "query", "--op", "alert", "--agent", agent, "-o", "json"))) {
		var e struct{ Actor, Agent, Target, Code string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if e.Actor == "alert "+rule {
			actions = append(actions, strings.TrimSpace(e.Target+" "+e.Code))
		}
	}
	return actions
}

// untilStopped is a program that does something again and again until there is a
// file.
func untilStopped(what string) string {
	return "while [ ! -e /tmp/stop ]; do " + what + "; done; while :; do sleep 1000; done"
}

// TestAlerts has agents misbehave, each in its way: one spins and is throttled,
// one forks too often and is paused, one tries what it may not and is killed, one
// falls silent. What is done is undone when it is over, also by a daemon that was
// not there when it began; and neighbours do not notice.
func TestAlerts(t *testing.T) {
	t.Parallel()
	in := newInstall(t, platforms()[0])
	need(t, "python3")
	hook, hooked := in.hook(t, "page", "")
	in.config(t, `version: 1
alerts:
  - name: spin
    filter: agent_name == "spin"
    threshold: {counter: cpu, above: 0.3, clear: 0.05, every: 200ms}
    for: 400ms
    hold: 400ms
    severity: error
    note: see the runbook
    actions:
      throttle: {cpu: 0.15}
      hook: {command: [`+hook+`, now], resolved: true}
  - name: forks
    on: [agent.fork]
    filter: agent_name == "forker"
    rate: {above: 20, within: 1s, clear: 0}
    actions: {pause: {resume: true}}
  - name: denials
    on: [capability.deny]
    filter: data.operation == "socket"
    rate: {above: 3, within: 30s, value: data.count}
    actions: {kill: true}
  - name: heartbeat
    on: [agent.exec]
    filter: agent_name == "beat"
    absence: {after: 2s}
`)
	in.ok(t, "daemon", "start")
	in.spawn(t, "--name", "worker", "--", "sh", "-c", untilStopped(":"))
	spin := in.spawn(t, "--name", "spin", "--", "sh", "-c", untilStopped(":"))

	fired := in.told(t, "alert.fire", "spin", 1)
	if fired.Subject != spin || fired.Severity != "error" || fired.Data["note"] != "see the runbook" || fmt.Sprint(fired.Data["actions"]) != "[throttle hook]" {
		t.Errorf("%+v", fired)
	}
	eventually(t, "it is throttled", 20*time.Second, func() (bool, string) {
		q := in.quota(t, "spin")
		return q == 150, fmt.Sprint(q)
	})
	if q := in.quota(t, "worker"); q != -1 {
		t.Errorf("its neighbour has a quota of %d", q)
	}
	if r := in.run(t, "health"); r.status != 1 || !strings.Contains(string(r.stdout), "alert spin") {
		t.Errorf("health: %s", r)
	}
	eventually(t, "the hook ran", 20*time.Second, func() (bool, string) {
		got := hooked()
		return len(got) == 1 && got[0].ID == fired.ID && got[0].Correlation == fired.Correlation, fmt.Sprintf("%+v", got)
	})
	env, err := os.ReadFile(filepath.Join(in.dir, "page.out.env"))
	must(t, err)
	for _, want := range []string{"AIOS_ALERT=spin", "AIOS_ALERT_STATE=firing", "AIOS_AGENT=" + spin, "AIOS_AGENT_NAME=spin", "AIOS_DOMAIN=default"} {
		if !strings.Contains(string(env), want+"\n") {
			t.Errorf("the hook has no %s: %s", want, env)
		}
	}
	if strings.Contains(string(env), "AIOS_STATE_DIR") {
		t.Errorf("the hook has what is the daemon's: %s", env)
	}

	// The daemon dies; the next one lifts the throttle when it is time.
	kill9(t, in.process(t, "serve"))
	in.ok(t, "daemon", "start")
	if a := in.alert(t, "spin"); a.State != "firing" || fmt.Sprint(a.Groups[0].InForce) != "[throttle]" {
		t.Errorf("under the next daemon: %+v", a)
	}
	if q := in.quota(t, "spin"); q != 150 {
		t.Errorf("under the next daemon it has a quota of %d", q)
	}
	in.ok(t, "exec", "spin", "--", "touch", "/tmp/stop")
	resolved := in.told(t, "alert.resolve", "spin", 1)
	if resolved.Subject != spin || resolved.Correlation != fired.Correlation {
		t.Errorf("%+v", resolved)
	}
	eventually(t, "the throttle is lifted, and the hook ran again", 20*time.Second, func() (bool, string) {
		q, ran := in.quota(t, "spin"), hooked()
		return q == -1 && len(ran) == 2 && ran[1].ID == resolved.ID, fmt.Sprint(q, ran)
	})
	in.told(t, "alert.fire", "spin", 1)
	eventually(t, "all of it is in the trail", 20*time.Second, func() (bool, string) {
		got := in.audited(t, "spin", spin) // And perhaps it fires once more.
		return len(got) >= 4 && slices.Equal(got[:4], []string{"throttle", "hook", "unthrottle", "hook"}), fmt.Sprint(got)
	})
	if out, err := os.ReadFile(filepath.Join(in.state, "aiosd.log")); err != nil || !strings.Contains(string(out), "said by the hook") {
		t.Errorf("what the hook says is not in the log: %v", err)
	}

	// Paused while it forks too often, it goes on, and does it again.
	in.spawn(t, "--name", "forker", "--", "sh", "-c", untilStopped("/bin/true"))
	by := func(topic, who string, n int) {
		t.Helper()
		eventually(t, topic+" by "+who, 60*time.Second, func() (bool, string) {
			got := slices.DeleteFunc(in.past(t, topic), func(e eventLine) bool { return e.Data["by"] != who })
			return len(got) >= n, fmt.Sprintf("%+v", in.past(t, topic))
		})
	}
	by("agent.resume", "alert forks", 1)
	by("agent.pause", "alert forks", 2)
	in.ok(t, "kill", "forker")

	// One refusal is none too many; four are.
	once := in.spawn(t, "--name", "once", "--", "sh", "-c", "python3 -c 'import socket; socket.socket()'; sleep 1000")
	rogue := in.spawn(t, "--name", "rogue", "--", "python3", "-c", `
import socket, time
while True:
    try: socket.socket()
    except OSError: pass
    time.sleep(0.05)`)
	if r := in.run(t, "wait", rogue); !strings.Contains(string(r.stdout), "137") {
		t.Errorf("it was not killed: %s", r)
	}
	var ended []struct{ Exit struct{ Reason string } }
	must(t, json.Unmarshal(in.ok(t, "inspect", "-o", "json", rogue), &ended))
	if why := ended[0].Exit.Reason; !strings.HasPrefix(why, "alert denials: data.count of capability.deny in 30s: ") {
		t.Errorf("it ended for %q", why)
	}
	if got := in.audited(t, "denials", rogue); !slices.Equal(got, []string{"kill"}) {
		t.Errorf("the trail says %v", got)
	}
	if got := in.audited(t, "denials", once); got != nil {
		t.Errorf("its neighbour: %v", got)
	}

	// A heart that beats, stops, and beats again.
	in.spawn(t, "--name", "beat", "--", "sh", "-c", untilStopped("/bin/true; sleep 0.2"))
	eventually(t, "it is armed", 20*time.Second, func() (bool, string) {
		a := in.alert(t, "heartbeat")
		return len(a.Groups) == 1 && a.State == "ok", fmt.Sprintf("%+v", a)
	})
	in.ok(t, "exec", "beat", "--", "touch", "/tmp/stop")
	in.told(t, "alert.fire", "heartbeat", 1)
	in.ok(t, "exec", "beat", "--", "true")
	in.told(t, "alert.resolve", "heartbeat", 1)
	in.told(t, "alert.fire", "heartbeat", 2)
	in.ok(t, "kill", "beat")
	if e := in.told(t, "alert.resolve", "heartbeat", 2); e.Data["reason"] != "the agent has ended" {
		t.Errorf("%+v", e)
	}
	for _, name := range []string{"worker", "once", "spin"} {
		if out := string(in.ok(t, "ps")); !strings.Contains(out, name) {
			t.Errorf("%s is gone: %s", name, out)
		}
	}
}

// TestAlertSilence: what is silenced counts, and is neither told nor acted on, now
// and under the next daemon; when the silence ends it is.
func TestAlertSilence(t *testing.T) {
	t.Parallel()
	in := newInstall(t, platforms()[0])
	hook, hooked := in.hook(t, "page", "")
	in.config(t, `version: 1
alerts:
  - name: ends
    on: [agent.exit]
    by: none
    rate: {above: 0, within: 1h}
    severity: critical
    actions: {hook: {command: [`+hook+`]}}
`)
	in.ok(t, "daemon", "start")
	for _, args := range [][]string{
		{"alert", "silence", "nothing", "--for", "1h"}, {"alert", "silence", "ends"}, {"alert", "silence", "ends", "--for", "-1s"},
		{"alert", "silence", "ends", "--for", "9999d"}, {"alert", "silence", "ends", "--for", "1h", "--agent", "a123456789abc"},
		{"alert", "unsilence", "ends"}, {"alert", "show", "nothing"},
	} {
		if r := in.run(t, args...); r.status == 0 || !strings.Contains(string(r.stderr), "fix: ") {
			t.Errorf("aiosctl %s: %s", strings.Join(args, " "), r)
		}
	}
	in.ok(t, "alert", "silence", "ends", "--for", "1d", "--reason", "maintenance")
	quiet := func(when string) {
		t.Helper()
		eventually(t, "it is muted "+when, 20*time.Second, func() (bool, string) {
			all := in.alerts(t)
			return all.Alerts[0].State == "firing" && len(all.Silences) == 1 && all.Silences[0].Muted == 1 && all.Silences[0].Reason == "maintenance", fmt.Sprintf("%+v", all)
		})
		if got := in.past(t, "alert.*"); len(got) != 0 || len(hooked()) != 0 {
			t.Errorf("%s: %+v, %+v", when, got, hooked())
		}
		in.ok(t, "health")
	}
	in.ok(t, "wait", in.spawn(t, "--", "true"))
	quiet("when it fires")
	kill9(t, in.process(t, "serve"))
	in.ok(t, "daemon", "start")
	in.ok(t, "wait", in.spawn(t, "--", "true"))
	quiet("under the next daemon")
	in.ok(t, "alert", "unsilence", "ends")
	in.told(t, "alert.fire", "ends", 1)
	eventually(t, "the hook ran", 20*time.Second, func() (bool, string) { return len(hooked()) == 1, fmt.Sprint(hooked()) })
	if r := in.run(t, "health"); r.status != 2 || !strings.Contains(string(r.stdout), "alert ends") {
		t.Errorf("health: %s", r)
	}
	trail := string(in.ok(t, "audit", "query"))
	for _, op := range []string{"alert.silence", "alert.muted", "alert.unsilence"} {
		if n := strings.Count(trail, " "+op+" "); n != 1 {
			t.Errorf("%d entries of %s: %s", n, op, trail)
		}
	}
	// It ends by itself as well.
	in.ok(t, "alert", "silence", "ends", "--for", "1s")
	in.ok(t, "health")
	eventually(t, "the silence ends", 20*time.Second, func() (bool, string) {
		r := in.run(t, "health")
		return r.status == 2 && len(in.alerts(t).Silences) == 0, r.String()
	})
	in.told(t, "alert.fire", "ends", 1)
}

// TestAlertReload: rules that stay as they are keep their states; what was done
// for one that is gone is undone, also if it went while there was no daemon; and a
// file that makes no sense changes nothing.
func TestAlertReload(t *testing.T) {
	t.Parallel()
	in := newInstall(t, platforms()[0])
	rule := func(name, cpu string) string {
		return `
  - name: ` + name + `
    filter: agent_name == "web"
    threshold: {counter: tasks, above: 0, every: 100ms}
    actions: {throttle: {cpu: ` + cpu + `}}`
	}
	file := func(rules ...string) { in.config(t, "version: 1\nalerts:"+strings.Join(rules, "")+"\n") }
	path := filepath.Join(in.state, "config.yaml")
	script := filepath.Join(in.dir, "loose")
	must(t, os.WriteFile(script, nil, 0o600))
	must(t, os.Chmod(script, 0o777))
	for text, want := range map[string]string{
		rule("a", "0.5") + rule("a", "0.6"):                             `:7:11: alerts[1].name: another alert has the name "a"`,
		strings.Replace(rule("a", "0.5"), "tasks", "taks", 1):           `:5:26: alerts[0].threshold.counter: there is no counter "taks"`,
		strings.Replace(rule("a", "0.5"), "above: 0", "abov: 0", 1):     `alerts[0].threshold: there is no key "abov"`,
		strings.Replace(rule("a", "0.5"), "agent_name", "agnt_name", 1): `alerts[0].filter: `,
		rule("a", "0"): `alerts[0].actions.throttle.cpu: `,
		"\n  - {name: a, on: [agent.exit], rate: {above: 1, within: 1s}, actions: {hook: {command: [/nowhere]}}}":       `alerts[0].actions.hook.command: `,
		"\n  - {name: a, on: [agent.exit], rate: {above: 1, within: 1s}, actions: {hook: {command: [" + script + "]}}}": `can be changed by others`,
	} {
		file(text)
		if r := in.run(t, "daemon", "check"); r.status != 125 || !strings.Contains(string(r.stderr), path) || !strings.Contains(string(r.stderr), want) {
			t.Errorf("%s\nis not refused with %q: %s", text, want, r)
		}
	}
	quota := func(want int) {
		t.Helper()
		eventually(t, fmt.Sprintf("a quota of %d", want), 30*time.Second, func() (bool, string) {
			q := in.quota(t, "web")
			return q == want, fmt.Sprint(q, "\n", string(in.ok(t, "alert", "ls")))
		})
	}
	file(rule("keep", "0.6"), rule("drop", "0.3"), rule("later", "0.5"))
	in.ok(t, "daemon", "start")
	in.spawn(t, "--name", "web", "--", "sleep", "1000")
	quota(300)
	first := in.told(t, "alert.fire", "keep", 1)

	file(rule("keep", "0.6"), strings.Replace(rule("drop", "0.3"), "every", "evry", 1))
	if r := in.run(t, "daemon", "reload"); r.status == 0 || !strings.Contains(string(r.stderr), "alerts[1].threshold") {
		t.Errorf("reload: %s", r)
	}
	if all := in.alerts(t); len(all.Alerts) != 3 || in.quota(t, "web") != 300 {
		t.Errorf("a file that makes no sense counts: %+v", all)
	}
	file(rule("keep", "0.6"), rule("later", "0.5"))
	if out := string(in.ok(t, "daemon", "reload")); !strings.Contains(out, "alerts.drop.actions.throttle.cpu") {
		t.Errorf("reload: %s", out)
	}
	if e := in.told(t, "alert.resolve", "drop", 1); e.Data["reason"] != "the rule was changed or taken out" {
		t.Errorf("%+v", e)
	}
	quota(500)
	if e := in.told(t, "alert.fire", "keep", 1); e.ID != first.ID {
		t.Errorf("it fired again: %+v", e)
	}

	kill9(t, in.process(t, "serve"))
	file(rule("keep", "0.6"))
	in.ok(t, "daemon", "start")
	quota(600)
	in.told(t, "alert.resolve", "later", 1)
	in.told(t, "alert.fire", "keep", 1)
	file()
	in.config(t, "version: 1\n")
	in.ok(t, "daemon", "reload")
	quota(-1)
	if out := strings.TrimSpace(string(in.ok(t, "alert", "ls", "-o", "json"))); strings.Contains(out, "keep") {
		t.Errorf("after all rules were taken out: %s", out)
	}
}

// TestAlertPause: an agent that several alerts keep paused goes on when the last is
// over, and one that somebody resumed meanwhile is theirs, whatever they do next.
func TestAlertPause(t *testing.T) {
	t.Parallel()
	in := newInstall(t, platforms()[0])
	file := func(rules ...string) {
		text := "version: 1\nalerts: []\n"
		if len(rules) > 0 {
			text = "version: 1\nalerts:\n"
		}
		for _, name := range rules {
			text += "  - {name: " + name + ", threshold: {counter: tasks, above: 0, every: 100ms}, actions: {pause: {resume: true}}}\n"
		}
		in.config(t, text)
	}
	reload := func(rules ...string) {
		t.Helper()
		file(rules...)
		in.ok(t, "daemon", "reload")
	}
	state := func(want string) {
		t.Helper()
		eventually(t, "it is "+want, 30*time.Second, func() (bool, string) {
			out := string(in.ok(t, "ps"))
			return strings.Contains(out, "   "+want+" "), out
		})
	}
	held := func(names ...string) {
		t.Helper()
		eventually(t, "it is held", 30*time.Second, func() (bool, string) {
			var got []string
			for _, a := range in.alerts(t).Alerts {
				if len(a.Groups) == 1 && fmt.Sprint(a.Groups[0].InForce) == "[pause]" {
					got = append(got, a.Name)
				}
			}
			return slices.Equal(got, names), fmt.Sprint(got)
		})
	}
	// undone waits until the n-th alert of a name is over and undone.
	undone := func(name string, n int) {
		t.Helper()
		in.told(t, "alert.resolve", name, n)
		eventually(t, "nothing of it is left", 30*time.Second, func() (bool, string) {
			raw, err := os.ReadFile(filepath.Join(in.state, "events", "alerts.json"))
			return err == nil && !strings.Contains(string(raw), `"`+name+`"`), fmt.Sprint(string(raw), err)
		})
	}
	file("one", "two")
	in.ok(t, "daemon", "start")
	web := in.spawn(t, "--name", "web", "--", "sleep", "1000")
	state("paused")
	held("one", "two")
	reload("two")
	undone("one", 1)
	state("paused")
	reload()
	undone("two", 1)
	state("running")
	if got := len(in.past(t, "agent.resume")); got != 1 {
		t.Errorf("it was resumed %d times", got)
	}

	reload("three")
	held("three")
	state("paused")
	in.ok(t, "resume", "web")
	held()
	in.ok(t, "pause", "web")
	reload()
	undone("three", 1)
	state("paused")
	if got := append(in.audited(t, "one", web), in.audited(t, "two", web)...); !slices.Equal(got, []string{"pause", "pause", "resume"}) {
		t.Errorf("the trail says %v", got)
	}
	if got := in.audited(t, "three", web); !slices.Equal(got, []string{"pause"}) {
		t.Errorf("the trail says %v", got)
	}
}
