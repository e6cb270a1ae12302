package journal

import (
	"bufio"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"aios.dev/aios/internal/safefile"
)

// writer is the side of the journal that touches files: it belongs to one
// goroutine.
type writer struct {
	j     *Journal
	file  file // nil: nothing could be written
	path  string
	size  int64
	began time.Time // of the segment
	dirty bool      // something is not synced
	syncd time.Time // the last time
	leaps []span
	buf   []byte
	// When the disk last refused, and how many losses Recovered was told of.
	refused time.Time
	told    uint64
}

// since is how long ago something was; long ago if the clock was set back.
func (j *Journal) since(t time.Time) time.Duration {
	if d := j.opt.Clock.Since(t); d >= 0 {
		return d
	}
	return math.MaxInt64
}

// retryAfter is how long a disk that refused is left alone.
const retryAfter = time.Second

// dayLong is how long a segment is written to at most, so that age bounds it.
const dayLong = 24 * time.Hour

// cleanName is the file that says that the writer has ended in good order, and
// what the next cursor is.
const cleanName = "clean"

// recover finds out where to go on, and what the newest segment tells.
func (w *writer) recover(segments []segment) (next uint64, err error) {
	j := w.j
	next = 1
	if n := len(segments); n > 0 {
		newest, before := &segments[n-1], &segments[max(0, n-2)]
		// The newest state says as much as was written when that segment was
		// begun, and some of the one before may not have been yet.
		j.state, j.stateFrom = newest.head.State, before.first
		w.leaps = newest.head.Leaps
		last, size := endOf(newest)
		newest.empty = last < newest.first
		if size < newest.size { // A torn tail would be taken for damage later.
			os.Truncate(newest.path, size)
			newest.size = size
		}
		next = last + 1
	}
	clean := filepath.Join(j.dir, cleanName)
	raw, err := os.ReadFile(clean)
	said, parseErr := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64)
	switch {
	case err == nil && parseErr == nil && said >= next:
		next = said // Perhaps with losses at the end.
	case len(segments) > 0:
		w.leaps = append(w.leaps, span{next, next + Leap})
		w.leaps = w.leaps[max(0, len(w.leaps)-maxLeaps):]
		next += Leap
	}
	if err := os.Remove(clean); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, safefile.Fail(err, "open the journal of events", clean)
	}
	j.mu.Lock()
	j.segments = segments
	j.mu.Unlock()
	return next, nil
}

// endOf returns the last cursor in a segment, and how long the file is up to
// there.
func endOf(s *segment) (last uint64, size int64) {
	last = s.first - 1
	f, err := os.Open(s.path)
	if err != nil {
		return last, s.size
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 256<<10)
	h, err := readHeader(r)
	if err != nil {
		return last, s.size
	}
	head, _ := appendHeader(nil, h)
	for size = int64(len(head)); ; {
		_, n, err := readRecord(r, last+1)
		if err != nil {
			return last, size
		}
		last, size = last+1, size+n
	}
}

// run writes what is appended, until the journal is closed.
func (w *writer) run() {
	j := w.j
	defer close(j.done)
	for {
		j.mu.Lock()
		batch, wake, closed := j.waiting, j.wake, j.closed
		j.waiting, j.pending = nil, 0
		j.mu.Unlock()
		if len(batch) > 0 {
			j.opt.Busy(true)
			w.write(batch)
			j.opt.Busy(false)
			continue
		}
		if closed {
			w.end()
			return
		}
		if w.dirty {
			// Synced when nothing comes for a while, or SyncEvery has passed.
			ready := make(chan struct{})
			t := j.opt.Clock.AfterFunc(SyncEvery, func() { close(ready) })
			select {
			case <-wake:
				t.Stop()
			case <-ready:
				j.opt.Busy(true)
				w.sync()
				j.opt.Busy(false)
			}
			continue
		}
		<-wake
	}
}

// write writes a batch, or loses it.
func (w *writer) write(batch []Record) {
	j := w.j
	last := batch[len(batch)-1].Cursor
	lost := uint64(0)
	for _, part := range parts(batch) {
		if part[0].Data == nil { // Those were counted when they came.
			w.close()
			continue
		}
		if n, err := w.put(part); err != nil {
			w.close()
			lost += uint64(len(part) - n)
		}
	}
	j.mu.Lock()
	j.lost += lost
	j.advance(last)
	j.mu.Unlock()
	if w.dirty && j.since(w.syncd) > SyncEvery {
		w.sync()
	}
}

// parts cuts a batch where numbers without data begin and end.
func parts(batch []Record) [][]Record {
	var out [][]Record
	from := 0
	for i := range batch {
		if i > from && (batch[i].Data == nil) != (batch[from].Data == nil) {
			out, from = append(out, batch[from:i]), i
		}
	}
	return append(out, batch[from:])
}

