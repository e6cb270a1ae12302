package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// advised finds command lines in what messages say.
var advised = regexp.MustCompile("`aiosctl ([^`]+)`")

// misadvised says what is wrong with a command line that somebody is told to type, in
// which what differs is written as a verb of fmt; "" if nothing is.
func misadvised(root *cobra.Command, line string) string {
	words := strings.Fields(line)
	target, args, err := root.Find(words)
	if err != nil || !target.HasParent() {
		return "names no command"
	}
	flags := target.Flags()
	flags.AddFlagSet(target.InheritedFlags())
	for i, a := range args {
		name, _, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
		switch {
		case a == "--":
			return ""
		case strings.HasPrefix(a, "--"):
			if flags.Lookup(name) == nil && name != "help" {
				return "has no flag --" + name
			}
		case strings.HasPrefix(a, "-"):
			if name == "" || flags.ShorthandLookup(name[:1]) == nil && name != "h" {
				return "has no flag -" + name
			}
		case i == 0 && target.HasSubCommands() && !slices.ContainsFunc(strings.Fields(target.Use)[1:], func(w string) bool { return w != "[flags]" }):
			return "names no command of " + target.CommandPath()
		}
	}
	return ""
}

// TestAdviceNamesCommands looks at every command that a text in the code tells people
// to type.
func TestAdviceNamesCommands(t *testing.T) {
	root := newBench(t).app.root("")
	for line, want := range map[string]string{
		"ps -a": "", "fabric show %s": "", "sched web": "", "cap grant %s net:*": "", "run -- ls --color": "", "vm set %s swap=1M": "", "spawn --help": "",
		"pss": "names no command", "fabric versions %s": "names no command of aiosctl fabric", "ps --al": "has no flag --al", "ps -z": "has no flag -z",
	} {
		if got := misadvised(root, line); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	found := 0
	err := filepath.WalkDir("../..", func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && (e.Name() == "testdata" || e.Name() == "bin" || len(e.Name()) > 2 && e.Name()[0] == '.'):
			return filepath.SkipDir
		case e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, ".pb.go"):
			return nil
		}
		files := token.NewFileSet()
		f, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Error(err)
			}
			for _, m := range advised.FindAllStringSubmatch(text, -1) {
				found++
				if wrong := misadvised(root, m[1]); wrong != "" {
					t.Errorf("%s: `aiosctl %s` %s", files.Position(lit.Pos()), m[1], wrong)
				}
			}
			return true
		})
		return nil
	})
	if err != nil || found < 100 {
		t.Errorf("%d command lines were found, %v", found, err)
	}
}
