package audit

import (
	"fmt"
	"time"
)

// Reason says in which way a log is broken.
type Reason string

// The reasons. They say what it looks like: whoever edits a line may as well
// have deleted it and written another.
const (
	Edited    Reason = "edited"    // a line is not the one that was written
	Deleted   Reason = "deleted"   // lines or a segment are gone from the middle
	Reordered Reason = "reordered" // lines are there, but elsewhere
	Truncated Reason = "truncated" // the log ends before what was synced
	Forged    Reason = "forged"    // lines, segments or a head of another origin
)

// fault is why a line does not belong where it is.
type fault struct {
	reason Reason
	seq    uint64
	detail string
}

// chain follows a log line by line.
type chain struct {
	log string // "" until the first header
	position
	hash hasher
}

// header takes the first line of segment n, which follows the one of c unless
// c is at the very beginning.
func (c *chain) header(n uint64, line []byte) (header, *fault) {
	bad := func(r Reason, format string, args ...any) (header, *fault) {
		return header{}, &fault{r, c.Seq + 1, fmt.Sprintf(format, args...)}
	}
	body, sum, check, err := c.hash.splitLine(line)
	if err != nil {
		return bad(Edited, "%v", err)
	}
	h, err := parseHeader(body)
	if err != nil {
		return bad(Edited, "%v", err)
	}
	switch {
	case !check(h.Prev):
		return bad(Edited, "the header does not have its hash")
	case c.log != "" && h.Log != c.log:
		return bad(Forged, "the segment is from another log, %.32s", h.Log)
	case h.Segment != n:
		return bad(Reordered, "the header is that of segment %d", h.Segment)
	case h.First != c.Seq+1 || h.Prev != c.Hash:
		return bad(Deleted, "the header does not follow the line before")
	}
	c.log = h.Log
	c.Segment, c.Size, c.Hash = n, 0, sum
	return h, nil
}

// stamp is as much of an Entry as the chain needs; reading no more makes
// verifying twice as quick.
type stamp struct {
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	Op   string    `json:"op"`
}

// entry takes an entry line.
func (c *chain) entry(line []byte) (stamp, *fault) {
	var e stamp
	want := c.Seq + 1
	body, sum, check, err := c.hash.splitLine(line)
	if err != nil {
		return e, &fault{Edited, want, err.Error()}
	}
	if err := parseBody(body, &e, &e.Seq, &e.Op); err != nil {
		return e, &fault{Edited, want, err.Error()}
	}
	chained := check(c.Hash)
	switch {
	case chained && e.Seq == want:
		c.Seq, c.Hash = want, sum
		return e, nil
	case chained:
		return e, &fault{Forged, want, fmt.Sprintf("the entry has number %d instead of %d", e.Seq, want)}
	case e.Seq == want:
		return e, &fault{Edited, want, "the line, or the one before, is not the one that was written"}
	case e.Seq < want:
		return e, &fault{Reordered, want, fmt.Sprintf("entry %d is here once more instead of %d", e.Seq, want)}
	default:
		return e, &fault{Deleted, want, fmt.Sprintf("entry %d follows entry %d", e.Seq, c.Seq)}
	}
}