// put writes records of consecutive numbers, and returns how many it could.
func (w *writer) put(part []Record) (int, error) {
	opt := &w.j.opt
	done := 0
	for done < len(part) {
		if w.file != nil && (w.size >= opt.SegmentBytes || w.j.since(w.began) > dayLong) {
			w.close()
		}
		if w.file == nil {
			if err := w.begin(part[done].Cursor); err != nil {
				return done, err
			}
		}
		w.buf = w.buf[:0]
		n := 0
		for done+n < len(part) && (n == 0 || w.size+int64(len(w.buf)) < opt.SegmentBytes) {
			w.buf = appendRecord(w.buf, part[done+n])
			n++
		}
		if _, err := w.file.Write(w.buf); err != nil {
			w.file.Truncate(w.size) // Were it to stay, it would only end what is read of the file.
			return done, w.refuse(safefile.Fail(err, "write the journal of events", w.path))
		}
		w.size += int64(len(w.buf))
		w.dirty = true
		w.grown()
		done += n
	}
	if cap(w.buf) > 1<<20 {
		w.buf = nil
	}
	return done, nil
}

// grown tells readers how long the segment is.
func (w *writer) grown() {
	j := w.j
	j.mu.Lock()
	defer j.mu.Unlock()
	if n := len(j.segments); n > 0 {
		j.segments[n-1].size = w.size
	}
}

// refuse notes that the disk takes nothing.
func (w *writer) refuse(err error) error {
	j := w.j
	first := w.refused.IsZero()
	w.refused = j.opt.Clock.Now()
	j.mu.Lock()
	j.failure = err
	j.mu.Unlock()
	if first {
		j.opt.Failed(err)
	}
	return err
}

// begin begins a segment.
func (w *writer) begin(first uint64) error {
	j := w.j
	if !w.refused.IsZero() && j.since(w.refused) < retryAfter {
		j.mu.Lock()
		defer j.mu.Unlock()
		return j.failure
	}
	now := j.opt.Clock.Now()
	h := header{First: first, Created: now.UnixNano(), Leaps: w.leaps, State: j.opt.State()}
	raw, err := appendHeader(nil, h)
	if err != nil {
		return w.refuse(err)
	}
	path := segmentPath(j.dir, first)
	f, err := j.opt.disk.create(path)
	if err == nil {
		if _, err = f.Write(raw); err != nil {
			f.Close()
			j.opt.disk.remove(path)
		}
	}
	if err != nil {
		return w.refuse(safefile.Fail(err, "write the journal of events", path))
	}
	w.file, w.path, w.size, w.began, w.dirty = f, path, int64(len(raw)), now, true
	again := !w.refused.IsZero()
	w.refused = time.Time{}
	s := segment{first: first, path: path, size: w.size, head: h}
	s.head.State = nil
	empty := ""
	j.mu.Lock()
	j.failure = nil
	segments := slices.Clone(j.segments) // Readers may hold the old ones.
	if n := len(segments); n > 0 && segments[n-1].empty {
		if segments[n-1].first != first {
			empty = segments[n-1].path
		}
		segments = segments[:n-1]
	}
	j.segments = append(segments, s)
	lost := j.lost - w.told
	w.told = j.lost
	j.mu.Unlock()
	if empty != "" {
		j.opt.disk.remove(empty)
	}
	w.trim()
	if again || lost > 0 {
		j.opt.Recovered(lost)
	}
	return nil
}

// sync puts the segment on the disk. What cannot be synced is in the file
// nonetheless.
func (w *writer) sync() {
	w.syncd, w.dirty = w.j.opt.Clock.Now(), false
	if w.file != nil {
		if err := w.file.Sync(); err != nil {
			w.refuse(safefile.Fail(err, "sync the journal of events", w.path))
		}
	}
}

// close ends the segment.
func (w *writer) close() {
	if w.file == nil {
		return
	}
	w.sync()
	w.file.Close()
	w.file = nil
}

// end ends the writer in good order.
func (w *writer) end() {
	w.close()
	next := w.j.Last() + 1
	safefile.Write(filepath.Join(w.j.dir, cleanName), strconv.AppendUint(nil, next, 10)) // Without it, numbers Leap.
}

// trim removes the oldest segments beyond what is to be kept.
func (w *writer) trim() {
	j := w.j
	oldest := j.opt.Clock.Now().Add(-j.opt.KeepAge).UnixNano()
	for {
		j.mu.Lock()
		total := int64(0)
		for _, s := range j.segments {
			total += s.size
		}
		// A segment is as old as the next one's beginning.
		trim := len(j.segments) > 1 && (total > j.opt.KeepBytes || j.segments[1].head.Created < oldest)
		var s segment
		if trim {
			s = j.segments[0]
			j.segments = append([]segment(nil), j.segments[1:]...)
		}
		j.mu.Unlock()
		if !trim {
			return
		}
		j.opt.disk.remove(s.path) // One that stays is found, and tried again, by the next writer.
	}
}
