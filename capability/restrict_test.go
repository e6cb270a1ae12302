package capability

import (
	"slices"
	"testing"
	"time"
)

// What was made less after a Space was saved is less in the one that was loaded; what
// cannot be told is named, and nothing gets more.
func TestRestrict(t *testing.T) {
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
	files := mint("a", "fs:/data:rw")
	child, err := old.Delegate(files, "b", Change{}, false, by)
	if err != nil {
		t.Fatal(err)
	}
	memory := mint("a", "mem:self,bytes=100M")
	open := mint("a", "net:loopback")
	lease := mint("a", "fs:/leased:ro,lease=1h")
	short := mint("a", "fs:/short:ro,lease=1h")
	odd := mint("a", "fs:/odd:ro")
	old.CloseHolder("b")
	made := time.Now()
	s := NewSpace(Options{})
	defer s.Close()
	if err := s.Load(old.Save(made), made); err != nil {
		t.Fatal(err)
	}
	over := s.Restrict([]Restriction{
		{ID: files.ID(), Spec: "fs:/data/sub:ro"},
		{ID: memory.ID(), Spec: "mem:self,bytes=10M"},
		{ID: open.ID(), Spec: "net:loopback,sealed"},
		{ID: lease.ID(), Spec: "fs:/leased:ro,lease=10m", Ends: made.Add(10 * time.Minute)},
		{ID: short.ID(), Spec: "fs:/short:ro,lease=1s", Ends: made.Add(-time.Second)},
		{ID: odd.ID(), Spec: "fs:/etc:rw"},
		{ID: "c0123456789ab", Spec: "net:any"},
		{ID: "nonsense", Spec: "nonsense"},
	}, made)
	said := func(c *Capability) string {
		n, err := s.ByID(c.ID())
		if err != nil {
			t.Fatal(err)
		}
		return n.Spec().String()
	}
	for c, want := range map[*Capability]string{
		files: "fs:/data/sub:ro", memory: "mem:self,bytes=10M", open: "net:loopback,sealed", lease: "fs:/leased:ro,lease=10m0s",
		odd: "fs:/odd:ro",
	} {
		if got := said(c); got != canonical(want) {
			t.Errorf("%s says %s, not %s", c.ID(), got, canonical(want))
		}
	}
	slices.Sort(over)
	if want := []ID{child.ID(), short.ID(), odd.ID()}; !slices.Equal(over, slices.Sorted(slices.Values(want))) {
		t.Errorf("to be revoked: %v, not %v", over, want)
	}
	if left, ok := must(s.ByID(lease.ID())).Expires(); !ok || left > 10*time.Minute {
		t.Errorf("the lease has %v", left)
	}
	if !s.HolderClosed("b") || s.HolderClosed("a") {
		t.Error("who was closed is not what it was")
	}
}

// canonical is the canonical form of a grant.
func canonical(text string) string {
	spec, err := ParseSpec(text)
	if err != nil {
		panic(err)
	}
	return spec.String()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
