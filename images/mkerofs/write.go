package mkerofs

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"

	"aios.dev/aios/errdefs"
)

const (
	magic             = 0xe0f5e1e2
	superblockOffset  = 1024
	blockBits         = 12
	featureSbChecksum = 1
	formatExtended    = 1
	formatInline      = 2 << 1 // data layout: whole blocks, tail behind the inode
	writeBuffer       = 1 << 20
	checksumOffset    = 4
)

// Stats is what Write made.
type Stats struct {
	Bytes   int64 // of the image
	Inodes  int64
	Regular int64 // regular files, hard links counted once
}

// Progress hears how many of the image's bytes are written.
type Progress func(done, total int64)

// ContentError is a failure to read a file of the source, as opposed to one to
// write the image.
type ContentError struct {
	Err error
}

// Error names the failure.
func (e *ContentError) Error() string { return e.Err.Error() }

// Unwrap returns the error beneath.
func (e *ContentError) Unwrap() error { return e.Err }

// Write writes the image of the tree under root to w, front to back, in large
// pieces. It stops with ctx's error when ctx ends.
func Write(ctx context.Context, w io.Writer, root *Node, progress Progress) (Stats, error) {
	l, err := plan(root)
	if err != nil {
		return Stats{}, err
	}
	defer l.reset()
	o := &output{ctx: ctx, w: w, buf: make([]byte, 0, writeBuffer), total: l.blocks * BlockSize, progress: progress}
	if err := l.write(o); err != nil {
		return Stats{}, err
	}
	if o.offset() != o.total {
		return Stats{}, errdefs.Newf(errdefs.Internal, "wrote %d bytes of an image of %d", o.offset(), o.total)
	}
	return Stats{Bytes: o.total, Inodes: int64(len(l.inodes)), Regular: l.regular}, nil
}

// reset makes the nodes plannable again.
func (l *layout) reset() {
	for _, n := range l.inodes {
		n.planned, n.names, n.parent = false, nil, nil
	}
}

func (l *layout) write(o *output) error {
	if err := o.write(l.superblock()); err != nil {
		return err
	}
	for _, n := range l.inodes {
		if err := o.padTo(int64(n.nid) * nidUnit); err != nil {
			return err
		}
		if err := o.write(n.inode()); err != nil {
			return err
		}
		if n.tail > 0 {
			data := n.metadata()
			if err := o.write(data[len(data)-n.tail:]); err != nil {
				return err
			}
		}
	}
	if err := o.padTo(l.metaEnd); err != nil {
		return err
	}
	for _, n := range l.inodes {
		if n.Type() == ModeRegular || n.wholeBlocks() == 0 {
			continue
		}
		data := n.metadata()
		if err := o.write(data[:len(data)-n.tail]); err != nil {
			return err
		}
		if err := o.padTo(roundUp(o.offset(), BlockSize)); err != nil {
			return err
		}
	}
	for _, n := range l.inodes {
		if n.Type() != ModeRegular || n.size == 0 {
			continue
		}
		if err := o.copy(n.Content, n.size); err != nil {
			return err
		}
		if err := o.padTo(roundUp(o.offset(), BlockSize)); err != nil {
			return err
		}
	}
	return o.flush()
}

// superblock returns block 0.
func (l *layout) superblock() []byte {
	b := make([]byte, BlockSize)
	sb := b[superblockOffset:]
	le := binary.LittleEndian
	le.PutUint32(sb[0:], magic)
	le.PutUint32(sb[8:], featureSbChecksum)
	sb[12] = blockBits
	le.PutUint16(sb[14:], uint16(l.inodes[0].nid))
	le.PutUint64(sb[16:], uint64(len(l.inodes)))
	le.PutUint32(sb[36:], uint32(l.blocks))
	// meta_blkaddr stays 0: nids count from the start of the image, so that
	// no inode has number 0, which directory readers take for a deleted entry.
	crc := ^crc32.Checksum(sb, crc32.MakeTable(crc32.Castagnoli))
	le.PutUint32(sb[checksumOffset:], crc)
	return b
}

