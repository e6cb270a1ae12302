package pages

import (
	"io"

	"github.com/klauspost/compress/zstd"

	"aios.dev/aios/errdefs"
)

// maxBlock bounds a compressed block: one that cannot be compressed gets a little
// longer.
const maxBlock = blockPages*Size + 1024

// maxLater is how much a Writer keeps in memory to compress it later.
const maxLater = 64 << 20

// Writer takes pages in their order. It is not for concurrent use.
type Writer struct {
	out   io.Writer
	z     *zstd.Encoder
	x     Index
	at    uint64 // in it
	base  *Index
	known map[sum]place
	first map[uint32]uint32

	block []byte   // that is being filled
	later [][]byte // full blocks that are yet to be compressed
	held  int
	fresh uint32
	err   error
}

// place is where a page is: in the base, or in what is new.
type place struct {
	block uint32
	slot  uint8
	old   bool
}

// NewWriter returns a Writer that writes a new pack to out, without what base has; nil
// if there is none.
func NewWriter(out io.Writer, base *Index) (*Writer, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "compress pages")
	}
	w := &Writer{out: out, z: z, base: base, known: make(map[sum]place), first: make(map[uint32]uint32)}
	if base != nil {
		keep := base.keep()
		for _, p := range base.pages {
			if keep[base.blocks[p.block].pack] {
				w.known[p.sum] = place{p.block, p.slot, true}
			}
		}
	}
	return w, nil
}

// Write takes whole pages. What is new is written by Finish, unless it is a lot.
func (w *Writer) Write(b []byte) (int, error) {
	if len(b)%Size != 0 {
		return 0, errdefs.Newf(errdefs.Internal, "%d bytes are not whole pages", len(b)).With(errdefs.Op("save pages"))
	}
	for at := 0; at < len(b); at += Size {
		w.add(b[at : at+Size])
	}
	for w.held > maxLater && w.err == nil {
		w.flushOne()
	}
	return len(b), w.err
}

// add takes one page. Blocks of w.x are numbered when they are full; those of the base
// are taken over by Finish.
func (w *Writer) add(b []byte) {
	s := sumOf(b)
	at, ok := w.known[s]
	if !ok {
		if w.block == nil {
			w.block = make([]byte, 0, blockPages*Size)
			w.x.blocks = append(w.x.blocks, block{})
		}
		at = place{block: uint32(len(w.x.blocks) - 1), slot: uint8(len(w.block) / Size)}
		w.known[s] = at
		w.block = append(w.block, b...)
		w.fresh++
		if len(w.block) == cap(w.block) {
			w.push()
		}
	}
	p := page{s, at.block, at.slot}
	if at.old { // Marked until it has a number here.
		p.slot |= oldSlot
	}
	w.x.pages = append(w.x.pages, p)
}

// oldSlot marks a page whose block is one of the base.
const oldSlot = 0x80

func (w *Writer) push() {
	if w.block != nil {
		w.later = append(w.later, w.block)
		w.held += len(w.block)
		w.block = nil
	}
}

// flushOne compresses the oldest block and writes it.
func (w *Writer) flushOne() {
	raw := w.later[0]
	w.later, w.held = w.later[1:], w.held-len(raw)
	done := len(w.x.blocks) - len(w.later)
	if w.block != nil {
		done--
	}
	packed := w.z.EncodeAll(raw, make([]byte, 0, len(raw)/2))
	w.x.blocks[done-1] = block{at: w.at, bytes: uint32(len(packed)), pages: uint16(len(raw) / Size)}
	w.at += uint64(len(packed))
	if _, err := w.out.Write(packed); err != nil && w.err == nil {
		w.err = errdefs.Wrap(err, errdefs.HostIO, "save pages")
	}
}

// Finish writes what is left, and returns the Index of all pages, and which packs of
// the base it still needs, in the order in which it numbers them; the new one, unless
// nothing was new, comes after them.
func (w *Writer) Finish() (x *Index, kept []int, fresh int, err error) {
	w.push()
	for len(w.later) > 0 && w.err == nil {
		w.flushOne()
	}
	if w.err != nil {
		return nil, nil, 0, w.err
	}
	x = &w.x
	numbers := make(map[uint16]uint16)
	mine := len(x.blocks)
	for i := range x.pages {
		p := &x.pages[i]
		if p.slot&oldSlot == 0 {
			continue
		}
		p.slot &^= oldSlot
		to, ok := w.first[p.block]
		if !ok {
			k := w.base.blocks[p.block]
			n, ok := numbers[k.pack]
			if !ok {
				n = uint16(len(kept))
				numbers[k.pack], kept = n, append(kept, int(k.pack))
				x.packs = append(x.packs, w.base.packs[k.pack])
			}
			k.pack = n
			to = uint32(len(x.blocks))
			w.first[p.block], x.blocks = to, append(x.blocks, k)
		}
		p.block = to
	}
	for i := range mine {
		x.blocks[i].pack = uint16(len(kept))
	}
	if mine > 0 {
		x.packs = append(x.packs, w.fresh)
	}
	return x, kept, int(w.fresh), nil
}
