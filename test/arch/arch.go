// Package arch holds the rules that keep the shape of the tree: who may import
// whom, who may know gVisor, who may read the clock, and what every file owes
// its reader. The layer list itself is a fenced block of ARCHITECTURE.md; this
// package parses it, so that the picture a reader sees is the one enforced.
//
// A Tree is loaded once by Load, from source text alone (no compiler, no build
// tags: every file counts), and never changes after that. Each rule is a
// method of Tree that returns what it found; an empty answer is a pass. The
// package imports only the standard library.
package arch

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// Layer is one row of the list in ARCHITECTURE.md.
type Layer struct {
	// Path is the package's directory below the module root. A row that ends
	// in "/..." stands for the directory and everything beneath it.
	Path string
	// GVisor says whether the package may import gvisor.dev/gvisor.
	GVisor bool
	// What is the description, for people.
	What string
}

// covers reports whether the row speaks of the package in directory dir.
func (l Layer) covers(dir string) bool {
	if base, ok := strings.CutSuffix(l.Path, "/..."); ok {
		return dir == base || strings.HasPrefix(dir, base+"/")
	}
	return dir == l.Path
}

// Finding is one broken rule.
type Finding struct {
	// Where is a file with a line, a file, or a package directory.
	Where string
	// Why says in one sentence what is wrong and what would be right.
	Why string
}

// String returns the finding as a compiler would print it.
func (f Finding) String() string { return f.Where + ": " + f.Why }

const (
	fenceOpen  = "```layers"
	fenceClose = "```"
)

// ParseLayers reads the layer list out of the text of ARCHITECTURE.md: the one
// fenced block whose info string is "layers". A row is "path gvisor|- words…";
// empty rows and rows that start with '#' are for people.
func ParseLayers(text string) ([]Layer, error) {
	var layers []Layer
	seen := map[string]bool{}
	in, found := false, false
	scanner := bufio.NewScanner(strings.NewReader(text))
	for n := 1; scanner.Scan(); n++ {
		line := strings.TrimSpace(scanner.Text())
		switch {
		case line == fenceOpen && found:
			return nil, fmt.Errorf("line %d: a second layer list; keep one", n)
		case line == fenceOpen:
			in, found = true, true
			continue
		case line == fenceClose:
			in = false
		}
		if !in || line == "" || line[0] == '#' {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 3 || (fields[1] != "gvisor" && fields[1] != "-") {
			return nil, fmt.Errorf("line %d: %q is not a row of the form \"path gvisor|- description\"", n, line)
		}
		if seen[fields[0]] {
			return nil, fmt.Errorf("line %d: %s is listed twice", n, fields[0])
		}
		seen[fields[0]] = true
		layers = append(layers, Layer{
			Path:   fields[0],
			GVisor: fields[1] == "gvisor",
			What:   strings.Join(fields[2:], " "),
		})
	}
	if in {
		return nil, fmt.Errorf("the layer list is not closed with %s", fenceClose)
	}
	if len(layers) == 0 {
		return nil, fmt.Errorf("no layer list: a fenced block that opens with %s is wanted", fenceOpen)
	}
	return layers, scanner.Err()
}

// ReadLayers parses the list in the file at path.
func ReadLayers(path string) ([]Layer, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	layers, err := ParseLayers(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return layers, nil
}
