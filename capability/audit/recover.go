package audit

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"

	"aios.dev/aios/internal/safefile"
)

// end is where a log that was not closed is taken up again.
type end struct {
	position
	kept int   // entries behind the head: written, but never promised
	cut  int64 // bytes behind those, which make no line of the chain
}

// report says what a crash cost.
func (e end) report() string {
	s := "the log was not closed: its writer was killed or the machine stopped; at most the last unsynced batch is missing"
	if e.kept > 0 {
		s += fmt.Sprintf("; %d entries behind the last synced one are kept", e.kept)
	}
	if e.cut > 0 {
		s += fmt.Sprintf("; %d bytes of an incomplete line are cut off", e.cut)
	}
	return s
}

// findEnd checks the log from the head on and returns the last place up to
// which it is sound.
func findEnd(dir string, h head, segments []uint64) (end, error) {
	e := end{position: h.position}
	if h.Segment > 0 {
		if !slices.Contains(segments, h.Segment) {
			return end{}, broken("%s, in which the synced log ends, is gone", segmentName(h.Segment))
		}
		if err := checkHeaded(segmentPath(dir, h.Segment), h); err != nil {
			return end{}, err
		}
	}
	c := chain{log: h.Log, position: h.position}
	for _, n := range segments {
		if n < h.Segment {
			continue
		}
		// The writer begins a segment only when everything before is on disk.
		if e.cut > 0 || n > c.Segment+1 {
			return end{}, broken("%s follows a segment that is incomplete or missing", segmentName(n))
		}
		if err := e.extend(dir, n, &c); err != nil {
			return end{}, err
		}
	}
	if h.Closed && (e.kept > 0 || e.cut > 0 || e.Segment != h.Segment) {
		return end{}, broken("there are lines behind the end of a log that was closed")
	}
	return e, nil
}

// extend moves e over the sound lines of segment n behind it.
func (e *end) extend(dir string, n uint64, c *chain) error {
	path := segmentPath(dir, n)
	f, err := os.Open(path)
	if err != nil {
		return safefile.Fail(err, "open audit segment", path)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return safefile.Fail(err, "open audit segment", path)
	}
	start := int64(0)
	if n == c.Segment {
		start = c.Size
	}
	ls := newLines(io.NewSectionReader(f, start, info.Size()-start))
	for {
		line, whole, err := ls.next()
		if err == io.EOF {
			return nil
		}
		if err != nil && err != errLong {
			return safefile.Fail(err, "read audit segment", path)
		}
		if err == errLong || !whole || !e.step(c, n, start+ls.end, line) {
			e.cut = info.Size() - start
			if n == e.Segment {
				e.cut = info.Size() - e.Size
			}
			return nil
		}
	}
}

// step takes one line and reports whether it belongs to the chain.
func (e *end) step(c *chain, n uint64, size int64, line []byte) bool {
	if n != c.Segment {
		if _, fault := c.header(n, line); fault != nil {
			return false
		}
	} else {
		if _, fault := c.entry(line); fault != nil {
			return false
		}
		e.kept++
	}
	c.Size = size
	e.position = c.position
	return true
}

// checkHeaded says whether the segment reaches as far as the head promises and
// has the promised line there.
func checkHeaded(path string, h head) error {
	f, err := os.Open(path)
	if err != nil {
		return safefile.Fail(err, "open audit segment", path)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return safefile.Fail(err, "open audit segment", path)
	}
	if info.Size() < h.Size {
		return broken("%s ends at byte %d, but %d were synced", segmentName(h.Segment), info.Size(), h.Size)
	}
	want := []byte(hashMember + h.Hash.String() + hashEnd + "\n")
	got := make([]byte, len(want))
	if h.Size < int64(len(want)) {
		return broken("the head is not as it was written")
	}
	if _, err := f.ReadAt(got, h.Size-int64(len(want))); err != nil {
		return safefile.Fail(err, "read audit segment", path)
	}
	if !bytes.Equal(got, want) {
		return broken("%s has another line at byte %d than was synced", segmentName(h.Segment), h.Size)
	}
	return nil
}
