package pages

import (
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"

	"aios.dev/aios/errdefs"
)

// Reader gives pages back. It may be used concurrently.
type Reader struct {
	x      *Index
	packs  []io.ReaderAt
	z      *zstd.Decoder
	raw    buffers // for blocks
	packed buffers // for what they are decompressed from

	mu sync.Mutex
	// Blocks that were read last, the latest first.
	last []*opened // +checklocks:mu
}

// opened is a block that was decompressed.
type opened struct {
	number uint32
	once   sync.Once
	raw    []byte
	err    error
	// Those who copy from raw, and the list: when there are none, it is used again.
	// Guarded by Reader.mu.
	users int
}

// buffers are used again and again: memory that nobody has touched yet is dear.
type buffers struct {
	size int

	mu   sync.Mutex
	free [][]byte // +checklocks:mu
}

func (b *buffers) get() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.free); n > 0 {
		buf := b.free[n-1]
		b.free = b.free[:n-1]
		return buf
	}
	return make([]byte, b.size)
}

func (b *buffers) put(buf []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free = append(b.free, buf)
}

// decodeSlack is by how much a buffer is longer than what is decompressed to it, so
// that the decoder need not look where it ends.
const decodeSlack = 64

// lastBlocks is how many a Reader keeps.
const lastBlocks = 8

// NewReader returns a Reader of the pages of x, which are in packs, by number.
func NewReader(x *Index, packs []io.ReaderAt) (*Reader, error) {
	if len(packs) != len(x.packs) {
		return nil, errdefs.Newf(errdefs.CheckpointDamaged, "there are %d packs, and it needs %d", len(packs), len(x.packs)).With(errdefs.Op("read pages"))
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxBlock), zstd.WithDecoderMaxWindow(1<<20))
	r := &Reader{x: x, packs: packs, z: z, raw: buffers{size: blockPages*Size + decodeSlack}, packed: buffers{size: maxBlock}}
	return r, errdefs.Wrap(err, errdefs.Internal, "read pages")
}

// ReadAt implements io.ReaderAt, for whole pages.
func (r *Reader) ReadAt(b []byte, off int64) (int, error) {
	if off%Size != 0 || len(b)%Size != 0 {
		return 0, errdefs.New(errdefs.Internal, "it asks for parts of pages", errdefs.Op("read pages"))
	}
	n := 0
	for n < len(b) {
		at := off/Size + int64(n/Size)
		if at >= int64(len(r.x.pages)) {
			return n, io.EOF
		}
		p := r.x.pages[at]
		o, err := r.block(p.block)
		if err != nil {
			return n, err
		}
		// What follows is likely to follow there, too.
		run := 1
		for n+run*Size < len(b) && at+int64(run) < int64(len(r.x.pages)) {
			if q := r.x.pages[at+int64(run)]; q.block != p.block || int(q.slot) != int(p.slot)+run {
				break
			}
			run++
		}
		n += copy(b[n:n+run*Size], o.raw[int(p.slot)*Size:])
		r.done(o)
	}
	return n, nil
}

// block returns a block, until done is called.
func (r *Reader) block(number uint32) (*opened, error) {
	r.mu.Lock()
	var o *opened
	for i, l := range r.last {
		if l.number == number {
			o = l
			copy(r.last[1:i+1], r.last[:i])
			r.last[0] = o
			break
		}
	}
	if o == nil {
		o = &opened{number: number, users: 1}
		if len(r.last) < lastBlocks {
			r.last = append(r.last, nil)
		} else {
			r.doneLocked(r.last[lastBlocks-1])
		}
		copy(r.last[1:], r.last)
		r.last[0] = o
	}
	o.users++
	r.mu.Unlock()
	o.once.Do(func() { o.raw, o.err = r.read(number) })
	if o.err != nil {
		r.done(o)
		return nil, o.err
	}
	return o, nil
}

// done says that one of its users has no use for a block any more.
func (r *Reader) done(o *opened) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.doneLocked(o)
}

// +checklocks:r.mu
func (r *Reader) doneLocked(o *opened) {
	if o.users--; o.users == 0 && o.raw != nil {
		r.raw.put(o.raw)
	}
}

func (r *Reader) read(number uint32) ([]byte, error) {
	k := r.x.blocks[number]
	buf := r.packed.get()
	defer r.packed.put(buf)
	packed := buf[:k.bytes]
	if _, err := r.packs[k.pack].ReadAt(packed, int64(k.at)); err != nil {
		return nil, errdefs.Wrap(err, errdefs.CheckpointDamaged, "read pages")
	}
	raw, err := r.z.DecodeAll(packed, r.raw.get()[:0])
	if err != nil || len(raw) != int(k.pages)*Size {
		return nil, errdefs.New(errdefs.CheckpointDamaged, "a block of pages is not what was written", errdefs.Op("read pages"))
	}
	return raw, nil
}
