package filter

import (
	"sort"
	"strings"
	"sync"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"google.golang.org/protobuf/reflect/protoreflect"

	"aios.dev/aios/event"
)

// comparisons are the operators that severities are compared with.
var comparisons = map[string]bool{
	operators.Equals: true, operators.NotEquals: true, operators.In: true,
	operators.Less: true, operators.LessEquals: true, operators.Greater: true, operators.GreaterEquals: true,
}

// examine puts numbers in the place of the names of severities, refuses fields
// that no payload has, and finds out what every event that matches must have.
func (f *Filter) examine(text string, tree *ast.AST) error {
	var failed error
	fail := func(e ast.Expr, message, fix string) {
		if failed == nil {
			start := tree.SourceInfo().GetStartLocation(e.ID())
			failed = at(text, start.Line(), start.Column(), message, fix)
		}
	}
	named := func(e ast.Expr) {
		name, ok := literal(e)
		if !ok {
			return
		}
		s, err := event.ParseSeverity(name)
		if err != nil {
			fail(e, "there is no severity "+quote(name), "severities are debug, info, notice, warning, error, critical")
			return
		}
		e.SetKindCase(ast.NewExprFactory().NewLiteral(e.ID(), types.Int(s)))
	}
	inner := make(map[int64]bool) // Selections that are part of a longer one.
	ast.PreOrderVisit(tree.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.CallKind:
			c := e.AsCall()
			if args := c.Args(); comparisons[c.FunctionName()] && len(args) == 2 && (isIdent(args[0], "severity") || isIdent(args[1], "severity")) {
				for _, a := range args {
					named(a)
					if a.Kind() == ast.ListKind {
						for _, element := range a.AsList().Elements() {
							named(element)
						}
					}
				}
			}
		case ast.SelectKind:
			if !inner[e.ID()] {
				if path, ok := dataPath(e, inner); ok && !known(path) {
					fail(e, "no event has a field data."+strings.Join(path, "."), like(path))
				}
			}
		}
	}))
	if failed == nil {
		f.demands(tree.Expr())
	}
	return failed
}

func isIdent(e ast.Expr, name string) bool { return e.Kind() == ast.IdentKind && e.AsIdent() == name }

// literal returns the text that e is.
func literal(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().(types.String)
	return string(s), ok
}

// dataPath returns the fields of data.a.b, and marks what is selected from on
// the way.
func dataPath(e ast.Expr, inner map[int64]bool) ([]string, bool) {
	var path []string
	for e.Kind() == ast.SelectKind {
		inner[e.ID()] = true
		path = append([]string{e.AsSelect().FieldName()}, path...)
		e = e.AsSelect().Operand()
	}
	return path, isIdent(e, "data")
}

// paths are the fields of all payloads. What is below a map has any name.
var paths = sync.OnceValue(func() map[string]bool {
	all := make(map[string]bool)
	var add func(prefix string, m protoreflect.MessageDescriptor)
	add = func(prefix string, m protoreflect.MessageDescriptor) {
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			name := prefix + string(f.Name())
			all[name] = true
			switch {
			case f.IsMap():
				all[name+".*"] = true
			case f.Message() != nil && !f.IsList():
				add(name+".", f.Message())
			}
		}
	}
	for _, info := range event.Types() {
		if info.Payload != nil {
			add("", info.Payload.ProtoReflect().Descriptor())
		}
	}
	return all
})

// known reports whether some payload has a field.
func known(path []string) bool {
	name := strings.Join(path, ".")
	return paths()[name] || len(path) > 1 && paths()[strings.Join(path[:len(path)-1], ".")+".*"]
}

// like says which fields look like one that no payload has.
func like(path []string) string {
	want := strings.ToLower(strings.ReplaceAll(path[len(path)-1], "_", ""))
	var near []string
	for name := range paths() {
		last := name[strings.LastIndexByte(name, '.')+1:]
		have := strings.ReplaceAll(last, "_", "")
		if last != "*" && (strings.Contains(have, want) || strings.Contains(want, have) || distance(have, want) <= 2 && len(want) > 3) {
			near = append(near, "data."+name)
		}
	}
	sort.Strings(near)
	if len(near) > 0 {
		return "there is " + strings.Join(near[:min(len(near), 5)], ", ")
	}
	return "`aiosctl events topics TOPIC` lists the fields of its payload"
}

// distance is how many letters have to change to get from one word to another.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			next := min(row[j+1], row[j]) + 1
			if a[i] == b[j] {
				next = min(next, diagonal)
			} else {
				next = min(next, diagonal+1)
			}
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}

// demands notes the agent and the topic that e wants, if all of it has to be
// true.
func (f *Filter) demands(e ast.Expr) {
	if e.Kind() != ast.CallKind {
		return
	}
	c := e.AsCall()
	switch c.FunctionName() {
	case operators.LogicalAnd:
		for _, a := range c.Args() {
			f.demands(a)
		}
	case operators.Equals:
		for i, a := range c.Args() {
			other, ok := literal(c.Args()[1-i])
			if !ok || other == "" {
				continue
			}
			if isIdent(a, "agent") {
				f.agent = other
			}
			if isIdent(a, "topic") {
				f.topic = other
			}
		}
	}
}

func quote(s string) string {
	if len(s) > 40 {
		s = s[:40] + "…"
	}
	return `"` + strings.ToValidUTF8(s, "\uFFFD") + `"`
}
