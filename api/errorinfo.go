package api

import (
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"aios.dev/aios/errdefs"
)

// errorDomain marks an ErrorInfo as ours.
const errorDomain = "aios"

// Bounds of an error on the wire, in bytes: statuses travel in HTTP/2 headers.
const (
	maxErrorText = 4 << 10
	maxErrorName = 256
)

// maxRetryDelay bounds how long an error may ask its reader to wait.
const maxRetryDelay = time.Hour

// codeForm, with at most maxCode bytes, is the form of a Code; those of newer
// releases have it too.
var codeForm = regexp.MustCompile(`^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$`)

const maxCode = 63

// fields are the parts of an error, by their keys in the metadata of an
// ErrorInfo. The Scope must be set.
func fields(e *errdefs.Error) map[string]struct {
	value *string
	max   int
} {
	type field = struct {
		value *string
		max   int
	}
	return map[string]field{
		"op":          {&e.Op, maxErrorText},
		"resource":    {&e.Resource, maxErrorText},
		"detail":      {&e.Detail, maxErrorText},
		"fix":         {&e.Fix, maxErrorText},
		"agent":       {&e.Scope.Agent, maxErrorName},
		"domain":      {&e.Scope.Domain, maxErrorName},
		"capability":  {&e.Scope.Capability, maxErrorName},
		"correlation": {&e.Scope.Correlation, maxErrorName},
	}
}

// details is e, which has no cause, in the standard messages of gRPC.
func details(e *errdefs.Error) []protoadapt.MessageV1 {
	info := errdefs.InfoOf(e.Code)
	meta := map[string]string{
		"category": string(info.Category),
		"severity": info.Severity.String(),
		"blame":    info.Blame.String(),
		"retry":    info.Retry.When.String(),
	}
	for k, f := range fields(e) {
		if *f.value != "" {
			meta[k] = bounded(*f.value, f.max)
		}
	}
	out := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: bounded(string(e.Code), maxErrorName), Domain: errorDomain, Metadata: meta}}
	delay := info.Retry.Delay
	if e.Delay > 0 {
		delay = min(e.Delay, maxRetryDelay)
	}
	if delay > 0 || info.Retry.When == errdefs.AtOnce {
		out = append(out, &errdetails.RetryInfo{RetryDelay: durationpb.New(delay)})
	}
	return out
}

// fromDetails makes an error of what details made, or returns nil when it is
// not among them. The other side is not trusted: what has not the form that
// details gives it is left out or cut.
func fromDetails(all []any) *errdefs.Error {
	var (
		e     *errdefs.Error
		delay time.Duration
	)
	for _, d := range all {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if e != nil || d.GetDomain() != errorDomain || len(d.GetReason()) > maxCode || !codeForm.MatchString(d.GetReason()) {
				continue
			}
			e = &errdefs.Error{Code: errdefs.Code(d.GetReason()), Scope: new(errdefs.Scope)}
			for k, f := range fields(e) {
				*f.value = bounded(d.GetMetadata()[k], f.max)
			}
		case *errdetails.RetryInfo:
			if p := d.GetRetryDelay(); p.CheckValid() == nil {
				delay = min(max(p.AsDuration(), 0), maxRetryDelay)
			}
		}
	}
	if e == nil {
		return nil
	}
	if !errdefs.ValidCorrelation(e.Scope.Correlation) {
		e.Scope.Correlation = ""
	}
	if *e.Scope == (errdefs.Scope{}) {
		e.Scope = nil
	}
	if delay != errdefs.InfoOf(e.Code).Retry.Delay {
		e.Delay = delay // Otherwise the table says the same.
	}
	return e
}

// bounded returns s as valid UTF-8 of at most limit bytes.
func bounded(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= limit {
		return s
	}
	const ellipsis = "…"
	cut := limit - len(ellipsis)
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + ellipsis
}
