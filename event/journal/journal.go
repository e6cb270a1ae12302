// Package journal keeps events on disk: a sequence of records in files of
// bounded size, which readers follow from a cursor or a time.
//
// Key types:
//
//   - Journal is the writer of one directory. Append takes a record and never
//     waits for the disk.
//   - Reader follows the records from a cursor on, and is told of a Gap where
//     some are missing.
//   - Cursors are the positions of durable subscriptions, by name.
//
// A cursor is the number of a record. The first is 1, each further one is one
// more; what could not be written keeps its number, so that a gap says exactly
// how many are missing. Numbers that an earlier writer may have given out and
// never wrote, because it was killed, are skipped: headers list those leaps,
// and they are no loss.
//
// A record is in the file as soon as Written says so, and survives the death
// of the process; it is on the disk at the latest SyncEvery after that, and
// survives that of the machine. A record that is torn or damaged ends what is
// read of its file; the numbers tell how many it took along.
//
// Lock order: Cursors.mu and Journal.mu are leaves of each other's; neither is
// held while a file is touched, but for Cursors.saveMu, which is for that.
// Times are in nanoseconds, wall clock. The package knows bytes and no events;
// it imports no gVisor.
package journal

import (
	"sync"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// Bounds, unless Options says otherwise.
const (
	SegmentBytes = 8 << 20
	KeepBytes    = 256 << 20
	KeepAge      = 7 * 24 * time.Hour
	BufferBytes  = 8 << 20
	SyncEvery    = time.Second
)

// MaxRecord bounds the data of one record, in bytes.
const MaxRecord = 1 << 20

// Leap is how far numbers are set forward after a writer that was killed: it
// has given out no more without writing them.
const Leap = 1 << 20

// Record is one entry.
type Record struct {
	Cursor uint64
	Time   int64
	Data   []byte
}

// Options are what a Journal is made with; what is zero has the constant of the
// same name.
type Options struct {
	SegmentBytes int64
	// KeepBytes and KeepAge bound what is kept: the oldest files go.
	KeepBytes int64
	KeepAge   time.Duration
	// BufferBytes bounds what waits for the disk. Beyond that records are lost,
	// and counted.
	BufferBytes int
	Clock       ktime.Clock
	// State is asked for what the header of a new file is to hold, so that
	// whoever opens the journal has to read no more than the newest files. What
	// it says must cover no record beyond Written. It is called without locks.
	State func() []byte
	// Failed is told when the disk refuses, once for each time, and Recovered
	// when it takes records again, with how many were lost. Both are called
	// without locks, by the writer.
	Failed    func(error)
	Recovered func(lost uint64)
	// Busy is told when the writer begins to work on the disk, and when it is
	// done with that.
	Busy func(bool)

	disk disk
}

// Journal is a directory of segments that one process writes.
type Journal struct {
	dir string
	opt Options
	w   writer // the writing goroutine's

	state     []byte // that Open found
	stateFrom uint64

	done chan struct{} // closed when the writer has ended

	mu sync.Mutex
	// The next number.
	next uint64 // +checklocks:mu
	// What the writer has not taken yet. One without data stands for records
	// that are lost, up to its cursor.
	waiting []Record // +checklocks:mu
	// Bytes of it.
	pending int // +checklocks:mu
	// The last number that is in a file, or lost.
	written uint64 // +checklocks:mu
	lost    uint64 // +checklocks:mu
	// Why nothing is written at the moment.
	failure error // +checklocks:mu
	closed  bool  // +checklocks:mu
	// The segments, ascending.
	segments []segment // +checklocks:mu
	// Closed and replaced whenever written or segments changes.
	changed chan struct{} // +checklocks:mu
	// Closed and replaced whenever there is something to write.
	wake chan struct{} // +checklocks:mu
}

// Stats is the state of a Journal.
type Stats struct {
	First, Last uint64 // cursors of the oldest and the newest record
	Bytes       int64
	Segments    int
	Oldest      int64  // when the oldest segment was begun
	Lost        uint64 // since Open
	Failure     error  // nil: it is written
}

// Open opens the journal in dir, which must exist, and begins a new file.
func Open(dir string, o Options) (*Journal, error) {
	o.setDefaults()
	segments, err := scan(dir)
	if err != nil {
		return nil, err
	}
	j := &Journal{dir: dir, opt: o, done: make(chan struct{}), changed: make(chan struct{}), wake: make(chan struct{})}
	j.w.j = j
	next, err := j.w.recover(segments)
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	j.next, j.written = next, next-1
	j.mu.Unlock()
	j.w.begin(next) // A full disk is no reason not to run.
	go j.w.run()
	return j, nil
}

func (o *Options) setDefaults() {
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = SegmentBytes
	}
	if o.KeepBytes <= 0 {
		o.KeepBytes = KeepBytes
	}
	if o.KeepAge <= 0 {
		o.KeepAge = KeepAge
	}
	if o.BufferBytes <= 0 {
		o.BufferBytes = BufferBytes
	}
	if o.Clock == nil {
		o.Clock = ktime.Real
	}
	if o.State == nil {
		o.State = func() []byte { return nil }
	}
	if o.Failed == nil {
		o.Failed = func(error) {}
	}
	if o.Recovered == nil {
		o.Recovered = func(uint64) {}
	}
	if o.Busy == nil {
		o.Busy = func(bool) {}
	}
	if o.disk == nil {
		o.disk = hostDisk{}
	}
}

