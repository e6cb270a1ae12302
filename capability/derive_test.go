package capability

import (
	"strings"
	"testing"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
)

func TestDerivedIsNeverMore(t *testing.T) {
	for _, c := range []struct {
		from   string
		change Change
		want   string // or
		code   errdefs.Code
	}{
		{"fs:/d:rw,quota=10", Change{}, "fs:/d:rw,quota=10", ""},
		{"fs:/d:rw,quota=10", Change{Rights: ptr(abi.FSRead)}, "fs:/d:read", ""},
		{"fs:/d:ro", Change{Rights: ptr(abi.FSWrite)}, "", errdefs.RightsExceed},
		{"fs:/d:ro", Change{Rights: ptr(abi.Rights(0))}, "", errdefs.CapabilityInvalid},
		{"fs:/d:ro", Change{Rights: ptr(abi.Rights(1 << 20))}, "", errdefs.RightsExceed},
		{"fs:/d:ro", Change{Object: ptr("/d/e")}, "fs:/d/e:ro", ""},
		{"fs:/d:ro", Change{Object: ptr("/e")}, "", errdefs.RightsExceed},
		{"fs:/d:ro", Change{Object: ptr("/")}, "", errdefs.RightsExceed},
		{"fs:/d:ro", Change{Object: ptr("/d/../e")}, "", errdefs.CapabilityInvalid},
		{"fs:/d:ro,at=/x", Change{Object: ptr("/d/e/f")}, "fs:/d/e/f:ro,at=/x/e/f", ""},
		{"fs:/d:ro,at=/", Change{Object: ptr("/d/e")}, "fs:/d/e:ro,at=/e", ""},
		{"fs:/:ro,at=/x", Change{Object: ptr("/e")}, "fs:/e:ro,at=/x/e", ""},
		{"fs:/d:ro", Change{At: ptr("/y")}, "fs:/d:ro,at=/y", ""},
		{"fs:/d:ro", Change{At: ptr("y")}, "", errdefs.CapabilityInvalid},
		{"svc:*", Change{At: ptr("/y")}, "", errdefs.CapabilityInvalid},
		{"svc:*", Change{Object: ptr("db"), Badge: ptr(uint64(7)), Sealed: true}, "svc:db,badge=7,sealed", ""},
		{"svc:*,badge=7", Change{}, "svc:*,badge=7", ""},
		{"svc:*,badge=7", Change{Badge: ptr(uint64(8))}, "", errdefs.RightsExceed},
		{"svc:*,badge=7", Change{Badge: ptr(uint64(0))}, "", errdefs.RightsExceed},
		{"svc:*,sealed", Change{}, "", errdefs.CapabilitySealed},
		{"svc:*", Change{Lease: ptr(-time.Second)}, "", errdefs.CapabilityInvalid},
		{"svc:*", Change{Limits: &Limits{Bytes: 1}}, "", errdefs.CapabilityInvalid},
		{"mem:self,bytes=10", Change{Limits: &Limits{Bytes: 4}}, "mem:self,bytes=4", ""},
		{"mem:self,bytes=10", Change{Limits: &Limits{Bytes: 11}}, "", errdefs.RightsExceed},
		{"mem:self,bytes=10,count=5", Change{Limits: &Limits{Bytes: 4}}, "", errdefs.CapabilityInvalid},
		{"mem:self,bytes=10", Change{Limits: &Limits{Bytes: 4, Count: 9}}, "mem:self,bytes=4,count=9", ""},
		{"mem:self", Change{Limits: &Limits{Bytes: MaxLimit + 1}}, "", errdefs.CapabilityInvalid},
		{"mem:self,bytes=10", Change{Object: ptr("other")}, "", errdefs.CapabilityInvalid},
		{"proc:self,count=3", Change{Rights: ptr(abi.ProcSignal), Limits: &Limits{}}, "proc:self:signal", ""},
		{"cpu:self,cpu=2,weight=100", Change{Limits: &Limits{MilliCPU: 500}}, "cpu:self,cpu=0.5,weight=100", ""},
		{"cpu:self,cpu=2,weight=100", Change{Limits: &Limits{MilliCPU: 500, Weight: 101}}, "", errdefs.RightsExceed},
	} {
		w := newWorld(t, Options{}, "a", "b")
		p := w.mint("a", c.from)
		n, err := w.Delegate(p, "b", c.change, false, Actor{Name: "a"})
		switch {
		case c.code != "":
			refused(t, err, c.code)
			if len(w.Children(p)) != 0 || len(w.List("b")) != 0 {
				t.Errorf("%s: something came of what was refused", c.from)
			}
		case err != nil || n.Spec().String() != c.want:
			t.Errorf("%s: got %v, %v; want %s", c.from, n, err, c.want)
		}
	}
}

