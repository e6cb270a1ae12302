package arch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	root     = "../.."
	listFile = "ARCHITECTURE.md"
)

// report fails the test with every finding on a line of its own.
func report(t *testing.T, found []Finding) {
	t.Helper()
	for _, f := range found {
		t.Error(f)
	}
}

// TestTree applies every rule to the project itself.
func TestTree(t *testing.T) {
	tree, err := Load(root)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := ReadLayers(filepath.Join(root, listFile))
	if err != nil {
		t.Fatal(err)
	}
	for name, rule := range map[string]func() []Finding{
		"layering":   func() []Finding { return tree.Layering(layers) },
		"clock":      tree.Clock,
		"forbidden":  tree.Forbidden,
		"unfinished": tree.Unfinished,
		"sizes":      tree.Sizes,
		"comments":   tree.Comments,
		"errors":     func() []Finding { return tree.Errors(ErrorExemptions) },
	} {
		t.Run(name, func(t *testing.T) { report(t, rule()) })
	}
	t.Run("aiosctl", func(t *testing.T) {
		report(t, tree.FreeOf("cmd/aiosctl", gvisorModule))
	})
	t.Run("docs", func(t *testing.T) {
		docs, err := LoadDocs(root, tree)
		if err != nil {
			t.Fatal(err)
		}
		report(t, docs.Check())
	})
}

// files is a small tree: names below the root, and contents.
type files map[string]string