// Found returns what Options.State said once, before the journal was opened,
// and a cursor from which on records may not be covered by that.
func (j *Journal) Found() (state []byte, from uint64) { return j.state, j.stateFrom }

// Append takes a record, whose data is the journal's from then on, and returns
// its cursor. A record that there is no room for is lost, and counted.
func (j *Journal) Append(at int64, data []byte) uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	r := Record{Cursor: j.next, Time: at, Data: data}
	j.next++
	n := len(j.waiting)
	if j.closed || len(data) > MaxRecord || j.pending+len(data) > j.opt.BufferBytes {
		j.lost++
		r.Data = nil
		if n > 0 && j.waiting[n-1].Data == nil {
			j.waiting[n-1] = r // The last of those that are passed over.
			return r.Cursor
		}
	} else {
		if data == nil {
			r.Data = []byte{}
		}
		j.pending += len(data) + frameBytes + timeBytes
	}
	j.waiting = append(j.waiting, r)
	if n == 0 {
		close(j.wake)
		j.wake = make(chan struct{})
	}
	return r.Cursor
}

// advance says that everything up to a cursor is in the files or lost.
//
// +checklocks:j.mu
func (j *Journal) advance(to uint64) {
	j.written = to
	close(j.changed)
	j.changed = make(chan struct{})
}

// Written returns the last cursor that is in a file, or lost, and a channel that
// is closed when it changes.
func (j *Journal) Written() (uint64, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.written, j.changed
}

// Last returns the last cursor that was given out.
func (j *Journal) Last() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.next - 1
}

// First returns the cursor of the oldest record that is kept.
func (j *Journal) First() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.first()
}

// +checklocks:j.mu
func (j *Journal) first() uint64 {
	if len(j.segments) == 0 {
		return j.next
	}
	return j.segments[0].first
}

// After returns a cursor to read from in order to see everything that was
// appended at a time or later; some of what comes first may be older.
func (j *Journal) After(at int64) uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	from := j.first()
	for _, s := range j.segments {
		if s.head.Created <= at {
			from = s.first
		}
	}
	return from
}

// Stats returns the state of the journal.
func (j *Journal) Stats() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := Stats{First: j.first(), Last: j.next - 1, Segments: len(j.segments), Lost: j.lost, Failure: j.failure}
	for _, g := range j.segments {
		s.Bytes += g.size
	}
	if len(j.segments) > 0 {
		s.Oldest = j.segments[0].head.Created
	}
	return s
}

// Close writes what waits, and ends the writer.
func (j *Journal) Close() error {
	j.mu.Lock()
	if !j.closed {
		j.closed = true
		close(j.wake)
		j.wake = make(chan struct{})
	}
	j.mu.Unlock()
	<-j.done
	j.mu.Lock()
	defer j.mu.Unlock()
	return errdefs.Wrap(j.failure, errdefs.HostIO, "close the journal of events")
}
