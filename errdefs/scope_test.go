package errdefs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestScopeGathersAlongTheChain(t *testing.T) {
	inner := New(CapabilityDenied, "no", Agent("a-1"), Capability("c1"))
	outer := Wrap(fmt.Errorf("gate: %w", inner), Internal, "open", Agent("a-2"), Domain("main"), Correlation("r"))
	want := Scope{Agent: "a-1", Domain: "main", Capability: "c1", Correlation: "r"}
	if got := ScopeOf(outer); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if ScopeOf(nil) != (Scope{}) || ScopeOf(errors.New("x")) != (Scope{}) || New(Internal, "x").Scope != nil {
		t.Error("nobody said whom it concerns, and yet")
	}
}

func TestWithDoesNotChangeTheOriginal(t *testing.T) {
	a := New(CapabilityDenied, "no", Agent("a-1"))
	b := a.With(Domain("main"), Delay(time.Second))
	if a.Scope.Domain != "" || a.Delay != 0 || b.Scope.Agent != "a-1" || b.Scope.Domain != "main" {
		t.Errorf("%+v became %+v", a.Scope, b.Scope)
	}
}

func TestAnErrorWithoutScopeCostsOneAllocation(t *testing.T) {
	var sink error
	if n := testing.AllocsPerRun(100, func() { sink = New(CapabilityDenied, "no") }); n > 1 {
		t.Errorf("%v allocations for %v", n, sink)
	}
}

func TestRetryOf(t *testing.T) {
	late := New(RateLimited, "slow down", Delay(3*time.Second))
	for _, tc := range []struct {
		err  error
		want Retry
	}{
		{nil, Retry{}},
		{errors.New("x"), Retry{}},
		{NotFound, afterChange},
		{DomainDied, atOnce},
		{RateLimited, InfoOf(RateLimited).Retry},
		{Wrap(late, Internal, "read"), after(3*time.Second, 8)},
		{Wrap(late, Internal, "read", Delay(time.Second)), after(time.Second, 8)},
		{New(InvalidArgument, "x", Delay(time.Second)), afterChange},
	} {
		if got := RetryOf(tc.err); got != tc.want {
			t.Errorf("%v: got %+v, want %+v", tc.err, got, tc.want)
		}
	}
}

func TestErrno(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want syscall.Errno
	}{
		{nil, 0},
		{CapabilityDenied, syscall.EPERM},
		{New(BudgetExhausted, "x"), syscall.EDQUOT},
		{New(CapabilityDenied, "x", Cause(syscall.EACCES)), syscall.EACCES},
		{New("FROM_THE_FUTURE", "x", Cause(syscall.EACCES)), syscall.EIO},
		{Wrap(&os.PathError{Op: "open", Path: "/etc", Err: syscall.ELOOP}, HostIO, "x"), syscall.EIO},
		{fmt.Errorf("read: %w", syscall.EAGAIN), syscall.EAGAIN},
		{errors.New("surprise"), syscall.EIO},
	} {
		if got := Errno(tc.err); got != tc.want {
			t.Errorf("%v: got %v, want %v", tc.err, got, tc.want)
		}
	}
	for _, c := range Codes() {
		if got := Errno(New(c, "x")); got != InfoOf(c).Errno {
			t.Errorf("%s: got %v", c, got)
		}
	}
}

func TestPublicShowsNoMoreThanTheCodeAllows(t *testing.T) {
	const secret = "/srv/secret"
	host := &fs.PathError{Op: "open", Path: secret, Err: syscall.EACCES}
	for _, tc := range []struct {
		err  error
		code Code
		text string
	}{
		{New(CapabilityDenied, "not below /data", Op("open"), Resource("/etc"), Fix("grant fs:/etc:ro"), Cause(host)), CapabilityDenied, "open /etc: not below /data"},
		{Wrap(New(AgentNotFound, "no agent"), Internal, "signal"), AgentNotFound, "signal: no agent"},
		{New(HostIO, "read", Op("read"), Resource(secret), Cause(host), Fix("look at "+secret)), HostIO, InfoOf(HostIO).Meaning},
		{New(DomainDied, "it ended", Cause(New(HostIO, secret))), DomainDied, "it ended: " + InfoOf(HostIO).Meaning},
		{New(TokenRevoked, "ID "+secret), TokenInvalid, InfoOf(TokenInvalid).Meaning},
		{New(CapabilityDenied, "no", Cause(New(AudienceMismatch, secret))), CapabilityDenied, "no: " + InfoOf(TokenInvalid).Meaning},
		{host, Internal, InfoOf(Internal).Meaning},
		{fmt.Errorf("%s: %w", secret, NotFound), NotFound, InfoOf(NotFound).Meaning},
		{fmt.Errorf("%s: %w", secret, New(NotFound, "no file")), NotFound, "no file"},
	} {
		got := Public(Wrap(tc.err, Internal, "", Correlation("0123456789abcdef")))
		if e, ok := tc.err.(*Error); !ok || e == nil {
			got = Public(tc.err)
		} else if got.Scope == nil || *got.Scope != (Scope{Correlation: "0123456789abcdef"}) {
			t.Errorf("%v: the request got lost: %+v", tc.err, got.Scope)
		}
		if text := strings.TrimPrefix(got.Error(), ": "); got.Code != tc.code || text != tc.text || strings.Contains(got.Fix, secret) {
			t.Errorf("%v: got %s %q, fix %q", tc.err, got.Code, text, got.Fix)
		}
	}
	if Public(nil) != nil {
		t.Error("nil became an error")
	}
}
