package capability

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// soak returns for how long a test is to go on beyond its usual run: an hour
// with AIOS_SOAK=1, or what AIOS_SOAK says.
func soak(t *testing.T) time.Duration {
	text := os.Getenv("AIOS_SOAK")
	if text == "" || text == "0" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		d = time.Hour
	}
	t.Logf("soaking for %v", d)
	return d
}

// TestModel does random things to a Space and to the model and compares all
// that can be seen of them after each.
func TestModel(t *testing.T) {
	t.Parallel()
	end := ktime.Real.Now().Add(soak(t))
	for {
		rapid.Check(t, func(rt *rapid.T) {
			r := newRun(rt)
			actions := map[string]func(*rapid.T){
				"": r.compare, "mint": r.mint, "delegate": r.delegate, "delegate2": r.delegate, "delegate3": r.delegate,
				"attenuate": r.attenuate, "attenuate2": r.attenuate, "seal": r.seal, "renew": r.renew, "revoke": r.revoke, "holder": r.holder, "advance": r.advance,
			}
			for range 4 {
				rt.Repeat(actions)
			}
		})
		if t.Failed() || ktime.Real.Now().After(end) {
			return
		}
	}
}

type run struct {
	model
	s       *Space
	clock   *ktime.Fake
	trail   []Record
	told    map[string]bool
	removed int                  // holders
	seen    map[string]Effective // what each holder could do before the last operation
}

func newRun(t *rapid.T) *run {
	r := &run{clock: ktime.NewFake(time.Unix(5, 0)), told: make(map[string]bool), seen: make(map[string]Effective)}
	r.maxNodes, r.maxHolder, r.maxDepth = 64, 16, 6
	r.s = NewSpace(Options{
		Clock: r.clock, MaxNodes: r.maxNodes, MaxPerHolder: r.maxHolder, MaxDepth: r.maxDepth,
		Audit:   func(rec Record) { r.trail = append(r.trail, rec) },
		Changed: func(h string) { r.told[h] = true },
	})
	for _, h := range []string{"ann", "bob", "cid"} {
		r.addHolder(t, h)
	}
	return r
}

func (r *run) addHolder(t *rapid.T, h string) {
	if err := r.s.AddHolder(h); err != nil {
		t.Fatal(err)
	}
	r.holders = append(r.holders, h)
}

// agree fails unless Space and model both did it or both refused.
func agree(t *rapid.T, what string, err error, predicted bool) {
	t.Helper()
	if (err == nil) != predicted {
		t.Fatalf("%s: got %v, predicted success %v", what, err, predicted)
	}
	if err != nil && (errdefs.FixOf(err) == "" || errdefs.CodeOf(err) == errdefs.Internal) {
		t.Fatalf("%s: %v (%s) says not what to do", what, err, errdefs.CodeOf(err))
	}
}

func (r *run) actor(t *rapid.T) Actor {
	name := rapid.SampledFrom(append([]string{"daemon", "daemon"}, r.holders...)).Draw(t, "actor")
	return Actor{Name: name, Privileged: name == "daemon"}
}

// any draws a node, more often one that is alive.
func (r *run) any(t *rapid.T) *mnode {
	list := r.alive()
	if len(list) == 0 || len(r.nodes) > len(list) && rapid.IntRange(0, 9).Draw(t, "dead") == 0 {
		list = r.nodes
	}
	if len(list) == 0 {
		t.Skip("nothing there")
	}
	return rapid.SampledFrom(list).Draw(t, "node")
}

// by draws an actor, more often the holder of n.
func (r *run) by(t *rapid.T, n *mnode) Actor {
	if n.holder != "" && rapid.Bool().Draw(t, "holder") {
		return Actor{Name: n.holder}
	}
	return r.actor(t)
}

var names = map[abi.Class][]string{
	abi.ClassFS: {"/", "/a", "/a/b", "/a/b/c", "/ab"}, abi.ClassNet: {"*", "loopback"}, abi.ClassMem: {"self"}, abi.ClassCPU: {"self"},
	abi.ClassIO: {"self"}, abi.ClassProc: {"self"}, abi.ClassAgent: {"*", "ann"}, abi.ClassSys: {"namespace"},
	abi.ClassEvent: {"*", "a.*", "a.b", "a.b.*", "a", "*@ann", "a.*@ann", "a.b@self", "*@self"}, abi.ClassSvc: {"*", "db"},
}

