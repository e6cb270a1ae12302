package arch

import (
	"fmt"
	"go/ast"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// Docs is the project's prose and what it may speak of.
type Docs struct {
	root string
	// pages are the Markdown files, below root.
	pages []string
	// targets are the names that the Makefile defines.
	targets []string
	// verbs are the first words of aiosctl's commands and their aliases; nil
	// when the tree has no aiosctl.
	verbs []string
}

var (
	mdLink     = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	makeCall   = regexp.MustCompile("(?:^|[`$(\\s])make ([a-z][a-z-]*)")
	ctlCall    = regexp.MustCompile("(?:^|[`$(\\s/])aiosctl ([a-z][a-z-]*)")
	inlineCode = regexp.MustCompile("`[^`]+`")
	makeTarget = regexp.MustCompile(`(?m)^([a-z][a-z-]*):(?:[^=]|$)`)
)

// LoadDocs finds every Markdown page below root, the targets of its Makefile,
// and the commands of cmd/aiosctl in tree.
func LoadDocs(root string, tree *Tree) (*Docs, error) {
	d := &Docs{root: root}
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		return nil, err
	}
	for _, m := range makeTarget.FindAllStringSubmatch(string(makefile), -1) {
		d.targets = append(d.targets, m[1])
	}
	if p := tree.Packages["cmd/aiosctl"]; p != nil {
		d.verbs = append(commandNames(p), "help", "completion")
	}
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && path != root && (e.Name()[0] == '.' || e.Name() == "testdata" || e.Name() == "out" || e.Name() == "bin") {
			return filepath.SkipDir
		}
		if !e.IsDir() && strings.HasSuffix(path, ".md") {
			d.pages = append(d.pages, path)
		}
		return nil
	})
	sort.Strings(d.pages)
	return d, err
}

// commandNames collects the names that the package gives its cobra commands:
// the first word of every Use field, and every alias.
func commandNames(p *Package) []string {
	var out []string
	for _, f := range p.code() {
		ast.Inspect(f.AST, func(n ast.Node) bool {
			kv, ok := n.(*ast.KeyValueExpr)
			if !ok {
				return true
			}
			key, ok := kv.Key.(*ast.Ident)
			if !ok {
				return true
			}
			switch v := kv.Value.(type) {
			case *ast.BasicLit:
				if key.Name == "Use" {
					out = append(out, firstWord(v))
				}
			case *ast.CompositeLit:
				if key.Name != "Aliases" {
					return true
				}
				for _, e := range v.Elts {
					if lit, ok := e.(*ast.BasicLit); ok {
						out = append(out, firstWord(lit))
					}
				}
			}
			return true
		})
	}
	return out
}

func firstWord(lit *ast.BasicLit) string {
	if lit.Kind != token.STRING {
		return ""
	}
	s, _ := strconv.Unquote(lit.Value) // The parser has checked it.
	word, _, _ := strings.Cut(s, " ")
	return word
}

// Check reports links to files that do not exist, and commands in code spans
// and code blocks that neither the Makefile nor aiosctl knows.
func (d *Docs) Check() []Finding {
	var out []Finding
	for _, page := range d.pages {
		text, err := os.ReadFile(page)
		if err != nil {
			out = append(out, Finding{page, err.Error()})
			continue
		}
		name, err := filepath.Rel(d.root, page)
		if err != nil {
			name = page
		}
		fenced := false
		n := 0
		for line := range strings.Lines(string(text)) {
			n++
			where := fmt.Sprintf("%s:%d", name, n)
			if strings.HasPrefix(strings.TrimSpace(line), "```") {
				fenced = !fenced
				continue
			}
			if fenced {
				out = append(out, d.commands(where, line)...)
				continue
			}
			for _, span := range inlineCode.FindAllString(line, -1) {
				out = append(out, d.commands(where, span)...)
			}
			out = append(out, d.links(where, page, line)...)
		}
	}
	return out
}

func (d *Docs) links(where, page, line string) []Finding {
	var out []Finding
	for _, m := range mdLink.FindAllStringSubmatch(line, -1) {
		target, _, _ := strings.Cut(m[1], "#")
		if target == "" || strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
			continue
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(page), target)); err != nil {
			out = append(out, Finding{where, fmt.Sprintf("the link %s leads nowhere", m[1])})
		}
	}
	return out
}

func (d *Docs) commands(where, code string) []Finding {
	var out []Finding
	for _, m := range makeCall.FindAllStringSubmatch(code, -1) {
		if !slices.Contains(d.targets, m[1]) {
			out = append(out, Finding{where, fmt.Sprintf("\"make %s\" is not a target of the Makefile", m[1])})
		}
	}
	if d.verbs == nil {
		return out
	}
	for _, m := range ctlCall.FindAllStringSubmatch(code, -1) {
		if !slices.Contains(d.verbs, m[1]) {
			out = append(out, Finding{where, fmt.Sprintf("\"aiosctl %s\" is not a command", m[1])})
		}
	}
	return out
}
