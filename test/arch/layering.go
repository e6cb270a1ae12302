package arch

import (
	"fmt"
	"sort"
	"strings"
)

const gvisorModule = "gvisor.dev/gvisor"

// Layering reports packages and rows that do not match, imports that point
// upward, and imports of gVisor where the list does not allow it.
//
// Tests obey the same order, with two liberties: they may import the packages
// under test/, which exist to help them, and gVisor, to see what it makes of
// our output.
func (t *Tree) Layering(layers []Layer) []Finding {
	var out []Finding
	for _, l := range layers {
		if !t.anyCovered(l) {
			out = append(out, Finding{"ARCHITECTURE.md", fmt.Sprintf("the layer list names %s, but the tree has no such package; remove the row", l.Path)})
		}
	}
	for _, p := range t.sorted() {
		own := rank(layers, p.Dir)
		if own < 0 {
			out = append(out, Finding{p.Dir, "the package is not in the layer list of ARCHITECTURE.md; add a row where it belongs"})
			continue
		}
		for _, f := range p.Files {
			for _, spec := range f.AST.Imports {
				if why := t.judgeImport(layers, own, p, f, importPath(spec)); why != "" {
					out = append(out, Finding{t.at(spec.Pos()), why})
				}
			}
		}
	}
	return out
}

func (t *Tree) anyCovered(l Layer) bool {
	for dir := range t.Packages {
		if l.covers(dir) {
			return true
		}
	}
	return false
}

// rank returns the index of the row for dir: an exact row before a "/..." row,
// the longer "/..." row before the shorter; -1 when no row speaks of it.
func rank(layers []Layer, dir string) int {
	best := -1
	for i, l := range layers {
		if !l.covers(dir) {
			continue
		}
		if l.Path == dir {
			return i
		}
		if best < 0 || len(l.Path) > len(layers[best].Path) {
			best = i
		}
	}
	return best
}

// judgeImport returns why file f of package p, whose row is own, may not
// import path, or "".
func (t *Tree) judgeImport(layers []Layer, own int, p *Package, f *File, path string) string {
	if under(path, gvisorModule) && !layers[own].GVisor && !f.Test {
		return fmt.Sprintf("%s imports gVisor, which its row in the layer list does not allow; move the code into a package that may", p.Dir)
	}
	dir, ok := t.local(path)
	if !ok || dir == p.Dir {
		return ""
	}
	if f.Test && under(dir, "test") {
		return ""
	}
	other := rank(layers, dir)
	switch {
	case other < 0:
		return "" // Reported once, for the package itself.
	case other > own:
		return fmt.Sprintf("%s imports %s, which is listed below it; a package imports only packages listed above it", p.Dir, dir)
	}
	return ""
}

// FreeOf reports when the package in dir, or any package of this module that
// it reaches, imports a path at or beneath forbidden. It names one way there.
func (t *Tree) FreeOf(dir, forbidden string) []Finding {
	start := t.Packages[dir]
	if start == nil {
		return []Finding{{dir, "there is no such package, so its imports cannot be checked"}}
	}
	from := map[string]string{dir: ""}
	queue := []*Package{start}
	for len(queue) > 0 {
		p := queue[0]
		queue = queue[1:]
		for _, path := range p.imports() {
			if under(path, forbidden) {
				return []Finding{{dir, fmt.Sprintf("it links %s, which it must not: %s", forbidden, strings.Join(append(trail(from, p.Dir), path), " → "))}}
			}
			next, ok := t.local(path)
			if !ok || t.Packages[next] == nil {
				continue
			}
			if _, seen := from[next]; !seen {
				from[next] = p.Dir
				queue = append(queue, t.Packages[next])
			}
		}
	}
	return nil
}

// imports returns what the package's shipped files import, sorted.
func (p *Package) imports() []string {
	set := map[string]bool{}
	for _, f := range p.Files {
		if f.Test {
			continue
		}
		for _, spec := range f.AST.Imports {
			set[importPath(spec)] = true
		}
	}
	out := make([]string, 0, len(set))
	for path := range set {
		out = append(out, path)
	}
	sort.Strings(out)
	return out
}

// trail walks back from dir to the start of the search.
func trail(from map[string]string, dir string) []string {
	var out []string
	for d := dir; d != ""; d = from[d] {
		out = append([]string{d}, out...)
	}
	return out
}
