package errdefs

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"testing"
)

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

var codeForm = regexp.MustCompile(`^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$`)

// TestTable holds the table to rules that follow from what its columns mean.
func TestTable(t *testing.T) {
	used := make(map[Category]bool)
	for _, c := range Codes() {
		i := InfoOf(c)
		used[i.Category] = true
		bad := func(format string, args ...any) { t.Errorf("%s: "+format, append([]any{c}, args...)...) }
		if !codeForm.MatchString(string(c)) || len(c) > 63 {
			bad("not UPPER_SNAKE of at most 63 characters")
		}
		if i.Meaning == "" || i.Why == "" || i.Do == "" || i.Exit == 0 || i.Errno == 0 || i.GRPC == 0 {
			bad("a column is empty: %+v", i)
		}
		if r := i.Retry; (r.When == AfterDelay) != (r.Delay > 0) || (r.When == AfterDelay || r.When == AtOnce) != (r.Limit > 0) {
			bad("delay and limit do not go with %s: %+v", r.When, r)
		}
		if (i.Propagation == Translate) != (i.ShownAs != "") {
			bad("shown as %q, but to %s", i.ShownAs, i.Propagation)
		}
		if i.ShownAs != "" && (!Known(i.ShownAs) || InfoOf(i.ShownAs).Propagation == Translate || InfoOf(i.ShownAs).Errno != i.Errno) {
			bad("%s does not hide it: the errno tells them apart, or it has to be translated itself", i.ShownAs)
		}
		if i.Severity >= Warning && i.Escalation&TellOperator == 0 {
			bad("a %s that no operator is told of", i.Severity)
		}
		if i.Severity >= Failure && i.Escalation&TellLog == 0 {
			bad("a %s that is not logged", i.Severity)
		}
		if i.Category == CategoryCapability && i.Severity >= Warning && i.Escalation&TellAudit == 0 {
			bad("a refusal that is not in the audit trail")
		}
		if i.Blame == BlameHost && i.Severity >= Failure && i.Category != CategoryDomain && i.Propagation == Expose {
			bad("its text speaks of the host, and an agent may read it")
		}
	}
	for _, c := range Categories() {
		if !used[c] {
			t.Errorf("category %s has no code", c)
		}
	}
	if len(used) != len(Categories()) {
		t.Errorf("codes are of %d categories, people can read %d", len(used), len(Categories()))
	}
}

func TestCodesAreSortedByCategory(t *testing.T) {
	all := Codes()
	if all[0] != AlreadyExists || all[len(all)-1] != Internal {
		t.Errorf("from %s to %s", all[0], all[len(all)-1])
	}
	if Known("FROM_THE_FUTURE") || InfoOf("FROM_THE_FUTURE") != InfoOf(Internal) {
		t.Error("an unknown code does not count as internal")
	}
}

func TestNamesOfTheColumns(t *testing.T) {
	for got, want := range map[string]string{
		Critical.String():                 "critical",
		BlameAgent.String():               "agent",
		AfterChange.String():              "after-change",
		Translate.String():                "translate",
		Escalation(0).String():            "caller",
		(TellLog | TellAudit).String():    "caller+log+audit",
		Escalation(TellOperator).String(): "caller+operator",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
