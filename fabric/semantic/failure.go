package semantic

import (
	"errors"

	"aios.dev/aios/errdefs"
)

// Failure is a refusal as it travels.
type Failure struct {
	Code     errdefs.Code `json:"code"`
	Message  string       `json:"message"`
	Op       string       `json:"op,omitempty"`
	Resource string       `json:"resource,omitempty"`
	Fix      string       `json:"fix,omitempty"`
}

// FailureOf returns how an error travels.
func FailureOf(err error) *Failure {
	f := &Failure{Code: errdefs.CodeOf(err), Message: err.Error(), Fix: errdefs.FixOf(err)}
	if e, ok := errors.AsType[*errdefs.Error](err); ok && e.Detail != "" {
		f.Message, f.Op, f.Resource = e.Detail, e.Op, e.Resource
	}
	return f
}

// Err is the refusal that has arrived.
func (f *Failure) Err() error {
	code := f.Code
	if !errdefs.Known(code) {
		code = errdefs.Internal
	}
	return errdefs.New(code, f.Message, errdefs.Op(f.Op), errdefs.Resource("%s", f.Resource), errdefs.Fix("%s", f.Fix))
}

// Answer is what the service sends: a reply or a failure.
type Answer struct {
	Reply *Reply   `json:"reply,omitempty"`
	Error *Failure `json:"error,omitempty"`
}
