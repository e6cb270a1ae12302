// Package errdefs is the language in which AIOS refuses.
//
// Every error that leaves a package of AIOS is an *Error: a stable Code that
// programs compare, a sentence that people read, what to do about it, whom it
// concerns, and the error beneath it. A Code belongs to exactly one row of the
// table (an Info), which says what kind of failure it is, how bad, who is at
// fault, whether trying again helps, what may be shown to whom, who else is
// told, and what it is called elsewhere: as an errno inside an agent, as a
// status on the wire, as the exit status of a command.
//
// A correlation ID follows one request from the client through every process
// that works on it; it travels in a context.Context and in the Scope of
// errors. A Recorder keeps the recent errors of a process and counts those
// that repeat.
//
// An *Error is immutable once it has been returned; it may be shared between
// goroutines. The package imports only the standard library, so that every
// other package can use it; the only lock is that of a Recorder, under which
// nothing else is called.
package errdefs

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Error is one refusal or failure.
type Error struct {
	Code Code
	// Op is what was attempted, as a short phrase: "spawn agent".
	Op string
	// Resource is what it was attempted on: an agent, a path, an image.
	Resource string
	// Detail says what was wrong, without repeating Op and Resource.
	Detail string
	// Fix says what the reader can do; empty when nothing is known to help.
	Fix string
	// Cause is the error beneath, or nil.
	Cause error
	// Delay is how long to wait before trying again, where this occasion knows
	// better than the table; otherwise 0.
	Delay time.Duration
	// Scope says whom the failure concerns; nil when nobody said.
	Scope *Scope
}

// Option adds context to an Error under construction.
type Option func(*Error)

// Op names the attempted operation.
func Op(op string) Option { return func(e *Error) { e.Op = op } }

// Resource names the object of the operation.
func Resource(format string, args ...any) Option {
	return func(e *Error) { e.Resource = sprintf(format, args) }
}

// Fix tells the reader what to do.
func Fix(format string, args ...any) Option {
	return func(e *Error) { e.Fix = sprintf(format, args) }
}

// Cause records the error beneath.
func Cause(err error) Option { return func(e *Error) { e.Cause = err } }

// Delay says how long to wait before trying again.
func Delay(d time.Duration) Option { return func(e *Error) { e.Delay = d } }

// New returns an Error with the given code and detail.
func New(code Code, detail string, opts ...Option) *Error {
	e := &Error{Code: code, Detail: detail}
	for _, o := range opts {
		o(e)
	}
	return e
}

// Newf is New with a formatted detail. A trailing %w is not interpreted; pass
// Cause through Wrap instead.
func Newf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// Wrap gives err a code and says what was attempted. It returns nil when err
// is nil. When err already carries an *Error, its code, fix and resource are
// kept unless opts override them, so that the innermost layer that knew the
// reason is the one the reader hears.
func Wrap(err error, code Code, op string, opts ...Option) error {
	if err == nil {
		return nil
	}
	e := &Error{Code: code, Op: op, Cause: err}
	var inner *Error
	if errors.As(err, &inner) {
		e.Code, e.Fix = inner.Code, inner.Fix
	}
	for _, o := range opts {
		o(e)
	}
	return e
}

// With returns a copy of e with further context.
func (e *Error) With(opts ...Option) *Error {
	c := *e
	for _, o := range opts {
		o(&c)
	}
	return &c
}

// Error says what was attempted on what, and what was wrong; the fix is left
// to the caller, which knows where to show it.
func (e *Error) Error() string {
	var parts []string
	switch {
	case e.Op != "" && e.Resource != "":
		parts = append(parts, e.Op+" "+e.Resource)
	case e.Op != "" || e.Resource != "":
		parts = append(parts, e.Op+e.Resource)
	}
	if e.Detail != "" {
		parts = append(parts, e.Detail)
	}
	if e.Cause != nil {
		parts = append(parts, e.Cause.Error())
	}
	if len(parts) == 0 {
		return string(e.Code)
	}
	return strings.Join(parts, ": ")
}

// Unwrap returns the error beneath.
func (e *Error) Unwrap() error { return e.Cause }

// Is reports whether target is a Code-only error with the same code, which
// makes errors.Is(err, errdefs.NotFound) work.
func (e *Error) Is(target error) bool {
	c, ok := target.(Code)
	return ok && c == e.Code
}

// CodeOf returns the code of err: the outermost *Error's, or Internal for an
// error from elsewhere, or "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	var c Code
	if errors.As(err, &c) {
		return c
	}
	return Internal
}

// FixOf returns what to do about err, or "".
func FixOf(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Fix != "" {
			return e.Fix
		}
		err = e.Cause
	}
	return ""
}

func sprintf(format string, args []any) string {
	if len(args) == 0 {
		return format
	}
	return fmt.Sprintf(format, args...)
}
