package arch

import (
	"fmt"
	"go/ast"
	"regexp"
	"slices"
	"strings"
)

// MaxLines is how long a file of shipped code may be.
const MaxLines = 600

// clockReads are the names of package time that look at, or wait on, the real
// clock. Durations, formats and the arithmetic of time.Time are free.
var clockReads = []string{
	"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTicker", "NewTimer",
}

// freeClock are the trees that may read the real clock: ktime, because it is
// the clock, and code that measures or tests from outside. So may packages
// whose name ends in "test", which are test suites that others call.
var freeClock = []string{"ktime", "test", "tools"}

// Clock reports shipped code that reads the real clock outside ktime.
func (t *Tree) Clock() []Finding {
	var out []Finding
	for _, p := range t.sorted() {
		if strings.HasSuffix(p.Dir, "test") || slices.ContainsFunc(freeClock, func(base string) bool { return under(p.Dir, base) }) {
			continue
		}
		for _, f := range p.code() {
			out = append(out, t.clockIn(f)...)
		}
	}
	return out
}

func (t *Tree) clockIn(f *File) []Finding {
	var name string
	for _, spec := range f.AST.Imports {
		if importPath(spec) != "time" {
			continue
		}
		name = "time"
		if spec.Name != nil {
			name = spec.Name.Name
		}
		if name == "." {
			return []Finding{{t.at(spec.Pos()), "a dot import of time hides who reads the clock; import it by name"}}
		}
	}
	if name == "" {
		return nil
	}
	var out []Finding
	ast.Inspect(f.AST, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok || !slices.Contains(clockReads, sel.Sel.Name) {
			return true
		}
		if id, ok := sel.X.(*ast.Ident); ok && id.Name == name {
			out = append(out, Finding{t.at(sel.Pos()), fmt.Sprintf("time.%s reads the real clock; take a ktime.Clock, so that tests own time", sel.Sel.Name)})
		}
		return true
	})
	return out
}

// Forbidden reports cgo and linkname, in tests too: the kernel binary cannot
// be built with the one, and the other breaks with the next release of the
// library it reaches into.
func (t *Tree) Forbidden() []Finding {
	var out []Finding
	for _, p := range t.sorted() {
		for _, f := range p.Files {
			for _, spec := range f.AST.Imports {
				if importPath(spec) == "C" {
					out = append(out, Finding{t.at(spec.Pos()), "cgo is not used: a binary linked with it cannot run the systrap platform"})
				}
			}
			for _, c := range comments(f) {
				if strings.HasPrefix(c.Text, "//go:link"+"name ") {
					out = append(out, Finding{t.at(c.Pos()), "linkname reaches into another package; use its exported API"})
				}
			}
		}
	}
	return out
}

// unfinished matches words that mark work left undone.
var unfinished = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b`)

// Unfinished reports comments that promise later work.
func (t *Tree) Unfinished() []Finding {
	var out []Finding
	for _, p := range t.sorted() {
		for _, f := range p.Files {
			if f.Generated {
				continue
			}
			for _, c := range comments(f) {
				if word := unfinished.FindString(c.Text); word != "" {
					out = append(out, Finding{t.at(c.Pos()), fmt.Sprintf("the comment says %s; do it, or say what is so and why", word)})
				}
			}
		}
	}
	return out
}

// Sizes reports files of shipped code that have grown too long to read at
// once.
func (t *Tree) Sizes() []Finding {
	var out []Finding
	for _, p := range t.sorted() {
		for _, f := range p.code() {
			if f.Lines > MaxLines {
				out = append(out, Finding{f.Name, fmt.Sprintf("%d lines; split it by concern before %d", f.Lines, MaxLines)})
			}
		}
	}
	return out
}

func comments(f *File) []*ast.Comment {
	var out []*ast.Comment
	for _, g := range f.AST.Comments {
		out = append(out, g.List...)
	}
	return out
}
