package sentry

import (
	"hash/fnv"
	"path"
	"strings"
	"weak"

	"gvisor.dev/gvisor/pkg/abi/linux"

	"aios.dev/aios/sentry/threeway"
)

// A copy keeps a list of what was in its upper layer when it was made: names, and
// by what a change since then shows. That is the same for both sides, since files of
// a copy have the times of their originals. It is all that a merge needs of the past:
// what only one side has changed is taken from there, and where both have, there is
// a conflict unless they have come to the same.

// maxBaseline is how many files are listed. A copy of more cannot be merged.
const maxBaseline = 1 << 18

// baseline is what was in an upper layer. Nobody changes it: copies of one moment
// have it together.
type baseline struct {
	files []layerFile
	bytes uint64 // what the list takes
}

// layerFile is a file of an upper layer, by its name there.
type layerFile struct {
	name string
	node threeway.Node
}

// mergeable has the copy know what it is a copy of. Copies of one moment share what
// they know.
func (c *copying) mergeable() {
	if c.f.base == nil {
		c.f.base = c.dst.ns.base
	}
	c.dst.ns.base = c.f.base
	c.dst.kept.Store(c.f.base.bytes)
	c.dst.origin = weak.Make(c.src)
	c.src.mapped.on.Store(true)
	c.dst.mapped.on.Store(true)
}

// listed is what a file of a baseline takes, without its name.
const listed = 96

func newBaseline(nodes []*treeNode) *baseline {
	b := &baseline{files: layerFiles(nodes, maxBaseline)}
	for i := range b.files {
		b.bytes += listed + uint64(len(b.files[i].name))
	}
	return b
}

// layerFiles returns the files of an upper layer, directories before what is in
// them, or nil if there are more than so many. Sockets are left out: nobody listens
// there any more when the copy has ended.
func layerFiles(nodes []*treeNode, most int) []layerFile {
	files := make([]layerFile, 0, len(nodes))
	for _, dirs := range []bool{true, false} {
		for _, x := range nodes {
			kind := x.stat.Mode & linux.S_IFMT
			if kind == linux.S_IFSOCK || (kind == linux.S_IFDIR) != dirs {
				continue
			}
			for _, name := range x.names {
				if len(files) == most {
					return nil
				}
				files = append(files, layerFile{name, nodeOf(x, overlaid(name))})
			}
		}
	}
	return files
}

// overlaid reports whether an overlay is laid over that part of the upper layer, to
// which a device without a number and one attribute say what is deleted.
func overlaid(name string) bool {
	top, _, _ := strings.Cut(name, "/")
	return top != "tmp"
}

// opaqueXattr is how gVisor's overlay says that a directory hides what is below it.
const opaqueXattr = linux.XATTR_TRUSTED_PREFIX + "overlay.opaque"

// nodeOf says what a file is to a merge.
func nodeOf(x *treeNode, overlay bool) threeway.Node {
	st := &x.stat
	n := threeway.Node{Entry: threeway.Entry{Meta: metaOf(st, x.xattrs)}}
	switch st.Mode & linux.S_IFMT {
	case linux.S_IFDIR:
		n.Kind = threeway.Dir
		n.Opaque = overlay && x.xattrs[opaqueXattr] == "y"
		return n
	case linux.S_IFREG:
		n.Kind = threeway.File
	case linux.S_IFLNK:
		n.Kind = threeway.Symlink
	case linux.S_IFCHR:
		if overlay && st.RdevMajor == 0 && st.RdevMinor == 0 {
			return threeway.Node{Whiteout: true}
		}
		fallthrough
	default:
		n.Kind = threeway.Special
	}
	n.Version, n.Size, n.Rdev = st.Ctime.ToNsec(), st.Size, uint64(st.RdevMajor)<<32|uint64(st.RdevMinor)
	return n
}

// metaOf is what is said about a file, but for what an overlay says to itself.
func metaOf(st *linux.Statx, xattrs map[string]string) threeway.Meta {
	m := threeway.Meta{Mode: st.Mode & 0o7777, UID: st.UID, GID: st.GID}
	for name, value := range xattrs {
		if strings.HasPrefix(name, linux.XATTR_TRUSTED_PREFIX+"overlay.") {
			continue
		}
		h := fnv.New64a()
		h.Write([]byte(name))
		h.Write([]byte{0})
		h.Write([]byte(value))
		m.Xattrs += h.Sum64() // In whichever order.
	}
	return m
}

// layer is one part of an upper layer, as a tree.
func layer(files []layerFile, top string) *threeway.Node {
	dirs := map[string]*threeway.Node{top: {Entry: threeway.Entry{Kind: threeway.Dir}}}
	for i := range files {
		f := &files[i]
		if f.name == top {
			n := f.node
			dirs[top] = &n
			continue
		}
		dir, name := path.Split(f.name)
		parent := dirs[strings.TrimSuffix(dir, "/")]
		if parent == nil {
			continue // Of another part.
		}
		n := f.node
		parent.Add(name, &n)
		if n.Kind == threeway.Dir {
			dirs[f.name] = parent.Children[name]
		}
	}
	return dirs[top]
}
