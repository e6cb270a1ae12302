package arch

import (
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"slices"
	"strings"
)

// errorsPackage is where errors are made.
const errorsPackage = "errdefs"

// freeErrors are the trees whose errors no user of AIOS sees, or that link
// nothing of AIOS because they run inside agents; free, too, are those of
// packages whose name ends in "test", which are test suites that others call.
var freeErrors = []string{errorsPackage, "test", "tools", "sdk"}

// errorMakers are the functions that make an error without a code, by import
// path and name.
var errorMakers = map[string][]string{
	"errors":                        {"New"},
	"fmt":                           {"Errorf"},
	"google.golang.org/grpc/status": {"Error", "Errorf", "ErrorProto"},
	"github.com/pkg/errors":         {"New", "Errorf", "Wrap", "Wrapf", "WithMessage", "WithStack"},
}

// errnoPackages hold the host's error numbers. The numbers of
// gvisor.dev/gvisor/pkg/errors/linuxerr are not among them: they are what a
// kernel returns to a program, and only packages that the layer list marks for
// gVisor can import them.
var errnoPackages = []string{"syscall", "golang.org/x/sys/unix"}

// Exempt are errors that need not come from package errdefs, by package and
// the name of a type or of a function, with the reason.
type Exempt map[string]string

// ErrorExemptions are those of AIOS.
var ErrorExemptions = Exempt{
	"api.toStatus":                "makes the status that carries an error of errdefs",
	"api.fromDetails":             "takes the code from the wire, where a newer release may have sent it; its form is checked",
	"client.leftBySignal":         "is the cause of a context, and no error: it says which signal detached the terminal",
	"cmd/aiosctl.status":          "carries the exit status of a program out of a command, and is never shown",
	"images/mkerofs.ContentError": "tells a failure to read the source from one to write the image; its code is that of the error beneath",
}

// Errors reports shipped code that makes errors without a code of package
// errdefs, or codes that its table does not have.
func (t *Tree) Errors(exempt Exempt) []Finding {
	var out []Finding
	used := make(map[string]bool)
	for _, p := range t.sorted() {
		if strings.HasSuffix(p.Dir, "test") || slices.ContainsFunc(freeErrors, func(base string) bool { return under(p.Dir, base) }) {
			continue
		}
		for _, f := range p.code() {
			l := errorLint{tree: t, names: importNames(f)}
			if path := l.names["."]; errorMakers[path] != nil {
				l.add(f.AST.Package, "a dot import of %s hides who makes errors; import it by name", path)
			}
			for _, d := range f.AST.Decls {
				before := len(l.found)
				l.decl(d)
				if len(l.found) == before {
					continue
				}
				key := p.Dir + "." + declName(d)
				if exempt[key] != "" {
					used[key] = true
					l.found = l.found[:before]
				}
			}
			out = append(out, l.found...)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(exempt)) {
		if !used[key] {
			out = append(out, Finding{key, "is exempt from the rule on errors, but does not need to be; remove the exemption"})
		}
	}
	return append(out, t.codeTable()...)
}

// errorLint looks at one file.
type errorLint struct {
	tree  *Tree
	names map[string]string // import path by the name it has in the file
	found []Finding
}

func (l *errorLint) add(pos token.Pos, format string, args ...any) {
	l.found = append(l.found, Finding{l.tree.at(pos), fmt.Sprintf(format, args...)})
}

func (l *errorLint) decl(d ast.Decl) {
	if fn, ok := d.(*ast.FuncDecl); ok && isErrorMethod(fn) {
		l.add(fn.Pos(), "%s is an error type of its own; return an *errdefs.Error, or exempt it with a reason", receiver(fn))
	}
	var results [][]ast.Expr // the result types of the functions that enclose
	var walk func(ast.Node) bool
	walk = func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			return l.inside(&results, n.Type, n.Body, walk)
		case *ast.FuncLit:
			return l.inside(&results, n.Type, n.Body, walk)
		case *ast.CallExpr:
			l.call(n)
		case *ast.ReturnStmt:
			if len(results) > 0 {
				l.returned(n, results[len(results)-1])
			}
		case *ast.ValueSpec:
			if n.Type != nil && l.isCodeType(n.Type) {
				for _, v := range n.Values {
					l.literalCode(v)
				}
			}
		case *ast.CompositeLit:
			l.composite(n)
		}
		return true
	}
	ast.Inspect(d, walk)
}

// inside walks the body of a function, knowing what it returns.
func (l *errorLint) inside(results *[][]ast.Expr, typ *ast.FuncType, body *ast.BlockStmt, walk func(ast.Node) bool) bool {
	if body == nil {
		return false
	}
	var types []ast.Expr
	if typ.Results != nil {
		for _, f := range typ.Results.List {
			for range max(len(f.Names), 1) {
				types = append(types, f.Type)
			}
		}
	}
	*results = append(*results, types)
	ast.Inspect(body, walk)
	*results = (*results)[:len(*results)-1]
	return false
}

