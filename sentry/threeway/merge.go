package threeway

import (
	"maps"
	"slices"
)

// Op is what a step does to our tree.
type Op uint8

// The steps.
const (
	// Put makes what is not a directory, in the place of what is not a directory
	// either, or of nothing.
	Put Op = iota
	// PutTree makes a directory with all that is in it, where nothing is.
	PutTree
	// Remove deletes a file, or a directory with all that is in it.
	Remove
	// Say has a directory get the mode, owner and attributes of theirs.
	Say
)

// Step makes our tree at a path as theirs is there.
type Step struct {
	Op   Op
	Path string
	// Was is what we have there, and Is what they have.
	Was, Is Entry
}

// Clash is how both sides have changed what is at a path.
type Clash string

// The clashes.
const (
	Both    Clash = "both modified"
	Deleted Clash = "deleted here, modified in the copy"
	Gone    Clash = "modified here, deleted in the copy"
	Type    Clash = "type changed"
	Said    Clash = "mode, owner or attributes"
)

// Conflict is a path that cannot be merged.
type Conflict struct {
	Path  string
	Clash Clash
}

// Plan is what Merge has decided. Steps make directories before what is in them.
type Plan struct {
	Steps     []Step
	Conflicts []Conflict
}

// Input is what is merged.
type Input struct {
	Base, Ours, Theirs *Node
	Lower              Lower
	// Same compares the content of our file at a path with theirs.
	Same func(path string) (bool, error)
	// Theirs says that in a conflict it is their side that is taken. Else ours
	// stays as it is.
	TakeTheirs bool
}

type merger struct {
	Input
	lower Lower
	stats map[string]Entry
	plan  Plan
}

// Merge decides what becomes of our tree. Where both sides have changed the same in
// different ways, that is a conflict, and the steps have it as was asked.
func Merge(in Input) (Plan, error) {
	m := &merger{Input: in, lower: in.Lower, stats: make(map[string]Entry)}
	root := func(n *Node) view { return view{Entry: n.Entry, node: n, low: !n.Opaque} }
	err := m.dir("", root(in.Base), root(in.Ours), root(in.Theirs))
	return m.plan, err
}

func sorted(set map[string]bool) []string { return slices.Sorted(maps.Keys(set)) }

// dir merges what is in a directory of both sides.
func (m *merger) dir(path string, b, o, t view) error {
	if b.Kind != Dir {
		b = view{}
	}
	if path != "" {
		m.said(path, b, o, t)
	}
	names, err := m.names(path, b, o, t)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := m.entry(path, name, b, o, t); err != nil {
			return err
		}
	}
	return nil
}

// said merges what is said about a directory.
func (m *merger) said(path string, b, o, t view) {
	if o.Meta == t.Meta || b.Kind == Dir && t.Meta == b.Meta {
		return
	}
	if b.Kind != Dir || o.Meta != b.Meta {
		m.plan.Conflicts = append(m.plan.Conflicts, Conflict{path, Said})
		if !m.TakeTheirs {
			return
		}
	}
	m.plan.Steps = append(m.plan.Steps, Step{Say, path, o.Entry, t.Entry})
}

// entry merges what is at a name of a directory.
func (m *merger) entry(dir, name string, b, o, t view) error {
	path := dir + "/" + name
	var of [3]view
	for i, v := range []view{b, o, t} {
		var err error
		if of[i], err = m.child(v, name, path); err != nil {
			return err
		}
	}
	b, o, t = of[0], of[1], of[2]
	if o.Kind == Dir && t.Kind == Dir {
		return m.dir(path, b, o, t)
	}
	changed, err := m.changed(path, b, t)
	if err != nil || !changed {
		return err
	}
	if changed, err = m.changed(path, b, o); err != nil {
		return err
	}
	if !changed {
		m.take(path, o, t)
		return nil
	}
	clash, err := m.clash(path, b, o, t)
	if err != nil || clash == "" {
		return err
	}
	m.plan.Conflicts = append(m.plan.Conflicts, Conflict{path, clash})
	if m.TakeTheirs {
		m.take(path, o, t)
	}
	return nil
}

// clash says how two sides that have both changed what was there disagree. Where
// they do not, it has added the step that there is to take.
func (m *merger) clash(path string, b, o, t view) (Clash, error) {
	switch {
	case o.Kind == Absent && t.Kind == Absent:
		return "", nil
	case o.Kind == Absent:
		return Deleted, nil
	case t.Kind == Absent:
		return Gone, nil
	case o.Kind != t.Kind:
		return Type, nil
	}
	same := o.Version == t.Version && o.Lower == t.Lower
	if !same && o.Size == t.Size && o.Rdev == t.Rdev {
		var err error
		if same, err = m.Same(path); err != nil {
			return "", err
		}
	}
	switch {
	case !same || o.Rdev != t.Rdev:
		return Both, nil
	case o.Meta == t.Meta || b.Kind == t.Kind && b.Meta == t.Meta:
		return "", nil
	case b.Kind == o.Kind && b.Meta == o.Meta:
		m.take(path, o, t)
		return "", nil
	}
	return Said, nil
}

// take adds the steps by which ours becomes as theirs is.
func (m *merger) take(path string, o, t view) {
	add := func(op Op) { m.plan.Steps = append(m.plan.Steps, Step{op, path, o.Entry, t.Entry}) }
	if o.Kind == Dir || t.Kind == Dir && o.Kind != Absent || t.Kind == Absent {
		add(Remove)
	}
	switch t.Kind {
	case Absent:
	case Dir:
		add(PutTree)
	default:
		add(Put)
	}
}

// changed reports whether a side has changed what was at a path. Of a directory
// that the other side has no more, it is not a change that less is in it.
func (m *merger) changed(path string, b, x view) (bool, error) {
	if x.Kind != Dir {
		return x.Entry != b.Entry, nil
	}
	if b.Kind != Dir || b.Meta != x.Meta {
		return true, nil
	}
	names, err := m.names(path, b, x)
	if err != nil {
		return false, err
	}
	for _, name := range names {
		below := path + "/" + name
		cb, err := m.child(b, name, below)
		if err != nil {
			return false, err
		}
		cx, err := m.child(x, name, below)
		if err != nil {
			return false, err
		}
		if cx.Kind == Absent {
			continue
		}
		if yes, err := m.changed(below, cb, cx); err != nil || yes {
			return yes, err
		}
	}
	return false, nil
}
