package journal

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
)

// Gap says that records are missing; reading goes on behind them.
type Gap struct {
	From, To uint64 // cursors, the second not in it
	Lost     uint64 // how many records that is
	Why      string
}

// Reasons of gaps.
const (
	WhyTrimmed = "they were deleted to keep the journal in bounds"
	WhyLost    = "they could not be written"
	WhyDamaged = "a file of the journal is damaged"
)

// Reader reads the journal from a cursor on. It belongs to one goroutine.
type Reader struct {
	j    *Journal
	next uint64
	f    *os.File
	r    *bufio.Reader
	at   uint64 // cursor of what r reads next
	seg  uint64 // the first of the segment that is open, or was to be
}

// Read returns a reader of the records from a cursor on.
func (j *Journal) Read(from uint64) *Reader { return &Reader{j: j, next: max(from, 1)} }

// Next returns the cursor that is read next.
func (r *Reader) Next() uint64 { return r.next }

// Close closes what is open.
func (r *Reader) Close() {
	if r.f != nil {
		r.f.Close()
		r.f, r.r = nil, nil
	}
}

// Read returns the next record, or a gap in front of it, or io.EOF when
// everything that is written was read. It may be called again after each.
func (r *Reader) Read() (Record, *Gap, error) {
	for {
		written, _ := r.j.Written()
		if r.next > written {
			return Record{}, nil, io.EOF
		}
		if r.f == nil {
			if g := r.open(written); g != nil {
				return Record{}, g, nil
			}
			continue
		}
		rec, _, err := readRecord(r.r, r.at)
		switch {
		case err == nil && r.at < r.next:
			r.at++
			continue
		case err == nil:
			r.at, r.next = r.at+1, r.next+1
			return rec, nil, nil
		case err == io.EOF: // It goes on in another file, or was lost.
			if g := r.skip(written, WhyLost); g != nil {
				return Record{}, g, nil
			}
		default:
			if g := r.skip(written, WhyDamaged); g != nil {
				return Record{}, g, nil
			}
		}
	}
}

// open opens the segment that holds the next record, or reports what is missing
// up to the one after it.
func (r *Reader) open(written uint64) *Gap {
	r.j.mu.Lock()
	var in *segment
	for i := range r.j.segments {
		if s := &r.j.segments[i]; s.first <= r.next {
			in = s
		}
	}
	first := r.j.first()
	r.j.mu.Unlock()
	if in == nil {
		return r.gap(min(first, written+1), WhyTrimmed)
	}
	r.seg = in.first
	if err := r.openFile(in); err != nil {
		why := WhyDamaged
		if errors.Is(err, fs.ErrNotExist) {
			why = WhyTrimmed
		}
		return r.skip(written, why)
	}
	return nil
}

func (r *Reader) openFile(s *segment) error {
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	b := bufio.NewReaderSize(f, 64<<10)
	if _, err := readHeader(b); err != nil {
		f.Close()
		return err
	}
	r.f, r.r, r.at = f, b, s.first
	return nil
}

// skip goes to the segment behind the one that is open, or that could not be
// opened.
func (r *Reader) skip(written uint64, why string) *Gap {
	r.Close()
	to := written + 1
	r.j.mu.Lock()
	for _, s := range r.j.segments {
		if s.first > r.seg {
			to = min(to, s.first)
			break
		}
	}
	r.j.mu.Unlock()
	return r.gap(to, why)
}

// gap moves on, and reports what that leaves out unless it is nothing.
func (r *Reader) gap(to uint64, why string) *Gap {
	g := &Gap{From: r.next, To: to, Why: why}
	r.j.mu.Lock()
	var leaps []span
	if n := len(r.j.segments); n > 0 {
		leaps = r.j.segments[n-1].head.Leaps
	}
	r.j.mu.Unlock()
	g.Lost = missing(g.From, g.To, leaps)
	r.next = max(to, r.next)
	if g.Lost == 0 {
		return nil
	}
	return g
}
