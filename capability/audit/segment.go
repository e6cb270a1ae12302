package audit

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/internal/safefile"
)

// version is that of the file format.
const version = 1

// position is a place between two lines.
type position struct {
	Segment uint64 `json:"segment"` // 0: before the first
	Size    int64  `json:"size"`    // of the segment up to here
	Seq     uint64 `json:"seq"`     // of the last entry above
	Hash    Hash   `json:"hash"`    // of the line above
}

// header is the first line of a segment.
type header struct {
	Version int       `json:"audit"`
	Log     string    `json:"log"` // the same in all segments and the head
	Segment uint64    `json:"segment"`
	First   uint64    `json:"first"` // sequence number of the next entry
	Time    time.Time `json:"time"`
	Prev    Hash      `json:"prev"` // last line of the segment before
	// Trimmed is where the log began to be kept when this segment was made:
	// what lies above was deleted by the writer itself.
	Trimmed *anchor `json:"trimmed,omitempty"`
}

// anchor is the end of the last segment that was trimmed.
type anchor struct {
	Segment uint64 `json:"segment"`
	Seq     uint64 `json:"seq"`
	Hash    Hash   `json:"hash"`
}

const (
	segmentPrefix = "audit-"
	segmentSuffix = ".log"
)

func segmentName(n uint64) string {
	return fmt.Sprintf("%s%08d%s", segmentPrefix, n, segmentSuffix)
}

func segmentPath(dir string, n uint64) string { return filepath.Join(dir, segmentName(n)) }

// listSegments returns the numbers of the segments in dir, ascending.
func listSegments(dir string) ([]uint64, error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, safefile.Fail(err, "list audit log", dir)
	}
	var out []uint64
	for _, e := range names {
		digits := strings.TrimSuffix(strings.TrimPrefix(e.Name(), segmentPrefix), segmentSuffix)
		n, err := strconv.ParseUint(digits, 10, 64)
		if err == nil && n > 0 && e.Name() == segmentName(n) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}

func parseHeader(body []byte) (header, error) {
	var h header
	if err := json.Unmarshal(body, &h); err != nil {
		return h, errdefs.New(errdefs.AuditBroken, "the header is not JSON", errdefs.Cause(err))
	}
	switch {
	case h.Version == 0:
		return h, errdefs.New(errdefs.AuditBroken, "the first line is not a header")
	case h.Version != version:
		return h, errdefs.New(errdefs.Unsupported, fmt.Sprintf("the log has format %d, this program reads %d", h.Version, version),
			errdefs.Fix("use the version of AIOS that wrote it"))
	}
	return h, nil
}

// readHeader reads the first line of a segment, unchecked.
func readHeader(path string) (header, error) {
	f, err := os.Open(path)
	if err != nil {
		return header{}, err
	}
	defer f.Close()
	line, whole, err := newLines(f).next()
	if err != nil && err != io.EOF {
		return header{}, err
	}
	if !whole {
		return header{}, errTorn
	}
	body, _, _, err := new(hasher).splitLine(line)
	if err != nil {
		return header{}, err
	}
	return parseHeader(body)
}

// errTorn is a line that was not written to its end.
var errTorn = errdefs.New(errdefs.AuditBroken, "the line is incomplete")

// errLong is a line that no writer wrote.
var errLong = errdefs.New(errdefs.AuditBroken, "the line is too long")

// lines reads lines and knows where they are.
type lines struct {
	r    *bufio.Reader
	long []byte // a line that is longer than r's buffer
	// end is the offset behind the last line that was returned, number counts
	// them.
	end    int64
	number int
}

func newLines(r io.Reader) *lines { return &lines{r: bufio.NewReaderSize(r, 64<<10)} }

// next returns the next line without its newline, valid until the next call.
// whole is false for bytes at the end of the file that no newline follows;
// they are not counted in end. At the end it returns io.EOF.
func (l *lines) next() (line []byte, whole bool, err error) {
	l.long = l.long[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		if len(l.long)+len(part) > MaxLine {
			return nil, false, errLong
		}
		switch {
		case err == nil && len(l.long) == 0:
			line = part
		case err == nil:
			l.long = append(l.long, part...)
			line = l.long
		case err == bufio.ErrBufferFull:
			l.long = append(l.long, part...)
			continue
		case err == io.EOF:
			l.long = append(l.long, part...)
			if len(l.long) == 0 {
				return nil, false, io.EOF
			}
			return l.long, false, nil
		default:
			return nil, false, err
		}
		l.end += int64(len(line))
		l.number++
		return line[:len(line)-1], true, nil
	}
}

// disk is what the writer does to the host's files; tests make it fail.
type disk interface {
	// openSegment opens a segment for writing, and empties it when it is new.
	openSegment(path string, fresh bool) (segmentFile, error)
	// replace puts a small file in place, whole and durable.
	replace(path string, data []byte) error
	remove(path string) error
	syncDir(dir string) error
}

type segmentFile interface {
	io.WriterAt
	io.Closer
	Sync() error
	Truncate(size int64) error
}

type hostDisk struct{}

func (hostDisk) openSegment(path string, fresh bool) (segmentFile, error) {
	flag := os.O_WRONLY
	if fresh {
		flag |= os.O_CREATE | os.O_TRUNC
	}
	return os.OpenFile(path, flag, 0o600)
}

func (hostDisk) replace(path string, data []byte) error { return safefile.Write(path, data) }

func (hostDisk) remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (hostDisk) syncDir(dir string) error { return safefile.SyncDir(dir) }
