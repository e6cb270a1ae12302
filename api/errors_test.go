package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	"aios.dev/aios/errdefs"
)

// wire carries err as the transport does: marshalled.
func wire(t interface{ Fatal(...any) }, err error) error {
	st, ok := status.FromError(ToStatus(err))
	if !ok {
		t.Fatal("ToStatus made no status of", err)
	}
	b, merr := proto.Marshal(st.Proto())
	if merr != nil {
		t.Fatal(merr)
	}
	p := status.New(0, "").Proto()
	if merr := proto.Unmarshal(b, p); merr != nil {
		t.Fatal(merr)
	}
	return FromStatus(status.FromProto(p).Err())
}

func TestErrorsCrossTheWireUnchanged(t *testing.T) {
	all := errdefs.Codes()
	text := rapid.StringN(0, 40, 200)
	rapid.Check(t, func(t *rapid.T) {
		e := &errdefs.Error{
			Code:     rapid.SampledFrom(all).Draw(t, "code"),
			Op:       text.Draw(t, "op"),
			Resource: text.Draw(t, "resource"),
			Detail:   text.Draw(t, "detail"),
			Fix:      text.Draw(t, "fix"),
			Delay:    time.Duration(rapid.Int64Range(0, int64(maxRetryDelay)).Draw(t, "delay")),
		}
		if rapid.Bool().Draw(t, "scoped") {
			e.Scope = &errdefs.Scope{Agent: text.Draw(t, "agent"), Domain: text.Draw(t, "domain"), Capability: text.Draw(t, "capability")}
			if rapid.Bool().Draw(t, "correlated") {
				e.Scope.Correlation = errdefs.NewCorrelation()
			}
		}
		if c := text.Draw(t, "cause"); c != "" {
			e.Cause = errors.New(c)
		}
		var err error = e
		for i := rapid.IntRange(0, 2).Draw(t, "wraps"); i > 0; i-- {
			err = fmt.Errorf("outer: %w", err)
		}
		got := wire(t, err)
		var ge *errdefs.Error
		if !errors.As(got, &ge) {
			t.Fatalf("%T came back", got)
		}
		if got.Error() != err.Error() && (err.Error() != string(e.Code)) {
			t.Errorf("text %q became %q", err, got)
		}
		if errdefs.CodeOf(got) != errdefs.CodeOf(err) || errdefs.FixOf(got) != errdefs.FixOf(err) || errdefs.ExitOf(got) != errdefs.ExitOf(err) {
			t.Errorf("%#v became %#v", err, got)
		}
		if errdefs.ScopeOf(got) != errdefs.ScopeOf(err) || errdefs.RetryOf(got) != errdefs.RetryOf(err) {
			t.Errorf("%+v, %+v became %+v, %+v", errdefs.ScopeOf(err), errdefs.RetryOf(err), errdefs.ScopeOf(got), errdefs.RetryOf(got))
		}
		if _, direct := err.(*errdefs.Error); direct && (ge.Op != e.Op || ge.Resource != e.Resource) {
			t.Errorf("op %q, resource %q became %q, %q", e.Op, e.Resource, ge.Op, ge.Resource)
		}
	})
}

func TestEveryCodeHasAStatus(t *testing.T) {
	for _, c := range errdefs.Codes() {
		g := codes.Code(errdefs.InfoOf(c).GRPC)
		if strings.HasPrefix(g.String(), "Code(") || g == codes.OK || g == codes.Unknown {
			t.Errorf("%s maps to %v", c, g)
		}
		if got := status.Code(ToStatus(c)); got != g {
			t.Errorf("a bare %s becomes %v, want %v", c, got, g)
		}
	}
}

func TestEveryCodeComesBack(t *testing.T) {
	for _, c := range errdefs.Codes() {
		e := errdefs.New(c, "detail", errdefs.Op("op"), errdefs.Resource("r"), errdefs.Fix("fix"), errdefs.Agent("a"),
			errdefs.Domain("d"), errdefs.Capability("c1"), errdefs.Correlation("0123456789abcdef"))
		if got := wire(t, e); !reflect.DeepEqual(got, error(e)) {
			t.Errorf("%#v became %#v", e, got)
		}
	}
}

// TestForeignClientsSeeTheTable looks at a status as a client that knows gRPC
// but not AIOS.
func TestForeignClientsSeeTheTable(t *testing.T) {
	st := status.Convert(ToStatus(errdefs.New(errdefs.RateLimited, "slow down", errdefs.Agent("a"), errdefs.Delay(2*time.Second))))
	var info *errdetails.ErrorInfo
	var retry *errdetails.RetryInfo
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			info = d
		case *errdetails.RetryInfo:
			retry = d
		}
	}
	want := map[string]string{"category": "io", "severity": "notice", "blame": "agent", "retry": "after-delay", "agent": "a", "detail": "slow down"}
	if info.GetReason() != "RATE_LIMITED" || info.GetDomain() != "aios" || !maps.Equal(info.GetMetadata(), want) {
		t.Errorf("info %v", info)
	}
	if retry.GetRetryDelay().AsDuration() != 2*time.Second || st.Code() != codes.ResourceExhausted {
		t.Errorf("%s, retry %v", st.Code(), retry)
	}
	if n := len(status.Convert(ToStatus(errdefs.NotFound)).Details()); n != 1 {
		t.Errorf("trying again does not help, but there are %d details", n)
	}
}

