package pages

import (
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"

	"aios.dev/aios/errdefs"
)

// Reader gives pages back. It may be used concurrently.
type Reader struct {
	x     *Index
	packs []io.ReaderAt
	z     *zstd.Decoder

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
}

// lastBlocks is how many a Reader keeps.
const lastBlocks = 8

// NewReader returns a Reader of the pages of x, which are in packs, by number.
func NewReader(x *Index, packs []io.ReaderAt) (*Reader, error) {
	if len(packs) != len(x.packs) {
		return nil, errdefs.Newf(errdefs.CheckpointDamaged, "there are %d packs, and it needs %d", len(packs), len(x.packs)).With(errdefs.Op("read pages"))
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxBlock), zstd.WithDecoderMaxWindow(1<<20))
	return &Reader{x: x, packs: packs, z: z}, errdefs.Wrap(err, errdefs.Internal, "read pages")
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
		raw, err := r.block(p.block)
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
		n += copy(b[n:n+run*Size], raw[int(p.slot)*Size:])
	}
	return n, nil
}

// block returns what is in a block.
func (r *Reader) block(number uint32) ([]byte, error) {
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
		o = &opened{number: number}
		if len(r.last) < lastBlocks {
			r.last = append(r.last, nil)
		}
		copy(r.last[1:], r.last)
		r.last[0] = o
	}
	r.mu.Unlock()
	o.once.Do(func() { o.raw, o.err = r.read(number) })
	return o.raw, o.err
}

func (r *Reader) read(number uint32) ([]byte, error) {
	k := r.x.blocks[number]
	packed := make([]byte, k.bytes)
	if _, err := r.packs[k.pack].ReadAt(packed, int64(k.at)); err != nil {
		return nil, errdefs.Wrap(err, errdefs.CheckpointDamaged, "read pages")
	}
	raw, err := r.z.DecodeAll(packed, make([]byte, 0, int(k.pages)*Size))
	if err != nil || len(raw) != int(k.pages)*Size {
		return nil, errdefs.New(errdefs.CheckpointDamaged, "a block of pages is not what was written", errdefs.Op("read pages"))
	}
	return raw, nil
}
