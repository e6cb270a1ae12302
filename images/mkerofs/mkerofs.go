// Package mkerofs writes EROFS images that a kernel can map: uncompressed,
// with the data of every regular file in whole blocks of its own.
//
// A Node is one inode; a tree of Nodes is a file system; a Node that is not a
// directory may hang under several names, which makes them hard links. Write
// lays the tree out and streams the image from its first byte to its last, so
// the output may be hashed on the way and needs no seeking. The same tree
// always gives the same bytes: names are sorted, the UUID and the build time
// are zero.
//
// What the format could hold and these images never do, because gVisor's
// reader refuses or cannot map it: compression, chunks, extra devices,
// extended attributes, and the tail of a regular file inline behind its inode
// (directories and symbolic links do use inline tails, which it reads).
//
// The layout, in blocks of 4096 bytes:
//
//	0          superblock at byte 1024, checksummed
//	1 …        inodes, each 64 bytes, with inline tails behind them
//	…          whole blocks of directories and of long symbolic links
//	…          data of regular files, in path order
//
// Sizes and offsets are in bytes unless a name says blocks; a nid is a byte
// offset divided by 32. Nothing here locks; a tree must not be shared between
// concurrent calls of Write. The package imports only the standard library and
// errdefs.
package mkerofs

import (
	"io"
	"sort"

	"aios.dev/aios/errdefs"
)

// File type bits of Node.Mode, as in struct stat.
const (
	ModeType    = 0o170000
	ModeSocket  = 0o140000
	ModeSymlink = 0o120000
	ModeRegular = 0o100000
	ModeBlock   = 0o060000
	ModeDir     = 0o040000
	ModeChar    = 0o020000
	ModeFIFO    = 0o010000
)

// Limits of the format, as Linux and gVisor read it.
const (
	BlockSize  = 4096
	MaxNameLen = 255
	// MaxTargetLen is the longest target of a symbolic link.
	MaxTargetLen = BlockSize - 1
	// MaxDepth is how deep directories may nest: no path of Linux is deeper.
	MaxDepth = 2048
)

// Content is where the bytes of a regular file come from.
type Content interface {
	// Open returns a reader of exactly Node.Size bytes.
	Open() (io.ReadCloser, error)
}

// Node is one inode.
type Node struct {
	// Mode is the type and the permission bits, as in struct stat.
	Mode      uint32
	UID, GID  uint32
	Mtime     int64 // seconds since 1970
	MtimeNsec uint32
	// Size and Content are of a regular file; Content may be nil when Size is 0.
	Size    int64
	Content Content
	// Target is of a symbolic link.
	Target string
	// Rdev is of a device: see MakeRdev.
	Rdev uint32
	// Children is of a directory, by name.
	Children map[string]*Node

	// What follows is set by the layout.
	planned bool
	nid     uint64
	links   uint32
	block   uint32   // first whole data block
	tail    int      // bytes inline behind the inode
	size    int64    // i_size
	names   []string // of a directory: sorted, with "." and ".."
	parent  *Node    // of a directory
}

// NewDir returns an empty directory owned by root.
func NewDir(perm uint32) *Node {
	return &Node{Mode: ModeDir | perm&0o7777, Children: map[string]*Node{}}
}

// Type returns the type bits.
func (n *Node) Type() uint32 { return n.Mode & ModeType }

// IsDir reports whether n is a directory.
func (n *Node) IsDir() bool { return n.Type() == ModeDir }

// MakeRdev encodes a device number as Linux does on disk.
func MakeRdev(major, minor uint32) uint32 {
	return minor&0xff | major&0xfff<<8 | minor&^0xff<<12
}

// sortedNames returns what a directory lists, in the order of its bytes.
func sortedNames(n *Node) []string {
	names := make([]string, 0, len(n.Children)+2)
	names = append(names, ".", "..")
	for name := range n.Children {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// CheckName returns an error unless name can stand in a directory.
func CheckName(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return errdefs.Newf(errdefs.ImageInvalid, "%q cannot be a file name", name)
	case len(name) > MaxNameLen:
		return errdefs.Newf(errdefs.ImageInvalid, "the name %.40q… has %d bytes, at most %d are possible", name, len(name), MaxNameLen)
	}
	for i := 0; i < len(name); i++ {
		if name[i] == '/' || name[i] == 0 {
			return errdefs.Newf(errdefs.ImageInvalid, "the name %q holds a slash or a zero byte", name)
		}
	}
	return nil
}

// child returns the node that a name of n's listing leads to.
func (n *Node) child(name string) *Node {
	switch name {
	case ".":
		return n
	case "..":
		return n.parent
	}
	return n.Children[name]
}