func TestHostileErrorInfo(t *testing.T) {
	from := func(details ...protoadapt.MessageV1) *errdefs.Error {
		st, err := status.New(codes.NotFound, "text").WithDetails(details...)
		if err != nil {
			t.Fatal(err)
		}
		return FromStatus(st.Err()).(*errdefs.Error)
	}
	for _, reason := range []string{"", "lower", "A__B", "A\nB", strings.Repeat("A", 64)} {
		if e := from(&errdetails.ErrorInfo{Reason: reason, Domain: errorDomain}); e.Code != errdefs.Internal || e.Detail != "text" {
			t.Errorf("%q is taken for a code: %#v", reason, e)
		}
	}
	e := from(&errdetails.ErrorInfo{Reason: "RATE_LIMITED", Domain: errorDomain, Metadata: map[string]string{
		"agent": strings.Repeat("x", 1<<20), "correlation": "\x1b[2J",
	}}, &errdetails.RetryInfo{RetryDelay: durationpb.New(1 << 62)}, &errdetails.ErrorInfo{Reason: "INTERNAL", Domain: errorDomain})
	if s := errdefs.ScopeOf(e); len(s.Agent) != maxErrorName || s.Correlation != "" || e.Code != errdefs.RateLimited || e.Delay != maxRetryDelay {
		t.Errorf("%s, correlation %q, agent of %d bytes, delay %s", e.Code, s.Correlation, len(s.Agent), e.Delay)
	}
}

// FuzzFromStatus feeds FromStatus whatever a peer can put on the wire.
func FuzzFromStatus(f *testing.F) {
	for _, err := range []error{
		errdefs.New(errdefs.RateLimited, "slow", errdefs.Agent("a"), errdefs.Correlation("0123456789abcdef"), errdefs.Delay(time.Second)),
		errdefs.New(errdefs.HostIO, "read", errdefs.Fix("look")),
		status.Error(codes.Unavailable, "gone"),
	} {
		b, merr := proto.Marshal(status.Convert(ToStatus(err)).Proto())
		if merr != nil {
			f.Fatal(merr)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p := status.New(0, "").Proto()
		if proto.Unmarshal(b, p) != nil || p.GetCode() == int32(codes.OK) {
			return
		}
		e, ok := FromStatus(status.FromProto(p).Err()).(*errdefs.Error)
		if !ok || len(e.Code) > maxCode || !codeForm.MatchString(string(e.Code)) {
			t.Fatalf("%#v", e)
		}
		if e.Delay < 0 || e.Delay > maxRetryDelay {
			t.Errorf("delay %s", e.Delay)
		}
		s := errdefs.ScopeOf(e)
		if s.Correlation != "" && !errdefs.ValidCorrelation(s.Correlation) {
			t.Errorf("correlation %q", s.Correlation)
		}
		for _, text := range []string{s.Agent, s.Domain, s.Capability, e.Op, e.Resource, e.Fix} {
			if len(text) > maxErrorText || !utf8.ValidString(text) {
				t.Errorf("%d bytes, valid %v", len(text), utf8.ValidString(text))
			}
		}
		again, ok := FromStatus(ToStatus(e)).(*errdefs.Error)
		if !ok || again.Code != e.Code || errdefs.ScopeOf(again) != s || errdefs.RetryOf(again) != errdefs.RetryOf(e) {
			t.Errorf("%#v became %#v", e, again)
		}
	})
}

func TestErrorsFromElsewhere(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want errdefs.Code
	}{
		{errors.New("surprise"), errdefs.Internal},
		{fmt.Errorf("read: %w", context.Canceled), errdefs.Cancelled},
		{context.DeadlineExceeded, errdefs.Timeout},
		{status.Error(codes.Unavailable, "gone"), errdefs.DaemonUnreachable},
		{status.Error(codes.Unimplemented, "what?"), errdefs.ProtocolVersion},
		{status.Error(codes.ResourceExhausted, "too large"), errdefs.Protocol},
		{errdefs.DiskFull, errdefs.DiskFull},
		{errdefs.New("FROM_THE_FUTURE", "new"), "FROM_THE_FUTURE"},
	} {
		if got := errdefs.CodeOf(wire(t, tc.err)); got != tc.want {
			t.Errorf("%v came back as %s, want %s", tc.err, got, tc.want)
		}
	}
	if ToStatus(nil) != nil || FromStatus(nil) != nil || FromStatus(io.EOF) != io.EOF {
		t.Error("nil or the end of a stream became an error")
	}
}

func TestHugeAndBrokenTextsAreBounded(t *testing.T) {
	e := errdefs.New(errdefs.Internal, strings.Repeat("é", 1<<20), errdefs.Fix("\xff\xfe"), errdefs.Op(strings.Repeat("x", 1<<20)))
	var got *errdefs.Error
	if !errors.As(wire(t, e), &got) {
		t.Fatal("no *errdefs.Error came back")
	}
	for _, s := range []string{got.Op, got.Detail, got.Fix} {
		if len(s) > maxErrorText || !utf8.ValidString(s) {
			t.Errorf("%d bytes, valid %v", len(s), utf8.ValidString(s))
		}
	}
	if !strings.HasSuffix(got.Detail, "…") || !strings.HasPrefix(got.Detail, "éé") {
		t.Errorf("the cut does not show: %.20q", got.Detail)
	}
}
