package mkerofs

import (
	"math"
	"path"

	"aios.dev/aios/errdefs"
)

const (
	inodeSize  = 64 // extended inodes only: they keep mtime and 32-bit owners
	direntSize = 12
	nidUnit    = 32
	metaStart  = BlockSize // inodes begin in block 1
)

// layout is where everything goes.
type layout struct {
	inodes  []*Node // in the order of their nids
	regular int64
	metaEnd int64 // first byte after the inodes, a multiple of BlockSize
	blocks  int64 // of the whole image
}

// plan gives every inode of the tree its nid and its blocks.
func plan(root *Node) (*layout, error) {
	if root == nil || !root.IsDir() {
		return nil, errdefs.New(errdefs.Internal, "the root of an image must be a directory")
	}
	l := &layout{metaEnd: metaStart}
	root.parent = root
	if err := l.add(root, "/", 0); err != nil {
		return nil, err
	}
	l.metaEnd = roundUp(l.metaEnd, BlockSize)
	next := l.metaEnd / BlockSize
	for _, metadata := range []bool{true, false} {
		for _, n := range l.inodes {
			if metadata == (n.Type() == ModeRegular) {
				continue
			}
			if c := n.wholeBlocks(); c > 0 {
				if next+c > math.MaxUint32 {
					return nil, errdefs.Newf(errdefs.ImageInvalid, "the image needs more than %d blocks", uint32(math.MaxUint32))
				}
				n.block = uint32(next)
				next += c
			}
		}
	}
	l.blocks = next
	return l, nil
}

// add places n, then what is below it.
func (l *layout) add(n *Node, p string, depth int) error {
	if n.planned {
		if n.IsDir() {
			return errdefs.Newf(errdefs.Internal, "%s: a directory cannot have two names", p)
		}
		n.links++
		return nil
	}
	if depth > MaxDepth {
		return errdefs.Newf(errdefs.ImageInvalid, "%.80s…: directories nest deeper than %d", p, MaxDepth)
	}
	n.planned, n.links, n.block, n.tail, n.size = true, 1, 0, 0, 0
	switch n.Type() {
	case ModeRegular:
		n.size = n.Size
		l.regular++
		if n.Size < 0 || n.Size > 0 && n.Content == nil {
			return errdefs.Newf(errdefs.Internal, "%s: a file of %d bytes without content", p, n.Size)
		}
	case ModeSymlink:
		n.size = int64(len(n.Target))
		if n.size == 0 || n.size > MaxTargetLen {
			return errdefs.Newf(errdefs.ImageInvalid, "%s: the target of a symbolic link has %d bytes, 1 to %d are possible", p, n.size, MaxTargetLen)
		}
	case ModeDir:
		n.names = sortedNames(n)
		n.size = direntsSize(n.names)
		n.links = 2
	case ModeChar, ModeBlock, ModeFIFO, ModeSocket:
	default:
		return errdefs.Newf(errdefs.Internal, "%s: unknown file type %#o", p, n.Type())
	}
	if t := n.Type(); t == ModeDir || t == ModeSymlink {
		if tail := int(n.size % BlockSize); inodeSize+tail <= BlockSize {
			n.tail = tail
		}
	}
	// Neither an inode nor its tail crosses a block.
	if room := BlockSize - l.metaEnd%BlockSize; room < int64(inodeSize+n.tail) {
		l.metaEnd += room
	}
	n.nid = uint64(l.metaEnd / nidUnit)
	l.metaEnd = roundUp(l.metaEnd+int64(inodeSize+n.tail), nidUnit)
	l.inodes = append(l.inodes, n)

	if !n.IsDir() {
		return nil
	}
	for name := range n.Children {
		if err := CheckName(name); err != nil {
			return errdefs.Wrap(err, errdefs.ImageInvalid, "", errdefs.Resource("%s", p))
		}
	}
	for _, name := range n.names {
		if name == "." || name == ".." {
			continue
		}
		c := n.Children[name]
		cp := path.Join(p, name)
		if c == nil {
			return errdefs.Newf(errdefs.Internal, "%s: no node under this name", cp)
		}
		if c.IsDir() {
			n.links++
			if !c.planned {
				c.parent = n
			}
		}
		if err := l.add(c, cp, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// wholeBlocks is how many data blocks n fills, its inline tail not counted.
func (n *Node) wholeBlocks() int64 {
	return (n.size - int64(n.tail) + BlockSize - 1) / BlockSize
}

// direntBlock returns how many of names fit into one block of a directory and
// how many bytes of it they use.
func direntBlock(names []string) (count, used int) {
	for count < len(names) {
		need := direntSize + len(names[count])
		if used+need > BlockSize {
			break
		}
		used += need
		count++
	}
	return count, used
}

// direntsSize is the size of a directory: whole blocks, but for the last.
func direntsSize(names []string) int64 {
	var size int64
	for len(names) > 0 {
		count, used := direntBlock(names)
		if count == len(names) {
			return size + int64(used)
		}
		size += BlockSize
		names = names[count:]
	}
	return size
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }
