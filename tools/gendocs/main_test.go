package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aios.dev/aios/errdefs"
)

func TestErrorCodesSpeaksOfEveryCode(t *testing.T) {
	text := errorCodes()
	for _, c := range errdefs.Codes() {
		if strings.Count(text, "\n| `"+string(c)+"` |") != 1 || strings.Count(text, "**"+string(c)+"**: ") != 1 {
			t.Errorf("%s is not there once", c)
		}
	}
}

func TestPagesAreFilledAndChecked(t *testing.T) {
	dir := t.TempDir()
	page := filepath.Join(dir, "errors.md")
	write := func(text string) {
		if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for page, name := range map[string]string{"hooks.md": "operations of hooks", "fabric.md": "ioctls of regions"} {
		if err := os.WriteFile(filepath.Join(dir, page), []byte("<!-- generated: "+name+" -->\n<!-- end -->\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const head, tail = "# Head\n\n<!-- generated: other -->\nkept\n<!-- end -->\n", "\n\ntail\n"
	const frame = head + "<!-- generated: error codes -->\nobsolete words\n<!-- end -->" + tail
	write(frame)
	if err := run(dir, true); err == nil || !strings.Contains(err.Error(), "make generate") {
		t.Errorf("an old page passes: %v", err)
	}
	if err := run(dir, false); err != nil {
		t.Fatal(err)
	}
	if err := run(dir, true); err != nil {
		t.Errorf("a page that was just written: %v", err)
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if s := string(got); !strings.HasPrefix(s, head) || !strings.HasSuffix(s, "<!-- end -->"+tail) || strings.Contains(s, "obsolete words") || !strings.Contains(s, "`TIMEOUT`") {
		t.Errorf("wrote %.200s", s)
	}
	for text, want := range map[string]string{
		"no place":                          "has no line",
		"<!-- generated: error codes -->\n": "has no <!-- end -->",
	} {
		write(text)
		if err := run(dir, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
