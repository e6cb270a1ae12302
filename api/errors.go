package api

import (
	"context"
	"errors"
	"io"
	"strings"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"aios.dev/aios/errdefs"
)

// errorDomain marks an ErrorInfo as ours.
const errorDomain = "aios"

// maxErrorField bounds each text of an error on the wire: statuses travel in
// HTTP/2 headers.
const maxErrorField = 4 << 10

// ToStatus turns err into a gRPC status error that FromStatus can turn back:
// same code, operation, resource and fix, and the same Error() text; causes
// are flattened into the detail. An error without an errdefs code becomes
// Internal, except that a gRPC status and the errors of a context keep their
// meaning. Texts longer than 4 KiB are cut.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	var (
		e *errdefs.Error
		c errdefs.Code
	)
	switch {
	case errors.As(err, &e), errors.As(err, &c):
	case errors.Is(err, context.Canceled):
		return ToStatus(errdefs.New(errdefs.Cancelled, err.Error()))
	case errors.Is(err, context.DeadlineExceeded):
		return ToStatus(errdefs.New(errdefs.Timeout, err.Error()))
	default:
		if st, ok := status.FromError(err); ok {
			return st.Err()
		}
	}
	flat := flatten(err)
	meta := make(map[string]string, 4)
	for k, v := range map[string]string{"op": flat.Op, "resource": flat.Resource, "detail": flat.Detail, "fix": flat.Fix} {
		if v != "" {
			meta[k] = bounded(v)
		}
	}
	st, serr := status.New(grpcCode(flat.Code), bounded(err.Error())).WithDetails(&errdetails.ErrorInfo{
		Reason: bounded(string(flat.Code)), Domain: errorDomain, Metadata: meta,
	})
	if serr != nil {
		// Only a codes.OK status refuses details, and none of ours is OK.
		return status.Error(codes.Internal, bounded(err.Error()))
	}
	return st.Err()
}

// grpcCode is the status that goes with a code; codes of a newer release have
// none that is known here.
func grpcCode(c errdefs.Code) codes.Code {
	if !errdefs.Known(c) {
		return codes.Unknown
	}
	return codes.Code(errdefs.InfoOf(c).GRPC)
}

// flatten folds the chain below err into one Error with the same text.
func flatten(err error) *errdefs.Error {
	e, ok := err.(*errdefs.Error)
	if !ok {
		text := err.Error()
		if c, isCode := err.(errdefs.Code); isCode && text == string(c) {
			text = "" // The code says it all.
		}
		return &errdefs.Error{Code: errdefs.CodeOf(err), Detail: text, Fix: errdefs.FixOf(err)}
	}
	flat := &errdefs.Error{Code: e.Code, Op: e.Op, Resource: e.Resource, Detail: e.Detail, Fix: errdefs.FixOf(err)}
	if e.Cause != nil {
		if flat.Detail != "" {
			flat.Detail += ": "
		}
		flat.Detail += e.Cause.Error()
	}
	return flat
}

// FromStatus turns the error of a call into an *errdefs.Error. A status that
// ToStatus made comes back as it was; one that the transport made is named
// after what it means to a client. nil and io.EOF, the end of a stream, stay
// what they are.
func FromStatus(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	st, ok := status.FromError(err)
	if !ok {
		st = status.FromContextError(err)
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == errorDomain {
			m := info.GetMetadata()
			return &errdefs.Error{
				Code: errdefs.Code(info.GetReason()),
				Op:   m["op"], Resource: m["resource"], Detail: m["detail"], Fix: m["fix"],
			}
		}
	}
	e := &errdefs.Error{Code: errdefs.Internal, Detail: st.Message()}
	switch st.Code() {
	case codes.Unavailable:
		e.Code, e.Detail = errdefs.DaemonUnreachable, "the daemon went away: "+st.Message()
		e.Fix = "try again: that starts the daemon anew, and agents go on running in between"
	case codes.Canceled:
		e.Code = errdefs.Cancelled
	case codes.DeadlineExceeded:
		e.Code = errdefs.Timeout
	case codes.PermissionDenied, codes.Unauthenticated:
		e.Code = errdefs.Denied
	case codes.Unimplemented:
		e.Code, e.Fix = errdefs.ProtocolVersion, "the daemon is older than this client: restart it with `aiosctl daemon stop`; agents go on running"
	case codes.ResourceExhausted:
		e.Code = errdefs.Protocol
	}
	return e
}

// bounded returns s as valid UTF-8 of at most maxErrorField bytes.
func bounded(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxErrorField {
		return s
	}
	const ellipsis = "…"
	cut := maxErrorField - len(ellipsis)
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + ellipsis
}
