package capability

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
)

// gate is a door that returns when it is let.
type gate struct {
	open chan struct{}
	told atomic.Int32
}

func (g *gate) Revoke(*Capability) {
	g.told.Add(1)
	<-g.open
}

// TestRevokeWaitsForDoors lets one revocation hang in a door, and has every
// other call that concerns the same capability wait for it.
func TestRevokeWaitsForDoors(t *testing.T) {
	revoke := func(x *Capability) func(w *world) { return func(w *world) { w.Revoke(x, true, daemon, "") } }
	for name, second := range map[string]func(w *world, parent, c *Capability){
		"the same":             func(w *world, _, c *Capability) { w.Revoke(c, true, daemon, "") },
		"what it came from":    func(w *world, p, _ *Capability) { w.Revoke(p, true, daemon, "") },
		"all below its parent": func(w *world, p, _ *Capability) { w.Revoke(p, false, daemon, "") },
		"its holder's":         func(w *world, _, _ *Capability) { w.RevokeHolder("b", daemon, "") },
		"its giver's":          func(w *world, _, _ *Capability) { w.RevokeHolder("a", daemon, "") },
		"the holder ends":      func(w *world, _, _ *Capability) { w.RemoveHolder("b", "") },

		"with its parent, then it":           func(w *world, _, c *Capability) { w.Revoke(c, true, daemon, "") },
		"with its parent, then its holder's": func(w *world, _, _ *Capability) { w.RevokeHolder("b", daemon, "") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, Options{}, "a", "b")
				p := w.mint("a", "fs:/:ro")
				c := w.give(p, "b", Change{})
				g := &gate{open: make(chan struct{})}
				c.Attach(g)
				var first, then atomic.Bool
				begin := revoke(c)
				if strings.HasPrefix(name, "with its parent") {
					begin = revoke(p)
				}
				go func() { begin(w); first.Store(true) }()
				synctest.Wait()
				go func() { second(w, p, c); then.Store(true) }()
				synctest.Wait()
				if c.Live() || first.Load() || then.Load() {
					t.Fatalf("live %v; returned before the door did: %v %v", c.Live(), first.Load(), then.Load())
				}
				// Others go on meanwhile.
				w.mint("a", "svc:*")
				close(g.open)
				synctest.Wait()
				if !first.Load() || !then.Load() || g.told.Load() != 1 {
					t.Fatalf("returned: %v %v, told %d times", first.Load(), then.Load(), g.told.Load())
				}
			})
		})
	}
}

func TestMoveTakesFromTheGiver(t *testing.T) {
	w := newWorld(t, Options{}, "a", "b", "c")
	root := w.mint("a", "mem:self,bytes=100")
	c := w.give(root, "b", Change{Limits: &Limits{Bytes: 60}, Lease: ptr(time.Minute)})
	door := &counter{}
	c.Attach(door)
	n, err := w.Delegate(c, "c", Change{}, true, Actor{Name: "b"})
	w.must(err)
	w.must(w.Renew(c, 2*time.Minute, Actor{Name: "a"}))
	if left, _ := n.Expires(); left != 2*time.Minute {
		t.Fatalf("the heir ends in %v", left)
	}
	if door.calls != 1 || c.Live() || c.Attach(&counter{}) || n.Spec().Limits.Bytes != 60 {
		t.Fatalf("told %d, live %v, moved %s", door.calls, c.Live(), n.Spec())
	}
	refused(t, c.Err(), errdefs.CapabilityRevoked)
	_, err = w.Lookup("b", c.Handle())
	refused(t, err, errdefs.CapabilityNotFound)
	_, err = w.Revoke(n, true, Actor{Name: "b"}, "")
	refused(t, err, errdefs.CapabilityDenied)
	w.RemoveHolder("b", "ended")
	if !n.Live() {
		t.Fatal("it ended with the one who had moved it away")
	}
	// The heir ends, and so does what is left of the one it came from.
	dead, err := w.Revoke(n, true, Actor{Name: "a"}, "")
	w.must(err)
	if len(dead) != 2 || root.Remaining().Bytes != 100 || door.calls != 1 {
		t.Fatalf("%d ended, %+v is back, told %d", len(dead), root.Remaining(), door.calls)
	}
}

