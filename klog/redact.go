package klog

import (
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"sync"
)

// Redacted stands where a secret was.
const Redacted = "[redacted]"

// Secret is a value that no log, no format verb and no encoder shows: who has
// it takes it out with Reveal.
type Secret struct{ value string }

// NewSecret hides value.
func NewSecret(value string) Secret { return Secret{value} }

// Reveal returns what is hidden.
func (s Secret) Reveal() string { return s.value }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(Redacted) }

// String implements fmt.Stringer.
func (Secret) String() string { return Redacted }

// Format implements fmt.Formatter, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, Redacted) }

// MarshalText implements encoding.TextMarshaler, for JSON too.
func (Secret) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// pattern is compiled when it is first used: together they take half a millisecond,
// which every start of a program that links them would.
func pattern(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

var (
	// secretWords are in names of secrets.
	secretWords = `(?:token|secret|passw(?:or)?d|passphrase|api[_-]?key|access[_-]?key|private[_-]?key|signing[_-]?key|credential|authorization|cookie)`
	secretName  = pattern(`(?i)` + secretWords)
	// The words of names that hold whole environments.
	envName = pattern(`(?i)(?:^|[._-])(?:env|environ|environment|envv|envp)$`)

	// A value runs to the next space or delimiter, or is quoted.
	secretValue = `("(?:[^"\\]|\\.)*"|'[^']*'|[^\s"',;&\]})]+)`

	secretTexts = []struct {
		is   func() *regexp.Regexp
		with string
	}{
		{pattern(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|$)`), Redacted},
		{pattern(`aios1\.[A-Za-z0-9_-]+`), "aios1." + Redacted},
		{pattern(`eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*`), Redacted},
		{pattern(`\b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}|\bAKIA[0-9A-Z]{16}\b|\bxox[abprs]-[A-Za-z0-9-]{10,}`), Redacted},
		{pattern(`(?i)(authorization"?\s*[=:]\s*"?)(?:(?:bearer|basic|digest)\s+)?[^\s"',;]+`), "${1}" + Redacted},
		{pattern(`(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{6,}`), "${1}" + Redacted},
		{pattern(`(://)[^/\s:@]*:[^/\s@]+@`), "${1}" + Redacted + "@"},
		{pattern(`(?i)([a-z0-9_.-]*` + secretWords + `[a-z0-9_.-]*"?\s*[=:]\s*)` + secretValue), "${1}" + Redacted},
		{pattern(`(?i)(--?[a-z0-9-]*` + secretWords + `[a-z0-9-]*\s+)` + secretValue), "${1}" + Redacted},
	}
	// A list of NAME=VALUE after the name of an environment.
	envList   = pattern(`(?i)\benv(?:iron|ironment|v|p)?"?\s*[=:]\s*\[([^\]]*)\]`)
	envAssign = pattern(`([A-Za-z_][A-Za-z0-9_]*=)("(?:[^"\\]|\\.)*"|'[^']*'|\S*)`)
)

// Scrub returns s without what looks like a secret: bearer tokens, keys of
// known forms, private keys, passwords in URLs, what is assigned to a name that
// looks like a secret's, and the values of an environment.
func Scrub(s string) string {
	if !strings.ContainsAny(s, "=:-_.") && !strings.Contains(strings.ToLower(s), "bearer") && !strings.Contains(s, "AKIA") {
		return s
	}
	s = envList().ReplaceAllStringFunc(s, func(list string) string {
		open := strings.IndexByte(list, '[')
		return list[:open] + scrubEnv(list[open:])
	})
	for _, t := range secretTexts {
		s = t.is().ReplaceAllString(s, t.with)
	}
	return s
}

// scrubEnv leaves the names of NAME=VALUE only.
func scrubEnv(s string) string { return envAssign().ReplaceAllString(s, "${1}"+Redacted) }

// isSecret reports whether the value of an attribute must not be shown.
func isSecret(key string) bool { return secretName().MatchString(key) }

// isEnv reports whether an attribute holds an environment.
func isEnv(key string) bool { return envName().MatchString(key) }
