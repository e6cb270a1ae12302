package sentry

import (
	"testing"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/sched"
)

// TestHints says from inside and from outside what an agent does.
func TestHints(t *testing.T) {
	s := spawn(t, []string{"sleep", "1000"})
	if got := mustRun(t, s, "cat /aios/self/hint; echo interactive > /aios/self/hint; cat /aios/self/hint"); got != "none\ninteractive\n" {
		t.Errorf("inside: %q", got)
	}
	a := limited(t, s)
	if h := a.crowd.Group().Hint(); h != sched.HintInteractive {
		t.Errorf("the scheduler knows %v", h)
	}
	if r, err := theKernel.Hint(control.HintRequest{ID: s.id, Hint: "batch"}); err != nil || r.Hint != "batch" {
		t.Errorf("%+v %v", r, err)
	}
	_, err := theKernel.Hint(control.HintRequest{ID: s.id, Hint: "fast"})
	wantCode(t, err, errdefs.InvalidArgument)
	if errdefs.FixOf(err) == "" {
		t.Error(err)
	}
	if _, _, exit := s.execIn(sh("echo faster > /aios/self/hint")).output(); exit.Code == 0 {
		t.Error("a hint that is none was taken")
	}
	if got := mustRun(t, s, "cat /aios/self/hint"); got != "batch\n" {
		t.Errorf("then %q", got)
	}
}
