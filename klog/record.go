package klog

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Bounds of a record, in bytes. What is longer is cut.
const (
	MaxRecord    = 8 << 10
	maxSubsystem = 64
	maxAgent     = 64
	maxMessage   = 4 << 10
	maxAttrs     = MaxRecord - recordHeader - maxSubsystem - maxAgent - maxMessage
)

// Record is one entry of a log.
type Record struct {
	// Seq counts the records of one log from 1, without holes: a hole means
	// that the ring has dropped some.
	Seq uint64
	// Wall is Unix time, Mono the time since the log was opened; nanoseconds.
	Wall, Mono int64
	Level      slog.Level
	Subsystem  string
	// Agent is the ID of the agent that it is about; or "".
	Agent   string
	Message string
	// Attrs is the attributes as the inside of a JSON object; or "".
	Attrs string
	// Suppressed is how many records from the same place were not written
	// since the last that was.
	Suppressed uint32
}

// AppendText appends the record as one line for people, without the time's
// date and zone being guessed: UTC.
func (r *Record) AppendText(b []byte) []byte {
	b = time.Unix(0, r.Wall).UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	b = append(b, ' ')
	name := LevelName(r.Level)
	b = append(b, name...)
	for n := len(name); n < len("critical"); n++ {
		b = append(b, ' ')
	}
	b = append(b, ' ')
	b = r.appendMessage(b)
	if r.Agent != "" {
		b = append(b, " agent="...)
		b = appendPrintable(b, r.Agent)
	}
	return append(r.appendAttrs(b), '\n')
}

// AppendSyslog appends the record as syslog(2) has it, priority and time since
// the log was opened in front, and without the agent: its reader is the agent.
func (r *Record) AppendSyslog(b []byte) []byte {
	b = fmt.Appendf(b, "<%d>[%5d.%06d] ", Priority(r.Level), r.Mono/1e9, r.Mono%1e9/1e3)
	return append(r.appendAttrs(r.appendMessage(b)), '\n')
}

func (r *Record) appendMessage(b []byte) []byte {
	b = append(b, r.Subsystem...)
	b = append(b, ": "...)
	return appendPrintable(b, r.Message)
}

func (r *Record) appendAttrs(b []byte) []byte {
	for _, a := range r.attrs() {
		b = append(b, ' ')
		b = appendPrintable(b, a.key)
		b = append(b, '=')
		b = append(b, a.text()...)
	}
	if r.Suppressed > 0 {
		b = append(b, " suppressed="...)
		b = strconv.AppendUint(b, uint64(r.Suppressed), 10)
	}
	return b
}

// AppendJSON appends the record as one line of JSON.
func (r *Record) AppendJSON(b []byte) []byte {
	b = append(b, `{"seq":`...)
	b = strconv.AppendUint(b, r.Seq, 10)
	b = append(b, `,"time":"`...)
	b = time.Unix(0, r.Wall).UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","mono":`...)
	b = strconv.AppendInt(b, r.Mono, 10)
	b = append(b, `,"level":"`...)
	b = append(b, LevelName(r.Level)...)
	b = append(b, `","subsystem":`...)
	b = appendString(b, r.Subsystem)
	if r.Agent != "" {
		b = append(b, `,"agent":`...)
		b = appendString(b, r.Agent)
	}
	b = append(b, `,"msg":`...)
	b = appendString(b, r.Message)
	if r.Suppressed > 0 {
		b = append(b, `,"suppressed":`...)
		b = strconv.AppendUint(b, uint64(r.Suppressed), 10)
	}
	// The ring may have been written by anybody.
	if r.Attrs != "" && json.Valid([]byte("{"+r.Attrs+"}")) {
		b = append(b, `,"attrs":{`...)
		b = append(b, r.Attrs...)
		b = append(b, '}')
	}
	return append(b, "}\n"...)
}

// attr is one attribute, its value being JSON.
type attr struct {
	key   string
	value json.RawMessage
}

// text is the value as people read it: a string without quotes where it needs
// none.
func (a attr) text() string {
	var s string
	if json.Unmarshal(a.value, &s) != nil {
		return string(a.value)
	}
	if s == "" || strings.ContainsAny(s, " =\"") || !printable(s) {
		return strconv.Quote(s)
	}
	return s
}

// attrs takes the attributes apart, in their order.
func (r *Record) attrs() []attr {
	if r.Attrs == "" {
		return nil
	}
	dec := json.NewDecoder(strings.NewReader("{" + r.Attrs + "}"))
	if _, err := dec.Token(); err != nil {
		return nil
	}
	var out []attr
	for dec.More() {
		key, err := dec.Token()
		name, ok := key.(string)
		if err != nil || !ok {
			return out
		}
		var v json.RawMessage
		if dec.Decode(&v) != nil {
			return out
		}
		out = append(out, attr{name, v})
	}
	return out
}

func printable(s string) bool {
	for _, r := range s {
		if !strconv.IsPrint(r) {
			return false
		}
	}
	return true
}

// appendPrintable appends s with everything escaped that could move a cursor
// or begin a line.
func appendPrintable(b []byte, s string) []byte {
	if printable(s) {
		return append(b, s...)
	}
	q := strconv.Quote(s)
	return append(b, q[1:len(q)-1]...)
}

// appendString appends s as JSON, valid UTF-8 whatever s is.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\t':
			b = append(b, '\\', 't')
		case c < ' ' || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		case c < utf8.RuneSelf:
			b = append(b, c)
		default:
			r, n := utf8.DecodeRuneInString(s[i:])
			b = utf8.AppendRune(b, r) // An invalid one becomes U+FFFD.
			i += n
			continue
		}
		i++
	}
	return append(b, '"')
}

// cut returns at most n bytes of s, which it makes valid UTF-8, and says so if
// there were more.
func cut(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	n -= len("…")
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
