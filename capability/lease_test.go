package capability

import (
	"testing"
	"time"

	"aios.dev/aios/errdefs"
)

func TestLeaseEnds(t *testing.T) {
	w := newWorld(t, Options{}, "a", "b")
	c := w.mint("a", "mem:self,bytes=10,lease=10s")
	n := w.give(c, "b", Change{Limits: &Limits{Bytes: 4}, Lease: ptr(3 * time.Second)})
	m := w.give(c, "b", Change{Limits: &Limits{Bytes: 2}})
	door := &counter{}
	n.Attach(door)
	w.clock.Advance(3*time.Second - 1)
	if !n.Live() || door.calls != 0 {
		t.Fatal("it ended early")
	}
	w.clock.Advance(1)
	if n.Live() || door.calls != 1 || c.Remaining().Bytes != 8 {
		t.Fatalf("live %v, told %d, %d left", n.Live(), door.calls, c.Remaining().Bytes)
	}
	refused(t, n.Err(), errdefs.LeaseExpired)
	if left, ok := m.Expires(); !ok || left != 7*time.Second {
		t.Fatalf("what has no lease of its own ends in %v", left)
	}
	w.clock.Advance(7 * time.Second)
	if m.Live() || c.Live() || len(w.Tree()) != 0 {
		t.Fatal("something outlives its lease")
	}
	refused(t, m.Err(), errdefs.LeaseExpired)
}

// TestLeaseIsExact looks in the moment between the end of a lease and the
// timer: with the timer stopped, that moment lasts.
func TestLeaseIsExact(t *testing.T) {
	w := newWorld(t, Options{}, "a", "b")
	c := w.mint("a", "svc:*,lease=1s")
	n := w.give(c, "b", Change{})
	w.Close()
	w.clock.Advance(time.Second)
	for _, x := range []*Capability{c, n} {
		if x.Live() || x.Attach(&counter{}) {
			t.Fatal("it may be used after its end")
		}
		refused(t, x.Err(), errdefs.LeaseExpired)
		_, err := w.Lookup(x.Holder(), x.Handle())
		refused(t, err, errdefs.LeaseExpired)
		_, err = w.Delegate(x, "b", Change{}, false, Actor{Name: x.Holder()})
		refused(t, err, errdefs.LeaseExpired)
		refused(t, w.Renew(x, time.Second, daemon), errdefs.LeaseExpired)
	}
	if len(w.Effective("a"))+len(w.Effective("b"))+len(w.List("a")) != 0 {
		t.Fatal("it is counted after its end")
	}
}

func TestEffectiveForgetsALeaseInTime(t *testing.T) {
	w := newWorld(t, Options{}, "a")
	w.mint("a", "svc:*,lease=1s")
	if len(w.Effective("a")) != 1 {
		t.Fatal("it is not counted")
	}
	w.Close()
	w.clock.Advance(time.Second)
	if len(w.Effective("a")) != 0 {
		t.Fatal("what was worked out before its end is still given")
	}
}

func TestRenew(t *testing.T) {
	w := newWorld(t, Options{}, "a", "b", "c")
	c := w.mint("a", "svc:*,lease=10s")
	n := w.give(c, "b", Change{Lease: ptr(time.Minute)}) // Cut off at 10 s.
	m := w.give(n, "c", Change{})
	ends := func(x *Capability, want time.Duration) {
		t.Helper()
		if left, ok := x.Expires(); !ok || left != want {
			t.Fatalf("it ends in %v, want %v", left, want)
		}
	}
	ends(n, 10*time.Second)
	ends(m, 10*time.Second)
	refused(t, w.Renew(n, 11*time.Second, Actor{Name: "a"}), errdefs.RightsExceed)
	refused(t, w.Renew(n, 0, Actor{Name: "a"}), errdefs.CapabilityInvalid)
	refused(t, w.Renew(m, time.Second, Actor{Name: "b"}), errdefs.CapabilityInvalid)
	w.must(w.Renew(c, 30*time.Second, daemon))
	ends(n, 30*time.Second) // It was given a minute.
	ends(m, 30*time.Second)
	w.clock.Advance(20 * time.Second)
	if !m.Live() {
		t.Fatal("the old end was kept")
	}
	w.must(w.Renew(c, 100*time.Second, daemon))
	ends(n, 40*time.Second)
	w.must(w.Renew(n, time.Second, Actor{Name: "a"}))
	ends(m, time.Second)
	w.clock.Advance(time.Second)
	if m.Live() || n.Live() || !c.Live() {
		t.Fatal("the new end was not kept")
	}
}

func TestAttenuateCutsLeasesShort(t *testing.T) {
	w := newWorld(t, Options{}, "a", "b")
	c := w.mint("a", "svc:*")
	n := w.give(c, "b", Change{})
	_, err := w.Attenuate(c, Change{Lease: ptr(time.Second)}, Actor{Name: "a"})
	w.must(err)
	_, err = w.Attenuate(c, Change{Lease: ptr(2 * time.Second)}, Actor{Name: "a"})
	refused(t, err, errdefs.RightsExceed)
	w.clock.Advance(time.Second)
	if n.Live() || c.Live() {
		t.Fatal("it has no end")
	}
}

func TestLongLeaseDoesNotOverflow(t *testing.T) {
	w := newWorld(t, Options{}, "a")
	w.clock.Advance(time.Hour)
	c := w.mint("a", "svc:*,lease=2562047h")
	if !c.Live() {
		t.Fatal("it has ended")
	}
	if left, ok := c.Expires(); !ok || left < 2562000*time.Hour {
		t.Fatalf("it ends in %v, %v", left, ok)
	}
}
