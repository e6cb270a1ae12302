package capability

import (
	"encoding/json"
	"testing"
	"time"

	"aios.dev/aios/errdefs"
)

// What a Space was saved as is what another one goes on with: holders, handles, the
// tree, budgets, leases by the clock, what was moved away.
func TestSavedSpace(t *testing.T) {
	by := Actor{Name: "operator", Privileged: true}
	old := NewSpace(Options{})
	defer old.Close()
	for _, id := range []string{"a", "b"} {
		if err := old.AddHolder(id); err != nil {
			t.Fatal(err)
		}
	}
	mint := func(holder, text string) *Capability {
		t.Helper()
		spec, err := ParseSpec(text)
		if err != nil {
			t.Fatal(err)
		}
		c, err := old.Mint(holder, spec, by)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	gap := mint("a", "io:self")
	mem := mint("a", "mem:self,bytes=100M")
	files := mint("a", "fs:/data:ro")
	leased := mint("a", "fs:/leased:ro,lease=1h")
	ending := mint("b", "fs:/ending:ro,lease=10m")
	if _, err := old.Revoke(gap, true, by, "test"); err != nil {
		t.Fatal(err)
	}
	limits := Limits{Bytes: 30 << 20}
	part, err := old.Delegate(mem, "a", Change{Limits: &limits}, false, by)
	if err != nil {
		t.Fatal(err)
	}
	child, err := old.Delegate(files, "b", Change{}, false, by)
	if err != nil {
		t.Fatal(err)
	}
	moved := mint("a", "fs:/moved:rw")
	heir, err := old.Delegate(moved, "b", Change{}, true, by)
	if err != nil {
		t.Fatal(err)
	}

	made := time.Now()
	raw, err := json.Marshal(old.Save(made))
	if err != nil {
		t.Fatal(err)
	}
	var saved Saved
	if err := json.Unmarshal(raw, &saved); err != nil {
		t.Fatal(err)
	}
	s := NewSpace(Options{})
	defer s.Close()
	if err := s.Load(saved, made.Add(30*time.Minute)); err != nil {
		t.Fatal(err)
	}
	again := func(c *Capability) *Capability {
		t.Helper()
		n, err := s.ByID(c.ID())
		if err != nil {
			t.Fatal(err)
		}
		if n.Spec() != c.Spec() || n.Holder() != c.Holder() || n.Depth() != c.Depth() || n.Origin() != c.Origin() {
			t.Errorf("%s was %v of %s, is %v of %s", c.ID(), c.Spec(), c.Holder(), n.Spec(), n.Holder())
		}
		if p := c.Parent(); p != nil && n.Parent().ID() != p.ID() {
			t.Errorf("%s hangs below %s, not %s", c.ID(), n.Parent().ID(), p.ID())
		}
		return n
	}
	for _, c := range []*Capability{mem, files, leased, part, child, heir} {
		n := again(c)
		if got, err := s.Lookup(c.Holder(), c.Handle()); err != nil || got != n {
			t.Errorf("handle %d of %s: %v", c.Handle(), c.Holder(), err)
		}
	}
	if _, err := s.Lookup("a", gap.Handle()); errdefs.CodeOf(err) != errdefs.CapabilityNotFound {
		t.Errorf("a handle that was given up: %v", err)
	}
	if n := again(moved); n.Live() {
		t.Error("what was moved away is live")
	}
	if left, _ := again(mem).Left(KindBytes); left != 70<<20 {
		t.Errorf("%d bytes are left", left)
	}
	if left, ok := again(leased).Expires(); !ok || left > 30*time.Minute || left < 29*time.Minute {
		t.Errorf("the lease has %v", left)
	}
	eventually(t, func() bool { _, err := s.ByID(ending.ID()); return err != nil })
	// New handles are new, and taking back takes all.
	if spec, err := ParseSpec("cpu:self"); err != nil {
		t.Fatal(err)
	} else if c, err := s.Mint("a", spec, by); err != nil || c.Handle() <= moved.Handle() {
		t.Errorf("a new one is %d: %v", c.Handle(), err)
	}
	dead, err := s.Revoke(again(files), true, by, "test")
	if err != nil || len(dead) != 2 {
		t.Errorf("%d ended: %v", len(dead), err)
	}
	if _, err := s.Revoke(again(moved), true, by, "test"); err != nil {
		t.Error(err)
	}
	if _, err := s.Lookup("b", heir.Handle()); err == nil {
		t.Error("the heir of what was revoked lives")
	}

	saved.Nodes[1].Parent = "cffffffffffff"
	if err := NewSpace(Options{}).Load(saved, made); errdefs.CodeOf(err) != errdefs.CheckpointDamaged {
		t.Errorf("a node without its parent: %v", err)
	}
	// A clock that was set back makes no lease longer.
	s = NewSpace(Options{})
	defer s.Close()
	saved.Nodes[1].Parent = ""
	if err := s.Load(saved, made.Add(-24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if left, _ := again(leased).Expires(); left > time.Hour {
		t.Errorf("the lease has %v", left)
	}
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it never came")
}