func (fs files) write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range fs {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// load writes the tree, with a go.mod for module "m", and loads it.
func (fs files) load(t *testing.T) *Tree {
	t.Helper()
	dir := fs.write(t)
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module m\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tree, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

const (
	lowRow  = "low   -       words"
	highRow = "high  gvisor  the rest"
)

func list(rows ...string) string {
	return "# A\n\n```layers\n# heading\n" + strings.Join(rows, "\n") + "\n```\n"
}

func mustParse(t *testing.T, text string) []Layer {
	t.Helper()
	layers, err := ParseLayers(text)
	if err != nil {
		t.Fatal(err)
	}
	return layers
}

// want checks that findings and expectations match one to one, in order: each
// expectation is a part of the finding's text.
func want(t *testing.T, got []Finding, parts ...string) {
	t.Helper()
	if len(got) != len(parts) {
		t.Fatalf("%d findings, want %d: %v", len(got), len(parts), got)
	}
	for i, part := range parts {
		if !strings.Contains(got[i].String(), part) {
			t.Errorf("finding %q does not contain %q", got[i], part)
		}
	}
}

func TestParseLayers(t *testing.T) {
	layers := mustParse(t, list(lowRow, "", highRow, "test/... - tests"))
	if len(layers) != 3 || layers[0].GVisor || !layers[1].GVisor || layers[1].What != "the rest" {
		t.Fatalf("parsed %+v", layers)
	}
	for text, why := range map[string]string{
		"no block at all":            "no layer list",
		list():                       "no layer list",
		list(lowRow) + list(highRow): "second layer list",
		list(lowRow, lowRow):         "listed twice",
		list("low maybe words"):      "not a row",
		list("low -"):                "not a row",
		strings.TrimSuffix(list(lowRow), "```\n"): "not closed",
	} {
		if _, err := ParseLayers(text); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("ParseLayers(%q) = %v, want an error about %q", text, err, why)
		}
	}
}

func TestRankPrefersTheNarrowestRow(t *testing.T) {
	layers := mustParse(t, list("test/... - all", "test/vm - one", "test/real/... - some"))
	for dir, want := range map[string]int{"test": 0, "test/x/y": 0, "test/vm": 1, "test/real/a": 2, "tests": -1} {
		if got := rank(layers, dir); got != want {
			t.Errorf("rank(%q) = %d, want %d", dir, got, want)
		}
	}
}

func TestLayering(t *testing.T) {
	const low, high = "package low\n", "package high\n"
	tests := map[string]struct {
		tree files
		rows []string
		want []string
	}{
		"good": {
			tree: files{
				"low/l.go":       low + `import "fmt"`,
				"high/h.go":      high + `import ("m/low"; "gvisor.dev/gvisor/pkg/abi")`,
				"low/l_test.go":  low + `import ("m/test/help"; "gvisor.dev/gvisor/pkg/abi")`,
				"test/help/h.go": "package help",
			},
			rows: []string{lowRow, highRow, "test/... - help"},
		},
		"upward": {
			tree: files{"low/l.go": low + "\nimport \"m/high\"", "high/h.go": high},
			rows: []string{lowRow, highRow},
			want: []string{"low/l.go:3: low imports high, which is listed below it"},
		},
		"upward from a test": {
			tree: files{"low/l.go": low, "low/l_test.go": low + `import "m/high"`, "high/h.go": high},
			rows: []string{lowRow, highRow},
			want: []string{"low/l_test.go:2: low imports high"},
		},
		"gvisor": {
			tree: files{"low/l.go": low + `import "gvisor.dev/gvisor/pkg/abi"`},
			rows: []string{lowRow},
			want: []string{"low imports gVisor"},
		},
		"not listed": {
			tree: files{"low/l.go": low + `import "m/high"`, "high/h.go": high},
			rows: []string{lowRow},
			want: []string{"high: the package is not in the layer list"},
		},
		"not there": {
			tree: files{"low/l.go": low},
			rows: []string{lowRow, highRow},
			want: []string{"names high, but the tree has no such package"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tree := test.tree.load(t)
			want(t, tree.Layering(mustParse(t, list(test.rows...))), test.want...)
		})
	}
}

func TestFreeOf(t *testing.T) {
	tree := files{
		"cmd/good/g.go":      "package main\nimport \"m/low\"",
		"cmd/good/g_test.go": "package main\nimport \"m/high\"",
		"cmd/bad/b.go":       "package main\nimport \"m/mid\"",
		"low/l.go":           "package low\nimport \"fmt\"",
		"mid/m.go":           "package mid\nimport (\"m/low\"; \"m/high\")",
		"high/h.go":          "package high\nimport \"gvisor.dev/gvisor/pkg/abi\"",
	}.load(t)
	want(t, tree.FreeOf("cmd/good", gvisorModule))
	want(t, tree.FreeOf("cmd/bad", gvisorModule), "cmd/bad → mid → high → gvisor.dev/gvisor/pkg/abi")
	want(t, tree.FreeOf("cmd/none", gvisorModule), "no such package")
}

func TestClock(t *testing.T) {
	const reads = "package low\nimport \"time\"\nvar a = time.Now()\nfunc f() { <-time.After(time.Second) }\n"
	want(t, files{"low/l.go": reads}.load(t).Clock(), "low/l.go:3: time.Now", "low/l.go:4: time.After")
	want(t, files{"low/l.go": "package low\nimport clock \"time\"\nvar a = clock.NewTimer\n"}.load(t).Clock(), "time.NewTimer")
	want(t, files{"low/l.go": "package low\nimport . \"time\"\nvar a = Now()\n"}.load(t).Clock(), "dot import")
	want(t, files{
		"low/l.go":         "package low\nimport \"time\"\nvar d = time.Second\nvar x = time.Unix(0, 0).After(time.Time{})\n",
		"low/other.go":     "package low\ntype c struct{}\nfunc (c) Now() {}\nvar time c\nfunc g() { time.Now() }\n",
		"low/l_test.go":    reads,
		"low/gen.go":       "// Code generated by x. DO NOT EDIT.\n\n" + reads,
		"ktime/k.go":       reads,
		"tools/bench/b.go": reads,
		"test/help/h.go":   reads,
		"low/lowtest/l.go": reads,
	}.load(t).Clock())
}

func TestForbidden(t *testing.T) {
	want(t, files{"low/l.go": "package low\nimport \"C\"\n"}.load(t).Forbidden(), "cgo")
	want(t, files{"low/l_test.go": "package low\nimport _ \"unsafe\"\n//go:link" + "name now time.now\nfunc now()\n"}.load(t).Forbidden(), "linkname")
	want(t, files{"low/l.go": "package low\n//go:noinline\nfunc f() {}\n"}.load(t).Forbidden())
}

func TestUnfinished(t *testing.T) {
	mark := "TO" + "DO"
	want(t, files{"low/l.go": "package low\n\n// " + mark + ": later\nvar a int\n"}.load(t).Unfinished(), "low/l.go:3: the comment says "+mark)
	want(t, files{
		"low/l.go":   "package low\n// methods, mastodons and the word todo in small letters\nvar a = \"" + mark + "\"\n",
		"low/gen.go": "// Code generated by x. DO NOT EDIT.\npackage low\n// " + mark + "\n",
	}.load(t).Unfinished())
}

func TestSizes(t *testing.T) {
	long := "package low\n" + strings.Repeat("\n", MaxLines)
	want(t, files{
		"low/l.go":      long,
		"low/ok.go":     long[:len(long)-1],
		"low/l_test.go": long,
		"low/gen.go":    "// Code generated by x. DO NOT EDIT.\n" + long,
	}.load(t).Sizes(), "low/l.go: 601 lines")
}

func TestComments(t *testing.T) {
	const doc = "// Package low has words.\npackage low\n"
	tests := map[string]struct {
		body string
		want []string
	}{
		"documented": {body: "// A is.\nfunc A() {}\n\n// B is.\ntype B int\n\n// C are.\nconst (\n\tD = 1\n\tE = 2\n)\n\ntype (\n\t// F is.\n\tF int\n)\n\nvar (\n\tG int // G is.\n)\n"},
		"unexported": {body: "func a() {}\n\ntype b int\n\nfunc (b) String() string { return \"\" }\n\nconst c = 1\n"},
		"func":       {body: "func A() {}\n", want: []string{"A is exported"}},
		"method":     {body: "// B is.\ntype B[T any] struct{}\n\nfunc (*B[T]) Get() {}\n", want: []string{"Get is exported"}},
		"type":       {body: "type B int\n", want: []string{"B is exported"}},
		"type group": {body: "// Some types.\ntype (\n\tB int\n)\n", want: []string{"B is exported"}},
		"const":      {body: "const D = 1\n", want: []string{"D is exported"}},
		"var":        {body: "var e, F int\n", want: []string{"F is exported"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			want(t, files{"low/l.go": doc + test.body}.load(t).Comments(), test.want...)
		})
	}
	want(t, files{"low/l.go": "package low\n"}.load(t).Comments(), "no package comment")
	want(t, files{"low/a.go": doc, "low/b.go": doc}.load(t).Comments(), "2 package comments")
	want(t, files{"low/gen.go": "// Code generated by x. DO NOT EDIT.\n\npackage low\n"}.load(t).Comments())
	want(t, files{"low/l_test.go": "package low\n"}.load(t).Comments())
}

func TestLoad(t *testing.T) {
	tree := files{
		"a/a.go":            "package a",
		"a/testdata/bad.go": "not go",
		".hidden/h.go":      "not go",
		"_old/o.go":         "not go",
		"nested/go.mod":     "module n\n",
		"nested/n.go":       "not go",
	}.load(t)
	if len(tree.Packages) != 1 || tree.Packages["a"] == nil {
		t.Errorf("loaded %v, want only a", tree.Packages)
	}
	if _, err := Load(files{"go.mod": "module m\n"}.write(t)); err == nil {
		t.Error("a tree without Go files loads")
	}
	if _, err := Load(files{"go.mod": "go 1.26\n", "a.go": "package a"}.write(t)); err == nil {
		t.Error("a go.mod without a module directive loads")
	}
	if _, err := Load(files{"go.mod": "module m\n", "a.go": "pack age"}.write(t)); err == nil {
		t.Error("a file that does not parse loads")
	}
}