func drawLimits(t *rapid.T, c abi.Class, top uint64) Limits {
	var l Limits
	for _, k := range kindsOf(c) {
		most := top
		if k == KindIdle { // It is or it is not.
			most = min(top, 1)
		}
		l.Set(k, rapid.Uint64Range(0, most).Draw(t, "limit"))
	}
	return l
}

func (r *run) mint(t *rapid.T) {
	by := r.actor(t)
	class := rapid.SampledFrom(slices.Sorted(maps.Keys(names))).Draw(t, "class")
	spec := Spec{
		Object: Object{class, rapid.SampledFrom(names[class]).Draw(t, "name")},
		Rights: abi.Rights(rapid.Uint32Range(1, uint32(class.All())).Draw(t, "rights")),
		Limits: drawLimits(t, class, 20),
		Lease:  rapid.SampledFrom([]time.Duration{0, 0, 0, 10, 20}).Draw(t, "lease"),
		Badge:  rapid.SampledFrom([]uint64{0, 0, 0, 5}).Draw(t, "badge"),
		Sealed: rapid.IntRange(0, 9).Draw(t, "sealed") == 0,
	}
	if class == abi.ClassFS && rapid.Bool().Draw(t, "at") {
		spec.At = "/mnt"
	}
	holder := rapid.SampledFrom(r.holders).Draw(t, "holder")
	predicted := by.Privileged && r.hasRoom(nil, holder, by)
	c, err := r.s.Mint(holder, spec, by)
	spec.Object.Name = ofHolder(class, spec.Object.Name, holder)
	agree(t, "mint "+spec.String(), err, predicted)
	if err != nil {
		return
	}
	n := &mnode{real: c, holder: holder, spec: spec}
	if spec.Lease != 0 {
		n.own = r.now + spec.Lease
	}
	r.nodes = append(r.nodes, n)
	r.born(t, n, OpMint, by)
}

// born completes a node of the model and looks at the record of its birth.
func (r *run) born(t *rapid.T, n *mnode, op string, by Actor) {
	n.door = &counter{}
	if n.real.Attach(n.door) != r.live(n) {
		t.Fatalf("%v: attached, yet it is not live, or the other way about", n)
	}
	if last := r.trail[len(r.trail)-1]; last.Op != op || last.Cap != n.real.ID() || last.Actor != by.Name || last.Spec != n.spec.String() {
		t.Fatalf("%v is recorded as %+v", n, last)
	}
}

func (r *run) change(t *rapid.T, spec Spec) Change {
	var ch Change
	class := spec.Object.Class
	if rapid.Bool().Draw(t, "other object") {
		ch.Object = ptr(rapid.SampledFrom(names[class]).Draw(t, "object"))
	}
	if rapid.IntRange(0, 2).Draw(t, "other rights") == 0 {
		ch.Rights = ptr(spec.Rights & abi.Rights(rapid.Uint32Range(0, uint32(class.All())).Draw(t, "keep")))
		if rapid.IntRange(0, 9).Draw(t, "more") == 0 {
			ch.Rights = ptr(*ch.Rights | abi.Rights(rapid.Uint32Range(0, uint32(class.All())).Draw(t, "add")))
		}
	}
	if rapid.Bool().Draw(t, "other limits") {
		ch.Limits = ptr(drawLimits(t, class, 8))
		if rapid.IntRange(0, 19).Draw(t, "foreign") == 0 {
			ch.Limits.Set(Kind(rapid.IntRange(0, kinds-1).Draw(t, "kind")), 1)
		}
	}
	if rapid.IntRange(0, 9).Draw(t, "other at") == 0 {
		ch.At = ptr(rapid.SampledFrom([]string{"/x", "/a/b"}).Draw(t, "at"))
	}
	if rapid.IntRange(0, 3).Draw(t, "other lease") == 0 {
		ch.Lease = ptr(rapid.SampledFrom([]time.Duration{0, 5, 15}).Draw(t, "lease"))
	}
	if rapid.IntRange(0, 5).Draw(t, "other badge") == 0 {
		ch.Badge = ptr(rapid.SampledFrom([]uint64{5, 6}).Draw(t, "badge"))
	}
	ch.Sealed = rapid.IntRange(0, 9).Draw(t, "seal") == 0
	return ch
}

