package control

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"aios.dev/aios/errdefs"
)

// buffer is a stream's other side.
type buffer struct {
	io.Reader
	io.Writer
}

func (buffer) Close() error { return nil }

func TestFramesTravel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		type frame struct {
			kind FrameType
			data []byte
		}
		var wire bytes.Buffer
		w := NewStream(buffer{Writer: &wire})
		var sent []frame
		for range rapid.IntRange(1, 5).Draw(r, "frames") {
			f := frame{FrameType(rapid.Byte().Draw(r, "kind")), rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(r, "data")}
			f.data = bytes.Repeat(f.data, rapid.SampledFrom([]int{1, 700, 3000}).Draw(r, "times"))
			if err := w.Write(f.kind, f.data); err != nil {
				r.Fatal(err)
			}
			sent = append(sent, f)
		}
		// However the bytes are cut, the same frames come out, but that a
		// long one is several.
		in := rapid.SampledFrom([]func(io.Reader) io.Reader{iotest.OneByteReader, iotest.HalfReader, iotest.DataErrReader}).Draw(r, "reader")
		s := NewStream(buffer{Reader: in(&wire)})
		for _, want := range sent {
			var got []byte
			for first := true; first || len(got) < len(want.data); first = false {
				kind, p, err := s.Read()
				if err != nil || kind != want.kind || len(p) > MaxFrame {
					r.Fatalf("%c with %d bytes, %v; want %c", kind, len(p), err, want.kind)
				}
				got = append(got, p...)
			}
			if !bytes.Equal(got, want.data) {
				r.Fatalf("got %d bytes, want %d", len(got), len(want.data))
			}
		}
		if _, _, err := s.Read(); err != io.EOF {
			r.Fatalf("after the last: %v", err)
		}
	})
}

func TestFramesInPieces(t *testing.T) {
	frame := append([]byte{'o', 0, 0, 0, 5}, "hello"...)
	for cut := range frame {
		_, p, err := NewStream(buffer{Reader: bytes.NewReader(frame[:cut])}).Read()
		if want := io.ErrUnexpectedEOF; err == nil || p != nil || cut > 0 && cut != 5 && err != want {
			t.Errorf("cut at %d: %q, %v", cut, p, err)
		}
	}
}

func TestFrameTooLong(t *testing.T) {
	for _, n := range []uint32{MaxFrame + 1, 1 << 31, 1<<32 - 1} {
		head := binary.BigEndian.AppendUint32([]byte{'o'}, n)
		_, _, err := NewStream(buffer{Reader: bytes.NewReader(head)}).Read()
		if errdefs.CodeOf(err) != errdefs.Protocol {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// TestWritersDoNotMix has many goroutines write frames of their own.
func TestWritersDoNotMix(t *testing.T) {
	a, b := net.Pipe()
	w, r := NewStream(a), NewStream(b)
	const writers, each = 8, 50
	var wg sync.WaitGroup
	for n := range writers {
		wg.Go(func() {
			for range each {
				if err := w.Write(FrameType('A'+n), bytes.Repeat([]byte{byte('A' + n)}, 1000*n)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	go func() {
		wg.Wait()
		w.Close()
	}()
	count := 0
	for {
		kind, p, err := r.Read()
		if err != nil {
			break
		}
		if len(p) != 1000*int(kind-'A') || bytes.ContainsFunc(p, func(c rune) bool { return c != rune(kind) }) {
			t.Fatalf("frame %c has %d bytes", kind, len(p))
		}
		count++
	}
	if count != writers*each {
		t.Errorf("%d frames", count)
	}
}

func TestPayloads(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		rows, cols := rapid.Uint16().Draw(r, "rows"), rapid.Uint16().Draw(r, "cols")
		if gr, gc, err := DecodeResize(EncodeResize(rows, cols)); err != nil || gr != rows || gc != cols {
			r.Errorf("%d %d arrives as %d %d, %v", rows, cols, gr, gc, err)
		}
		e := Exit{Code: rapid.Int32().Draw(r, "code"), Signal: rapid.Int32().Draw(r, "signal"), Reason: rapid.String().Draw(r, "reason")}
		if got, err := DecodeExit(EncodeExit(e)); err != nil || got != e {
			r.Errorf("%+v arrives as %+v, %v", e, got, err)
		}
	})
	for _, p := range [][]byte{nil, {1, 2, 3}, {1, 2, 3, 4, 5}} {
		if _, _, err := DecodeResize(p); errdefs.CodeOf(err) != errdefs.Protocol {
			t.Errorf("resize of %d bytes: %v", len(p), err)
		}
	}
	if _, err := DecodeExit([]byte("{")); errdefs.CodeOf(err) != errdefs.Protocol {
		t.Errorf("a torn exit: %v", err)
	}
}

// FuzzFrame reads frames out of arbitrary bytes; what it takes, written again,
// is what it took.
func FuzzFrame(f *testing.F) {
	f.Add([]byte("o\x00\x00\x00\x05hellox\x00\x00\x00\x00"))
	f.Add([]byte("o\xff\xff\xff\xff"))
	f.Add([]byte("i\x00\x01\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		in := bytes.NewReader(data)
		s := NewStream(buffer{Reader: in})
		var again bytes.Buffer
		w := NewStream(buffer{Writer: &again})
		for {
			kind, p, err := s.Read()
			if err != nil {
				break
			}
			if err := w.Write(kind, p); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(data, again.Bytes()) {
			t.Errorf("%q reads as %q", data, again.Bytes())
		}
		if cap(s.buf) > MaxFrame {
			t.Errorf("the buffer holds %d bytes", cap(s.buf))
		}
	})
}
