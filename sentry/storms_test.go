package sentry

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/control"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/sentry/sched"
)

// TestStormsAreHeldBack: an agent that raises exceptions as fast as it can is held
// back while it does, whatever else changes, and no longer. It does not see fewer
// CPUs meanwhile.
func TestStormsAreHeldBack(t *testing.T) {
	// Under the race detector an exception takes half a millisecond.
	const most = 50
	defer holdCount.Store(holdCount.Swap(most))
	s := inSchedImage(t, "cpu:self", "/bin/storm")
	storm := eventsOf[*eventv1.FaultStorm](t, s, "fault.storm")
	a, err := theKernel.agent(s.id)
	if err != nil {
		t.Fatal(err)
	}
	quota := func() uint64 { return a.crowd.Group().Params().MilliCPU }
	for {
		if p := storm(); p.Action == actionThrottle {
			if p.Limit != most || p.Interval != int64(holdTime) || p.Name != "page-fault" {
				t.Errorf("%+v", p)
			}
			break
		}
	}
	eventually(t, func() bool { return quota() == heldMilliCPU })

	// A ceiling that is lower counts, and is lifted without an end to the other.
	low := uint64(200)
	for _, milli := range []*uint64{&low, nil} {
		if _, err := theKernel.Ceiling(control.CeilingRequest{ID: s.id, Name: "test", MilliCPU: milli}); err != nil {
			t.Fatal(err)
		}
		want := uint64(heldMilliCPU)
		if milli != nil {
			want = *milli
		}
		if got := quota(); got != want {
			t.Errorf("the quota is %d, not %d", got, want)
		}
	}
	if n, all := a.account.set.Load().Len(), theKernel.usableCPUs(); n != all.Len() {
		t.Errorf("it sees %d of %d CPUs", n, all.Len())
	}
	before, began := a.faults.counts.Total(), time.Now()
	time.Sleep(3 * calmTime)
	if !a.faults.held.Load() || quota() != heldMilliCPU {
		t.Errorf("it was let go after %d exceptions in %v", a.faults.counts.Total()-before, time.Since(began))
	}

	s.signal(int32(unix.SIGUSR1))
	s.expect("calm")
	eventually(t, func() bool { return !a.faults.held.Load() && quota() == sched.Unlimited })
}

// TestTally: what an interval before the present one had counts no more.
func TestTally(t *testing.T) {
	var c tally
	for _, step := range []struct {
		at   time.Duration
		want uint32
	}{{0, 1}, {99, 2}, {100, 1}, {150, 2}, {199, 3}, {1000, 1}, {1000, 2}} {
		if got := c.add(step.at*time.Millisecond, 100*time.Millisecond); got != step.want {
			t.Errorf("at %d ms: %d, not %d", step.at, got, step.want)
		}
	}
}
