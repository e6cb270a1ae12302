package sentry

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"io"
	"os"
	"time"

	"github.com/klauspost/compress/zstd"
	"lukechampine.com/blake3"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/pages"
)

// The files of a checkpoint: the kernel; the index of the pages of its memory, with
// what gVisor says of that; and packs of pages, of which only what is new is written.
// While the domain stands still, nothing is compressed that fits into memory.

// summedFile counts and sums up what is written to a file.
type summedFile struct {
	f   *os.File
	sum *blake3.Hasher
	n   int64
	err error
}

func newSummedFile(f *os.File) *summedFile { return &summedFile{f: f, sum: blake3.New(32, nil)} }

// Write implements io.Writer.
func (w *summedFile) Write(b []byte) (int, error) {
	n, err := w.f.Write(b)
	w.sum.Write(b[:n])
	w.n += int64(n)
	if err != nil {
		w.err = err
	}
	return n, err
}

func (w *summedFile) part(raw int64) control.CheckpointPart {
	return control.CheckpointPart{Bytes: w.n, Raw: raw, Sum: hex.EncodeToString(w.sum.Sum(nil))}
}

// partWriter writes a compressed part of a checkpoint.
type partWriter struct {
	*summedFile
	z   *zstd.Encoder
	buf *bufio.Writer
	raw int64
}

// partBuffer is how much is gathered for one write.
const partBuffer = 1 << 20

func newPartWriter(f *os.File) (*partWriter, error) {
	p := &partWriter{summedFile: newSummedFile(f)}
	p.buf = bufio.NewWriterSize(p.summedFile, partBuffer)
	z, err := zstd.NewWriter(p.buf, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "compress the checkpoint")
	}
	p.z = z
	return p, nil
}

// Write implements io.Writer.
func (p *partWriter) Write(b []byte) (int, error) {
	p.raw += int64(len(b))
	return p.z.Write(b)
}

// finish has all in the file.
func (p *partWriter) finish() (control.CheckpointPart, error) {
	err := p.z.Close()
	if err == nil {
		err = p.buf.Flush()
	}
	return p.part(p.raw), errdefs.Wrap(err, errdefs.HostIO, "write the checkpoint")
}

// laterWriter keeps what is written to a part in memory, unless it is too much.
type laterWriter struct {
	part *partWriter
	held []byte
}

// maxLater is how much a laterWriter keeps.
const maxLater = 64 << 20

// Write implements io.Writer.
func (w *laterWriter) Write(b []byte) (int, error) {
	if len(w.held)+len(b) > maxLater {
		if err := w.flush(); err != nil {
			return 0, err
		}
		if len(b) > maxLater {
			return w.part.Write(b)
		}
	}
	w.held = append(w.held, b...)
	return len(b), nil
}

func (w *laterWriter) flush() error {
	_, err := w.part.Write(w.held)
	w.held = w.held[:0]
	return err
}

// Close implements io.Closer: there is finish.
func (w *laterWriter) Close() error { return nil }

// closingBuffer is a buffer that can be closed.
type closingBuffer struct{ bytes.Buffer }

// Close implements io.Closer.
func (*closingBuffer) Close() error { return nil }

// capture is a checkpoint that is made.
type capture struct {
	began  time.Time
	state  *laterWriter
	about  *closingBuffer // of memory
	memory *partWriter
	pages  *pages.Writer
	pack   *summedFile
}

// What gVisor may hand over, or ask for, at once.
const (
	pagesAtOnce = 256 << 10
	pagesRanges = 64
)

// newCapture makes one to files: the kernel, the index, a pack, and the index of an
// earlier one, if there was one.
func newCapture(files []*os.File) (*capture, error) {
	state, err := newPartWriter(files[0])
	if err != nil {
		return nil, err
	}
	c := &capture{state: &laterWriter{part: state}, about: new(closingBuffer), pack: newSummedFile(files[2])}
	if c.memory, err = newPartWriter(files[1]); err != nil {
		return nil, err
	}
	var base *pages.Index
	if len(files) > 3 {
		if base, _, err = readIndex(files[3]); err != nil {
			base = nil // All is written.
		}
	}
	c.pages, err = pages.NewWriter(bufferless{c.pack}, base)
	return c, err
}

// bufferless hides what else a writer can do.
type bufferless struct{ io.Writer }

// finish has all in the files.
func (c *capture) finish(reply *control.CheckpointReply) error {
	err := c.state.flush()
	if err == nil {
		reply.State, err = c.state.part.finish()
	}
	if err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "write the checkpoint")
	}
	x, kept, fresh, err := c.pages.Finish()
	if err != nil {
		return err
	}
	reply.Kept, reply.Pages = kept, c.pack.part(int64(fresh)*pages.Size)
	c.memory.Write(x.Encode())
	c.memory.Write(c.about.Bytes()) // An error shows below.
	reply.Memory, err = c.memory.finish()
	return err
}

// maxWindow bounds the memory that reading a part takes besides what is in it.
const maxWindow = 64 << 20

// smallPart is how large a part may be, compressed, that is read at once.
const smallPart = 1 << 20

// readPart reads what a partWriter has written.
func readPart(f *os.File) (*bytes.Reader, error) {
	damaged := func(err error) (*bytes.Reader, error) {
		return nil, errdefs.Wrap(err, errdefs.CheckpointDamaged, "read the checkpoint")
	}
	about, err := f.Stat()
	if err != nil {
		return damaged(err)
	}
	// On this goroutine: what is small is read before others have begun to help.
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxWindow), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return damaged(err)
	}
	defer z.Close()
	packed := io.NewSectionReader(f, 0, about.Size())
	if n := about.Size(); n <= smallPart {
		buf := make([]byte, n)
		if _, err := f.ReadAt(buf, 0); err != nil {
			return damaged(err)
		}
		if raw, err := z.DecodeAll(buf, make([]byte, 0, 4*n)); err == nil {
			return bytes.NewReader(raw), nil
		} // It may be much when it is not compressed.
	}
	if err := z.Reset(bufio.NewReaderSize(packed, partBuffer)); err != nil {
		return damaged(err)
	}
	var raw bytes.Buffer
	if _, err := raw.ReadFrom(z); err != nil {
		return damaged(err)
	}
	return bytes.NewReader(raw.Bytes()), nil
}

// readIndex reads the index of pages, and what gVisor says of memory.
func readIndex(f *os.File) (*pages.Index, []byte, error) {
	r, err := readPart(f)
	if err != nil {
		return nil, nil, err
	}
	raw := make([]byte, r.Len())
	r.Read(raw)
	return pages.Decode(raw)
}