func TestWhoMayTakeBack(t *testing.T) {
	w := newWorld(t, Options{}, "a", "b", "c", "d")
	root := w.mint("a", "svc:*")
	mid := w.give(root, "b", Change{})
	leaf := w.give(mid, "c", Change{Lease: ptr(time.Second)})
	for _, who := range []string{"d", "", "daemon"} {
		_, err := w.Revoke(leaf, true, Actor{Name: who}, "")
		refused(t, err, errdefs.CapabilityDenied)
		refused(t, w.Renew(leaf, 2*time.Second, Actor{Name: who}), errdefs.CapabilityDenied)
		refused(t, w.Seal(leaf, Actor{Name: who}), errdefs.CapabilityDenied)
		_, err = w.Attenuate(leaf, Change{}, Actor{Name: who})
		refused(t, err, errdefs.CapabilityDenied)
		_, err = w.Delegate(leaf, "d", Change{}, false, Actor{Name: who})
		refused(t, err, errdefs.CapabilityDenied)
		if w.RevokeHolder("c", Actor{Name: who}, "") != nil {
			t.Fatalf("%q takes everything from c", who)
		}
	}
	refused(t, w.Renew(leaf, 2*time.Second, Actor{Name: "c"}), errdefs.CapabilityDenied)
	w.must(w.Renew(leaf, 2*time.Second, Actor{Name: "a"}))
	_, err := w.Revoke(mid, true, Actor{Name: "c"}, "")
	refused(t, err, errdefs.CapabilityDenied)
	_, err = w.Mint("a", Spec{Object: Object{abi.ClassSvc, "*"}, Rights: abi.SvcConnect}, Actor{Name: "a"})
	refused(t, err, errdefs.CapabilityDenied)
	_, err = w.Revoke(leaf, true, Actor{Name: "c"}, "done with it")
	w.must(err)
	if !mid.Live() {
		t.Fatal("what it came from ended with it")
	}
}

// TestReapedWaitsForDoors ends the two children of what was moved away one
// after the other, the first hanging in a door: what ends with the second ends
// no earlier than the first.
func TestReapedWaitsForDoors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{}, "a", "b", "c")
		root := w.mint("a", "svc:*")
		p := w.give(root, "b", Change{})
		first := w.give(p, "c", Change{})
		heir, err := w.Delegate(p, "c", Change{}, true, Actor{Name: "b"})
		w.must(err)
		g := &gate{open: make(chan struct{})}
		first.Attach(g)
		var returned atomic.Int32
		for _, c := range []*Capability{first, heir, p} {
			go func() { w.Revoke(c, true, daemon, ""); returned.Add(1) }()
			synctest.Wait()
		}
		if _, err := w.ByID(p.ID()); err == nil || returned.Load() != 0 {
			t.Fatalf("it exists, or %d returned before the door did", returned.Load())
		}
		close(g.open)
		synctest.Wait()
		if returned.Load() != 3 {
			t.Fatalf("%d returned", returned.Load())
		}
	})
}

// TestDeepAndWide ends a chain as deep as a bound of the test's own, which a
// recursion would feel, and a node with many children.
func TestDeepAndWide(t *testing.T) {
	const depth, width = 50000, 50000
	w := newWorld(t, Options{MaxDepth: depth, MaxPerHolder: depth + width + 2}, "a")
	root := w.mint("a", "svc:*")
	n := root
	for range depth {
		n = w.give(n, "a", Change{})
	}
	for range width {
		w.give(root, "a", Change{})
	}
	_, err := w.Delegate(n, "a", Change{}, false, Actor{Name: "a"})
	refused(t, err, errdefs.CapabilityDepth)
	if dead, err := w.Revoke(root, false, daemon, ""); err != nil || len(dead) != depth+width {
		t.Fatal(len(dead), err)
	}
	if !root.Live() || len(w.List("a")) != 1 {
		t.Fatal("the root is not what is left")
	}
}