func (r *run) delegate(t *rapid.T) {
	p := r.any(t)
	by, ch := r.by(t, p), r.change(t, p.spec)
	to := rapid.SampledFrom(append([]string{""}, r.holders...)).Draw(t, "to")
	move := to != "" && rapid.IntRange(0, 4).Draw(t, "move") == 0
	n := r.model.delegate(p, to, ch, move, by)
	var c *Capability
	var err error
	if to == "" {
		c, err = r.s.DelegateRemote(p.real, "other/worker", ch, by)
	} else {
		c, err = r.s.Delegate(p.real, to, ch, move, by)
	}
	agree(t, fmt.Sprintf("%s delegates %v to %q with %+v", by.Name, p, to, ch), err, n != nil)
	if n != nil {
		n.real = c
		r.born(t, n, OpDelegate, by)
	}
}

func (r *run) attenuate(t *rapid.T) {
	n := r.any(t)
	by, ch := r.by(t, n), r.change(t, n.spec)
	if rapid.IntRange(0, 4).Draw(t, "keep at") != 0 {
		ch.At = nil
	}
	predicted := r.model.attenuate(n, ch, by)
	_, err := r.s.Attenuate(n.real, ch, by)
	agree(t, fmt.Sprintf("%s attenuates %v with %+v", by.Name, n, ch), err, predicted)
}

func (r *run) seal(t *rapid.T) {
	n := r.any(t)
	by := r.by(t, n)
	predicted := r.live(n) && (by.Privileged || n.holder == by.Name)
	agree(t, "seal "+n.String(), r.s.Seal(n.real, by), predicted)
	n.spec.Sealed = n.spec.Sealed || predicted
}

func (r *run) renew(t *rapid.T) {
	n := r.any(t)
	by := r.by(t, n)
	d := time.Duration(rapid.IntRange(0, 30).Draw(t, "for"))
	running := !n.dead && (n.expiry() == 0 || r.now < n.expiry())
	predicted := running && (by.Privileged || r.gave(by.Name, n)) && d > 0 && n.own != 0 &&
		(n.parent == nil || n.parent.expiry() == 0 || r.now+d <= n.parent.expiry())
	agree(t, fmt.Sprintf("%s renews %v for %v", by.Name, n, d), r.s.Renew(n.real, d, by), predicted)
	if predicted {
		n.own, n.spec.Lease = r.now+d, d
	}
}

func (r *run) revoke(t *rapid.T) {
	n := r.any(t)
	by := r.by(t, n)
	self := rapid.Bool().Draw(t, "self")
	predicted := n.dead || by.Privileged || r.holds(by.Name, n) || r.gave(by.Name, n)
	before := len(r.alive())
	dead, err := r.s.Revoke(n.real, self, by, "why")
	agree(t, fmt.Sprintf("%s revokes %v", by.Name, n), err, predicted)
	if !predicted || n.dead {
		return
	}
	if self {
		r.kill(n)
	} else {
		for _, c := range r.children(n) {
			r.kill(c)
		}
	}
	if died := before - len(r.alive()); len(dead) != died {
		t.Fatalf("%d ended, the model says %d", len(dead), died)
	}
	i := slices.IndexFunc(r.trail, func(rec Record) bool { return rec.Op == OpRevoke })
	if i < 0 || r.trail[i].Cap != n.real.ID() || r.trail[i].Count != uint64(len(dead)) || r.trail[i].Reason != "why" {
		t.Fatalf("the revocation is recorded as %+v", r.trail)
	}
}

func (r *run) holder(t *rapid.T) {
	i := rapid.IntRange(0, len(r.holders)-1).Draw(t, "which")
	h := r.holders[i]
	remove := rapid.Bool().Draw(t, "remove")
	lost := r.table(h)
	if remove {
		r.s.RemoveHolder(h, "ended")
		delete(r.seen, h)
		r.holders = slices.Delete(r.holders, i, i+1)
		r.removed++
		r.addHolder(t, fmt.Sprint("h", r.removed))
	} else {
		r.s.RevokeHolder(h, Actor{Name: h}, "ended")
	}
	for _, n := range lost {
		r.kill(n)
	}
	if _, err := r.s.Lookup(h, 1); err == nil {
		t.Fatal("a handle of one that lost everything resolves")
	}
}

func (r *run) advance(t *rapid.T) {
	d := time.Duration(rapid.IntRange(0, 8).Draw(t, "d"))
	r.clock.Advance(d)
	r.now += d
	r.expire()
}

