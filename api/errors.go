package api

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"aios.dev/aios/errdefs"
)

// ToStatus turns err into a gRPC status error that FromStatus can turn back:
// same code, operation, resource, fix, scope and delay, and the same Error()
// text; causes are flattened into the detail. For clients that know only gRPC,
// an ErrorInfo says what the code means and a RetryInfo when to try again. An
// error without an errdefs code becomes Internal, except that a gRPC status and
// the errors of a context keep their meaning. Long texts are cut.
func ToStatus(err error) error { return toStatus(err, "") }

// toStatus is ToStatus for an error of the request with the given correlation
// ID, which is put into it unless it says another.
func toStatus(err error, correlation string) error {
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
		return toStatus(errdefs.New(errdefs.Cancelled, err.Error()), correlation)
	case errors.Is(err, context.DeadlineExceeded):
		return toStatus(errdefs.New(errdefs.Timeout, err.Error()), correlation)
	default:
		if st, ok := status.FromError(err); ok {
			return st.Err()
		}
	}
	flat, scope := flatten(err), errdefs.ScopeOf(err)
	if scope.Correlation == "" {
		scope.Correlation = correlation
	}
	flat.Scope = &scope
	st, serr := status.New(grpcCode(flat.Code), bounded(err.Error(), maxErrorText)).WithDetails(details(flat)...)
	if serr != nil {
		// Only a codes.OK status refuses details, and none of ours is OK.
		return status.Error(codes.Internal, bounded(err.Error(), maxErrorText))
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
		return &errdefs.Error{Code: errdefs.CodeOf(err), Detail: text, Fix: errdefs.FixOf(err), Delay: errdefs.DelayOf(err)}
	}
	flat := &errdefs.Error{Code: e.Code, Op: e.Op, Resource: e.Resource, Detail: e.Detail, Fix: errdefs.FixOf(err), Delay: errdefs.DelayOf(err)}
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
	if e := fromDetails(st.Details()); e != nil {
		return e
	}
	e := &errdefs.Error{Code: errdefs.Internal, Detail: bounded(st.Message(), maxErrorText)}
	switch st.Code() {
	case codes.Unavailable:
		e.Code, e.Detail = errdefs.DaemonUnreachable, "the daemon went away: "+e.Detail
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
