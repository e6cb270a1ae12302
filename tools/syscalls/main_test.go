package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aios.dev/aios/abi"
)

// TestReferenceIsUpToDate compares docs/syscalls with the table.
func TestReferenceIsUpToDate(t *testing.T) {
	if err := run("../../docs/syscalls", true); err != nil {
		t.Error(err)
	}
}

func TestEveryCallIsOnAPage(t *testing.T) {
	all := pages()
	for _, c := range abi.Syscalls() {
		if !strings.Contains(all[c.Group.String()+".md"], "| "+c.Name+" |") {
			t.Errorf("%s is not on the page of %s", c.Name, c.Group)
		}
	}
}

func TestCheckFindsWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	if err := run(dir, true); err == nil {
		t.Error("pages that are not there pass")
	}
	if err := run(dir, false); err != nil {
		t.Fatal(err)
	}
	if err := run(dir, true); err != nil {
		t.Errorf("fresh pages: %v", err)
	}
	spawn := filepath.Join(dir, "spawn.md")
	if err := os.WriteFile(spawn, []byte("edited\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(dir, true); err == nil {
		t.Error("an edited page passes")
	}
	if err := run(dir, false); err != nil {
		t.Fatal(err)
	}
	stray := filepath.Join(dir, "stray.md")
	if err := os.WriteFile(stray, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(dir, true); err == nil {
		t.Error("a page of no group passes")
	}
	if err := run(dir, false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stray); !os.IsNotExist(err) {
		t.Errorf("the page of no group stays: %v", err)
	}
}
