// Package audit is the trail of what was done with authority: an append-only,
// hash-chained log that the daemon writes and that anyone who may read the
// files can check.
//
// A log is a directory of segments and a head. A segment is a text file; its
// first line is a header, every further line an Entry. Every line, headers
// too, is a JSON object whose last member is the SHA-256 of the line before
// and of itself, so that no line can be changed, removed, added or moved
// without breaking the chain behind it. The head says how far the log is known
// to be on disk, so that a cut tail is found as well; with a key it is
// authenticated. Docs: docs/audit.md.
//
// Log writes. Its Append queues an entry, and one goroutine writes, syncs and
// rotates. Verify, Query and Log.Follow read; the first two need no Log and
// work beside one that another process writes.
//
// What is promised: an entry that a Sync covered is on disk, and Verify finds
// its loss. An entry that Append took is written within Options.BatchInterval
// and is not dropped while the process lives; when the disk refuses, Append
// refuses, and an audit.gap entry counts the refusals once it works again.
//
// Locks: Log.mu guards the queue and is never held during host I/O; segment
// and head files belong to the writer goroutine alone. No other lock is taken
// under Log.mu. Sizes are bytes. The package imports errdefs, ktime and the
// standard library, and knows nothing of capabilities: those who record do.
package audit

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Operations that the log itself records. Those of capabilities, agents and
// tokens are named by whoever records them.
const (
	// OpStart is the first entry of a writer. Its reason says what the writer
	// found: a closed log, or what kill -9 or a crash left.
	OpStart = "audit.start"
	// OpStop is the last entry of a writer that was closed.
	OpStop = "audit.stop"
	// OpGap says that entries are missing, how many, and why.
	OpGap = "audit.gap"
	// OpTrim says that old segments were deleted to keep the log in bounds.
	OpTrim = "audit.trim"
	// OpDenied is a refusal. The same refusal repeating is counted.
	OpDenied = "denied"
)

// Entry is one line of the trail. What does not apply is empty.
type Entry struct {
	// Seq counts entries from 1, without holes, over all segments.
	Seq uint64 `json:"seq"`
	// Time is the wall clock's. It may jump; Seq does not.
	Time time.Time `json:"time"`
	// Mono is the time since the writer was opened, by the monotonic clock.
	Mono time.Duration `json:"mono"`
	// Op is what was done: "mint", "revoke", "denied", "token.issue" …
	Op     string `json:"op"`
	Domain string `json:"domain,omitempty"`
	// Actor is who did it, Agent whom it concerns, Target on what.
	Actor  string `json:"actor,omitempty"`
	Agent  string `json:"agent,omitempty"`
	Target string `json:"target,omitempty"`
	// Cap is the ID of the capability, or of the token; Parent that of the one
	// it was made from; Spec what it grants.
	Cap    string `json:"cap,omitempty"`
	Parent string `json:"parent,omitempty"`
	Spec   string `json:"spec,omitempty"`
	// Code is an errdefs code and Errno the name of what the program got.
	Code  string `json:"code,omitempty"`
	Errno string `json:"errno,omitempty"`
	// Reason is a sentence for people.
	Reason string `json:"reason,omitempty"`
	// Count is how many times it happened; 0 and 1 both mean once. Of a
	// repeated refusal, the counts of all its lines add up.
	Count uint64 `json:"count,omitempty"`
	// Correlation ties the entries of one request together.
	Correlation string `json:"correlation,omitempty"`

	// Hash is the line's, and Line its text without the newline. Both are set
	// on entries that were read and ignored on entries to be written.
	Hash Hash   `json:"-"`
	Line string `json:"-"`
}

// MaxField bounds the text fields of an entry; longer ones are cut and say so.
const MaxField = 8 << 10

// MaxLine bounds a line. No entry reaches it: a byte takes at most six in JSON.
const MaxLine = 1 << 20

// fields are the text fields of e.
func (e *Entry) fields() [11]*string {
	return [...]*string{&e.Op, &e.Domain, &e.Actor, &e.Agent, &e.Target, &e.Cap,
		&e.Parent, &e.Spec, &e.Code, &e.Errno, &e.Reason}
}

// clip bounds what came from elsewhere.
func (e *Entry) clip() {
	for _, f := range e.fields() {
		*f = clip(*f)
	}
	e.Correlation = clip(e.Correlation)
}

func clip(s string) string {
	if len(s) <= MaxField {
		return s
	}
	end := MaxField
	for end > MaxField-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…[" + strconv.Itoa(len(s)-end) + " bytes more]"
}

// size is about what e takes in memory.
func (e *Entry) size() int {
	n := 256 + len(e.Correlation)
	for _, f := range e.fields() {
		n += len(*f)
	}
	return n
}

// String is the entry as a person reads it in a terminal.
func (e Entry) String() string {
	var b strings.Builder
	b.WriteString(e.Time.Format("2006-01-02 15:04:05.000 "))
	b.WriteString(e.Op)
	add := func(name, s string) {
		if s != "" {
			b.WriteByte(' ')
			b.WriteString(name)
			b.WriteByte('=')
			b.WriteString(quote(s))
		}
	}
	add("domain", e.Domain)
	add("actor", e.Actor)
	add("agent", e.Agent)
	add("target", e.Target)
	add("cap", e.Cap)
	add("parent", e.Parent)
	add("spec", e.Spec)
	add("code", e.Code)
	add("errno", e.Errno)
	if e.Count > 1 {
		add("count", strconv.FormatUint(e.Count, 10))
	}
	add("correlation", e.Correlation)
	add("reason", e.Reason)
	return b.String()
}

// quote leaves plain words alone and disarms everything else.
func quote(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r == '"' || r == '\\' || r > '~' }) < 0 {
		return s
	}
	return strconv.Quote(s)
}
