package errdefs

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"testing"
)

func TestEveryCodeIsWellFormed(t *testing.T) {
	form := regexp.MustCompile(`^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$`)
	for _, c := range Codes() {
		if !form.MatchString(string(c)) || len(c) > 63 {
			t.Errorf("code %q is not UPPER_SNAKE of at most 63 characters", c)
		}
		if i := InfoOf(c); i.Meaning == "" || i.Exit == 0 {
			t.Errorf("code %q has no meaning or exit status: %+v", c, i)
		}
	}
}

func TestErrorReadsAsASentence(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want string
	}{
		{New(AgentNotFound, "no such agent", Op("kill agent"), Resource("a-%d", 7)), "kill agent a-7: no such agent"},
		{New(Internal, "", Op("boot")), "boot"},
		{New(Internal, ""), "INTERNAL"},
		{Wrap(fs.ErrNotExist, HostIO, "open image", Resource("x")), "open image x: file does not exist"},
	} {
		if got := tc.err.Error(); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}

func TestWrapKeepsTheInnermostReason(t *testing.T) {
	inner := New(ProgramNotFound, "no such program", Fix("check PATH"))
	err := Wrap(fmt.Errorf("load: %w", inner), Internal, "spawn agent")
	if got := CodeOf(err); got != ProgramNotFound {
		t.Errorf("CodeOf = %s, want %s", got, ProgramNotFound)
	}
	if !errors.Is(err, ProgramNotFound) || errors.Is(err, AgentNotFound) {
		t.Error("errors.Is does not follow the code")
	}
	if FixOf(err) != "check PATH" || ExitOf(err) != 127 {
		t.Errorf("fix %q, exit %d", FixOf(err), ExitOf(err))
	}
	if Wrap(nil, Internal, "x") != nil {
		t.Error("Wrap(nil) is not nil")
	}
	if CodeOf(errors.New("x")) != Internal || CodeOf(nil) != "" || ExitOf(nil) != 0 {
		t.Error("errors from elsewhere, or nil, have the wrong code")
	}
}
