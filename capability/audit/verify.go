package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/internal/safefile"
)

// VerifyOptions says what Verify compares a log with besides itself.
type VerifyOptions struct {
	// KeyFile holds the key of the head; empty: its authenticity is not checked.
	KeyFile string
	// Head is a hash that Log.Head once returned and that was kept elsewhere:
	// a line of the log must have it. The zero Hash is not looked for.
	Head Hash
}

// Report is what Verify found. The counts end where the log is broken.
type Report struct {
	Entries  uint64
	Segments int
	// First and Last are sequence numbers; the times are of these entries.
	First, Last         uint64
	FirstTime, LastTime time.Time
	// Trimmed is the number of the last entry that the writer deleted to keep
	// the log in bounds.
	Trimmed uint64
	// Unsynced counts entries behind the head, and Torn the bytes of a line
	// there that is incomplete: a batch on its way, or what a crash left.
	Unsynced uint64
	Torn     int64
	// Closed says that the writer ended in order.
	Closed bool
	// Authenticated says that the head has a MAC and that it was checked.
	Authenticated bool
	// Head is the last entry that the head promises.
	Head Head
	// Broken is nil for a sound log.
	Broken *Break
}

// Break is the first place where a log is broken.
type Break struct {
	File   string
	Line   int    // from 1; 0: the file as a whole
	Seq    uint64 // of the entry that should be there
	Reason Reason
	Detail string
}

// String says where and why.
func (b Break) String() string {
	where := b.File
	if b.Line > 0 {
		where += fmt.Sprintf(":%d", b.Line)
	}
	return fmt.Sprintf("%s: %s at entry %d: %s", where, b.Reason, b.Seq, b.Detail)
}

// OK reports whether the log is sound.
func (r Report) OK() bool { return r.Broken == nil }

// Err is nil for a sound log and AUDIT_BROKEN otherwise.
func (r Report) Err() error {
	if r.Broken == nil {
		return nil
	}
	return errdefs.New(errdefs.AuditBroken, r.Broken.String(), errdefs.Op("verify audit log"),
		errdefs.Fix("keep the files; entries before %d are sound", r.Broken.Seq))
}

// Verify checks the log in dir from end to end: every hash, every number,
// every segment, and that it reaches as far as the head says. A log that is
// broken is not an error; one that cannot be read is. A writer may go on
// meanwhile.
func Verify(dir string, opt VerifyOptions) (Report, error) {
	for tries := 1; ; tries++ {
		v := verifier{dir: dir, opt: opt}
		err := v.run()
		if err != nil {
			return v.Report, errdefs.Wrap(err, errdefs.HostIO, "verify audit log", errdefs.Resource("%s", dir))
		}
		// What looks broken may be a writer that has trimmed or closed the log
		// since it was looked at: then the head has moved.
		if now, err := readHead(dir); v.OK() || tries == 3 || err != nil || now == v.head {
			return v.Report, nil
		}
	}
}

type verifier struct {
	Report
	dir    string
	opt    VerifyOptions
	head   head
	headed bool // the head's place was passed
	known  bool // the hash that was kept elsewhere was seen
	c      chain
	file   string
	line   int
}

func (v *verifier) fail(r Reason, seq uint64, format string, args ...any) {
	if v.Broken == nil {
		v.Broken = &Break{v.file, v.line, seq, r, fmt.Sprintf(format, args...)}
	}
}

func (v *verifier) run() error {
	var err error
	v.file = headName
	v.head, err = readHead(v.dir)
	segments, listErr := listSegments(v.dir)
	if listErr != nil {
		return listErr
	}
	switch {
	case errors.Is(err, errNoHead) && len(segments) == 0:
		return errdefs.New(errdefs.NotFound, "there is no audit log")
	case errors.Is(err, errNoHead):
		v.fail(Deleted, 1, "there is no head, but there are segments")
		return nil
	case errors.Is(err, errdefs.AuditBroken):
		v.fail(Edited, 1, "%v", err)
		return nil
	case err != nil:
		return err
	}
	if err := v.checkKey(); err != nil || !v.OK() {
		return err
	}
	v.Closed, v.Head = v.head.Closed, Head{v.head.Seq, v.head.Hash}
	v.c.log = v.head.Log
	v.pass(position{}) // A head that promises nothing.
	if len(segments) > 0 {
		if err := v.begin(segments); err != nil || !v.OK() {
			return err
		}
	}
	for i, n := range segments {
		if err := v.segment(n, i == len(segments)-1); err != nil || !v.OK() {
			return err
		}
	}
	v.file, v.line = segmentName(max(v.head.Segment, 1)), 0
	if !v.headed {
		if v.c.Segment > v.head.Segment || v.c.Segment == v.head.Segment && v.c.Size >= v.head.Size {
			v.file = headName
			v.fail(Forged, v.head.Seq, "the log has another line where the head says it ends")
		} else {
			v.fail(Truncated, v.c.Seq+1, "entries up to %d were synced, the log ends at %d", v.head.Seq, v.c.Seq)
		}
	}
	if (v.opt.Head != Hash{}) && !v.known {
		v.file = headName
		v.fail(Forged, v.First, "no line has the hash that was kept elsewhere: the log was rewritten, or that line was trimmed")
	}
	return nil
}

// checkKey authenticates the head.
func (v *verifier) checkKey() error {
	if v.opt.KeyFile == "" {
		return nil
	}
	key, err := readKey(v.opt.KeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return errdefs.Wrap(err, errdefs.NotFound, "authenticate head",
			errdefs.Fix("restore the key file, or verify without one"))
	}
	if err != nil {
		return err
	}
	if v.head.authentic(key) {
		v.Authenticated = true
	} else {
		v.fail(Forged, v.head.Seq, "the head was not written by a holder of the key")
	}
	return nil
}