// compare checks everything that can be seen.
func (r *run) compare(t *rapid.T) {
	r.compareNodes(t)
	r.compareTree(t)
	for _, h := range r.holders {
		want, got := r.effective(h), r.s.Effective(h)
		if len(want)+len(got) != 0 && !reflect.DeepEqual(want, got) {
			t.Fatalf("%s can\n%+v, the model says\n%+v", h, got, want)
		}
		if len(want)+len(r.seen[h]) != 0 && !reflect.DeepEqual(want, r.seen[h]) && !r.told[h] {
			t.Fatalf("%s was not told that it can\n%+v instead of\n%+v", h, want, r.seen[h])
		}
		r.seen[h] = want
		var handles []Handle
		for _, n := range r.table(h) {
			if r.live(n) {
				handles = append(handles, n.real.Handle())
			}
		}
		var listed []Handle
		for _, c := range r.s.List(h) {
			listed = append(listed, c.Handle())
		}
		slices.Sort(handles)
		if !slices.Equal(handles, listed) {
			t.Fatalf("%s holds %v, the model says %v", h, listed, handles)
		}
	}
	clear(r.told)
	r.trail = r.trail[:0]
}

func (r *run) compareNodes(t *rapid.T) {
	handles := make(map[string]map[Handle]bool)
	for _, n := range r.nodes {
		c := n.real
		if c.Live() != r.live(n) || (c.Err() == nil) != r.live(n) {
			t.Fatalf("%v: live is %v (%v)", n, c.Live(), c.Err())
		}
		told := 0
		if n.dead || n.moved {
			told = 1
		}
		if n.door.calls != told {
			t.Fatalf("%v: its door was told %d times", n, n.door.calls)
		}
		if n.holder != "" {
			got, err := r.s.Lookup(n.holder, c.Handle())
			if (err == nil) != r.live(n) || err == nil && got != c {
				t.Fatalf("%v: its handle resolves to %v, %v", n, got, err)
			}
			if handles[n.holder] == nil {
				handles[n.holder] = make(map[Handle]bool)
			}
			if handles[n.holder][c.Handle()] {
				t.Fatalf("%v: its handle was given twice", n)
			}
			handles[n.holder][c.Handle()] = true
		}
		if _, err := r.s.ByID(c.ID()); (err == nil) == n.dead {
			t.Fatalf("%v: by ID: %v", n, err)
		}
		if n.dead {
			continue
		}
		if c.Spec() != n.spec || c.Holder() != n.holder || n.parent != nil && c.Parent() != n.parent.real {
			t.Fatalf("%v says %s, of %q", n, c.Spec(), c.Holder())
		}
		for k := range Kind(kinds) {
			if n.spec.Limits.Get(k) != 0 && c.Remaining().Get(k) != r.left(n, k) {
				t.Fatalf("%v has %+v left, the model says %d of %d", n, c.Remaining(), r.left(n, k), k)
			}
		}
		r.neverMore(t, n)
	}
}

// neverMore checks what holds of every node, whatever the model says.
func (r *run) neverMore(t *rapid.T, n *mnode) {
	c, p := n.real.Spec(), n.real.Parent()
	if p == nil {
		return
	}
	if _, err := r.s.ByID(p.ID()); err != nil {
		t.Fatalf("%v lives below one that is dead", n)
	}
	up := p.Spec()
	if c.Rights&^up.Rights != 0 || !up.Object.Contains(c.Object) {
		t.Fatalf("%v exceeds its parent %s", n, up)
	}
	if end, leased := p.Expires(); leased && !n.parent.moved {
		if own, ok := n.real.Expires(); !ok || own > end {
			t.Fatalf("%v outlives its parent %s", n, up)
		}
	}
	for k := range Kind(kinds) {
		sum := uint64(0)
		for _, s := range r.s.Children(p) {
			sum += s.Spec().Limits.Get(k)
		}
		if limit := up.Limits.Get(k); limit != 0 && k.Divisible() && sum > limit {
			t.Fatalf("the children of %s have %d of limit %d", up, sum, k)
		}
	}
}

// compareTree checks the order of the tree: each after its parent, before its
// younger siblings.
func (r *run) compareTree(t *rapid.T) {
	var want []*Capability
	var walk func(p *mnode)
	walk = func(p *mnode) {
		for _, n := range r.children(p) {
			want = append(want, n.real)
			walk(n)
		}
	}
	walk(nil)
	if got := r.s.Tree(); !slices.Equal(got, want) {
		t.Fatalf("the tree is %d nodes, the model says %d, or the order differs", len(got), len(want))
	}
}
