package sentry

import (
	"bytes"
	"strings"
	"sync"
	"testing"

	"aios.dev/aios/control"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
)

// theLog is what the kernel logged, the last of it.
var theLog logTail

type logTail struct {
	mu   sync.Mutex
	text bytes.Buffer // +checklocks:mu
}

func (l *logTail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text.Len() > 1<<20 {
		l.text.Reset()
	}
	return l.text.Write(p)
}

// about returns the lines that have text in them.
func (l *logTail) about(text string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for line := range strings.Lines(l.text.String()) {
		if strings.Contains(line, text) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// levels sets the level of every subsystem until the test ends.
func levels(t *testing.T, level string) {
	t.Helper()
	set := func(level string) {
		if _, err := theKernel.KlogLevels(control.KlogLevels{Levels: []control.KlogLevel{{Subsystem: "*", Level: level}}}); err != nil {
			t.Fatal(err)
		}
	}
	set(level)
	t.Cleanup(func() { set("info") })
}

// TestDmesg has each of two agents do what is logged, and read what they may.
func TestDmesg(t *testing.T) {
	one, two := spawn(t, []string{"sleep", "1000"}), spawn(t, []string{"sleep", "1000"})
	one.pause()
	one.resume()
	first, second := mustRun(t, one, "dmesg -r"), mustRun(t, two, "dmesg -r")
	for _, want := range []string{"<6>[", "agent: agent.spawn", "<5>[", "agent: agent.pause by=operator"} {
		if !strings.Contains(first, want) {
			t.Errorf("%q is missing from what an agent reads:\n%s", want, first)
		}
	}
	if !strings.Contains(second, "agent: agent.spawn") || strings.Contains(second, "pause") || strings.Contains(second, one.id) {
		t.Errorf("what another agent reads:\n%s", second)
	}
	// Nothing but reading is for agents.
	a := agentUnderTest(t, one.id)
	a.s.emit(a, event.SecurityViolation, &eventv1.SecurityViolation{Kind: "noticed"})
	a.s.emit(a, event.AgentPause, &eventv1.AgentPause{By: "noticed"})
	if got := string(a.dmesg.last(1 << 20)); strings.Contains(got, "violation") || !strings.Contains(got, "agent.pause by=noticed") {
		t.Errorf("what an agent is told about itself: %s", got)
	}
	if out, _, exit := two.execIn(sh("dmesg -c 2>&1")).output(); exit.Code == 0 {
		t.Errorf("the log was cleared: %q", out)
	}
	if got := mustRun(t, one, "dmesg -r"); !strings.HasPrefix(got, first) {
		t.Errorf("before:\n%s\nafter:\n%s", first, got)
	}
}

func TestDmesgIsBounded(t *testing.T) {
	s := spawn(t, []string{"sleep", "1000"})
	a := limited(t, s)
	for range 2000 {
		s.pause()
		s.resume()
		if a.dmesg.last(1<<20) == nil {
			t.Fatal("nothing is kept")
		}
	}
	all := a.dmesg.last(1 << 20)
	if len(all) > dmesgBytes {
		t.Errorf("%d bytes are kept", len(all))
	}
	tail := a.dmesg.last(200)
	if len(tail) == 0 || len(tail) > 200 || !bytes.HasSuffix(all, tail) || tail[0] != '<' {
		t.Errorf("the last 200 bytes in lines: %q", tail)
	}
}

// TestKernelLogHasNoSecrets gives an agent secrets by every way there is, with
// everything logged.
func TestKernelLogHasNoSecrets(t *testing.T) {
	levels(t, "debug")
	const inEnv, inArg, onLine = "hunter2-environment", "hunter2-argument", "hunter2-later"
	s := spawn(t, []string{"sh", "-c", "sleep 1000", inArg}, func(r *control.SpawnRequest) {
		r.Process.Env = append(r.Process.Env, "PASSWORD="+inEnv)
	})
	s.execIn([]string{"sh", "-c", "sh -c true --password=" + onLine + "; true"}).wait()
	s.pause()
	s.resume()
	got := theLog.about(s.id)
	for _, want := range []string{"agent.spawn", "agent.fork", "agent.exec"} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is not logged:\n%s", want, got)
		}
	}
	if got := theLog.about("hunter2"); got != "" {
		t.Errorf("logged:\n%s", got)
	}
}

// TestKernelLogEvents asks for the log as events.
func TestKernelLogEvents(t *testing.T) {
	sub, err := theKernel.events.Subscribe(event.Options{Name: "test", Topics: []string{"kernel.log"}})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close(nil)
	s := spawn(t, []string{"sleep", "1000"})
	eventually(t, func() bool {
		for {
			e, ok := sub.TryNext()
			if !ok {
				return false
			}
			if p, ok := e.Payload.(*eventv1.KernelLog); ok && e.Agent == s.id && p.Message == "agent.spawn" && p.Subsystem == "agent" && p.Level == "info" {
				return true
			}
		}
	})
}

func TestKlogLevels(t *testing.T) {
	levels(t, "error")
	s := spawn(t, []string{"sleep", "1000"})
	if got := theLog.about(s.id); got != "" {
		t.Errorf("below its level:\n%s", got)
	}
	_, err := theKernel.KlogLevels(control.KlogLevels{Levels: []control.KlogLevel{{Subsystem: "agent", Level: "debug"}, {Subsystem: "nosuch", Level: "debug"}}})
	if err == nil || !strings.Contains(err.Error(), "no such subsystem") {
		t.Errorf("an unknown subsystem: %v", err)
	}
	all, err := theKernel.KlogLevels(control.KlogLevels{})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all.Levels {
		if l.Subsystem == "agent" && l.Level != "error" {
			t.Errorf("half of a wrong request counted: %+v", l)
		}
	}
}
