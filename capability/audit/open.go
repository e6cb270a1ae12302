package audit

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/internal/safefile"
)

// Open opens the log in dir for writing and makes it when there is none. What
// a crash left at the end is cut back to the last whole line, and the first
// new entry says so. Open checks the end of the log; Verify checks all of it.
//
// It fails with AUDIT_BROKEN when less is there than the head promises, when
// the head was not written by a holder of the key, or when a part is gone.
func Open(dir string, opt Options) (*Log, error) {
	opt.setDefaults()
	if opt.SegmentBytes < 0 || opt.Keep < 2 || opt.BatchBytes < 0 || opt.QueueEntries < 1 || opt.QueueBytes < 1 {
		return nil, errdefs.New(errdefs.InvalidArgument, "a size is negative, or fewer than two segments are to be kept",
			errdefs.Op("open audit log"), errdefs.Fix("keep at least 2 segments"))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, safefile.Fail(err, "make audit log", dir)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	l := &Log{
		opt: opt, dir: dir, lock: lock, start: opt.Clock.Now(),
		wake: make(chan struct{}, 1), exited: make(chan struct{}),
		room: make(chan struct{}), moved: make(chan struct{}), repeats: newRepeats(opt.RepeatWindow),
	}
	first, err := l.resume()
	if err != nil && errors.Is(err, errdefs.AuditBroken) && opt.SetAside {
		first, err = l.setAside(err)
	}
	if err == nil {
		l.mu.Lock()
		l.durable = l.w.headed
		l.push(first, opt.Clock.Now())
		l.mu.Unlock()
		go l.run()
		if err = l.Sync(); err != nil {
			l.Close() // The error is the same.
			return nil, errdefs.Wrap(err, errdefs.HostIO, "open audit log", errdefs.Resource("%s", dir))
		}
		return l, nil
	}
	if l.w != nil && l.w.file != nil {
		l.w.file.Close() // Nothing was written.
	}
	lock.Close()
	return nil, errdefs.Wrap(err, errdefs.HostIO, "open audit log", errdefs.Resource("%s", dir))
}

func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, safefile.Fail(err, "lock audit log", path)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close() // Not locked.
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errdefs.New(errdefs.WrongState, "another process writes this log",
				errdefs.Op("open audit log"), errdefs.Resource("%s", dir), errdefs.Fix("a log has one writer; read it with Query"))
		}
		return nil, safefile.Fail(err, "lock audit log", path)
	}
	return f, nil
}

// resume finds the end of the log, repairs it, and returns the first entry to
// write.
func (l *Log) resume() (Entry, error) {
	segments, err := listSegments(l.dir)
	if err != nil {
		return Entry{}, err
	}
	h, err := readHead(l.dir)
	if errors.Is(err, errNoHead) {
		if len(segments) > 0 {
			return Entry{}, broken("the head is gone, but there are %d segments", len(segments))
		}
		return l.begin()
	}
	if err != nil {
		return Entry{}, err
	}
	key, err := writerKey(l.opt.KeyFile, &h)
	if err != nil {
		return Entry{}, err
	}
	l.w = &writer{log: h.Log, key: key}
	e, err := findEnd(l.dir, h, segments)
	if err != nil {
		return Entry{}, err
	}
	if err := l.takeUp(e, segments); err != nil {
		return Entry{}, err
	}
	first := Entry{Op: OpStart, Actor: "daemon", Reason: "the log was closed in order"}
	if !h.Closed {
		first.Code, first.Reason = string(errdefs.AuditGap), e.report()
	}
	return first, nil
}

// begin makes a log where there is none. The head comes first, so that
// segments without a head are always a sign of tampering.
func (l *Log) begin() (Entry, error) {
	first := Entry{Op: OpStart, Actor: "daemon", Reason: "a new log"}
	if _, err := os.Lstat(l.opt.KeyFile); err == nil {
		first.Code = string(errdefs.AuditGap)
		first.Reason += ", although there is a key: a log that was here before is gone"
	}
	key, err := writerKey(l.opt.KeyFile, nil)
	if err != nil {
		return Entry{}, err
	}
	var id [16]byte
	rand.Read(id[:]) // Never fails since Go 1.24.
	l.w = &writer{log: hex.EncodeToString(id[:]), key: key}
	if err := l.putHead(false); err != nil {
		return Entry{}, err
	}
	if err := l.rotate(); err != nil {
		return Entry{}, err
	}
	return first, nil
}

// takeUp makes e the end of the log: what is behind it goes.
func (l *Log) takeUp(e end, segments []uint64) error {
	w := l.w
	for _, n := range segments {
		if n > e.Segment {
			if err := l.opt.disk.remove(segmentPath(l.dir, n)); err != nil {
				return safefile.Fail(err, "remove incomplete segment", segmentPath(l.dir, n))
			}
		}
	}
	w.stored, w.written = e.position, e.position
	if e.Segment == 0 {
		if err := l.putHead(false); err != nil {
			return err
		}
		return l.rotate()
	}
	path := segmentPath(l.dir, e.Segment)
	head, err := readHeader(path)
	if err != nil {
		return broken("the header of %s: %v", segmentName(e.Segment), err)
	}
	w.trimmed = head.Trimmed
	if w.file, err = l.opt.disk.openSegment(path, false); err != nil {
		return safefile.Fail(err, "open audit segment", path)
	}
	if err = w.file.Truncate(e.Size); err == nil {
		err = w.file.Sync()
	}
	if err != nil {
		return safefile.Fail(err, "repair audit segment", path)
	}
	return l.putHead(false)
}

// setAside moves a broken log into a directory below and begins a new one.
func (l *Log) setAside(why error) (Entry, error) {
	name := "broken-" + l.opt.Clock.Now().UTC().Format("20060102T150405.000000000Z")
	aside := filepath.Join(l.dir, name)
	if err := os.Mkdir(aside, 0o700); err != nil {
		return Entry{}, safefile.Fail(err, "set audit log aside", aside)
	}
	segments, err := listSegments(l.dir)
	if err != nil {
		return Entry{}, err
	}
	names := []string{headName}
	for _, n := range segments {
		names = append(names, segmentName(n))
	}
	for _, n := range names {
		err := os.Rename(filepath.Join(l.dir, n), filepath.Join(aside, n))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Entry{}, safefile.Fail(err, "set audit log aside", filepath.Join(l.dir, n))
		}
	}
	if err := errors.Join(l.opt.disk.syncDir(aside), l.opt.disk.syncDir(l.dir)); err != nil {
		return Entry{}, safefile.Fail(err, "set audit log aside", aside)
	}
	if l.w != nil && l.w.file != nil {
		l.w.file.Close() // Nothing was written.
	}
	if _, err := l.begin(); err != nil {
		return Entry{}, err
	}
	return Entry{Op: OpGap, Actor: "daemon", Target: name, Code: string(errdefs.AuditBroken),
		Reason: "the log before this one is broken and was set aside: " + why.Error()}, nil
}

func broken(format string, args ...any) error {
	return errdefs.New(errdefs.AuditBroken, fmt.Sprintf(format, args...),
		errdefs.Fix("keep the files: verifying them shows what is sound; set the log aside to begin a new one"))
}
