package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// Tree is the source of one module.
type Tree struct {
	// Root is the directory that holds go.mod.
	Root string
	// Module is the module path.
	Module string
	// Packages is keyed by directory below Root, "." for Root itself.
	Packages map[string]*Package

	fset *token.FileSet
}

// Package is the Go files of one directory.
type Package struct {
	Dir   string
	Files []*File // sorted by name
}

// File is one parsed Go file.
type File struct {
	Name      string // below the tree's root
	Test      bool   // name ends in _test.go
	Generated bool   // carries the "Code generated … DO NOT EDIT." line
	Lines     int
	AST       *ast.File
}

// Load parses every Go file of the module at root. Directories named testdata,
// directories that start with '.' or '_', and nested modules are not part of
// the tree.
func Load(root string) (*Tree, error) {
	module, err := modulePath(filepath.Join(root, "go.mod"))
	if err != nil {
		return nil, err
	}
	t := &Tree{Root: root, Module: module, Packages: map[string]*Package{}, fset: token.NewFileSet()}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path != root && skipDir(path) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		return t.add(path)
	})
	if err != nil {
		return nil, err
	}
	if len(t.Packages) == 0 {
		return nil, fmt.Errorf("%s: no Go files", root)
	}
	return t, nil
}

func skipDir(path string) bool {
	name := filepath.Base(path)
	if name == "testdata" || name[0] == '.' || name[0] == '_' {
		return true
	}
	_, err := os.Stat(filepath.Join(path, "go.mod"))
	return err == nil
}

func (t *Tree) add(path string) error {
	src, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	name, err := filepath.Rel(t.Root, path)
	if err != nil {
		return err
	}
	parsed, err := parser.ParseFile(t.fset, name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	dir := filepath.ToSlash(filepath.Dir(name))
	pkg := t.Packages[dir]
	if pkg == nil {
		pkg = &Package{Dir: dir}
		t.Packages[dir] = pkg
	}
	pkg.Files = append(pkg.Files, &File{
		Name:      filepath.ToSlash(name),
		Test:      strings.HasSuffix(name, "_test.go"),
		Generated: ast.IsGenerated(parsed),
		Lines:     strings.Count(string(src), "\n"),
		AST:       parsed,
	})
	return nil
}

// modulePath returns what the module directive of a go.mod says.
func modulePath(gomod string) (string, error) {
	text, err := os.ReadFile(gomod)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "module "); ok {
			return strings.Trim(strings.TrimSpace(rest), `"`), nil
		}
	}
	return "", fmt.Errorf("%s: no module directive", gomod)
}

// sorted returns the packages by directory, so that findings come in the same
// order every time.
func (t *Tree) sorted() []*Package {
	out := make([]*Package, 0, len(t.Packages))
	for _, p := range t.Packages {
		out = append(out, p)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Dir < out[j].Dir })
	return out
}

// local returns the directory of an import path of this module.
func (t *Tree) local(path string) (dir string, ok bool) {
	if path == t.Module {
		return ".", true
	}
	return strings.CutPrefix(path, t.Module+"/")
}

// at returns "file:line" of a position.
func (t *Tree) at(pos token.Pos) string {
	p := t.fset.Position(pos)
	return fmt.Sprintf("%s:%d", filepath.ToSlash(p.Filename), p.Line)
}

// code returns the files that the rules for shipped code speak of: neither
// tests nor generated.
func (p *Package) code() []*File {
	var out []*File
	for _, f := range p.Files {
		if !f.Test && !f.Generated {
			out = append(out, f)
		}
	}
	return out
}

// importPath returns the unquoted path of an import.
func importPath(spec *ast.ImportSpec) string {
	path, _ := strconv.Unquote(spec.Path.Value) // The parser has checked it.
	return path
}

// under reports whether dir is base or lies beneath it.
func under(dir, base string) bool {
	return dir == base || strings.HasPrefix(dir, base+"/")
}
