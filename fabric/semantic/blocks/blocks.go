// Package blocks writes and reads files of blocks, each with its length and a
// checksum: what is saved so that it need not be made anew, and is made anew if the
// file is not whole. A block is read into memory at once, and taken apart there.
//
// Key types: Writer and Reader are of a file; Data is a block that is taken apart,
// and never reads beyond its end.
//
// Nothing here locks. The package imports errdefs alone.
package blocks

import (
	"encoding/binary"
	"hash/crc32"
	"io"

	"aios.dev/aios/errdefs"
)

// maxBlock bounds a block, so that a damaged length costs no memory.
const maxBlock = 64 << 20

var table = crc32.MakeTable(crc32.Castagnoli)

// Damaged says that a file is not what was written.
func Damaged(why string) error {
	return errdefs.New(errdefs.HostIO, "the saved index is damaged: "+why, errdefs.Fix("it is made anew from the items"))
}

// Writer writes a file.
type Writer struct {
	to  io.Writer
	err error
	n   uint32
}

// NewWriter begins a file with a magic, which says what it is.
func NewWriter(to io.Writer, magic string) *Writer {
	w := &Writer{to: to}
	_, w.err = io.WriteString(to, magic)
	return w
}

// sum is over the number of the block, too: blocks do not change places.
func sum(n uint32, b []byte) uint32 {
	return crc32.Update(crc32.Checksum(binary.LittleEndian.AppendUint32(nil, n), table), table, b)
}

// Put writes a block.
func (w *Writer) Put(b []byte) {
	if w.err != nil {
		return
	}
	if len(b) > maxBlock {
		w.err = errdefs.Newf(errdefs.Internal, "a block of %d bytes", len(b))
		return
	}
	head := binary.LittleEndian.AppendUint32(nil, uint32(len(b)))
	head = binary.LittleEndian.AppendUint32(head, sum(w.n, b))
	w.n++
	if _, w.err = w.to.Write(head); w.err == nil {
		_, w.err = w.to.Write(b)
	}
}

// Err is what went wrong.
func (w *Writer) Err() error { return w.err }

// Reader reads a file.
type Reader struct {
	from io.Reader
	buf  []byte
	n    uint32
}

// NewReader begins to read a file that must have the magic.
func NewReader(from io.Reader, magic string) (*Reader, error) {
	b := make([]byte, len(magic))
	if _, err := io.ReadFull(from, b); err != nil || string(b) != magic {
		return nil, Damaged("it is none of this form")
	}
	return &Reader{from: from}, nil
}

// Next reads a block, which is there until the next one is read.
func (r *Reader) Next() (*Data, error) {
	var head [8]byte
	if _, err := io.ReadFull(r.from, head[:]); err != nil {
		return nil, Damaged("it ends too early")
	}
	n := int(binary.LittleEndian.Uint32(head[:]))
	if n > maxBlock {
		return nil, Damaged("a block is too long")
	}
	if cap(r.buf) < n {
		r.buf = make([]byte, n)
	}
	b := r.buf[:n]
	if _, err := io.ReadFull(r.from, b); err != nil {
		return nil, Damaged("it ends too early")
	}
	if sum(r.n, b) != binary.LittleEndian.Uint32(head[4:]) {
		return nil, Damaged("a checksum does not fit")
	}
	r.n++
	return &Data{b: b}, nil
}

// Data is a block that is taken apart from its beginning. Behind its end is nothing
// but zeros, and Short says so.
type Data struct {
	b     []byte
	short bool
}

// Short says whether more was taken than there was.
func (d *Data) Short() bool { return d.short }

// Rest is how many bytes are left.
func (d *Data) Rest() int { return len(d.b) }

// Bytes takes n bytes; nil if there are fewer.
func (d *Data) Bytes(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.short, d.b = true, nil
		return nil
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

// Byte takes one.
func (d *Data) Byte() byte {
	if b := d.Bytes(1); b != nil {
		return b[0]
	}
	return 0
}

// Uint32 takes four bytes, little-endian.
func (d *Data) Uint32() uint32 {
	if b := d.Bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// Uint64 takes eight.
func (d *Data) Uint64() uint64 {
	if b := d.Bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// Varint takes a number as binary.AppendUvarint writes it.
func (d *Data) Varint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.short, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

// String takes a string that was written after its length, a Varint.
func (d *Data) String() string { return string(d.Bytes(int(min(d.Varint(), maxBlock)))) }

// AppendString writes what String takes.
func AppendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
