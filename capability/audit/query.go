package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strings"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/internal/safefile"
)

// Filter chooses entries. Every part that is set must fit.
type Filter struct {
	// Since and Until are bounds of the time; Until itself is not included.
	Since, Until time.Time
	// After is a sequence number: only entries with a greater one.
	After uint64
	// Agent is the agent, the actor or the target.
	Agent  string
	Domain string
	// Ops are operations; "token.*" stands for all that begin with "token.".
	Ops []string
	// Cap is the capability or its parent.
	Cap         string
	Correlation string
	// Text occurs in one of the text fields, in upper or lower case.
	Text string
	// Limit ends the answer after so many entries; Last drops all but the last
	// so many. 0: no bound.
	Limit, Last int
}

// Match reports whether e is chosen, Limit and Last aside.
func (f *Filter) Match(e *Entry) bool {
	switch {
	case e.Seq <= f.After,
		!f.Since.IsZero() && e.Time.Before(f.Since),
		!f.Until.IsZero() && !e.Time.Before(f.Until),
		f.Agent != "" && e.Agent != f.Agent && e.Actor != f.Agent && e.Target != f.Agent,
		f.Domain != "" && e.Domain != f.Domain,
		f.Cap != "" && e.Cap != f.Cap && e.Parent != f.Cap,
		f.Correlation != "" && e.Correlation != f.Correlation,
		len(f.Ops) > 0 && !slices.ContainsFunc(f.Ops, e.hasOp):
		return false
	}
	return f.Text == "" || e.mentions(strings.ToLower(f.Text))
}

func (e *Entry) hasOp(op string) bool {
	if prefix, ok := strings.CutSuffix(op, "*"); ok {
		return strings.HasPrefix(e.Op, prefix)
	}
	return e.Op == op
}

func (e *Entry) mentions(lower string) bool {
	for _, s := range e.fields() {
		if strings.Contains(strings.ToLower(*s), lower) {
			return true
		}
	}
	return strings.Contains(strings.ToLower(e.Correlation), lower)
}

// words are texts without which no line can match, as they stand in a line:
// looking for them is much quicker than taking the line apart.
func (f *Filter) words() [][]byte {
	var out [][]byte
	for _, s := range []string{f.Agent, f.Domain, f.Cap, f.Correlation} {
		if text, err := json.Marshal(s); err == nil && s != "" && string(text) == `"`+s+`"` {
			out = append(out, text)
		}
	}
	return out
}

// Query returns the entries of the log in dir that f chooses, oldest first. A
// line that cannot be read is an error among them, and does not end the answer.
// Query does not check the chain: Verify does.
func Query(dir string, f Filter) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		segments, err := listSegments(dir)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		q := search{Filter: f, need: f.words(), left: f.Limit}
		if f.Last > 0 {
			q.last(dir, segments, yield)
			return
		}
		for _, n := range segments {
			if !q.scan(dir, n, 0, -1, yield) {
				return
			}
		}
	}
}

type search struct {
	Filter
	need [][]byte
	left int  // of Limit
	gone bool // a segment was not there any more
}

type result struct {
	e   Entry
	err error
}

// last yields the last so many, and reads no older segment than it must.
func (q *search) last(dir string, segments []uint64, yield func(Entry, error) bool) {
	limit := q.Limit
	q.Limit = 0
	var kept []result
	for _, n := range slices.Backward(segments) {
		var found []result
		want := q.Last - len(kept)
		q.scan(dir, n, 0, -1, func(e Entry, err error) bool {
			found = append(found, result{e, err})
			if len(found) >= 2*want+1024 {
				found = slices.Delete(found, 0, len(found)-want)
			}
			return true
		})
		kept = append(found[max(0, len(found)-want):], kept...)
		if len(kept) >= q.Last {
			break
		}
	}
	for i, r := range kept {
		if limit > 0 && i >= limit || !yield(r.e, r.err) {
			return
		}
	}
}

// scan yields what is chosen between two offsets of segment n; to is -1 for its
// end. It reports whether to go on.
func (q *search) scan(dir string, n uint64, from, to int64, yield func(Entry, error) bool) bool {
	path := segmentPath(dir, n)
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		q.gone = true // Trimmed meanwhile.
		return true
	}
	if err != nil {
		return yield(Entry{}, safefile.Fail(err, "open audit segment", path))
	}
	defer file.Close()
	var r io.Reader = file
	if from > 0 || to >= 0 {
		if to < 0 {
			to = 1<<63 - 1
		}
		r = io.NewSectionReader(file, from, to-from)
	}
	ls := newLines(r)
	for {
		line, whole, err := ls.next()
		if err == io.EOF || err == nil && !whole {
			return true
		}
		if err != nil {
			return yield(Entry{}, safefile.Fail(err, "read audit segment", path))
		}
		if from == 0 && ls.number == 1 || !q.mayMatch(line) {
			continue
		}
		e, err := ParseLine(line)
		if err != nil {
			err = errdefs.Wrap(err, errdefs.AuditBroken, "read audit log",
				errdefs.Resource("%s:%d", segmentName(n), ls.number))
		} else if !q.Match(&e) {
			continue
		}
		if !yield(e, err) {
			return false
		}
		if q.Limit > 0 && err == nil {
			if q.left--; q.left == 0 {
				return false
			}
		}
	}
}

func (q *search) mayMatch(line []byte) bool {
	for _, s := range q.need {
		if !bytes.Contains(line, s) {
			return false
		}
	}
	return true
}
