package audit

import (
	"fmt"

	"aios.dev/aios/internal/safefile"
)

// rotate begins the next segment. Everything is on disk when it is called.
func (l *Log) rotate() error {
	w := l.w
	trimmed := l.planTrim(w.stored.Segment + 1)
	next := position{Segment: w.stored.Segment + 1, Seq: w.stored.Seq}
	line, sum, err := w.hash.appendLine(nil, w.stored.Hash, header{
		Version: version, Log: w.log, Segment: next.Segment, First: next.Seq + 1,
		Time: l.opt.Clock.Now().UTC().Round(0), Prev: w.stored.Hash, Trimmed: trimmed,
	})
	if err != nil {
		return err
	}
	next.Size, next.Hash = int64(len(line)), sum
	path := segmentPath(l.dir, next.Segment)
	f, err := l.opt.disk.openSegment(path, true)
	if err != nil {
		return safefile.Fail(err, "begin audit segment", path)
	}
	if _, err = f.WriteAt(line, 0); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = l.opt.disk.syncDir(l.dir)
	}
	if err != nil {
		f.Close() // The error that counts is known.
		return safefile.Fail(err, "begin audit segment", path)
	}
	if w.file != nil {
		w.file.Close() // Synced; there is nothing left to fail.
	}
	w.file, w.trimmed = f, trimmed
	w.written, w.stored = next, next
	return l.moveHead(false)
}

// planTrim says where the log is to begin once segment newest exists.
func (l *Log) planTrim(newest uint64) *anchor {
	w := l.w
	if newest <= uint64(l.opt.Keep) {
		return w.trimmed
	}
	last := newest - uint64(l.opt.Keep)
	if w.trimmed != nil && last <= w.trimmed.Segment {
		return w.trimmed
	}
	if last == w.stored.Segment {
		return &anchor{Segment: last, Seq: w.stored.Seq, Hash: w.stored.Hash}
	}
	h, err := readHeader(segmentPath(l.dir, last+1))
	if err != nil {
		// The segment was damaged or deleted by somebody else. What is older
		// stays for now; trim says so.
		w.problem = "; " + segmentName(last+1) + " is damaged or missing: " + err.Error()
		return w.trimmed
	}
	return &anchor{Segment: last, Seq: h.First - 1, Hash: h.Prev}
}

// trim deletes what the header of the current segment says is trimmed, oldest
// first, and records it. What cannot be deleted is tried again with the next
// segment.
func (l *Log) trim() error {
	w := l.w
	segments, err := listSegments(l.dir)
	if err != nil {
		return err
	}
	var gone []uint64
	problem := w.problem
	w.problem = ""
	for _, n := range segments {
		if w.trimmed == nil || n > w.trimmed.Segment {
			break
		}
		if err := l.opt.disk.remove(segmentPath(l.dir, n)); err != nil {
			problem = "; could not delete more: " + err.Error()
			break
		}
		gone = append(gone, n)
	}
	if len(gone) == 0 && problem == "" {
		return nil
	}
	e := Entry{Op: OpTrim, Actor: "daemon", Count: uint64(len(gone)),
		Reason: fmt.Sprintf("%d segments were deleted, %d are to be kept%s", len(gone), l.opt.Keep, problem)}
	if w.trimmed != nil {
		e.Target = segmentName(w.trimmed.Segment)
		e.Reason = fmt.Sprintf("entries up to %d: ", w.trimmed.Seq) + e.Reason
	}
	now := l.opt.Clock.Now()
	e.Time, e.Mono = now.UTC().Round(0), now.Sub(l.start)
	return l.write([]Entry{e})
}
