package audit

import (
	"os"
	"sync"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// Options says how a log is kept. The zero value of a field is its default.
type Options struct {
	// Clock is ktime.Real unless a test owns time.
	Clock ktime.Clock
	// SegmentBytes is when a new segment is begun: 64 MiB. A segment is longer
	// by at most a batch.
	SegmentBytes int64
	// Keep is how many segments there may be: 16. Older ones are deleted, and
	// the log says so.
	Keep int
	// BatchInterval and BatchBytes are when what was written is synced: after
	// 50 ms or 256 KiB, whichever comes first.
	BatchInterval time.Duration
	BatchBytes    int
	// QueueEntries and QueueBytes bound what Append has taken and the writer
	// has not: 4096 entries, 4 MiB.
	QueueEntries int
	QueueBytes   int
	// MaxWait is how long Append waits for room in the queue before it
	// refuses: 5 s.
	MaxWait time.Duration
	// Retry is how soon the writer tries again when the disk refused: 1 s.
	Retry time.Duration
	// RepeatWindow is for how long the same refusal is counted instead of
	// written: 1 s; negative: every refusal is written.
	RepeatWindow time.Duration
	// KeyFile authenticates the head with the key in this file, which is made
	// when there is none. Empty: the head is not authenticated.
	KeyFile string
	// SetAside moves a log that is broken into a directory below and begins a
	// new one, whose first entry says so. Otherwise Open refuses it.
	SetAside bool
	// Busy, unless nil, is told when the writer begins to work on the disk, and
	// when it is done with that.
	Busy func(bool)

	disk disk // nil: the host's
}

func setDefault[T int | int64 | time.Duration](v *T, to T) {
	if *v == 0 {
		*v = to
	}
}

func (o *Options) setDefaults() {
	if o.Busy == nil {
		o.Busy = func(bool) {}
	}
	if o.Clock == nil {
		o.Clock = ktime.Real
	}
	if o.disk == nil {
		o.disk = hostDisk{}
	}
	setDefault(&o.SegmentBytes, 64<<20)
	setDefault(&o.Keep, 16)
	setDefault(&o.BatchInterval, 50*time.Millisecond)
	setDefault(&o.BatchBytes, 256<<10)
	setDefault(&o.QueueEntries, 4096)
	setDefault(&o.QueueBytes, 4<<20)
	setDefault(&o.MaxWait, 5*time.Second)
	setDefault(&o.Retry, time.Second)
	setDefault(&o.RepeatWindow, time.Second)
}

// Log is the writer of an audit log. Its methods may be called by any number
// of goroutines. A directory has one Log at a time, in all processes.
type Log struct {
	opt   Options
	dir   string
	lock  *os.File
	start time.Time

	wake   chan struct{} // capacity 1: the writer has something to do
	exited chan struct{} // closed when the writer is gone
	w      *writer       // the writer goroutine's alone

	mu sync.Mutex
	// What Append has taken and the writer has not; spare is the slice that it
	// is swapped with, queued its size in bytes.
	// +checklocks:mu
	queue []Entry
	// +checklocks:mu
	spare []Entry
	// +checklocks:mu
	queued int
	// Closed when there is room in the queue again.
	// +checklocks:mu
	room chan struct{}
	// +checklocks:mu
	repeats *repeats
	// Calls of Sync since the writer last looked.
	// +checklocks:mu
	waiters []chan error
	// What the writer was woken for: a batch is to be synced, another attempt
	// to be made, counts of repeats may be due.
	// +checklocks:mu
	due bool
	// +checklocks:mu
	retry bool
	// +checklocks:mu
	counts bool
	// A timer for counts is set.
	// +checklocks:mu
	armed bool
	// +checklocks:mu
	closing bool
	// Why the disk refuses; nil when it does not.
	// +checklocks:mu
	err error
	// How many entries were refused since the last gap, and why the first was.
	// +checklocks:mu
	refused uint64
	// +checklocks:mu
	refusal string
	// How far the log is on disk, head included; moved is closed when that
	// changes.
	// +checklocks:mu
	durable position
	// +checklocks:mu
	moved chan struct{}
}

// Append takes an entry for writing; Seq, Time and Mono are set here. It does
// not wait for the disk: call Sync for that. When the queue is full it waits
// for room. It fails when the log is closed, when the disk refuses, or when
// there was no room for Options.MaxWait; the entry is then not in the log, the
// caller should not do what it wanted recorded, and the log counts the refusal.
func (l *Log) Append(e Entry) error {
	e.clip()
	if e.Op == "" {
		return errdefs.New(errdefs.InvalidArgument, "the entry has no operation",
			errdefs.Op("append to audit log"), errdefs.Fix("set Op"))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var late <-chan struct{}
	for {
		if l.closing {
			return errdefs.New(errdefs.WrongState, "the log is closed", errdefs.Op("append to audit log"))
		}
		if l.err != nil {
			l.refuse(l.err.Error())
			return errdefs.Wrap(l.err, errdefs.HostIO, "append to audit log")
		}
		if len(l.queue) < l.opt.QueueEntries && l.queued < l.opt.QueueBytes {
			break
		}
		if late == nil {
			c := make(chan struct{})
			defer l.opt.Clock.AfterFunc(l.opt.MaxWait, func() { close(c) }).Stop()
			late = c
		}
		room := l.room
		l.mu.Unlock()
		timedOut := false
		select {
		case <-room:
		case <-late:
			timedOut = true
		}
		l.mu.Lock()
		if timedOut {
			l.refuse("the disk was too slow")
			return errdefs.New(errdefs.Timeout, "the disk is too slow: no room in the queue for "+l.opt.MaxWait.String(),
				errdefs.Op("append to audit log"), errdefs.Fix("look at the load of the disk under %s", l.dir))
		}
	}
	now := l.opt.Clock.Now()
	if !l.repeats.admit(e, now) {
		l.armCounts()
		return nil
	}
	if e.Op == OpDenied {
		l.armCounts()
	}
	l.push(e, now)
	return nil
}

// refuse counts an entry that is not taken.
//
// +checklocks:l.mu
func (l *Log) refuse(why string) {
	if l.refused == 0 {
		l.refusal = why
	}
	l.refused++
}

// push queues e, whatever the bounds.
//
// +checklocks:l.mu
func (l *Log) push(e Entry, now time.Time) {
	e.Time, e.Mono = now.UTC().Round(0), now.Sub(l.start)
	l.queue = append(l.queue, e)
	l.queued += e.size()
	l.kick()
}

// kick wakes the writer.
func (l *Log) kick() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// armCounts has the counts of repeats looked at once a window.
//
// +checklocks:l.mu
func (l *Log) armCounts() {
	if l.armed || l.opt.RepeatWindow <= 0 || len(l.repeats.kinds) == 0 {
		return
	}
	l.armed = true
	l.opt.Clock.AfterFunc(l.opt.RepeatWindow, func() {
		l.mu.Lock()
		l.armed, l.counts = false, true
		l.mu.Unlock()
		l.kick()
	})
}

// Sync returns once every entry that was taken before, counts of repeats
// included, is on disk, and Verify would find its loss. On an error they are
// not, but are still in memory and will be written when the disk permits.
func (l *Log) Sync() error {
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		return errdefs.New(errdefs.WrongState, "the log is closed", errdefs.Op("sync audit log"))
	}
	done := make(chan error, 1)
	l.waiters = append(l.waiters, done)
	l.mu.Unlock()
	l.kick()
	return errdefs.Wrap(<-done, errdefs.HostIO, "sync audit log")
}

// Close writes what is left and an audit.stop entry, marks the log as closed
// and lets go of the directory. An error says that entries were lost.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		<-l.exited
		return nil
	}
	l.closing = true
	done := make(chan error, 1)
	l.waiters = append(l.waiters, done)
	l.mu.Unlock()
	l.kick()
	err := <-done
	<-l.exited
	return errdefs.Wrap(err, errdefs.HostIO, "close audit log", errdefs.Resource("%s", l.dir))
}

// Err returns why the disk refuses entries, nil when it does not.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Head returns how far the log is on disk.
func (l *Log) Head() Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Head{l.durable.Seq, l.durable.Hash}
}

// Dir returns the directory of the log.
func (l *Log) Dir() string { return l.dir }

// position returns how far the log is on disk, and a channel that is closed
// when that changes.
func (l *Log) position() (position, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable, l.moved
}
