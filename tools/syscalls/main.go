// Command syscalls writes the reference of system calls: a page for each group
// of them, with the right that it needs, and a page that lists the groups.
//
//	syscalls [-check] DIRECTORY
//
// With -check it writes nothing, and fails when a page is not what the table
// in package abi says. It must not import gVisor: what is in the reference is
// what is in the table.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"aios.dev/aios/abi"
)

func main() {
	check := flag.Bool("check", false, "write nothing; fail when a page is out of date")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: syscalls [-check] DIRECTORY")
		os.Exit(2)
	}
	if err := run(flag.Arg(0), *check); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run brings dir up to date, or reports that it is not.
func run(dir string, check bool) error {
	pages := pages()
	for name, text := range pages {
		path := filepath.Join(dir, name)
		old, err := os.ReadFile(path)
		switch {
		case err == nil && bytes.Equal(old, []byte(text)):
		case check:
			return fmt.Errorf("%s is not what abi/syscalls_table.go says; run: make generate", path)
		default:
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				return err
			}
		}
	}
	return removeOthers(dir, pages, check)
}

// removeOthers takes away pages of groups that there are no more.
func removeOthers(dir string, pages map[string]string, check bool) error {
	found, err := filepath.Glob(filepath.Join(dir, "*.md"))
	if err != nil {
		return err
	}
	for _, path := range found {
		if _, ok := pages[filepath.Base(path)]; ok {
			continue
		}
		if check {
			return fmt.Errorf("%s is of no group of system calls; run: make generate", path)
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

const generated = "<!-- Generated from abi/syscalls_table.go by tools/syscalls: make generate. -->\n\n"

// pages returns every page by name.
func pages() map[string]string {
	out := map[string]string{"README.md": index()}
	for _, g := range abi.Groups() {
		out[g.Name+".md"] = page(g)
	}
	return out
}

// index is the page that lists the groups.
func index() string {
	var b strings.Builder
	b.WriteString(generated)
	b.WriteString("# System calls and the rights they need\n\n")
	fmt.Fprintf(&b, "Every system call of an agent passes the gate of its kernel. The %d calls of x86-64 that the kernel knows are in %d groups; a group needs\n", len(abi.Syscalls()), len(abi.Groups()))
	b.WriteString("one right, which some capability of the agent must give. A right that is taken back is gone from the next call on.\n")
	b.WriteString("A call that is in no group answers ENOSYS. What stands under \"needs\" is the text of a grant that gives the right.\n\n")
	b.WriteString("| group | what its calls do | needs | refused with | calls |\n|---|---|---|---|---|\n")
	for _, g := range abi.Groups() {
		n := 0
		for _, c := range abi.Syscalls() {
			if c.Group == g.Group {
				n++
			}
		}
		fmt.Fprintf(&b, "| [%s](%s.md) | %s | %s | %s | %d |\n", g.Name, g.Name, g.Meaning, needs(g), abi.ErrnoName(g.Errno), n)
	}
	b.WriteString("\nA group without calls of its own is one that other calls need as well, depending on their arguments.\n")
	return b.String()
}

// page is the page of a group.
func page(g abi.GroupInfo) string {
	var b strings.Builder
	b.WriteString(generated)
	fmt.Fprintf(&b, "# %s: %s\n\n| | |\n|---|---|\n| needs | %s |\n", g.Name, g.Meaning, needs(g))
	if g.Errno != 0 {
		fmt.Fprintf(&b, "| refused with | %s: %s |\n", abi.ErrnoName(g.Errno), g.Errno.Error())
	}
	if class, ok := g.Needs.Class.Info(); ok {
		fmt.Fprintf(&b, "| class of capabilities | `%s`: %s; its rights are %s |\n", class.Name, class.Meaning, strings.Join(class.Rights, ", "))
	}
	if g.Note != "" {
		fmt.Fprintf(&b, "\n%s\n", g.Note)
	}
	own, also := calls(g.Group)
	if len(own) > 0 {
		b.WriteString("\n| number | call | exceptions |\n|---|---|---|\n")
		for _, c := range own {
			fmt.Fprintf(&b, "| %d | %s | %s |\n", c.Nr, c.Name, c.Rule)
		}
	}
	if len(also) > 0 {
		b.WriteString("\nNeeded by these calls too, depending on their arguments:\n\n| number | call | of group | when |\n|---|---|---|---|\n")
		for _, c := range also {
			fmt.Fprintf(&b, "| %d | %s | [%s](%s.md) | %s |\n", c.Nr, c.Name, c.Group, c.Group, c.Rule)
		}
	}
	b.WriteString("\n[All groups](README.md)\n")
	return b.String()
}

// calls returns the calls of a group, and those of others that may need it.
func calls(g abi.Group) (own, also []abi.Syscall) {
	for _, c := range abi.Syscalls() {
		switch {
		case c.Group == g:
			own = append(own, c)
		case c.May()&g.Bit() != 0:
			also = append(also, c)
		}
	}
	return own, also
}

// needs says what opens the group.
func needs(g abi.GroupInfo) string {
	switch {
	case g.Free:
		return "nothing"
	case g.Never:
		return "cannot be granted"
	}
	return "`" + g.Needs.String() + "`"
}
