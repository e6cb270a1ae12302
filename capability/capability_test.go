package capability

import (
	"testing"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

var daemon = Actor{Name: "daemon", Privileged: true}

// world is a Space with a clock that stands still and a trail.
type world struct {
	*Space
	t     testing.TB
	clock *ktime.Fake
	trail []Record
	told  []string
}

func newWorld(t testing.TB, o Options, holders ...string) *world {
	w := &world{t: t, clock: ktime.NewFake(time.Unix(1000, 0))}
	o.Clock = w.clock
	o.Audit = func(r Record) { w.trail = append(w.trail, r) }
	o.Changed = func(h string) { w.told = append(w.told, h) }
	w.Space = NewSpace(o)
	for _, h := range holders {
		w.must(w.AddHolder(h))
	}
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("%v; %s", err, errdefs.FixOf(err))
	}
}

func (w *world) mint(holder, text string) *Capability {
	w.t.Helper()
	spec, err := ParseSpec(text)
	w.must(err)
	c, err := w.Mint(holder, spec, daemon)
	w.must(err)
	return c
}

func (w *world) give(c *Capability, to string, ch Change) *Capability {
	w.t.Helper()
	n, err := w.Delegate(c, to, ch, false, Actor{Name: c.Holder()})
	w.must(err)
	return n
}

// refused fails unless err has the code and says what to do.
func refused(t testing.TB, err error, code errdefs.Code) {
	t.Helper()
	if errdefs.CodeOf(err) != code {
		t.Fatalf("got %v (%s), want %s", err, errdefs.CodeOf(err), code)
	}
	if errdefs.FixOf(err) == "" {
		t.Fatalf("%v: nothing says what to do", err)
	}
}

func ptr[T any](v T) *T { return &v }

func TestGrantUseRevoke(t *testing.T) {
	w := newWorld(t, Options{}, "a", "b")
	c := w.mint("a", "fs:/work:rw,quota=1G")
	n := w.give(c, "b", Change{Object: ptr("/work/sub"), Rights: ptr(abi.FSRead)})
	if got := n.Spec().String(); got != "fs:/work/sub:read" {
		t.Fatalf("it says %s", got)
	}
	if got, err := w.Lookup("b", n.Handle()); err != nil || got != n {
		t.Fatal(got, err)
	}
	_, err := w.Lookup("a", 2)
	refused(t, err, errdefs.CapabilityNotFound)
	if dead, err := w.Revoke(c, true, daemon, "over"); err != nil || len(dead) != 2 {
		t.Fatal(dead, err)
	}
	refused(t, n.Err(), errdefs.CapabilityRevoked)
	_, err = w.Lookup("b", n.Handle())
	refused(t, err, errdefs.CapabilityNotFound)
	if len(w.Tree()) != 0 || len(w.List("a"))+len(w.List("b")) != 0 {
		t.Fatal("something is left")
	}
}
