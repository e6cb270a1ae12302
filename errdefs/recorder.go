package errdefs

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// maxRecordedText bounds each text of a Record in bytes: paths and arguments
// are as long as an agent makes them.
const maxRecordedText = 512

// Record is an error that happened Count times.
type Record struct {
	Code Code
	// Message and Fix are those of the latest time, cut where they are long.
	Message, Fix string
	// Agent and Domain are where it happened.
	Agent, Domain string
	// Correlation is the ID of the latest request that it happened to.
	Correlation string
	Count       uint64
	First, Last time.Time
}

// recordKey says which errors are the same.
type recordKey struct {
	code                Code
	op, resource, agent string
}

type entry struct {
	key recordKey
	Record
	seq uint64 // of the latest time: a clock may stand still
}

// Recorder keeps the recent errors that an operator should know of, by the
// Escalation of their codes. The same error repeating is counted, not
// repeated; errors are the same when code, operation, resource and agent are.
// It is bounded: when it is full the oldest error of the agent with the most
// of them makes room, so that one agent cannot push out what others did.
//
// It is safe for concurrent use.
type Recorder struct {
	now   func() time.Time
	limit int

	mu      sync.Mutex
	entries map[recordKey]*entry // guarded by mu
	seq     uint64               // guarded by mu
	dropped uint64               // guarded by mu
}

// NewRecorder returns a Recorder of at most limit different errors, at least
// one, which reads the time from now.
func NewRecorder(limit int, now func() time.Time) *Recorder {
	return &Recorder{now: now, limit: max(limit, 1), entries: make(map[recordKey]*entry)}
}

// Record counts err and returns how often it has happened, so that a log can
// tell the first time from the others. It returns 0 for nil and for codes that
// no operator is told of.
func (r *Recorder) Record(err error) uint64 {
	if err == nil {
		return 0
	}
	code := CodeOf(err)
	if InfoOf(code).Escalation&TellOperator == 0 {
		return 0
	}
	scope := ScopeOf(err)
	k := recordKey{code: code, agent: cut(scope.Agent)}
	each(err, func(e *Error) bool {
		keepFirst(&k.op, cut(e.Op))
		keepFirst(&k.resource, cut(e.Resource))
		return k.op == "" || k.resource == ""
	})
	message, fix := cut(err.Error()), cut(FixOf(err))
	now := r.now()

	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.entries[k]
	if e == nil {
		if len(r.entries) >= r.limit {
			r.evict()
		}
		e = &entry{key: k, Record: Record{Code: code, Agent: k.agent, First: now}}
		r.entries[k] = e
	}
	r.seq++
	e.seq = r.seq
	e.Message, e.Fix, e.Domain, e.Correlation, e.Last = message, fix, cut(scope.Domain), cut(scope.Correlation), now
	e.Count++
	return e.Count
}

// evict drops the oldest error of the agent that has the most.
//
// +checklocks:r.mu
func (r *Recorder) evict() {
	of := make(map[string]int)
	for k := range r.entries {
		of[k.agent]++
	}
	var victim *entry
	for _, e := range r.entries {
		if victim == nil || of[e.key.agent] > of[victim.key.agent] ||
			of[e.key.agent] == of[victim.key.agent] && e.seq < victim.seq {
			victim = e
		}
	}
	delete(r.entries, victim.key)
	r.dropped++
}

// List returns the errors, the latest first.
func (r *Recorder) List() []Record {
	r.mu.Lock()
	all := make([]entry, 0, len(r.entries))
	for _, e := range r.entries {
		all = append(all, *e)
	}
	r.mu.Unlock()
	slices.SortFunc(all, func(a, b entry) int {
		if a.seq > b.seq {
			return -1
		}
		return 1
	})
	out := make([]Record, len(all))
	for i, e := range all {
		out[i] = e.Record
	}
	return out
}

// Dropped returns how many errors made room for others.
func (r *Recorder) Dropped() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dropped
}

func keepFirst(dst *string, s string) {
	if *dst == "" {
		*dst = s
	}
}

// cut returns at most maxRecordedText bytes of s, as valid UTF-8.
func cut(s string) string {
	if len(s) > maxRecordedText {
		s = s[:maxRecordedText-len("…")] + "…"
	}
	return strings.ToValidUTF8(s, "")
}