func TestBudgetsDivide(t *testing.T) {
	w := newWorld(t, Options{}, "a", "b")
	c := w.mint("a", "mem:self,bytes=10")
	n := w.give(c, "b", Change{Limits: &Limits{Bytes: 6}})
	_, err := w.Delegate(c, "b", Change{Limits: &Limits{Bytes: 5}}, false, Actor{Name: "a"})
	refused(t, err, errdefs.BudgetExhausted)
	if !strings.Contains(err.Error(), "only 4 is left") {
		t.Fatalf("%v does not say what is left", err)
	}
	m := w.give(c, "b", Change{}) // All that is left.
	if m.Spec().Limits.Bytes != 4 {
		t.Fatalf("it got %s", m.Spec())
	}
	if v, limited := c.Left(KindBytes); v != 0 || !limited {
		t.Fatalf("%d is left, limited %v", v, limited)
	}
	_, err = w.Delegate(c, "b", Change{}, false, Actor{Name: "a"})
	refused(t, err, errdefs.BudgetExhausted)
	if v, limited := w.Effective("a")[abi.ClassMem].Limit(KindBytes); v != 0 || !limited {
		t.Fatalf("the giver has %d, limited %v", v, limited)
	}
	if v, _ := w.Effective("b")[abi.ClassMem].Limit(KindBytes); v != 10 {
		t.Fatalf("the other has %d", v)
	}
	_, err = w.Attenuate(n, Change{Limits: &Limits{Bytes: 1}}, Actor{Name: "b"})
	w.must(err)
	_, err = w.Revoke(m, true, Actor{Name: "b"}, "")
	w.must(err)
	if c.Remaining().Bytes != 9 {
		t.Fatalf("%d is left", c.Remaining().Bytes)
	}
	u := w.mint("b", "mem:self:exec")
	if _, limited := w.Effective("b")[abi.ClassMem].Limit(KindBytes); !limited {
		t.Fatal("what cannot allocate lifts the limit")
	}
	if _, limited := u.Left(KindBytes); limited {
		t.Fatal("it has no limit, yet is limited")
	}
	w.mint("b", "mem:self")
	if v, limited := w.Effective("b")[abi.ClassMem].Limit(KindBytes); limited || v != 0 {
		t.Fatal("one without a limit is bounded")
	}
}

type narrower struct {
	counter
	heard []string
}

func (n *narrower) Narrowed(c *Capability) { n.heard = append(n.heard, c.Spec().String()) }

func TestAttenuate(t *testing.T) {
	w := newWorld(t, Options{}, "a", "b")
	c := w.mint("a", "fs:/d:rw,quota=10,at=/x")
	door := &narrower{}
	c.Attach(door)
	n := w.give(c, "b", Change{Object: ptr("/d/e"), Rights: ptr(abi.FSRead | abi.FSWrite), Limits: &Limits{Bytes: 4}})
	by := Actor{Name: "a"}
	for _, ch := range []Change{
		{Rights: ptr(abi.FSRead)}, {Object: ptr("/d/f")}, {Object: ptr("/e")}, {Rights: ptr(abi.Rights(1 << 9))}, {Limits: &Limits{Bytes: 11}}, {Limits: &Limits{Count: 1}},
		{Badge: ptr(uint64(3))}, {Limits: &Limits{Bytes: 3}},
	} {
		_, err := w.Attenuate(c, ch, by)
		refused(t, err, errdefs.RightsExceed)
		if ch.Rights != nil && *ch.Rights == abi.FSRead && !strings.Contains(err.Error(), string(n.ID())) {
			t.Errorf("%v does not name what is in the way", err)
		}
	}
	_, err := w.Attenuate(c, Change{At: ptr("/y")}, by)
	refused(t, err, errdefs.CapabilityInvalid)
	w.give(c, "b", Change{Object: ptr("/d/e"), Rights: ptr(abi.FSRead | abi.FSWrite), Limits: &Limits{Bytes: 4}})
	_, err = w.Attenuate(c, Change{Limits: &Limits{Bytes: 7}}, by)
	refused(t, err, errdefs.BudgetExhausted)
	if len(door.heard) != 0 || c.Spec().String() != "fs:/d:rw,quota=10,at=/x" {
		t.Fatalf("it says %s", c.Spec())
	}
	got, err := w.Attenuate(c, Change{Object: ptr("/d/e"), Rights: ptr(abi.FSRead | abi.FSWrite), Limits: &Limits{Bytes: 8}, Sealed: true}, by)
	w.must(err)
	const want = "fs:/d/e:read+write,quota=8,at=/x/e,sealed"
	if got != c || c.Spec().String() != want || len(door.heard) != 1 || door.heard[0] != want || door.calls != 0 {
		t.Fatalf("it says %s; its door heard %v", c.Spec(), door.heard)
	}
	_, err = w.Delegate(c, "b", Change{}, false, daemon)
	refused(t, err, errdefs.CapabilitySealed)
	if v, limited := c.Left(KindBytes); v != 0 || !limited {
		t.Fatalf("%d is left", v)
	}
}

