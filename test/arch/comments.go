package arch

import (
	"fmt"
	"go/ast"
	"go/token"
	"strings"
)

// Comments reports packages without exactly one package comment, and exported
// names without a doc comment.
func (t *Tree) Comments() []Finding {
	var out []Finding
	for _, p := range t.sorted() {
		if len(p.code()) > 0 { // A generated package is described by its source.
			out = append(out, p.packageComment()...)
		}
		for _, f := range p.code() {
			for _, d := range f.AST.Decls {
				out = append(out, t.undocumented(d)...)
			}
		}
	}
	return out
}

func (p *Package) packageComment() []Finding {
	var in []string
	for _, f := range p.Files {
		if !f.Test && f.AST.Doc != nil && strings.TrimSpace(f.AST.Doc.Text()) != "" {
			in = append(in, f.Name)
		}
	}
	switch len(in) {
	case 0:
		return []Finding{{p.Dir, "the package has no package comment; say what it is for, its key types and its lock order"}}
	case 1:
		return nil
	}
	return []Finding{{p.Dir, fmt.Sprintf("the package has %d package comments (%s); keep one", len(in), strings.Join(in, ", "))}}
}

// undocumented returns the exported names of a declaration that say nothing
// about themselves. In a group of constants or variables the group's comment
// speaks for all; so does a comment at the end of the line.
func (t *Tree) undocumented(d ast.Decl) []Finding {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) {
			return []Finding{t.noDoc(d.Name)}
		}
	case *ast.GenDecl:
		if d.Tok == token.IMPORT || d.Doc != nil && d.Tok != token.TYPE {
			return nil
		}
		var out []Finding
		for _, s := range d.Specs {
			out = append(out, t.undocumentedSpec(d, s)...)
		}
		return out
	}
	return nil
}

func (t *Tree) undocumentedSpec(d *ast.GenDecl, s ast.Spec) []Finding {
	switch s := s.(type) {
	case *ast.TypeSpec:
		documented := s.Doc != nil || s.Comment != nil || !d.Lparen.IsValid() && d.Doc != nil
		if s.Name.IsExported() && !documented {
			return []Finding{t.noDoc(s.Name)}
		}
	case *ast.ValueSpec:
		if s.Doc != nil || s.Comment != nil {
			return nil
		}
		for _, n := range s.Names {
			if n.IsExported() {
				return []Finding{t.noDoc(n)}
			}
		}
	}
	return nil
}

func (t *Tree) noDoc(name *ast.Ident) Finding {
	return Finding{t.at(name.Pos()), fmt.Sprintf("%s is exported and has no doc comment", name.Name)}
}

// exportedReceiver reports whether d is a function, or a method of an exported
// type; methods of unexported types serve an interface that documents them.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return true
	}
	typ := d.Recv.List[0].Type
	for {
		switch x := typ.(type) {
		case *ast.StarExpr:
			typ = x.X
		case *ast.IndexExpr:
			typ = x.X
		case *ast.IndexListExpr:
			typ = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return false
		}
	}
}
