// Command gendocs writes those parts of the pages in docs/ that a table in the
// code says better, between "<!-- generated: NAME -->" and "<!-- end -->". With
// -check it writes nothing and fails when a page is not up to date.
// tools/generate runs it. Parts that are not in the list below are those of
// the tests of other packages, and stay as they are.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"aios.dev/aios/abi"
)

// part is a generated part of a page.
type part struct {
	page, name string
	make       func() string
}

var parts = []part{
	{"errors.md", "error codes", errorCodes},
	{"hooks.md", "operations of hooks", hookOperations},
	{"fabric.md", "ioctls of regions", abi.RegionReference},
}

func main() {
	check := flag.Bool("check", false, "write nothing; fail when a page is out of date")
	dir := flag.String("docs", "docs", "the `directory` of the pages")
	flag.Parse()
	if err := run(*dir, *check); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run brings every part up to date, or says which pages are not.
func run(dir string, check bool) error {
	var all error
	for _, p := range parts {
		if err := p.update(filepath.Join(dir, p.page), check); err != nil {
			all = errors.Join(all, err)
		}
	}
	return all
}

func (p part) update(page string, check bool) error {
	old, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	open, end := "<!-- generated: "+p.name+" -->\n", "<!-- end -->"
	before, rest, ok := strings.Cut(string(old), open)
	if !ok {
		return fmt.Errorf("%s has no line %s", page, strings.TrimSpace(open))
	}
	_, after, ok := strings.Cut(rest, end)
	if !ok {
		return fmt.Errorf("%s: the part %q has no %s", page, p.name, end)
	}
	text := before + open + "\n" + strings.TrimSpace(p.make()) + "\n\n" + end + after
	switch {
	case text == string(old):
		return nil
	case check:
		return fmt.Errorf("%s is not what the code says; run: make generate", page)
	}
	return os.WriteFile(page, []byte(text), 0o644)
}