// TestAttenuateToALimit gives a limit to what had none and has children.
func TestAttenuateToALimit(t *testing.T) {
	w := newWorld(t, Options{}, "a", "b")
	c := w.mint("a", "mem:self")
	n := w.give(c, "b", Change{Limits: &Limits{Bytes: 4}})
	u := w.give(c, "b", Change{})
	_, err := w.Attenuate(c, Change{Limits: &Limits{Bytes: 9}}, Actor{Name: "a"})
	refused(t, err, errdefs.RightsExceed)
	_, err = w.Revoke(u, true, daemon, "")
	w.must(err)
	_, err = w.Attenuate(c, Change{Limits: &Limits{Bytes: 9}}, Actor{Name: "a"})
	w.must(err)
	if c.Remaining().Bytes != 5 {
		t.Fatalf("%d is left", c.Remaining().Bytes)
	}
	_, err = w.Revoke(n, true, daemon, "")
	w.must(err)
	if c.Remaining().Bytes != 9 {
		t.Fatalf("%d is left", c.Remaining().Bytes)
	}
}

func TestBounds(t *testing.T) {
	w := newWorld(t, Options{MaxPerHolder: 8, MaxNodes: 32, MaxDepth: 3}, "a", "b", "c", "d", "e")
	a := Actor{Name: "a"}
	c := w.mint("a", "svc:*")
	n := c
	for range 3 {
		n = w.give(n, "a", Change{})
	}
	_, err := w.Delegate(n, "a", Change{}, false, a)
	refused(t, err, errdefs.CapabilityDepth)
	for range 4 {
		w.give(c, "b", Change{})
	}
	_, err = w.Delegate(c, "a", Change{}, false, a) // a has given 7, one more is its eighth...
	w.must(err)
	_, err = w.Delegate(c, "a", Change{}, false, a) // ... and its last.
	refused(t, err, errdefs.CapabilityLimit)
	_, err = w.Revoke(w.Children(c)[5], true, a, "") // One of those a has given, which makes room.
	w.must(err)
	w.give(c, "a", Change{})
	for range 3 {
		w.mint("b", "svc:*")
	}
	_, err = w.Delegate(w.mint("c", "svc:*"), "b", Change{}, false, Actor{Name: "c"}) // The eighth place is b's own.
	refused(t, err, errdefs.CapabilityLimit)
	w.mint("b", "svc:*")
	spec := Spec{Object: Object{abi.ClassSvc, "*"}, Rights: abi.SvcConnect}
	_, err = w.Mint("b", spec, daemon)
	refused(t, err, errdefs.CapabilityLimit)
	for len(w.Tree()) < 28 {
		w.mint([]string{"c", "d", "e"}[len(w.Tree())%3], "svc:*")
	}
	_, err = w.Delegate(w.List("d")[0], "d", Change{}, false, Actor{Name: "d"}) // The last eighth is the daemon's.
	refused(t, err, errdefs.CapabilityLimit)
	for _, h := range []string{"c", "d", "e", "a"} {
		for len(w.Tree()) < 32 && len(w.List(h)) < 8 {
			w.mint(h, "svc:*")
		}
	}
	_, err = w.Mint("d", spec, daemon)
	refused(t, err, errdefs.CapabilityLimit)
}

