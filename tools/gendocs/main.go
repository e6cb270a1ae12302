// Command gendocs writes those parts of the pages in docs/ that say what code
// says: they stand between "<!-- generated: NAME -->" and
// "<!-- end of generated -->", and each NAME is made by one function of the
// map sections. With -check it writes nothing and fails when a page is not up
// to date. tools/generate runs it.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// sections are the generated parts, by name.
var sections = map[string]func() string{
	"error codes": errorCodes,
}

const (
	opening = "<!-- generated: "
	closing = "<!-- end of generated -->"
)

func main() {
	check := flag.Bool("check", false, "compare only")
	dir := flag.String("docs", "docs", "the `directory` of the pages")
	flag.Parse()
	if err := run(*dir, *check); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run brings every page up to date, or says which are not.
func run(dir string, check bool) error {
	pages, err := filepath.Glob(filepath.Join(dir, "*.md"))
	if err != nil {
		return err
	}
	written := make(map[string]bool)
	var all error
	for _, page := range pages {
		old, err := os.ReadFile(page)
		if err != nil {
			return err
		}
		text, err := fill(string(old), written)
		switch {
		case err != nil:
			all = errors.Join(all, fmt.Errorf("%s: %w", page, err))
		case bytes.Equal(old, []byte(text)):
		case check:
			all = errors.Join(all, fmt.Errorf("%s is not what the code says; run: make generate", page))
		default:
			all = errors.Join(all, os.WriteFile(page, []byte(text), 0o644))
		}
	}
	for name := range sections {
		if !written[name] && all == nil {
			all = fmt.Errorf("no page of %s has a place for %q", dir, name)
		}
	}
	return all
}

// fill returns a page with its generated parts written anew, and notes which
// these were.
func fill(page string, written map[string]bool) (string, error) {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(page, opening)
		out.WriteString(before)
		if !found {
			return out.String(), nil
		}
		name, rest, ok := strings.Cut(rest, " -->\n")
		make := sections[name]
		switch {
		case !ok || make == nil:
			return "", fmt.Errorf("nothing generates %.40q", name)
		case written[name]:
			return "", fmt.Errorf("%q is generated twice", name)
		}
		_, after, ok := strings.Cut(rest, closing)
		if !ok {
			return "", fmt.Errorf("the part %q has no end", name)
		}
		written[name] = true
		fmt.Fprintf(&out, "%s%s -->\n\n%s\n%s", opening, name, strings.TrimSpace(make())+"\n", closing)
		page = after
	}
}