// inode returns the 64 bytes of n.
func (n *Node) inode() []byte {
	b := make([]byte, inodeSize)
	le := binary.LittleEndian
	format := uint16(formatExtended)
	if n.tail > 0 {
		format |= formatInline
	}
	data := n.block
	if t := n.Type(); t == ModeChar || t == ModeBlock {
		data = n.Rdev
	}
	le.PutUint16(b[0:], format)
	le.PutUint16(b[4:], uint16(n.Mode))
	le.PutUint64(b[8:], uint64(n.size))
	le.PutUint32(b[16:], data)
	le.PutUint32(b[20:], uint32(n.nid)) // i_ino, for 32-bit readers
	le.PutUint32(b[24:], n.UID)
	le.PutUint32(b[28:], n.GID)
	le.PutUint64(b[32:], uint64(n.Mtime))
	le.PutUint32(b[40:], n.MtimeNsec)
	le.PutUint32(b[44:], n.links)
	return b
}

// metadata returns the data of a directory or a symbolic link.
func (n *Node) metadata() []byte {
	if n.Type() == ModeSymlink {
		return []byte(n.Target)
	}
	out := make([]byte, 0, n.size)
	for names := n.names; len(names) > 0; {
		count, used := direntBlock(names)
		block := make([]byte, used, BlockSize)
		nameOff := count * direntSize
		for i, name := range names[:count] {
			c := n.child(name)
			d := block[i*direntSize:]
			binary.LittleEndian.PutUint64(d[0:], c.nid)
			binary.LittleEndian.PutUint16(d[8:], uint16(nameOff))
			d[10] = direntType(c)
			nameOff += copy(block[nameOff:], name)
		}
		names = names[count:]
		if len(names) > 0 {
			block = block[:BlockSize] // padding is zero
		}
		out = append(out, block...)
	}
	return out
}

// direntType returns the EROFS_FT_ number of n's type.
func direntType(n *Node) byte {
	switch n.Type() {
	case ModeRegular:
		return 1
	case ModeDir:
		return 2
	case ModeChar:
		return 3
	case ModeBlock:
		return 4
	case ModeFIFO:
		return 5
	case ModeSocket:
		return 6
	case ModeSymlink:
		return 7
	}
	return 0
}

// output gathers small writes into large ones.
type output struct {
	ctx      context.Context
	w        io.Writer
	buf      []byte // not yet flushed
	flushed  int64
	total    int64
	progress Progress
}

func (o *output) offset() int64 { return o.flushed + int64(len(o.buf)) }

func (o *output) flush() error {
	if err := o.ctx.Err(); err != nil {
		return err
	}
	if _, err := o.w.Write(o.buf); err != nil {
		return err
	}
	o.flushed += int64(len(o.buf))
	o.buf = o.buf[:0]
	if o.progress != nil {
		o.progress(o.flushed, o.total)
	}
	return nil
}

func (o *output) write(p []byte) error {
	for len(p) > 0 {
		n := copy(o.buf[len(o.buf):cap(o.buf)], p)
		o.buf = o.buf[:len(o.buf)+n]
		p = p[n:]
		if len(o.buf) == cap(o.buf) {
			if err := o.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

var zeros [BlockSize]byte

func (o *output) padTo(off int64) error {
	for n := off - o.offset(); n > 0; n = off - o.offset() {
		if err := o.write(zeros[:min(n, BlockSize)]); err != nil {
			return err
		}
	}
	return nil
}

// copy appends size bytes of c, read straight into the buffer.
func (o *output) copy(c Content, size int64) error {
	r, err := c.Open()
	if err != nil {
		return &ContentError{err}
	}
	defer r.Close()
	for size > 0 {
		room := o.buf[len(o.buf):cap(o.buf)]
		n, err := r.Read(room[:min(size, int64(len(room)))])
		o.buf = o.buf[:len(o.buf)+n]
		size -= int64(n)
		if len(o.buf) == cap(o.buf) {
			if err := o.flush(); err != nil {
				return err
			}
		}
		if err != nil && size > 0 {
			if errors.Is(err, io.EOF) {
				err = errdefs.Newf(errdefs.HostIO, "the file ended %d bytes early: it changed while it was read", size)
			}
			return &ContentError{err}
		}
	}
	return nil
}
