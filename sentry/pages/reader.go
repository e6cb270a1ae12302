package pages

import (
	"io"
	"slices"
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
	// seen are the blocks that were read, by number.
	seen []bool // +checklocks:mu
}

// opened is a block that was decompressed.
type opened struct {
	number uint32
	again  bool // it was opened before
	once   sync.Once
	raw    []byte
	err    error
	// Those who use raw, and the list: when there are none, it is used again.
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

// decoders is how many blocks are decompressed at a time: each of them has buffers.
const decoders = 2

// lastBlocks is how many a Reader keeps.
const lastBlocks = 8

// NewReader returns a Reader of the pages of x, which are in packs, by number.
func NewReader(x *Index, packs []io.ReaderAt) (*Reader, error) {
	if len(packs) != len(x.packs) {
		return nil, errdefs.Newf(errdefs.CheckpointDamaged, "there are %d packs, and it needs %d", len(packs), len(x.packs)).With(errdefs.Op("read pages"))
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(decoders), zstd.WithDecoderMaxMemory(maxBlock), zstd.WithDecoderMaxWindow(1<<20))
	r := &Reader{x: x, packs: packs, seen: make([]bool, len(x.blocks)), z: z, raw: buffers{size: blockPages*Size + decodeSlack}, packed: buffers{size: maxBlock}}
	return r, errdefs.Wrap(err, errdefs.Internal, "read pages")
}

// Each hands out n pages from number at on, in their order, as many at a time as lie one
// behind the other. What use is given is good until it returns. If there are fewer
// pages, io.EOF comes after the last of them.
func (r *Reader) Each(at, n int64, use func(pages []byte) error) error {
	for n > 0 {
		if at >= int64(len(r.x.pages)) {
			return io.EOF
		}
		p := r.x.pages[at]
		run := int64(1)
		for ; run < n && at+run < int64(len(r.x.pages)); run++ {
			if q := r.x.pages[at+run]; q.block != p.block || int64(q.slot) != int64(p.slot)+run {
				break
			}
		}
		o, err := r.block(p.block)
		if err != nil {
			return err
		}
		from := int64(p.slot) * Size
		err = use(o.raw[from : from+run*Size])
		if from+run*Size == int64(len(o.raw)) {
			r.finished(o)
		}
		r.done(o)
		if err != nil {
			return err
		}
		at, n = at+run, n-run
	}
	return nil
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
		o = &opened{number: number, again: r.seen[number], users: 1}
		r.seen[number] = true
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

// finished says that the last page of a block was used: in the order in which pages
// were saved, none of it comes any more, but of one that several have alike. A block
// that came back is kept.
func (r *Reader) finished(o *opened) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.Index(r.last, o); i >= 0 && !o.again {
		r.last = slices.Delete(r.last, i, i+1)
		r.doneLocked(o)
	}
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
