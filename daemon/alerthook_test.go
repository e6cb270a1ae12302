package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"aios.dev/aios/config"
	"aios.dev/aios/control"
	"aios.dev/aios/event"
	"aios.dev/aios/event/alert"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/ktime"
	"aios.dev/aios/recovery"
)

// hooked returns a daemon whose only rule runs a script when an agent ends, and
// what has agents end.
func hooked(t *testing.T, script, more string) (d *System, end func(n int)) {
	t.Helper()
	d = newSystem(t, shortDir(t), ktime.Real)
	path := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	doc, err := config.Parse("f", []byte("version: 1\nalerts:\n  - {name: ends, on: [agent.exit], rate: {above: 0, within: 1h}, actions: {hook: {command: ["+path+"]"+more+"}}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	s := new(settings)
	if err := doc.Decode(&s.Config); err != nil {
		t.Fatal(err)
	}
	if err := s.examine(doc); err != nil {
		t.Fatal(err)
	}
	if err := d.openAlerts(s.alerts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.alerts.stop)
	agents := 0
	return d, func(n int) {
		for range n {
			agents++
			d.emit(event.AgentExit, fmt.Sprintf("a%012x", agents), "default", &eventv1.AgentExit{})
		}
	}
}

// failed returns how many actions failed, and why the latest did.
func (a *alerts) failed(rule string) (uint64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if f := a.faults[rule]; f != nil {
		return f.count, f.err
	}
	return 0, nil
}

// TestHooksAreBounded: of many alerts at once, four programs run at a time, and
// all in the end; of more than may wait, the rest is counted.
func TestHooksAreBounded(t *testing.T) {
	dir := t.TempDir()
	d, end := hooked(t, "cd "+dir+"\n: >run.$AIOS_AGENT\nls run.* | wc -l >n.$AIOS_AGENT\nsleep 0.05\nrm run.$AIOS_AGENT\n", "")
	runs := func() (n, most int) {
		all, _ := filepath.Glob(dir + "/n.*")
		for _, f := range all {
			raw, _ := os.ReadFile(f)
			if v, err := strconv.Atoi(strings.TrimSpace(string(raw))); err == nil {
				n++
				most = max(most, v)
			}
		}
		return n, most
	}
	end(12)
	eventually(t, "all run", func() bool { n, _ := runs(); return n == 12 })
	if _, most := runs(); most > hooksAtOnce || most < 2 {
		t.Errorf("%d ran at once", most)
	}
	const many = hooksWaiting + 3*hooksAtOnce
	end(many)
	eventually(t, "all ran or were counted", func() bool {
		n, _ := runs()
		left, _ := d.alerts.failed("ends")
		return n+int(left) == 12+many
	})
	if left, err := d.alerts.failed("ends"); left == 0 {
		t.Errorf("%d were too many: %v", left, err)
	}
}

// TestHookThatHangs is killed when its time is over, with what it started.
func TestHookThatHangs(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	d, end := hooked(t, "sleep 1000 & echo $! $$ >"+pids+"\nwait\n", ", timeout: 300ms")
	end(1)
	eventually(t, "it has failed", func() bool { n, _ := d.alerts.failed("ends"); return n == 1 })
	if _, err := d.alerts.failed("ends"); err == nil || !strings.Contains(err.Error(), "did not end within 300ms") {
		t.Error(err)
	}
	raw, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range strings.Fields(string(raw)) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "process "+f+" is gone", func() bool {
			state, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || strings.Contains(string(state), ") Z ")
		})
	}
}

// TestHookThatFails is not run any more for a while after five failures.
func TestHookThatFails(t *testing.T) {
	ran := filepath.Join(t.TempDir(), "ran")
	d, end := hooked(t, "echo x >>"+ran+"\nexit 3\n", "")
	for i := range uint64(recovery.DefaultFailures) {
		end(1)
		eventually(t, "it has failed", func() bool { n, _ := d.alerts.failed("ends"); return n == i+1 })
		if _, err := d.alerts.failed("ends"); !strings.Contains(err.Error(), "exit status 3") {
			t.Error(err)
		}
	}
	end(1)
	eventually(t, "it is refused", func() bool { n, _ := d.alerts.failed("ends"); return n == recovery.DefaultFailures+1 })
	raw, err := os.ReadFile(ran)
	if b := d.alerts.breakers(); err != nil || len(raw) != 2*recovery.DefaultFailures || len(b) != 1 || b[0].State != recovery.Open {
		t.Errorf("it ran %d times, %v; %+v", len(raw)/2, err, b)
	}
}

// TestAlertsOfOthers: an alert acts on the agent that it is about, known by its
// ID alone; of one that is gone it says so.
func TestAlertsOfOthers(t *testing.T) {
	d := newSystem(t, shortDir(t), ktime.Real)
	k := startKernel(t, d, "default")
	k.agents = append(k.agents, control.AgentStatus{ID: "a00000000000a", State: "running"}, control.AgentStatus{ID: "a00000000000b", State: "running"})
	for _, a := range k.agents {
		r := newRecord(a.ID, spawnRequest("n"+a.ID), "default", d.clock.Now())
		if err := d.create(r); err != nil {
			t.Fatal(err)
		}
	}
	c := alert.Config{
		Name: "deny", On: []string{"capability.deny"}, By: "agent", Severity: "warning", Rate: &alert.Rate{Above: new(alert.Number), Within: time.Hour},
		Actions: &alert.Actions{Kill: true},
	}
	rule, key, err := c.Compile()
	if err != nil {
		t.Fatal(key, err)
	}
	if err := d.openAlerts([]*alert.Rule{rule}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.alerts.stop)
	d.recover()
	d.alerts.recovered()
	for _, id := range []string{"a00000000000c", "", "a00000000000a"} {
		d.emit(event.CapabilityDeny, id, "default", &eventv1.CapabilityDeny{Count: 1})
	}
	k.heard(t, call{"signal", "a00000000000a", 9})
	d.emit(event.CapabilityDeny, "a00000000000a", "default", &eventv1.CapabilityDeny{Count: 1}) // It fires already.
	d.alerts.stop()
	k.mu.Lock()
	defer k.mu.Unlock()
	n := 0
	for _, c := range k.calls {
		if c.method == "signal" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d agents were killed: %+v", n, k.calls)
	}
}
