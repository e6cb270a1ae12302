package sentry

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/recovery"
)

// withWatchdog arms an agent's watchdog as its owner does.
func withWatchdog(timeout time.Duration, rule string) func(*control.SpawnRequest) {
	return func(r *control.SpawnRequest) { r.Watchdog, r.OnWatchdog = int64(timeout), rule }
}

// feeding is a script that feeds its watchdog ten times a second.
const feeding = "while :; do echo feed > /aios/self/watchdog || exit 3; usleep 100000; done"

func TestAgentWatchdog(t *testing.T) {
	sub, err := theKernel.events.Subscribe(event.Options{Name: "test", Topics: []string{"watchdog.expired"}})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close(nil)
	// All at once: each takes a second or more.
	fed := spawn(t, sh(feeding), withWatchdog(time.Second, ""))
	idle := spawn(t, sh("exec sleep 1000"), withWatchdog(time.Second, ""))
	again := spawn(t, sh("exec sleep 1000"), withWatchdog(time.Second, "restart"))
	frozen := spawn(t, sh("exec sleep 1000"), withWatchdog(time.Second, "freeze"))
	ladder := spawn(t, sh(`trap 'echo aborted; ' ABRT; while :; do sleep 0.05; done`), withWatchdog(time.Second, "deliver,2/1h:kill-agent"))
	paused := spawn(t, sh("exec sleep 1000"), withWatchdog(2*time.Second, ""))
	paused.pause()
	self := spawn(t, sh(`cat /aios/self/watchdog; echo 1s > /aios/self/watchdog; cut -d' ' -f1-2,4- /aios/self/watchdog
		echo off > /aios/self/watchdog; echo done; exec sleep 1000`))
	self.expect("off on-expiry=kill-agent expired=0\narmed timeout=1s by=agent on-expiry=kill-agent expired=0\ndone\n")
	bound := spawn(t, sh(`for o in off 1h feed 30s; do echo $o > /aios/self/watchdog && echo may $o; done 2>&1; exec sleep 1000`), withWatchdog(time.Minute, "dump"))
	if got := bound.expect("may 30s"); strings.Contains(got, "may off") || strings.Contains(got, "may 1h") || !strings.Contains(got, "may feed") {
		t.Errorf("an agent whose owner has armed it: %q", got)
	}

	for _, s := range []*spawned{idle, again} {
		exit := s.wait()
		rule := map[*spawned]string{idle: "kill-agent", again: "restart"}[s]
		if exit.Signal != int32(unix.SIGKILL) || exit.Again != (s == again) || exit.Reason != "policy "+rule+": watchdog not fed for 1s" {
			t.Errorf("%s: %+v", rule, exit)
		}
	}
	eventually(t, func() bool { return inspect(t, frozen.id).State == string(abi.StatePaused) })
	if _, _, exit := ladder.output(); exit.Reason != "policy deliver,2/1h0m0s:kill-agent: watchdog not fed for 1s" {
		t.Errorf("what goes on without feeding it: %+v", exit)
	}
	ladderLog := 0
	for _, s := range []*spawned{fed, paused, self} {
		if st := inspect(t, s.id); st.Exit != nil {
			t.Errorf("agent %v: %+v", map[*spawned]string{fed: "fed", paused: "paused", self: "disarmed"}[s], st.Exit)
		}
	}
	expired := map[string]int{}
	eventually(t, func() bool {
		for e, ok := sub.TryNext(); ok; e, ok = sub.TryNext() {
			p := e.Payload.(*eventv1.WatchdogExpired)
			expired[e.Agent]++
			if e.Agent == ladder.id {
				ladderLog++
				if want := map[bool]string{true: "deliver", false: "kill-agent"}[ladderLog <= 2]; p.Action != want || p.Timeout != int64(time.Second) {
					t.Errorf("expiry %d: %+v", ladderLog, p)
				}
			}
		}
		return ladderLog >= 3
	})
	if expired[fed.id]+expired[paused.id]+expired[self.id] != 0 || expired[idle.id] != 1 || ladderLog != 3 || expired[frozen.id] != 1 {
		t.Errorf("expired: %v; ladder %d", expired, ladderLog)
	}
	paused.resume()
	if exit := paused.wait(); !strings.Contains(exit.Reason, "watchdog not fed for 2s") {
		t.Errorf("resumed: %+v", exit)
	}
	// One that is still bound shows in the statistics with what it did.
	st, err := theKernel.Stats(struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]control.Watchdog{}
	for _, w := range st.Watchdogs {
		seen[w.Name] = w
	}
	if w := seen[bound.id]; !w.Agent || w.Timeout != int64(30*time.Second) {
		t.Errorf("of the agent: %+v", w)
	}
	if w := seen["events on their way out"]; w.Agent || w.Timeout != int64(partTimeout) || w.Late {
		t.Errorf("of a part: %+v", w)
	}
	if _, there := seen[idle.id]; there {
		t.Error("the watchdog of an agent that has ended is there")
	}
	theDaemon.recorded(t, idle.id, func(r control.AuditRecord) bool { return r.Op == opVerdict && strings.Contains(r.Reason, "watchdog") })
}

// TestPartOfTheKernelThatHangs: it is told with the stacks of all.
func TestPartOfTheKernelThatHangs(t *testing.T) {
	sub, err := theKernel.events.Subscribe(event.Options{Name: "test", Topics: []string{"watchdog.expired"}})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close(nil)
	theKernel.partDogChanged(recovery.Expiry{Name: "test part", Late: true, Unfed: 20 * time.Second, Times: 1})
	theKernel.partDogChanged(recovery.Expiry{Name: "test part", Unfed: 21 * time.Second, Times: 1})
	n, stack := 0, ""
	eventually(t, func() bool {
		for e, ok := sub.TryNext(); ok; e, ok = sub.TryNext() {
			if p := e.Payload.(*eventv1.WatchdogExpired); p.Name == "test part" && p.Action == "record" {
				n, stack = n+1, p.Stack
			}
		}
		return n > 0
	})
	if n != 1 || !strings.Contains(stack, "goroutine") {
		t.Errorf("told %d times, with %q", n, stack)
	}
	if got := theLog.about("watchdog.expired"); !strings.Contains(got, "test part") {
		t.Errorf("the log: %q", got)
	}
}
