package sentry

import (
	"strings"
	"testing"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

func TestOutputAndExitCode(t *testing.T) {
	s := spawn(t, []string{"sh", "-c", "echo out; echo err >&2; exit 7"})
	out, errout, exit := s.output()
	if out != "out\n" || errout != "err\n" || exit.Code != 7 || exit.Signal != 0 {
		t.Fatalf("stdout %q stderr %q exit %+v", out, errout, exit)
	}
}

func TestStdinToTheEnd(t *testing.T) {
	s := spawn(t, []string{"wc", "-c"}, func(r *control.SpawnRequest) { r.Process.Stdin = true })
	payload := make([]byte, 300<<10) // More than any pipe holds.
	if err := s.stream.Write(control.FrameStdin, payload); err != nil {
		t.Fatal(err)
	}
	if err := s.stream.Write(control.FrameStdinClose, nil); err != nil {
		t.Fatal(err)
	}
	out, _, exit := s.output()
	if strings.TrimSpace(out) != "307200" || exit.Code != 0 {
		t.Fatalf("stdout %q exit %+v", out, exit)
	}
}

func TestProgramErrors(t *testing.T) {
	for name, want := range map[string]errdefs.Code{
		"nosuch":      errdefs.ProgramNotFound,
		"/bin/nosuch": errdefs.ProgramNotFound,
		"/bin/data":   errdefs.ProgramNotRunable,
		"/bin/script": errdefs.ProgramNotRunable,
		"/bin":        errdefs.ProgramNotRunable,
		"":            errdefs.ProgramNotFound,
	} {
		_, err := trySpawn(t, []string{name})
		if got := errdefs.CodeOf(err); got != want {
			t.Errorf("%q: code %s (%v), want %s", name, got, err, want)
		}
	}
}

func TestAgentSeesOnlyItself(t *testing.T) {
	other := spawn(t, []string{"sleep", "1000"})
	s := spawn(t, []string{"sh", "-c", "echo $$; hostname; ps; touch /bin/mine /tmp/mine"})
	out, _, exit := s.output()
	if exit.Code != 0 || !strings.HasPrefix(out, "1\nbox\n") || strings.Contains(out, "sleep") {
		t.Fatalf("exit %+v, output %q", exit, out)
	}
	o2, _, _ := spawn(t, []string{"ls", "/bin", "/tmp"}).output()
	if strings.Contains(o2, "mine") {
		t.Fatalf("one agent sees the other's files: %q", o2)
	}
	_ = other
}
