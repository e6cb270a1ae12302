package aios

import (
	"os"
	"path/filepath"
	"reflect"
	"syscall"
	"testing"
)

func said(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "self", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A regular file does not answer as the kernel does: what was written is what is
// read.
func TestReadyWithoutTemplate(t *testing.T) {
	useFiles(t, map[string]string{"template": "none\n"})
	j, err := Ready()
	if err != nil || j.Template != "" || !reflect.DeepEqual(j.Args, os.Args[1:]) {
		t.Errorf("%+v, %v", j, err)
	}
	if got := said(t, "template")[:5]; got != "ready" {
		t.Errorf("it wrote %q", got)
	}
}

func TestApply(t *testing.T) {
	args, dir := os.Args, t.TempDir()
	t.Cleanup(func() { os.Args = args })
	t.Setenv("AIOS_JOB", "")
	t.Chdir(".")
	if err := (Job{Args: []string{"a", "b"}, Env: map[string]string{"AIOS_JOB": "x"}, Cwd: dir}).Apply(); err != nil {
		t.Fatal(err)
	}
	wd, _ := os.Getwd()
	if len(os.Args) != 3 || os.Args[2] != "b" || os.Getenv("AIOS_JOB") != "x" || wd != dir {
		t.Errorf("%q, %q, in %s", os.Args, os.Getenv("AIOS_JOB"), wd)
	}
	if err := (Job{Cwd: filepath.Join(dir, "none")}).Apply(); err == nil {
		t.Error("a directory that is not there is no error")
	}
}

func TestCopies(t *testing.T) {
	for text, want := range map[string]struct {
		n    uint64
		from string
		ok   bool
	}{"0 -\n": {0, "", true}, "3 a0123456789ab\n": {3, "a0123456789ab", true}, "": {}, "many\n": {}} {
		useFiles(t, map[string]string{"clones": text})
		n, from, err := Copies()
		if n != want.n || from != want.from || (err == nil) != want.ok {
			t.Errorf("%q: %d, %q, %v", text, n, from, err)
		}
	}
}

func TestNotifyCopy(t *testing.T) {
	useFiles(t, map[string]string{"clones": ""})
	c := make(chan os.Signal, 1)
	if err := NotifyCopy(c); err != nil {
		t.Fatal(err)
	}
	if got := said(t, "clones"); got != "signal" {
		t.Errorf("it wrote %q", got)
	}
	if err := syscall.Kill(os.Getpid(), SignalCloned); err != nil {
		t.Fatal(err)
	}
	if got := <-c; got != SignalCloned {
		t.Errorf("got %v", got)
	}
}