func TestTrail(t *testing.T) {
	w := newWorld(t, Options{}, "a", "b", "c")
	c := w.mint("a", "fs:/x:rw,quota=10")
	by := Actor{Name: "a", Correlation: "r1"}
	n, err := w.Delegate(c, "b", Change{Limits: &Limits{Bytes: 4}, Lease: ptr(time.Minute)}, false, by)
	w.must(err)
	m, err := w.Delegate(n, "c", Change{Rights: ptr(abi.FSRead)}, false, Actor{Name: "b"})
	w.must(err)
	r, err := w.DelegateRemote(c, "other/worker", Change{Rights: ptr(abi.FSRead)}, by)
	w.must(err)
	_, err = w.Attenuate(n, Change{Limits: &Limits{Bytes: 3}}, Actor{Name: "b"})
	w.must(err)
	w.must(w.Seal(m, Actor{Name: "c"}))
	w.must(w.Renew(n, 2*time.Minute, by))
	_, err = w.Revoke(c, true, by, "over")
	w.must(err)
	i, err := w.MintRemoteImage("a", Spec{Object: Object{abi.ClassSvc, "db"}, Rights: abi.SvcConnect, Lease: time.Second}, "c0123456789ab", daemon)
	w.must(err)
	if i.Origin() != "c0123456789ab" || r.Remote() != "other/worker" || r.Holder() != "" || r.Handle() != 0 {
		t.Fatal("the other domain is not named")
	}
	w.clock.Advance(time.Second)
	var got strings.Builder
	name := map[ID]string{"": "-", c.ID(): "C", n.ID(): "N", m.ID(): "M", r.ID(): "R", i.ID(): "I"}
	for _, e := range w.trail {
		fmt.Fprintf(&got, "%s actor=%s agent=%s target=%s cap=%s parent=%s spec=%s reason=%s corr=%s count=%d\n",
			e.Op, e.Actor, e.Agent, e.Target, name[e.Cap], name[e.Parent], e.Spec, e.Reason, e.Correlation, e.Count)
	}
	const want = `mint actor=daemon agent=a target= cap=C parent=- spec=fs:/x:rw,quota=10 reason= corr= count=0
delegate actor=a agent=a target=b cap=N parent=C spec=fs:/x:rw,quota=4,lease=1m0s reason= corr=r1 count=0
delegate actor=b agent=b target=c cap=M parent=N spec=fs:/x:read reason= corr= count=0
delegate actor=a agent=a target=other/worker cap=R parent=C spec=fs:/x:read reason= corr=r1 count=0
attenuate actor=b agent=b target= cap=N parent=C spec=fs:/x:rw,quota=3,lease=1m0s reason= corr= count=0
seal actor=c agent=c target= cap=M parent=N spec=fs:/x:read,sealed reason= corr= count=0
renew actor=a agent=b target= cap=N parent=C spec=fs:/x:rw,quota=3,lease=2m0s reason= corr=r1 count=0
revoke actor=a agent=a target= cap=C parent=- spec=fs:/x:rw,quota=10 reason=over corr=r1 count=4
lost actor=a agent=b target= cap=C parent=- spec= reason=over corr=r1 count=1
lost actor=a agent=c target= cap=C parent=- spec= reason=over corr=r1 count=1
mint actor=daemon agent=a target= cap=I parent=- spec=svc:db,lease=1s reason= corr= count=0
expire actor=kernel agent=a target= cap=I parent=- spec=svc:db,lease=1s reason=lease expired corr= count=1
`
	if got.String() != want {
		t.Fatalf("the trail is\n%s", got.String())
	}
}

func TestChangedOnceForMany(t *testing.T) {
	w := newWorld(t, Options{}, "a", "b")
	c := w.mint("a", "fs:/:rw,quota=100")
	for range 5 {
		w.give(c, "b", Change{Limits: &Limits{Bytes: 10}})
	}
	w.told = nil
	_, err := w.Revoke(c, false, daemon, "")
	w.must(err)
	if len(w.told) != 2 {
		t.Fatalf("told %v", w.told)
	}
}

func TestErrSaysWhat(t *testing.T) {
	w := newWorld(t, Options{}, "a", "b")
	c := w.mint("a", "fs:/data:ro")
	n := w.give(c, "b", Change{})
	_, err := w.Revoke(c, true, Actor{Name: "operator", Privileged: true}, "leak")
	w.must(err)
	if want := fmt.Sprintf("%s (fs:/data): it was revoked by operator: leak", c.ID()); c.Err().Error() != want {
		t.Errorf("%v\nwant %s", c.Err(), want)
	}
	if want := fmt.Sprintf("%s (fs:/data): what it was derived from, %s, was revoked by operator: leak", n.ID(), c.ID()); n.Err().Error() != want {
		t.Errorf("%v\nwant %s", n.Err(), want)
	}
}