// begin finds out where the log starts: at its beginning, or behind what the
// newest segment says was trimmed.
func (v *verifier) begin(segments []uint64) error {
	first := segments[0]
	v.file = segmentName(first)
	// The newest header may be incomplete: then the one before speaks.
	var newest header
	for i := len(segments) - 1; i >= max(0, len(segments)-2); i-- {
		h, err := readHeader(segmentPath(v.dir, segments[i]))
		if err == nil {
			newest = h
			break
		}
	}
	if first > 1 && (newest.Trimmed == nil || newest.Trimmed.Segment < first-1) {
		v.fail(Deleted, 1, "the segments before it are gone, and the log did not trim them")
		return nil
	}
	if first == 1 {
		return nil
	}
	if newest.Trimmed.Segment == first-1 {
		v.Trimmed = newest.Trimmed.Seq
		v.c.position = position{Segment: first - 1, Seq: newest.Trimmed.Seq, Hash: newest.Trimmed.Hash}
		return nil
	}
	// Segments that were about to be trimmed are still there.
	h, err := readHeader(segmentPath(v.dir, first))
	if err != nil {
		v.line = 1
		v.fail(Edited, newest.Trimmed.Seq, "%v", err)
		return nil
	}
	v.Trimmed = h.First - 1
	v.c.position = position{Segment: first - 1, Seq: h.First - 1, Hash: h.Prev}
	return nil
}

// segment checks one file.
func (v *verifier) segment(n uint64, last bool) error {
	v.file, v.line = segmentName(n), 0
	if n != v.c.Segment+1 {
		v.file = segmentName(v.c.Segment + 1)
		v.fail(Deleted, v.c.Seq+1, "the segment is gone, but later ones are there")
		return nil
	}
	f, err := os.Open(segmentPath(v.dir, n))
	if errors.Is(err, fs.ErrNotExist) {
		v.fail(Deleted, v.c.Seq+1, "the segment is gone")
		return nil
	}
	if err != nil {
		return safefile.Fail(err, "open audit segment", segmentPath(v.dir, n))
	}
	defer f.Close()
	ls := newLines(f)
	for {
		line, whole, err := ls.next()
		switch {
		case err == io.EOF:
			if ls.number == 0 && (!last || !v.headed || v.Closed) {
				v.fail(Truncated, v.c.Seq+1, "the segment is empty")
			}
			return nil
		case err == errLong:
			v.line = ls.number + 1
			v.fail(Edited, v.c.Seq+1, "%v", err)
			return nil
		case err != nil:
			return safefile.Fail(err, "read audit segment", segmentPath(v.dir, n))
		}
		v.line = ls.number
		if !whole {
			v.torn(last, int64(len(line)))
			return nil
		}
		if v.headed && v.Closed {
			v.fail(Forged, v.c.Seq+1, "there is a line behind the end of a log that was closed")
			return nil
		}
		if !v.take(n, ls, line) {
			return nil
		}
	}
}

// torn judges bytes that no newline ends.
func (v *verifier) torn(last bool, n int64) {
	v.line++
	switch {
	case !last || !v.headed:
		v.fail(Truncated, v.c.Seq+1, "the segment ends within a line")
	case v.Closed:
		v.fail(Forged, v.c.Seq+1, "there are bytes behind the end of a log that was closed")
	default:
		v.Torn = n
	}
}

// take checks one line and moves on.
func (v *verifier) take(n uint64, ls *lines, line []byte) bool {
	if ls.number == 1 {
		prev := v.c.Hash
		h, fault := v.c.header(n, line)
		if fault != nil {
			v.fail(fault.reason, fault.seq, "%s", fault.detail)
			return false
		}
		v.Segments++
		v.known = v.known || prev == v.opt.Head
		if t := h.Trimmed; t != nil && t.Segment >= n {
			v.fail(Forged, h.First, "the header says that its own segment was trimmed")
			return false
		}
	} else {
		e, fault := v.c.entry(line)
		if fault != nil {
			v.classify(fault, e, ls)
			return false
		}
		v.Entries++
		v.Last, v.LastTime = e.Seq, e.Time
		if v.First == 0 {
			v.First, v.FirstTime = e.Seq, e.Time
		}
		if v.headed {
			v.Unsynced++
		}
	}
	v.c.Size = ls.end
	v.known = v.known || v.c.Hash == v.opt.Head
	v.pass(v.c.position)
	return true
}

// pass notes when the head's place is reached.
func (v *verifier) pass(p position) {
	v.headed = v.headed || p == v.head.position
}

// classify looks at what follows a line that does not fit, to say what was
// probably done.
func (v *verifier) classify(f *fault, e stamp, ls *lines) {
	if f.reason == Deleted || f.reason == Reordered {
		for ahead := 0; ahead < 1000; ahead++ {
			line, whole, err := ls.next()
			if err != nil || !whole {
				break
			}
			next, err := ParseLine(line)
			if err != nil {
				break
			}
			if ahead == 0 && next.Seq == f.seq+1 {
				f.reason, f.detail = Edited, fmt.Sprintf("the entry's number is %d instead of %d", e.Seq, f.seq)
				break
			}
			if next.Seq == f.seq {
				f.reason, f.detail = Reordered, fmt.Sprintf("entry %d is before entry %d", e.Seq, f.seq)
				break
			}
		}
	}
	v.fail(f.reason, f.seq, "%s", f.detail)
}
