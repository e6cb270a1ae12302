package sentry

import (
	"strings"
	"testing"
	"time"

	"aios.dev/aios/control"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/sentry/irq"
)

// lockedUp returns a function that waits for a lockup of a kind.
func lockedUp(t *testing.T, kind string, bound time.Duration) func() (*eventv1.KernelLockup, string) {
	t.Helper()
	theKernel.lockups.bound.Store(int64(bound))
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
	const bound = 40 * time.Millisecond
	next := lockedUp(t, "lock", bound)
	until := make(chan time.Time)
	held := make(chan struct{})
	go func() { holdTheLock(until); close(held) }()
	turned := make(chan struct{})
	go func() {
		time.Sleep(10 * time.Millisecond) // It is held by now.
		w := lockups{s: theKernel}
		w.turn(bound)
		close(turned)
	}()
	p, _ := next()
	close(until)
	<-held
	<-turned
	if p.Name != "the lock of agents" || p.Limit != int64(bound) || p.Action != "record" || !strings.Contains(p.Stack, "sentry.holdTheLock lockups_test.go:") {
		t.Errorf("%+v", p)
	}
	if got := theLog.about("kernel.lockup"); !strings.Contains(got, "error") || !strings.Contains(got, "kind=lock") || !strings.Contains(got, "holdTheLock") {
		t.Errorf("the log: %q", got)
	}
}

// TestCallThatTakesLong has the kernel's own watch see a read that takes long.
func TestCallThatTakesLong(t *testing.T) {
	next := lockedUp(t, "task", 200*time.Millisecond)
	s := spawn(t, []string{"sh", "-c", "while :; do dd if=/dev/urandom of=/dev/null bs=256M count=1; done 2>/dev/null"})
	for {
		p, agent := next()
		if agent != s.id || p.Name != "dd" || !strings.Contains(p.Stack, "linux.Read ") {
			continue // Under load other calls are slow too, in other tests' agents and in this one.
		}
		if p.Process.GetName() != "dd" || p.Held <= p.Limit || !strings.Contains(p.Stack, "linux.Read sys_read_write.go:") {
			t.Errorf("%+v", p)
		}
		if n := irq.Fold(theKernel.findAgent(s.id).irq.Counts(irq.NMI), 1)[0]; n == 0 {
			t.Error("it is no interrupt")
		}
		if got := mustRun(t, s, "dmesg -r"); !strings.Contains(got, "<3>[") || !strings.Contains(got, "kernel.lockup kind=task name=dd") {
			t.Errorf("dmesg: %s", got)
		}
		return
	}
}

// TestPolicyOnLockups: an agent whose calls keep the kernel busy is ended, if its
// owner wants that.
func TestPolicyOnLockups(t *testing.T) {
	next := lockedUp(t, "task", 200*time.Millisecond)
	s := spawn(t, sh("while :; do dd if=/dev/urandom of=/dev/null bs=256M count=1; done 2>/dev/null"), func(r *control.SpawnRequest) {
		r.OnFault = []string{"lockup=kill-agent"}
	})
	for {
		p, agent := next()
		if agent != s.id {
			continue
		}
		if p.Action != "kill-agent" {
			t.Errorf("%+v", p)
		}
		break
	}
	if e := s.wait(); e.Signal != 9 || !strings.Contains(e.Reason, "policy kill-agent: lockup task") {
		t.Errorf("%+v", e)
	}
}

// TestBottomHalfThatTakesLong: the workers of interrupts are watched too.
func TestBottomHalfThatTakesLong(t *testing.T) {
	next := lockedUp(t, "goroutine", 20*time.Millisecond)
	src := theKernel.irq.NewSource("test")
	defer src.Close()
	until := make(chan struct{})
	src.NewWork(irq.Signal, func(int) bool { <-until; return false }).Schedule()
	turned := make(chan struct{})
	go func() {
		defer close(turned)
		w := lockups{s: theKernel}
		for {
			select {
			case <-until:
				return
			case <-time.After(25 * time.Millisecond):
				w.lookAtHalves(20 * time.Millisecond)
			}
		}
	}()
	p, _ := next()
	close(until)
	<-turned
	if !strings.HasPrefix(p.Name, "bottom half of signal on CPU ") || !strings.Contains(p.Stack, "irq.(*worker).run") || p.Action != "record" {
		t.Errorf("%+v", p)
	}
}

// TestWatchThatSleepsTooLong: that nothing ran at all is told afterwards.
func TestWatchThatSleepsTooLong(t *testing.T) {
	next := lockedUp(t, "cpu", time.Hour)
	w := lockups{s: theKernel}
	w.overslept(time.Second, 2*time.Second)
	w.overslept(3*time.Second, 2*time.Second)
	if p, _ := next(); p.Held != int64(3*time.Second) {
		t.Errorf("%+v", p)
	}
}
