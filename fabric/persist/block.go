package persist

import (
	"encoding/binary"
	"io"
	"sync"

	"lukechampine.com/blake3"
)

// BlockSize is the size of a block, and of a page.
const BlockSize = 4096

const (
	fan     = 256
	fanBits = 8
	ptrSize = BlockSize / fan
)

// File is what a store needs of a file; an *os.File is one.
type File interface {
	io.ReaderAt
	io.WriterAt
	// Sync returns when all that was written before survives a crash of the host.
	Sync() error
}

// ptr points to a block; block 0, which is a header, is nothing: a page of zeros.
type ptr struct {
	block uint64
	sum   uint64
}

// node is a block of pointers.
type node [fan]ptr

func (n *node) encode(b *[BlockSize]byte) {
	for i, p := range n {
		binary.LittleEndian.PutUint64(b[i*ptrSize:], p.block)
		binary.LittleEndian.PutUint64(b[i*ptrSize+8:], p.sum)
	}
}

func (n *node) decode(b *[BlockSize]byte) {
	for i := range n {
		n[i] = ptr{binary.LittleEndian.Uint64(b[i*ptrSize:]), binary.LittleEndian.Uint64(b[i*ptrSize+8:])}
	}
}

var hashers = sync.Pool{New: func() any { return blake3.New(8, nil) }}

// sum is the checksum of a block: where it is counts, too, so that one that is
// written to the wrong place is not taken for another.
func sum(block uint64, b []byte) uint64 {
	h := hashers.Get().(*blake3.Hasher)
	defer hashers.Put(h)
	h.Reset()
	var at [8]byte
	binary.LittleEndian.PutUint64(at[:], block)
	h.Write(at[:])
	h.Write(b)
	var out [8]byte
	h.Sum(out[:0])
	return binary.LittleEndian.Uint64(out[:])
}

// depthFor is how many nodes are above each of so many pages.
func depthFor(pages uint64) (depth int) {
	depth = 1
	for n := uint64(fan); n < pages; n <<= fanBits {
		depth++
	}
	return depth
}

// index is which pointer of a node at that height, 0 for one above pages, leads to
// a page.
func index(page uint64, height int) uint64 { return page >> (fanBits * height) & (fan - 1) }
