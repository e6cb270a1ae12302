package sentry

import (
	"strings"
	"testing"
	"time"

	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
)

// lockedUp returns a function that waits for a lockup of a kind.
func lockedUp(t *testing.T, kind string) func() (*eventv1.KernelLockup, string) {
	t.Helper()
	theKernel.lockups.bound.Store(int64(40 * time.Millisecond))
	sub, err := theKernel.events.Subscribe(event.Options{Name: "test", Topics: []string{"kernel.lockup"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		theKernel.lockups.bound.Store(int64(lockupBound))
		sub.Close(nil)
	})
	return func() (p *eventv1.KernelLockup, agent string) {
		eventually(t, func() bool {
			for {
				e, ok := sub.TryNext()
				if !ok {
					return false
				}
				if l, ok := e.Payload.(*eventv1.KernelLockup); ok && l.Kind == kind {
					p, agent = l, e.Agent
					return true
				}
			}
		})
		return p, agent
	}
}

// holdTheLock is what the stack of the holder shows.
func holdTheLock(until <-chan time.Time) {
	theKernel.mu.Lock()
	defer theKernel.mu.Unlock()
	for {
		select {
		case <-until:
			return
		default:
			time.Sleep(time.Millisecond)
		}
	}
}

func TestLockThatIsHeld(t *testing.T) {
	next := lockedUp(t, "lock")
	until := make(chan time.Time)
	held := make(chan struct{})
	go func() { holdTheLock(until); close(held) }()
	turned := make(chan struct{})
	go func() {
		time.Sleep(10 * time.Millisecond) // It is held by now.
		w := lockups{s: theKernel}
		w.turn(40 * time.Millisecond)
		close(turned)
	}()
	p, _ := next()
	close(until)
	<-held
	<-turned
	if p.Name != "the table of agents" || p.Limit != int64(40*time.Millisecond) || p.Action != "record" || !strings.Contains(p.Stack, "sentry.holdTheLock lockups_test.go:") {
		t.Errorf("%+v", p)
	}
	if got := theLog.about("kernel.lockup"); !strings.Contains(got, "error") || !strings.Contains(got, "kind=lock") || !strings.Contains(got, "holdTheLock") {
		t.Errorf("the log: %q", got)
	}
}

// TestCallThatTakesLong has the kernel's own watch see a read that takes long.
func TestCallThatTakesLong(t *testing.T) {
	next := lockedUp(t, "task")
	s := spawn(t, []string{"sh", "-c", "while :; do dd if=/dev/zero of=/dev/null bs=512M count=1; done 2>/dev/null"})
	for {
		p, agent := next()
		if agent != s.id || p.Name != "dd" || !strings.Contains(p.Stack, "linux.Read ") {
			continue // Under load other calls are slow too, in other tests' agents and in this one.
		}
		if p.Process.GetName() != "dd" || p.Held <= p.Limit || !strings.Contains(p.Stack, "linux.Read sys_read_write.go:") {
			t.Errorf("%+v", p)
		}
		if got := mustRun(t, s, "dmesg -r"); !strings.Contains(got, "<3>[") || !strings.Contains(got, "kernel.lockup kind=task name=dd") {
			t.Errorf("dmesg: %s", got)
		}
		return
	}
}
