package sentry

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"io"
	"os"
	"time"

	"github.com/klauspost/compress/zstd"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/state/stateio"
	"gvisor.dev/gvisor/pkg/timing"
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

// What gVisor may hand over at once.
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

// readPart reads what a partWriter has written.
func readPart(f *os.File) (*bytes.Reader, error) {
	// On this goroutine: what is small is read before others have begun to help.
	z, err := zstd.NewReader(bufio.NewReaderSize(f, partBuffer), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxWindow), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.CheckpointDamaged, "read the checkpoint")
	}
	defer z.Close()
	var raw bytes.Buffer
	if _, err := raw.ReadFrom(z); err != nil {
		return nil, errdefs.Wrap(err, errdefs.CheckpointDamaged, "read the checkpoint")
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

// memoryLoad is memory that is read while the kernel is.
type memoryLoad struct {
	s      *Kernel
	loader *kernel.AsyncMFLoader
	pages  int
}

// pagesReaders is how many read pages at a time.
const pagesReaders = 2

// loadPages begins to read the pages of the domain.
func (s *Kernel) loadPages(from Restored, timer *timing.Timer) (*memoryLoad, error) {
	x, about, err := readIndex(from.Memory)
	if err != nil {
		return nil, err
	}
	var packs []io.ReaderAt
	for _, f := range from.Packs {
		packs = append(packs, f)
	}
	r, err := pages.NewReader(x, packs)
	if err != nil {
		return nil, err
	}
	metadata := io.NopCloser(bytes.NewReader(about))
	pagesFile := stateio.NewIOReader(r, pagesAtOnce, pagesRanges, pagesReaders)
	loader := kernel.NewAsyncMFLoader(metadata, pagesFile, s.k.MemoryFile(), timer.Fork("pages"))
	loader.KickoffPrivate(nil) // All memory is in one file.
	return &memoryLoad{s, loader, x.Pages()}, nil
}

// fewPages is how many are all read before any program goes on. If there are more,
// who touches one that was not read yet waits for it.
const fewPages = 64 << 20 / pages.Size

// wait returns when programs can go on.
func (m *memoryLoad) wait() error {
	failed := func(err error) error {
		return errdefs.Wrap(err, errdefs.CheckpointDamaged, "read the checkpoint")
	}
	if err := m.loader.WaitMetadata(); err != nil || m.pages <= fewPages {
		if err == nil {
			err = m.loader.Wait()
		}
		return failed(err)
	}
	go func() {
		if err := m.loader.Wait(); err != nil { // Nobody may run with other memory.
			m.s.log.boot.Error("the memory of the domain cannot be read", "err", failed(err))
			m.s.cfg.Exit(1)
		}
	}()
	return nil
}
