package audit

import (
	"fmt"
	"path/filepath"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/internal/safefile"
)

// writer is the half of a Log that touches the disk. Its fields belong to the
// writer goroutine.
//
// Bytes go through three places: written (in the file, not yet synced, and kept
// in unsynced), stored (synced), and headed (the head says so). Only what is
// headed is promised. When the disk refuses, unsynced is written again from
// stored.Size on: after a failed fsync the kernel may have dropped the pages
// and would report success the next time.
type writer struct {
	log  string // the log's ID
	key  []byte
	file segmentFile
	hash hasher

	written  position
	stored   position
	headed   position
	unsynced []byte
	failed   bool    // unsynced is to be written again
	trimmed  *anchor // as the current segment's header says
	problem  string  // why trimming had to stop
	planned  bool    // a sync is due in BatchInterval at most
	retrying bool    // another attempt is due in Retry at most
}

// run is the writer goroutine.
func (l *Log) run() {
	defer close(l.exited)
	for range l.wake {
		l.opt.Busy(true)
		closed := l.turn()
		l.opt.Busy(false)
		if closed {
			return
		}
	}
}

// turn takes what is queued, writes it, and syncs when it is time to. It
// reports whether the log was closed.
func (l *Log) turn() (closed bool) {
	w := l.w
	l.mu.Lock()
	closing, waiters, failing := l.closing, l.waiters, l.err != nil
	l.waiters = nil
	if l.counts || len(waiters) > 0 {
		now := l.opt.Clock.Now()
		for _, e := range l.repeats.collect(now, len(waiters) > 0) {
			l.push(e, now)
		}
		l.counts = false
		l.armCounts()
	}
	if closing {
		now := l.opt.Clock.Now()
		l.pushGap(now)
		l.push(Entry{Op: OpStop, Actor: "daemon", Reason: "the log was closed"}, now)
	}
	batch := l.queue
	l.queue, l.queued = l.spare[:0], 0
	close(l.room)
	l.room = make(chan struct{})
	sync := l.due || l.retry || len(waiters) > 0
	w.planned, w.retrying = w.planned && !l.due, w.retrying && !l.retry
	l.due, l.retry = false, false
	l.mu.Unlock()

	err := l.write(batch)
	clear(batch)
	sync = sync || err != nil || !failing && len(w.unsynced) >= l.opt.BatchBytes
	switch {
	case sync:
		err = l.flush(closing)
	case len(w.unsynced) > 0 && !w.planned && !failing:
		w.planned = true
		l.after(l.opt.BatchInterval, false)
	}
	if err != nil && !w.retrying && !closing {
		w.retrying = true
		l.after(l.opt.Retry, true)
	}

	l.mu.Lock()
	l.spare = batch
	if err == nil && sync && !closing {
		l.pushGap(l.opt.Clock.Now())
	}
	if sync {
		l.err = err
	}
	if l.durable != w.headed {
		l.durable = w.headed
		close(l.moved)
		l.moved = make(chan struct{})
	}
	l.mu.Unlock()
	for _, c := range waiters {
		c <- err
	}
	if closing {
		l.release()
	}
	return closing
}

// after has the writer sync later; retry says that it is because of a failure.
func (l *Log) after(d time.Duration, retry bool) {
	l.opt.Clock.AfterFunc(d, func() {
		l.mu.Lock()
		if retry {
			l.retry = true
		} else {
			l.due = true
		}
		l.mu.Unlock()
		l.kick()
	})
}

// pushGap records the entries that were refused.
//
// +checklocks:l.mu
func (l *Log) pushGap(now time.Time) {
	if l.refused == 0 {
		return
	}
	l.push(Entry{Op: OpGap, Actor: "daemon", Count: l.refused, Code: string(errdefs.AuditGap),
		Reason: fmt.Sprintf("%d entries were refused: %s", l.refused, l.refusal)}, now)
	l.refused, l.refusal = 0, ""
}

// write encodes entries and writes them. They are in unsynced even when the
// disk refuses them.
func (l *Log) write(batch []Entry) error {
	w := l.w
	from := len(w.unsynced)
	for i := range batch {
		w.add(&batch[i])
	}
	if len(w.unsynced) == from || w.failed {
		return nil
	}
	_, err := w.file.WriteAt(w.unsynced[from:], w.stored.Size+int64(from))
	w.failed = err != nil
	return safefile.Fail(err, "write audit log", segmentPath(l.dir, w.stored.Segment))
}

// add encodes an entry at the end of unsynced.
func (w *writer) add(e *Entry) {
	e.Seq = w.written.Seq + 1
	before := len(w.unsynced)
	buf, sum, err := w.hash.appendLine(w.unsynced, w.written.Hash, e)
	if err != nil {
		// Only a time beyond the year 9999 cannot be encoded.
		e.Reason += " (its time, " + e.Time.String() + ", could not be written)"
		e.Time = time.Time{}
		buf, sum, _ = w.hash.appendLine(w.unsynced, w.written.Hash, e)
	}
	w.unsynced = buf
	w.written.Seq, w.written.Hash = e.Seq, sum
	w.written.Size += int64(len(buf) - before)
}

// flush makes what was written durable, moves the head, and begins a new
// segment when this one is full.
func (l *Log) flush(closing bool) error {
	if err := l.store(); err != nil {
		return err
	}
	if err := l.moveHead(closing && l.w.stored.Size < l.opt.SegmentBytes); err != nil {
		return err
	}
	if l.w.stored.Size < l.opt.SegmentBytes {
		return nil
	}
	if err := l.rotate(); err != nil {
		return err
	}
	if err := l.trim(); err != nil {
		return err
	}
	if err := l.store(); err != nil {
		return err
	}
	return l.moveHead(closing)
}

// store syncs the segment.
func (l *Log) store() error {
	w := l.w
	path := segmentPath(l.dir, w.stored.Segment)
	if w.failed {
		if _, err := w.file.WriteAt(w.unsynced, w.stored.Size); err != nil {
			return safefile.Fail(err, "write audit log", path)
		}
	}
	if len(w.unsynced) > 0 {
		if err := w.file.Sync(); err != nil {
			w.failed = true
			return safefile.Fail(err, "sync audit log", path)
		}
	}
	w.failed = false
	w.stored = w.written
	w.unsynced = w.unsynced[:0]
	return nil
}

// moveHead lets the head follow.
func (l *Log) moveHead(closed bool) error {
	if l.w.headed == l.w.stored && !closed {
		return nil
	}
	return l.putHead(closed)
}

// putHead writes the head.
func (l *Log) putHead(closed bool) error {
	w := l.w
	h := head{Version: version, Log: w.log, position: w.stored, Time: l.opt.Clock.Now().UTC().Round(0), Closed: closed}
	text, err := h.encode(w.key)
	if err != nil {
		return err
	}
	path := filepath.Join(l.dir, headName)
	if err := l.opt.disk.replace(path, text); err != nil {
		return safefile.Fail(err, "write audit head", path)
	}
	w.headed = w.stored
	return nil
}

// release lets go of the files.
func (l *Log) release() {
	if l.w.file != nil {
		l.w.file.Close() // What could be synced is.
	}
	l.lock.Close() // Closing unlocks.
}
