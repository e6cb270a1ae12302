package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/config"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// script writes a shell script.
func script(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestProgram(t *testing.T) {
	t.Setenv("AIOS_TEST_SECRET", "of the daemon")
	for _, tc := range []struct {
		name, script   string
		code           int
		errCode        errdefs.Code
		reason, output string
	}{
		{"it works", "cat; echo err >&2", 0, "", "err", "in"},
		{"the environment is its own", "echo $A-$AIOS_TEST_SECRET-$PWD; cat >/dev/null", 0, "", "", "b--/"},
		{"it does not read", "exit 0", 0, "", "", ""},
		{"it refuses", "echo one >&2; echo two >&2; exit 3", 3, errdefs.HostIO, "two", "two"},
		{"empty lines are none", "printf 'said\\n\\n  \\n' >&2; exit 1", 1, errdefs.HostIO, "said", "said"},
		{"it is killed", "kill -9 $$", -1, errdefs.HostIO, "", ""},
		{"it hangs", "sleep 1000", -1, errdefs.Timeout, "", ""},
		{"what it leaves behind does not count", "sleep 1000 & exit 0", 0, "", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			began := ktime.Real.Now()
			p := program{command: []string{script(t, tc.script)}, env: []string{"A=b"}, stdin: []byte("in\n"), timeout: 2 * time.Second}
			end, err := p.run(context.Background(), ktime.Real)
			if (err != nil) != (tc.errCode != "") || err != nil && errdefs.CodeOf(err) != tc.errCode || end.code != tc.code {
				t.Errorf("%v; %+v", err, end)
			}
			if end.reason != tc.reason || !strings.Contains(end.output, tc.output) {
				t.Errorf("%+v", end)
			}
			if took := ktime.Real.Since(began); took > 8*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
	gone := program{command: []string{filepath.Join(t.TempDir(), "gone")}, timeout: time.Second}
	if end, err := gone.run(context.Background(), ktime.Real); errdefs.CodeOf(err) != errdefs.HostIO || end.code != -1 {
		t.Errorf("a program that is not there: %v; %+v", err, end)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ktime.Real.AfterFunc(50*time.Millisecond, cancel)
	slow := program{command: []string{script(t, "sleep 1000")}, timeout: time.Minute}
	if _, err := slow.run(ctx, ktime.Real); errdefs.CodeOf(err) != errdefs.Cancelled {
		t.Errorf("the caller gave up: %v", err)
	}
}

func TestLastLine(t *testing.T) {
	long := strings.Repeat("x", 2*maxLine)
	for text, want := range map[string]string{
		"":                "",
		"\n\n":            "",
		"a":               "a",
		"a\nb":            "b",
		"a\n  b\t\n\n \n": "b",
		"a\n" + long:      long[:maxLine],
		long + "\nb\n":    "b",
		"a\xffb\n":        "a\uFFFDb",
	} {
		for _, size := range []int{1, 2, 3, 4096} { // However it comes.
			var l lastLine
			for rest := text; rest != ""; {
				n := min(size, len(rest))
				fmt.Fprint(&l, rest[:n])
				rest = rest[n:]
			}
			if got := l.String(); got != want {
				t.Errorf("%.20q in pieces of %d: %.20q", text, size, got)
			}
		}
	}
}

func TestCheckProgram(t *testing.T) {
	good := script(t, "")
	writable, plain := script(t, ""), script(t, "")
	for path, mode := range map[string]os.FileMode{writable: 0o775, plain: 0o644} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := config.CheckProgram(good); err != nil {
		t.Error(err)
	}
	for path, want := range map[string]string{
		good + "x": "no such file", writable: "can be changed by others", plain: "is no program", t.TempDir(): "is no program",
	} {
		if err := config.CheckProgram(path); errdefs.CodeOf(err) != errdefs.InvalidArgument || !strings.Contains(err.Error(), want) || errdefs.FixOf(err) == "" {
			t.Errorf("%s: %v", path, err)
		}
	}
}
