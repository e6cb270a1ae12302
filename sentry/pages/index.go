// Package pages keeps pages of memory in files, each content once: what a checkpoint
// has of memory, and the next one need not write again.
//
// A Writer takes pages in their order. It puts those that it has not met before into
// blocks, which are compressed one by one, and these into a pack, a file that is only
// appended to. Its Index says of each page in which block of which pack it is. A
// Writer that is given an earlier Index does not write what that one has; but it
// forgets packs of which less than half is still in use, so that what is no longer
// wanted does not stay for ever. A Reader gives the pages back by their position.
//
// A page is found by its content: by 128 bits of BLAKE3. Whoever can make two pages
// with the same harms nobody but himself. Whether packs and Index are what was
// written is for their owner to look at: here nothing outside of them is read, and
// no more memory taken than they are large. Sizes are in bytes. The package imports
// errdefs and the standard library, and knows no kernel.
package pages

import (
	"encoding/binary"
	"math"

	"lukechampine.com/blake3"

	"aios.dev/aios/errdefs"
)

// Size is that of a page.
const Size = 4096

const (
	// blockPages is how many pages are compressed together.
	blockPages = 32
	// maxPacks bounds in how many files pages are.
	maxPacks = 24

	magic = "aiospg1\n"
)

type sum [16]byte

func sumOf(page []byte) (s sum) {
	full := blake3.Sum256(page)
	copy(s[:], full[:])
	return s
}

// Index says where pages are. Packs are told apart by their number.
type Index struct {
	packs  []uint32 // how many pages are in each
	blocks []block
	pages  []page // by position
}

type block struct {
	at    uint64
	bytes uint32 // compressed
	pack  uint16
	pages uint16
}

type page struct {
	sum   sum
	block uint32
	slot  uint8
}

// Lengths of what is encoded.
const (
	headLen  = len(magic) + 3*8
	blockLen = 8 + 4 + 2 + 2
	pageLen  = 16 + 4 + 1
)

// Pages returns how many pages there are.
func (x *Index) Pages() int { return len(x.pages) }

// Packs returns in how many packs they are.
func (x *Index) Packs() int { return len(x.packs) }

// Encode returns x as bytes.
func (x *Index) Encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, headLen+4*len(x.packs)+blockLen*len(x.blocks)+pageLen*len(x.pages))
	b = append(b, magic...)
	for _, n := range []int{len(x.packs), len(x.blocks), len(x.pages)} {
		b = le.AppendUint64(b, uint64(n))
	}
	for _, n := range x.packs {
		b = le.AppendUint32(b, n)
	}
	for _, k := range x.blocks {
		b = le.AppendUint64(b, k.at)
		b = le.AppendUint32(b, k.bytes)
		b = le.AppendUint16(b, k.pack)
		b = le.AppendUint16(b, k.pages)
	}
	for _, p := range x.pages {
		b = append(b, p.sum[:]...)
		b = le.AppendUint32(b, p.block)
		b = append(b, p.slot)
	}
	return b
}

// Decode reads what Encode has made at the beginning of b, and returns what follows.
func Decode(b []byte) (*Index, []byte, error) {
	bad := func(why string) (*Index, []byte, error) {
		return nil, nil, errdefs.New(errdefs.CheckpointDamaged, why, errdefs.Op("read the index of pages"))
	}
	le := binary.LittleEndian
	if len(b) < headLen || string(b[:len(magic)]) != magic {
		return bad("it is no index of pages")
	}
	packs, blocks, pages := le.Uint64(b[len(magic):]), le.Uint64(b[len(magic)+8:]), le.Uint64(b[len(magic)+16:])
	b = b[headLen:]
	if packs > maxPacks || blocks > math.MaxUint32 || pages > math.MaxUint32 || packs*4+blocks*uint64(blockLen)+pages*uint64(pageLen) > uint64(len(b)) {
		return bad("it is cut off")
	}
	x := &Index{make([]uint32, packs), make([]block, blocks), make([]page, pages)}
	for i := range x.packs {
		x.packs[i] = le.Uint32(b)
		b = b[4:]
	}
	for i := range x.blocks {
		k := block{le.Uint64(b), le.Uint32(b[8:]), le.Uint16(b[12:]), le.Uint16(b[14:])}
		if uint64(k.pack) >= packs || k.pages == 0 || k.pages > blockPages || k.at > math.MaxInt64-math.MaxUint32 || k.bytes > maxBlock {
			return bad("a block is where none can be")
		}
		x.blocks[i] = k
		b = b[blockLen:]
	}
	for i := range x.pages {
		p := page{sum(b[:16]), le.Uint32(b[16:]), b[20]}
		if uint64(p.block) >= blocks || uint16(p.slot) >= x.blocks[p.block].pages {
			return bad("a page is where none can be")
		}
		x.pages[i] = p
		b = b[pageLen:]
	}
	return x, b, nil
}

// keep returns which packs of x are worth keeping.
func (x *Index) keep() []bool {
	used := make([]uint32, len(x.packs))
	seen := make(map[uint64]struct{}, len(x.pages))
	for _, p := range x.pages {
		at := uint64(p.block)<<8 | uint64(p.slot)
		if _, twice := seen[at]; !twice {
			seen[at] = struct{}{}
			used[x.blocks[p.block].pack]++
		}
	}
	keep := make([]bool, len(x.packs))
	kept := 0
	for i := range keep {
		if keep[i] = used[i] > 0 && 2*used[i] >= x.packs[i]; keep[i] {
			kept++
		}
	}
	if kept >= maxPacks { // All of it is written anew, once.
		clear(keep)
	}
	return keep
}
