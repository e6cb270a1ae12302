package control

import (
	"encoding/binary"
	"io"
	"time"

	"aios.dev/aios/errdefs"
)

// A log file is a sequence of records: a header and what was written.
//
//	8 bytes  wall time, nanoseconds since 1970, big endian
//	1 byte   1: standard output, 2: standard error
//	4 bytes  length, big endian
//	n bytes  the data
const logHeaderLen = 13

// MaxLogRecord bounds the data of one record, in bytes.
const MaxLogRecord = 64 << 10

// LogRecord is one piece of output.
type LogRecord struct {
	Time   time.Time
	Stderr bool
	Data   []byte
}

// AppendLogRecord appends the encoded record to b. Data longer than
// MaxLogRecord must be split by the caller.
func AppendLogRecord(b []byte, r LogRecord) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(r.Time.UnixNano()))
	stream := byte(1)
	if r.Stderr {
		stream = 2
	}
	b = append(b, stream)
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.Data)))
	return append(b, r.Data...)
}

// ReadLogRecord reads the next record. io.EOF means that there is none yet; a
// record that is still being written counts as none, io.ErrUnexpectedEOF.
func ReadLogRecord(r io.Reader) (LogRecord, int, error) {
	var h [logHeaderLen]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return LogRecord{}, 0, err
	}
	n := binary.BigEndian.Uint32(h[9:])
	if n > MaxLogRecord || h[8] != 1 && h[8] != 2 {
		return LogRecord{}, 0, errdefs.New(errdefs.HostIO, "the log file is damaged")
	}
	rec := LogRecord{
		Time:   time.Unix(0, int64(binary.BigEndian.Uint64(h[:]))),
		Stderr: h[8] == 2,
		Data:   make([]byte, n),
	}
	if _, err := io.ReadFull(r, rec.Data); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return LogRecord{}, 0, err
	}
	return rec, logHeaderLen + int(n), nil
}
