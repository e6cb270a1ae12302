package errdefs

import (
	"errors"
	"syscall"
	"time"
)

// Scope says whom a failure concerns. What is not known is empty.
type Scope struct {
	// Agent and Domain are where it happened: an agent ID, a domain's name.
	Agent, Domain string
	// Capability is the ID of the capability that was used, or missing parts.
	Capability string
	// Correlation is the ID of the request that it happened to.
	Correlation string
}

// Agent says which agent the failure concerns.
func Agent(id string) Option { return scoped(func(s *Scope) { s.Agent = id }) }

// Domain says in which domain it happened.
func Domain(name string) Option { return scoped(func(s *Scope) { s.Domain = name }) }

// Capability says which capability was used.
func Capability(id string) Option { return scoped(func(s *Scope) { s.Capability = id }) }

// Correlation says to which request it happened.
func Correlation(id string) Option { return scoped(func(s *Scope) { s.Correlation = id }) }

// scoped changes a copy of the Scope: errors that were made with With share it
// until then.
func scoped(set func(*Scope)) Option {
	return func(e *Error) {
		s := new(Scope)
		if e.Scope != nil {
			*s = *e.Scope
		}
		set(s)
		e.Scope = s
	}
}

// each calls f for every *Error of the chain below err, outermost first, until
// f returns false.
func each(err error, f func(*Error) bool) {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) || !f(e) {
			return
		}
		err = e.Cause
	}
}

// ScopeOf returns whom err concerns: of each part, what the innermost layer
// that knew it said, since it was nearest.
func ScopeOf(err error) Scope {
	var out Scope
	each(err, func(e *Error) bool {
		if s := e.Scope; s != nil {
			keep(&out.Agent, s.Agent)
			keep(&out.Domain, s.Domain)
			keep(&out.Capability, s.Capability)
			keep(&out.Correlation, s.Correlation)
		}
		return true
	})
	return out
}

func keep(dst *string, s string) {
	if s != "" {
		*dst = s
	}
}

// DelayOf returns how long to wait before trying again, as the outermost layer
// said that knew; 0 when the table decides.
func DelayOf(err error) time.Duration {
	var d time.Duration
	each(err, func(e *Error) bool {
		d = e.Delay
		return d <= 0
	})
	return max(d, 0)
}

// RetryOf says whether trying again helps: what the table says of the code of
// err, with the delay that err itself asks for.
func RetryOf(err error) Retry {
	if err == nil {
		return Retry{}
	}
	r := InfoOf(CodeOf(err)).Retry
	if d := DelayOf(err); d > 0 && r.When == AfterDelay {
		r.Delay = d
	}
	return r
}

// Errno returns what a program inside an agent gets for err: 0 for nil; the
// errno beneath err, where the code of err lets it pass; otherwise the one that
// the table has for the code.
func Errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	var (
		e    *Error
		c    Code
		n    syscall.Errno
		bare = errors.As(err, &n) && n != 0
	)
	if !errors.As(err, &e) && !errors.As(err, &c) {
		if bare {
			return n // Nobody has classified it.
		}
		return table[Internal].Errno
	}
	info := InfoOf(CodeOf(err))
	if bare && info.Propagation == Expose {
		return n
	}
	return info.Errno
}

// Public returns err as a reader may see it who has less authority than the
// layer that failed: an agent, or the bearer of a token. It obeys the
// Propagation of every code in the chain, and never shows the text of an error
// that is not an *Error. The correlation ID stays, so that an operator can find
// the rest. Public of nil is nil.
func Public(err error) *Error {
	if err == nil {
		return nil
	}
	out := public(err)
	if out == nil {
		out = veiled(CodeOf(err))
	}
	if id := ScopeOf(err).Correlation; id != "" {
		out.Scope = &Scope{Correlation: id}
	}
	return out
}

// public returns nil when there is no *Error in the chain below err.
func public(err error) *Error {
	var e *Error
	if !errors.As(err, &e) {
		return nil
	}
	if InfoOf(e.Code).Propagation != Expose {
		return veiled(e.Code)
	}
	out := &Error{Code: e.Code, Op: e.Op, Resource: e.Resource, Detail: e.Detail, Fix: e.Fix, Delay: e.Delay}
	if below := public(e.Cause); below != nil {
		out.Cause = below
	}
	return out
}

// veiled is all that may be said of a code that is not exposed.
func veiled(c Code) *Error {
	i := InfoOf(c)
	if i.Propagation == Translate {
		c, i = i.ShownAs, InfoOf(i.ShownAs)
	}
	return &Error{Code: c, Detail: i.Meaning}
}