// returned reports an error number of the host that is returned as an error.
func (l *errorLint) returned(ret *ast.ReturnStmt, types []ast.Expr) {
	if len(ret.Results) != len(types) {
		return
	}
	for i, r := range ret.Results {
		id, isIdent := types[i].(*ast.Ident)
		path, name := l.selector(r)
		if isIdent && id.Name == "error" && slices.Contains(errnoPackages, path) && isErrno(name) {
			l.add(r.Pos(), "%s is a bare error number of the host; wrap it with errdefs.Wrap, which gives it a code", name)
		}
	}
}

// call reports calls that make errors or codes.
func (l *errorLint) call(c *ast.CallExpr) {
	path, name := l.selector(c.Fun)
	switch {
	case slices.Contains(errorMakers[path], name):
		l.add(c.Pos(), "%s.%s makes an error without a code; use errdefs.New, Newf or Wrap", path[strings.LastIndexByte(path, '/')+1:], name)
	case path != l.tree.Module+"/"+errorsPackage:
	case name == "Code":
		l.add(c.Pos(), "a conversion makes a code that the table of errdefs may not have; use one of its constants")
	case (name == "New" || name == "Newf") && len(c.Args) > 0:
		l.literalCode(c.Args[0])
	case name == "Wrap" && len(c.Args) > 1:
		l.literalCode(c.Args[1])
	}
}

// composite reports Code fields that are literals.
func (l *errorLint) composite(c *ast.CompositeLit) {
	if path, name := l.selector(c.Type); path != l.tree.Module+"/"+errorsPackage || name != "Error" {
		return
	}
	for _, e := range c.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok {
			if key, ok := kv.Key.(*ast.Ident); ok && key.Name == "Code" {
				l.literalCode(kv.Value)
			}
		}
	}
}

func (l *errorLint) literalCode(e ast.Expr) {
	if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
		l.add(lit.Pos(), "%s is not a constant of errdefs; add the code to its table", lit.Value)
	}
}

func (l *errorLint) isCodeType(e ast.Expr) bool {
	path, name := l.selector(e)
	return path == l.tree.Module+"/"+errorsPackage && name == "Code"
}

// selector resolves pkg.Name to an import path and a name.
func (l *errorLint) selector(e ast.Expr) (path, name string) {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok {
		return "", ""
	}
	id, ok := sel.X.(*ast.Ident)
	if !ok {
		return "", ""
	}
	return l.names[id.Name], sel.Sel.Name
}

// codeTable reports constants of type Code in package errdefs that no row of
// its table has for a key. It is empty for a tree without that package.
func (t *Tree) codeTable() []Finding {
	p := t.Packages[errorsPackage]
	if p == nil {
		return nil
	}
	constants, rows := make(map[string]token.Pos), make(map[string]bool)
	for _, f := range p.code() {
		ast.Inspect(f.AST, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GenDecl:
				if n.Tok != token.CONST {
					return true
				}
				for _, s := range n.Specs {
					spec := s.(*ast.ValueSpec) // The grammar allows nothing else.
					if id, ok := spec.Type.(*ast.Ident); ok && id.Name == "Code" {
						for _, name := range spec.Names {
							constants[name.Name] = name.Pos()
						}
					}
				}
			case *ast.KeyValueExpr:
				if id, ok := n.Key.(*ast.Ident); ok {
					rows[id.Name] = true
				}
			}
			return true
		})
	}
	var out []Finding
	for _, name := range slices.Sorted(maps.Keys(constants)) {
		if !rows[name] {
			out = append(out, Finding{t.at(constants[name]), name + " has no row in the table"})
		}
	}
	return out
}

// importNames returns the import paths of a file by the names they have in it.
func importNames(f *File) map[string]string {
	out := make(map[string]string)
	for _, spec := range f.AST.Imports {
		path := importPath(spec)
		name := path[strings.LastIndexByte(path, '/')+1:]
		if spec.Name != nil {
			name = spec.Name.Name
		}
		out[name] = path
	}
	return out
}

// isErrorMethod reports whether fn makes its receiver an error.
func isErrorMethod(fn *ast.FuncDecl) bool {
	r := fn.Type.Results
	if fn.Recv == nil || fn.Name.Name != "Error" || len(fn.Type.Params.List) != 0 || r == nil || len(r.List) != 1 {
		return false
	}
	id, ok := r.List[0].Type.(*ast.Ident)
	return ok && id.Name == "string"
}

// declName is the name of a function, of the receiver's type of a method, or
// the first name of another declaration.
func declName(d ast.Decl) string {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv != nil {
			return receiver(d)
		}
		return d.Name.Name
	case *ast.GenDecl:
		for _, s := range d.Specs {
			if v, ok := s.(*ast.ValueSpec); ok {
				return v.Names[0].Name
			}
		}
	}
	return ""
}

// receiver is the name of the type that a method belongs to.
func receiver(fn *ast.FuncDecl) string {
	typ := fn.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	switch generic := typ.(type) {
	case *ast.IndexExpr:
		typ = generic.X
	case *ast.IndexListExpr:
		typ = generic.X
	}
	id, _ := typ.(*ast.Ident) // The grammar allows nothing else.
	return id.Name
}

// isErrno reports whether name is that of an error number, as EPERM is.
func isErrno(name string) bool {
	return len(name) > 2 && name[0] == 'E' && strings.ToUpper(name) == name
}
