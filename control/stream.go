package control

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"sync"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

func deadline(d time.Duration) time.Time { return ktime.Real.Now().Add(d) }

// FrameType tells what a frame of a Stream holds.
type FrameType byte

// Frames towards the process, then frames from it.
const (
	FrameStdin      FrameType = 'i' // bytes of standard input
	FrameStdinClose FrameType = 'c' // standard input has ended
	FrameResize     FrameType = 'w' // rows, columns: two big-endian uint16
	FrameOutClose   FrameType = 'p' // one FrameType: nobody reads that output any more
	FrameStdout     FrameType = 'o' // bytes of standard output, or of the terminal
	FrameStderr     FrameType = 'e' // bytes of standard error
	FrameExit       FrameType = 'x' // JSON Exit; the last frame
	FrameDetached   FrameType = 'd' // text: why the stream was cut; the last frame
)

// MaxFrame bounds the payload of one frame, in bytes.
const MaxFrame = 64 << 10

// Stream carries the input and output of one attached process over a stream
// socket. Reading belongs to one goroutine; writing may come from any.
type Stream struct {
	rw      io.ReadWriteCloser
	writeMu sync.Mutex
	buf     []byte // reading goroutine's
}

// NewStream wraps one end of a socket pair, which it then owns.
func NewStream(rw io.ReadWriteCloser) *Stream { return &Stream{rw: rw} }

// Write sends one frame, or several when p exceeds MaxFrame. It blocks while
// the other side does not read: that is the back-pressure.
func (s *Stream) Write(t FrameType, p []byte) error {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	for first := true; first || len(p) > 0; first = false {
		k := min(len(p), MaxFrame)
		frame := make([]byte, 5, 5+k)
		frame[0] = byte(t)
		binary.BigEndian.PutUint32(frame[1:], uint32(k))
		if _, err := s.rw.Write(append(frame, p[:k]...)); err != nil {
			return err
		}
		p = p[k:]
	}
	return nil
}

// Read returns the next frame. The payload is valid until the next Read.
func (s *Stream) Read() (FrameType, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(s.rw, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > MaxFrame {
		return 0, nil, errdefs.Newf(errdefs.Protocol, "frame of %d bytes exceeds %d", n, MaxFrame)
	}
	if cap(s.buf) < int(n) {
		s.buf = make([]byte, max(n, 4096))
	}
	if _, err := io.ReadFull(s.rw, s.buf[:n]); err != nil {
		return 0, nil, err
	}
	return FrameType(head[0]), s.buf[:n], nil
}

// Close closes the socket; the other side sees the end.
func (s *Stream) Close() error { return s.rw.Close() }

// EncodeResize makes the payload of FrameResize.
func EncodeResize(rows, cols uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, rows), cols)
}

// DecodeResize reads the payload of FrameResize.
func DecodeResize(p []byte) (rows, cols uint16, err error) {
	if len(p) != 4 {
		return 0, 0, errdefs.Newf(errdefs.Protocol, "window size of %d bytes", len(p))
	}
	return binary.BigEndian.Uint16(p), binary.BigEndian.Uint16(p[2:]), nil
}

// EncodeExit makes the payload of FrameExit.
func EncodeExit(e Exit) []byte {
	b, _ := json.Marshal(e) // A struct of two integers and a string.
	return b
}

// DecodeExit reads the payload of FrameExit.
func DecodeExit(p []byte) (Exit, error) {
	var e Exit
	if err := json.Unmarshal(p, &e); err != nil {
		return e, errdefs.Wrap(err, errdefs.Protocol, "decode exit")
	}
	return e, nil
}
