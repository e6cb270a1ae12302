package audit

import (
	"context"
	"iter"

	"aios.dev/aios/errdefs"
)

// Follow returns what Query returns, and then every further entry that f
// chooses as soon as it is on disk, until ctx ends or the log is closed. Last
// is about the past only, Limit about all.
//
// A slow reader loses nothing and holds nobody up: it reads the files. Only
// when segments are trimmed before it gets there does it miss entries, and
// gets an AUDIT_GAP error among them that says so.
func (l *Log) Follow(ctx context.Context, f Filter) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		at, moved := l.position()
		limit := f.Limit
		count := func(e Entry, err error) bool {
			if !yield(e, err) || ctx.Err() != nil {
				return false
			}
			if limit > 0 && err == nil {
				limit--
				return limit > 0
			}
			return true
		}
		for e, err := range Query(l.dir, f) {
			if err == nil && e.Seq > at.Seq {
				break // Comes again below.
			}
			if !count(e, err) {
				return
			}
		}
		f.Limit, f.Last = 0, 0
		q := search{Filter: f, need: f.words()}
		for {
			var last bool
			select {
			case <-ctx.Done():
				return
			case <-moved:
			case <-l.exited:
				last = true
			}
			var to position
			to, moved = l.position()
			if !l.between(&q, at, to, count) || last {
				return
			}
			at = to
		}
	}
}

// between yields what is chosen between two places.
func (l *Log) between(q *search, at, to position, yield func(Entry, error) bool) bool {
	for n := at.Segment; n <= to.Segment; n++ {
		from, until := int64(0), int64(-1)
		if n == at.Segment {
			from = at.Size
		}
		if n == to.Segment {
			until = to.Size
		}
		q.gone = false
		if !q.scan(l.dir, n, from, until, yield) {
			return false
		}
		if q.gone && !yield(Entry{}, errdefs.New(errdefs.AuditGap, "the segment was trimmed before it was read",
			errdefs.Op("follow audit log"), errdefs.Resource("%s", segmentName(n)),
			errdefs.Fix("read faster, or keep more segments"))) {
			return false
		}
	}
	return true
}