func TestMintRefuses(t *testing.T) {
	w := newWorld(t, Options{}, "a")
	for _, s := range []Spec{
		{}, {Object: Object{99, "x"}, Rights: 1}, {Object: Object{abi.ClassSvc, "db"}}, {Object: Object{abi.ClassSvc, "db"}, Rights: 2},
		{Object: Object{abi.ClassFS, "/a/"}, Rights: 1}, {Object: Object{abi.ClassSvc, "db"}, Rights: 1, Lease: -1},
		{Object: Object{abi.ClassSvc, "db"}, Rights: 1, At: "/x"}, {Object: Object{abi.ClassSvc, "db"}, Rights: 1, Limits: Limits{Count: 1}},
		{Object: Object{abi.ClassFS, "/a"}, Rights: 1, At: "/x\x00"}, {Object: Object{abi.ClassCPU, "self"}, Rights: 1, Limits: Limits{Weight: 10001}},
	} {
		_, err := w.Mint("a", s, daemon)
		refused(t, err, errdefs.CapabilityInvalid)
	}
	_, err := w.Mint("nobody", Spec{Object: Object{abi.ClassSvc, "db"}, Rights: 1}, daemon)
	refused(t, err, errdefs.AgentNotFound)
	_, err = w.MintRemoteImage("a", Spec{Object: Object{abi.ClassSvc, "db"}, Rights: 1}, "x", daemon)
	refused(t, err, errdefs.CapabilityInvalid)
	refused(t, w.AddHolder("a"), errdefs.AlreadyExists)
	refused(t, w.AddHolder(""), errdefs.InvalidArgument)
	_, err = w.Lookup("nobody", 1)
	refused(t, err, errdefs.AgentNotFound)
	for _, remote := range []string{"", "x", "/x", "x/", "a/b/c", "a b/c"} {
		_, err = w.DelegateRemote(w.mint("a", "svc:*"), remote, Change{}, daemon)
		refused(t, err, errdefs.CapabilityInvalid)
	}
	other := newWorld(t, Options{}, "a").mint("a", "svc:*")
	for _, c := range []*Capability{nil, other} {
		_, err = w.Delegate(c, "a", Change{}, false, daemon)
		refused(t, err, errdefs.CapabilityNotFound)
		_, err = w.Attenuate(c, Change{}, daemon)
		refused(t, err, errdefs.CapabilityNotFound)
		_, err = w.Revoke(c, true, daemon, "")
		refused(t, err, errdefs.CapabilityNotFound)
		refused(t, w.Renew(c, 1, daemon), errdefs.CapabilityNotFound)
		refused(t, w.Seal(c, daemon), errdefs.CapabilityNotFound)
	}
	_, err = w.ByID("c0")
	refused(t, err, errdefs.CapabilityNotFound)
}

func TestForgedHandles(t *testing.T) {
	w := newWorld(t, Options{}, "a", "b")
	c := w.mint("a", "svc:*")
	for range 3 {
		w.mint("b", "svc:*")
	}
	for _, h := range []Handle{0, 2, 3, 1 << 40, ^Handle(0)} {
		_, err := w.Lookup("a", h)
		refused(t, err, errdefs.CapabilityNotFound)
	}
	_, err := w.Revoke(c, true, daemon, "")
	w.must(err)
	if again := w.mint("a", "svc:*"); again.Handle() <= c.Handle() || again.ID() == c.ID() {
		t.Fatal("a handle or an ID came again")
	}
	_, err = w.Lookup("a", c.Handle())
	refused(t, err, errdefs.CapabilityNotFound)
	w.RemoveHolder("a", "")
	w.must(w.AddHolder("a"))
	_, err = w.Lookup("a", 2)
	refused(t, err, errdefs.CapabilityNotFound)
}

func TestDoors(t *testing.T) {
	w := newWorld(t, Options{}, "a")
	c := w.mint("a", "fs:/:ro")
	doors := make([]counter, 40)
	for i := range doors {
		for range 2 {
			if !c.Attach(&doors[i]) {
				t.Fatal("it is not live")
			}
		}
	}
	for i := 0; i < len(doors); i += 2 {
		c.Detach(&doors[i])
		c.Detach(&doors[i])
	}
	_, err := w.Revoke(c, true, daemon, "")
	w.must(err)
	for i := range doors {
		if doors[i].calls != i%2 {
			t.Fatalf("door %d was told %d times", i, doors[i].calls)
		}
	}
	if c.Attach(&doors[0]) || c.Allows(abi.FSRead) {
		t.Fatal("it is used after its end")
	}
	c.Detach(&doors[0])
}

func TestEffective(t *testing.T) {
	w := newWorld(t, Options{}, "a")
	for _, text := range []string{"fs:/d:ro", "fs:/d/e:read+write,quota=3", "fs:/d:delete", "cpu:self,cpu=0.5,weight=50", "cpu:self,cpu=1,weight=70", "event:a.*"} {
		w.mint("a", text)
	}
	e := w.Effective("a")
	if got := e.To(Object{abi.ClassFS, "/d/e/f"}).Format(abi.ClassFS); got != "read+write+exec+delete" {
		t.Errorf("to /d/e/f: %s", got)
	}
	if got := e.To(Object{abi.ClassFS, "/d"}).Format(abi.ClassFS); got != "read+exec+delete" {
		t.Errorf("to /d: %s", got)
	}
	if e.To(Object{abi.ClassFS, "/"}) != 0 || e.To(Object{abi.ClassNet, "*"}) != 0 || e.Rights(abi.ClassNet) != 0 {
		t.Error("it can do what it was not given")
	}
	cpu := e[abi.ClassCPU]
	if cpu.Limits.MilliCPU != 1500 || cpu.Limits.Weight != 70 || !cpu.Limited(KindMilliCPU) || !cpu.Limited(KindWeight) {
		t.Errorf("processors: %+v", cpu)
	}
	if n := len(e[abi.ClassFS].Objects); n != 2 {
		t.Errorf("%d objects", n)
	}
	if w.Effective("nobody") != nil {
		t.Error("nobody can do something")
	}
}
