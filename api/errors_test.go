package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
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
		if len(s) > maxErrorField || !utf8.ValidString(s) {
			t.Errorf("%d bytes, valid %v", len(s), utf8.ValidString(s))
		}
	}
	if !strings.HasSuffix(got.Detail, "…") || !strings.HasPrefix(got.Detail, "éé") {
		t.Errorf("the cut does not show: %.20q", got.Detail)
	}
}
