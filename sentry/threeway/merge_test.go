package threeway

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// tree is what one side shows: every path, and what is there.
type tree map[string]Entry

func (x tree) Stat(p string) (Entry, error) { return x[p], nil }

func (x tree) List(p string) (names []string, err error) {
	for q := range x {
		if path.Dir(q) == p || p == "" && path.Dir(q) == "/" {
			names = append(names, path.Base(q))
		}
	}
	return names, nil
}

// under calls f for a path and all below it.
func (x tree) under(p string, f func(q string)) {
	for _, q := range slices.Sorted(maps.Keys(x)) {
		if q == p || strings.HasPrefix(q, p+"/") {
			f(q)
		}
	}
}

func (x tree) remove(p string) { x.under(p, func(q string) { delete(x, q) }) }

// content is what is in the file of a version. Some versions have the same in them.
func content(e Entry) string {
	if e.Lower {
		return "lower"
	}
	return fmt.Sprint(e.Version % 3)
}

// world makes trees.
type world struct {
	t       *rapid.T
	version int64
}

func (w *world) pick(label string, n int) int { return rapid.IntRange(0, n-1).Draw(w.t, label) }

func (w *world) meta() Meta { return Meta{Mode: uint16(w.pick("mode", 3))} }

// somewhere is a path of which every directory is there.
func (w *world) somewhere(x tree) string {
	p := ""
	for {
		p += "/" + string(rune('a'+w.pick("name", 3)))
		if x[p].Kind != Dir || strings.Count(p, "/") == 3 || w.pick("deeper", 3) == 0 {
			return p
		}
	}
}

// change does to a tree what programs do.
func (w *world) change(x tree, n int) tree {
	if x = maps.Clone(x); x == nil {
		x = make(tree)
	}
	for range w.pick("changes", n) {
		p := w.somewhere(x)
		switch w.pick("what", 5) {
		case 0:
			x.remove(p)
		case 1:
			if e := x[p]; e.Kind == Dir {
				e.Meta = w.meta()
				x[p] = e
			}
		case 2:
			x.remove(p)
			x[p] = Entry{Kind: Dir, Meta: w.meta()}
		default:
			x.remove(p)
			w.version++
			x[p] = Entry{Kind: File + Kind(w.pick("kind", 2)), Meta: w.meta(), Version: w.version}
		}
	}
	return x
}

// layer is how an overlay would have it: what is not in low, or is other there.
func (w *world) layer(x, low tree, p string, shows bool) *Node {
	n := &Node{Entry: x[p]}
	if p == "" {
		n.Kind = Dir
	}
	n.Lower = false
	kept := false
	x.under(p, func(q string) { kept = kept || q != p && x[q].Lower && x[q].Kind != Dir })
	if p != "" && shows && !kept && w.pick("opaque", 2) == 0 {
		n.Opaque, shows = true, false
	}
	names := make(map[string]bool)
	for _, from := range []tree{x, low} {
		list, _ := from.List(p)
		for _, name := range list {
			names[name] = true
		}
	}
	for name := range names {
		q := p + "/" + name
		e, here := x[q]
		l, there := low[q]
		there = there && shows
		switch {
		case !here && there:
			n.Add(name, &Node{Whiteout: true})
		case !here:
		case e.Kind != Dir && e.Lower:
		case e.Kind != Dir:
			n.Add(name, &Node{Entry: e})
		default:
			c := w.layer(x, low, q, there && l.Kind == Dir)
			if there && l.Kind == Dir && !c.Opaque && len(c.Children) == 0 && l.Meta == e.Meta && w.pick("copied up", 2) == 0 {
				continue
			}
			n.Add(name, c)
		}
	}
	return n
}

// model is the same merge, path by path. Fine says that it is a tree, and nothing
// is in conflict.
func model(b, o, t tree) (r tree, clashes map[string]bool, fine bool) {
	r, clashes = make(tree), make(map[string]bool)
	all := make(map[string]bool)
	for _, x := range []tree{b, o, t} {
		for p := range x {
			all[p] = true
		}
	}
	same := func(x, y Entry) bool {
		if x.Kind == Dir && y.Kind == Dir {
			return x.Meta == y.Meta
		}
		return x == y
	}
	for p := range all {
		b, o, t := b[p], o[p], t[p]
		e := o
		switch {
		case same(t, b), same(o, t):
		case same(o, b):
			e = t
		case o.Kind == t.Kind && o.Kind != Dir && content(o) == content(t) && (o.Meta == t.Meta || b.Kind == o.Kind && b.Meta == t.Meta):
		case o.Kind == t.Kind && o.Kind != Dir && content(o) == content(t) && b.Kind == o.Kind && b.Meta == o.Meta:
			e = t
		default:
			clashes[p] = true
		}
		if e.Kind != Absent {
			r[p] = e
		}
	}
	fine = len(clashes) == 0
	for p := range r {
		fine = fine && (path.Dir(p) == "/" || r[path.Dir(p)].Kind == Dir)
	}
	return r, clashes, fine
}

