package journal

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/internal/safefile"
)

// A segment is a file: the magic, a header, records. Header and records have
// the same frame: length and checksum, four bytes each, little endian. That of
// a record covers its number, which is not written, so that a record in the
// wrong place is damaged.
const (
	magic      = "AIOSEVJ1"
	frameBytes = 8
	timeBytes  = 8
	maxHeader  = 4 << 20
	maxLeaps   = 256
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is the first thing in a segment.
type header struct {
	First   uint64 `json:"first"` // cursor of the first record
	Created int64  `json:"created"`
	// Leaps are numbers that were never given to a record, the newest last.
	Leaps []span `json:"leaps,omitempty"`
	State []byte `json:"state,omitempty"`
}

// span is a range of cursors, the second not in it.
type span [2]uint64

// segment is what is known of a file.
type segment struct {
	first uint64
	path  string
	size  int64
	head  header
	empty bool
}

const segmentSuffix = ".events"

func segmentPath(dir string, first uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%020d%s", first, segmentSuffix))
}

// scan returns the segments of a directory, ascending. A file without a header
// that can be read holds nothing and is left out.
func scan(dir string) ([]segment, error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, safefile.Fail(err, "open the journal of events", dir)
	}
	var out []segment
	for _, e := range names {
		digits, ok := strings.CutSuffix(e.Name(), segmentSuffix)
		first, err := strconv.ParseUint(digits, 10, 64)
		if !ok || err != nil || first == 0 || segmentPath(dir, first) != filepath.Join(dir, e.Name()) {
			continue
		}
		s := segment{first: first, path: segmentPath(dir, first)}
		f, err := os.Open(s.path)
		if err != nil {
			continue
		}
		if info, err := f.Stat(); err == nil {
			s.size = info.Size()
		}
		s.head, err = readHeader(f)
		f.Close()
		if err != nil || s.head.First != first {
			continue
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b segment) int {
		if a.first < b.first {
			return -1
		}
		return 1
	})
	return out, nil
}

// appendHeader writes magic and header.
func appendHeader(b []byte, h header) ([]byte, error) {
	body, err := json.Marshal(h)
	if err != nil || len(body) > maxHeader {
		return nil, errdefs.Newf(errdefs.Internal, "a header of %d bytes: %v", len(body), err)
	}
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(body, castagnoli))
	return append(b, body...), nil
}

var (
	errNoHeader = errdefs.New(errdefs.HostIO, "it is no segment of a journal of events, or a damaged one")
	errDamaged  = errdefs.New(errdefs.HostIO, "a record is damaged")
)

// readHeader reads magic and header, and no byte more.
func readHeader(r io.Reader) (header, error) {
	var h header
	var head [len(magic) + frameBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return h, errNoHeader
	}
	n := binary.LittleEndian.Uint32(head[len(magic):])
	if string(head[:len(magic)]) != magic || n > maxHeader {
		return h, errNoHeader
	}
	body, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err != nil || len(body) != int(n) || crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(head[len(magic)+4:]) {
		return h, errNoHeader
	}
	if json.Unmarshal(body, &h) != nil || h.First == 0 || len(h.Leaps) > maxLeaps {
		return h, errNoHeader
	}
	for _, l := range h.Leaps {
		if l[0] > l[1] || l[1] > h.First {
			return h, errNoHeader
		}
	}
	return h, nil
}

// appendRecord writes a record.
func appendRecord(b []byte, r Record) []byte {
	at := len(b)
	b = append(b, make([]byte, frameBytes)...)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Time))
	b = append(b, r.Data...)
	binary.LittleEndian.PutUint32(b[at:], uint32(timeBytes+len(r.Data)))
	binary.LittleEndian.PutUint32(b[at+4:], sum(r.Cursor, b[at+frameBytes:]))
	return b
}

func sum(cursor uint64, body []byte) uint32 {
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], cursor)
	return crc32.Update(crc32.Checksum(n[:], castagnoli), castagnoli, body)
}

// readRecord reads the record with that cursor. At the end of the file it
// returns io.EOF; a record that is torn or damaged is errDamaged.
func readRecord(r io.Reader, cursor uint64) (Record, int64, error) {
	var head [frameBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if err == io.EOF {
			return Record{}, 0, io.EOF
		}
		return Record{}, 0, errDamaged
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n < timeBytes || n > timeBytes+MaxRecord {
		return Record{}, 0, errDamaged
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil || sum(cursor, body) != binary.LittleEndian.Uint32(head[4:]) {
		return Record{}, 0, errDamaged
	}
	return Record{Cursor: cursor, Time: int64(binary.LittleEndian.Uint64(body)), Data: body[timeBytes:]}, frameBytes + int64(n), nil
}

// missing counts the cursors from one up to another that are no leaps.
func missing(from, to uint64, leaps []span) uint64 {
	if from >= to {
		return 0
	}
	n := to - from
	for _, l := range leaps {
		if a, b := max(l[0], from), min(l[1], to); a < b {
			n -= b - a
		}
	}
	return n
}

// disk is what the writer does to the host's files; tests make it fail.
type disk interface {
	create(path string) (file, error)
	remove(path string) error
}

type file interface {
	io.WriteCloser
	Sync() error
	Truncate(size int64) error
}

type hostDisk struct{}

func (hostDisk) create(path string) (file, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
}

func (hostDisk) remove(path string) error { return os.Remove(path) }