// apply does what a plan says, and checks that it can be done.
func apply(t *rapid.T, plan Plan, ours, theirs tree) tree {
	x := maps.Clone(ours)
	for _, s := range plan.Steps {
		if d := path.Dir(s.Path); d != "/" && x[d].Kind != Dir {
			t.Fatalf("%+v: there is no directory", s)
		}
		here := x[s.Path]
		switch s.Op {
		case Remove:
			if here.Kind == Absent {
				t.Fatalf("%+v: nothing is there", s)
			}
			x.remove(s.Path)
		case Put:
			if here.Kind == Dir || theirs[s.Path].Kind == Dir || theirs[s.Path].Kind == Absent {
				t.Fatalf("%+v cannot be done", s)
			}
			x[s.Path] = theirs[s.Path]
		case PutTree:
			if here.Kind != Absent || theirs[s.Path].Kind != Dir {
				t.Fatalf("%+v cannot be done", s)
			}
			theirs.under(s.Path, func(q string) { x[q] = theirs[q] })
		case Say:
			here.Meta = theirs[s.Path].Meta
			x[s.Path] = here
		}
	}
	return x
}

// What Merge decides is what is decided path by path, and where that is no tree, or
// both sides differ, there is a conflict: above or at every such path, and nowhere
// else.
func TestMergeIsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{t: t}
		low := w.change(nil, 12)
		for p, e := range low {
			e.Lower, e.Version = true, 0
			low[p] = e
		}
		base := w.change(low, 8)
		ours, theirs := w.change(base, 8), w.change(base, 8)
		in := Input{
			Base: w.layer(base, low, "", true), Ours: w.layer(ours, low, "", true), Theirs: w.layer(theirs, low, "", true), Lower: low,
			Same: func(p string) (bool, error) { return content(ours[p]) == content(theirs[p]), nil },
		}
		in.TakeTheirs = rapid.Bool().Draw(t, "take theirs")
		plan, err := Merge(in)
		if err != nil {
			t.Fatal(err)
		}
		got := apply(t, plan, ours, theirs)
		want, clashes, fine := model(base, ours, theirs)
		if fine != (len(plan.Conflicts) == 0) {
			t.Fatalf("conflicts %v; by the model %v, a tree: %t\nbase %v\nours %v\ntheirs %v", plan.Conflicts, clashes, fine, base, ours, theirs)
		}
		in1 := func(c Conflict, p string) bool {
			return p == c.Path || c.Clash != Said && strings.HasPrefix(p, c.Path+"/")
		}
		for p := range clashes {
			if !slices.ContainsFunc(plan.Conflicts, func(c Conflict) bool { return in1(c, p) }) {
				t.Fatalf("%s is in no conflict: %v", p, plan.Conflicts)
			}
		}
		taken := ours
		if in.TakeTheirs {
			taken = theirs
		}
		for _, x := range []tree{base, ours, theirs} {
			for p := range x {
				e := want[p]
				for _, c := range plan.Conflicts {
					if in1(c, p) {
						e = taken[p]
					}
				}
				if g := got[p]; g.Kind != e.Kind || g.Meta != e.Meta || g.Kind != Dir && content(g) != content(e) {
					t.Fatalf("%s is %+v, want %+v\nplan %+v\nbase %v\nours %v\ntheirs %v", p, g, e, plan, base, ours, theirs)
				}
			}
		}
	})
}

// A side that has changed nothing is the other's.
func TestMergeOfOneSide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{t: t}
		base := w.change(nil, 12)
		theirs := w.change(base, 8)
		layer := func(x tree) *Node { return w.layer(x, nil, "", false) }
		in := Input{Base: layer(base), Ours: layer(base), Theirs: layer(theirs), Lower: Empty{}, Same: func(string) (bool, error) {
			t.Fatal("a file is read that only one side has changed")
			return false, nil
		}}
		plan, err := Merge(in)
		if err != nil || len(plan.Conflicts) > 0 {
			t.Fatal(plan.Conflicts, err)
		}
		if got := apply(t, plan, base, theirs); !maps.Equal(got, theirs) {
			t.Fatalf("got %v, want %v", got, theirs)
		}
		in.Ours, in.Theirs = in.Theirs, in.Ours
		if plan, err := Merge(in); err != nil || len(plan.Conflicts)+len(plan.Steps) > 0 {
			t.Fatal(plan, err)
		}
	})
}
