package sentry

import (
	"cmp"
	"path"
	"slices"
	"strconv"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/errdefs"
)

// An agent's files that it has made or changed are in one tmpfs, its upper layer.
// A copy of the agent gets one of its own with the same in it: that is all that
// copyUpper is asked for, and all that a file system that copies in no time would
// have to offer.

// treeCopier copies one file system into another. Files keep their numbers, by
// which programs know that a file is still the one that they have opened: they are
// made in the order of their numbers, below names of their own, and then put where
// they belong.
type treeCopier struct {
	s        *Kernel
	ctx      context.Context
	from, to vfs.VirtualDentry
	nodes    []*treeNode
	byIno    map[uint64]*treeNode
	// whole has plain files without extended attributes be made with what is said of
	// them: nothing of that changes when they are moved.
	whole bool
	// dated has copies change when their originals did, too.
	dated bool
	// room is asked before so many bytes are written, or nil.
	room func(n int) error
}

// treeNode is a file, and where it is, or is to be; from is where it is copied from,
// if not from there.
type treeNode struct {
	from   string
	stat   linux.Statx
	xattrs map[string]string
	names  []string
}

// maxHoles is how many numbers of files that are no more are used up for the sake
// of those that are. Beyond that, files get new numbers.
const maxHoles = 1 << 15

// copyUpper fills an upper layer with what is in another, and returns what that is.
// Place, if it is not nil, says where there a file belongs.
func (s *Kernel) copyUpper(ctx context.Context, from, to *vfs.Mount, place func(string) string) (*baseline, error) {
	c := s.newTreeCopier(ctx, vfs.MakeVirtualDentry(from, from.Root()), vfs.MakeVirtualDentry(to, to.Root()))
	c.dated = true
	look := func() error {
		err := c.walk("")
		if place != nil {
			c.move(place)
		}
		return err
	}
	for _, step := range []func() error{look, c.create, c.attach} {
		if err := step(); err != nil {
			return nil, errdefs.Wrap(err, errdefs.HostIO, "copy the agent's files")
		}
	}
	return newBaseline(c.nodes), nil
}

func (s *Kernel) newTreeCopier(ctx context.Context, from, to vfs.VirtualDentry) *treeCopier {
	return &treeCopier{s: s, ctx: ctx, from: from, to: to, byIno: make(map[uint64]*treeNode)}
}

func inTree(root vfs.VirtualDentry, name string) *vfs.PathOperation {
	return &vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(name)}
}

// move gives every file the names that place says. Directories that this needs are
// made; of two that become one, the first counts.
func (c *treeCopier) move(place func(string) string) {
	nodes, taken := c.nodes, make(map[string]bool)
	last := uint64(1)
	for _, x := range nodes {
		last = max(last, x.stat.Ino)
	}
	c.nodes = nil
	for _, x := range nodes {
		x.from = x.names[0]
		var names []string
		for _, n := range x.names {
			to := place(n)
			if to == "" || taken[to] {
				continue
			}
			for i, r := range to { // The directories that it is in.
				if dir := to[:i]; r == '/' && !taken[dir] {
					taken[dir] = true
					last++
					made := linux.Statx{Mode: linux.S_IFDIR | 0o755, Ino: last}
					c.nodes = append(c.nodes, &treeNode{stat: made, names: []string{dir}})
				}
			}
			taken[to] = true
			names = append(names, to)
		}
		if x.names = names; len(names) > 0 {
			c.nodes = append(c.nodes, x)
		}
	}
}

// walk lists what is in a directory, directories before what is in them.
func (c *treeCopier) walk(dir string) error {
	v := c.s.k.VFS()
	names, err := c.s.listDir(c.ctx, c.from, dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		name := path.Join(dir, n)
		stat, err := v.StatAt(c.ctx, c.s.creds, inTree(c.from, name), &vfs.StatOptions{Mask: linux.STATX_BASIC_STATS})
		if err != nil {
			return err
		}
		if x := c.byIno[stat.Ino]; x != nil {
			x.names = append(x.names, name)
			continue
		}
		x := &treeNode{stat: stat, names: []string{name}}
		if x.xattrs, err = c.s.xattrsAt(c.ctx, inTree(c.from, name), &stat); err != nil {
			return err
		}
		c.byIno[stat.Ino] = x
		c.nodes = append(c.nodes, x)
		if stat.Mode&linux.S_IFMT == linux.S_IFDIR {
			if err := c.walk(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// listDir returns the names in a directory.
func (s *Kernel) listDir(ctx context.Context, root vfs.VirtualDentry, dir string) (names []string, err error) {
	all, err := s.dirents(ctx, root, dir)
	for _, e := range all {
		names = append(names, e.Name)
	}
	return names, err
}

// dirents returns what is in a directory.
func (s *Kernel) dirents(ctx context.Context, root vfs.VirtualDentry, dir string) (all []vfs.Dirent, err error) {
	d, err := s.k.VFS().OpenAt(ctx, s.creds, inTree(root, dir), &vfs.OpenOptions{Flags: linux.O_RDONLY | linux.O_DIRECTORY})
	if err != nil {
		return nil, err
	}
	defer d.DecRef(ctx)
	err = d.IterDirents(ctx, vfs.IterDirentsCallbackFunc(func(e vfs.Dirent) error {
		if e.Name != "." && e.Name != ".." {
			all = append(all, e)
		}
		return nil
	}))
	return all, err
}

// xattrsAt returns the extended attributes of a file, nil if there are none.
func (s *Kernel) xattrsAt(ctx context.Context, at *vfs.PathOperation, stat *linux.Statx) (map[string]string, error) {
	if stat.Mode&linux.S_IFMT == linux.S_IFLNK {
		return nil, nil
	}
	v := s.k.VFS()
	names, err := v.ListXattrAt(ctx, s.creds, at, 0)
	if err != nil || len(names) == 0 {
		return nil, nil // It can have none.
	}
	all := make(map[string]string, len(names))
	for _, n := range names {
		if all[n], err = v.GetXattrAt(ctx, s.creds, at, &vfs.GetXattrOptions{Name: n, Size: linux.XATTR_SIZE_MAX}); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// staged is where a file is before it is put where it belongs.
func staged(ino uint64) string { return ".clone-" + strconv.FormatUint(ino, 10) }

// create makes every file, in the order of their numbers.
func (c *treeCopier) create() error {
	v := c.s.k.VFS()
	order := slices.Clone(c.nodes)
	slices.SortFunc(order, func(x, y *treeNode) int { return cmp.Compare(x.stat.Ino, y.stat.Ino) })
	next := uint64(2) // The root is the first.
	exact := len(order) > 0 && order[len(order)-1].stat.Ino-next-uint64(len(order)) < maxHoles
	hole := inTree(c.to, staged(0))
	for _, x := range order {
		for ; exact && next < x.stat.Ino; next++ {
			if err := v.SymlinkAt(c.ctx, c.s.creds, hole, "-"); err != nil {
				return err
			}
			if err := v.UnlinkAt(c.ctx, c.s.creds, hole); err != nil {
				return err
			}
		}
		if err := c.make(x, inTree(c.from, cmp.Or(x.from, x.names[0])), inTree(c.to, staged(x.stat.Ino))); err != nil {
			return err
		}
		next++
	}
	return nil
}

// make copies one file without its attributes, or makes a directory.
func (c *treeCopier) make(x *treeNode, from, to *vfs.PathOperation) error {
	v := c.s.k.VFS()
	mode := linux.FileMode(x.stat.Mode & 0o7777)
	switch x.stat.Mode & linux.S_IFMT {
	case linux.S_IFDIR:
		return v.MkdirAt(c.ctx, c.s.creds, to, &vfs.MkdirOptions{Mode: mode})
	case linux.S_IFREG:
		return c.regular(x, from, to, mode)
	case linux.S_IFLNK:
		target, err := v.ReadlinkAt(c.ctx, c.s.creds, from)
		if err != nil {
			return err
		}
		return v.SymlinkAt(c.ctx, c.s.creds, to, target)
	default:
		return v.MknodAt(c.ctx, c.s.creds, to, &vfs.MknodOptions{
			Mode: linux.FileMode(x.stat.Mode), DevMajor: x.stat.RdevMajor, DevMinor: x.stat.RdevMinor,
		})
	}
}

// attach puts every file where it belongs, and says of it what is said of the
// original: of directories last, since their times follow what is put into them.
func (c *treeCopier) attach() error {
	v := c.s.k.VFS()
	for _, x := range c.nodes {
		if err := v.RenameAt(c.ctx, c.s.creds, inTree(c.to, staged(x.stat.Ino)), inTree(c.to, x.names[0]), &vfs.RenameOptions{}); err != nil {
			return err
		}
	}
	for _, x := range c.nodes {
		for _, name := range x.names[1:] {
			if err := v.LinkAt(c.ctx, c.s.creds, inTree(c.to, x.names[0]), inTree(c.to, name)); err != nil {
				return err
			}
		}
	}
	for i := len(c.nodes) - 1; i >= 0; i-- {
		x := c.nodes[i]
		if err := c.attributes(inTree(c.to, x.names[0]), x); err != nil {
			return err
		}
	}
	return nil
}

// attributes says of a file what is said of x.
func (c *treeCopier) attributes(to *vfs.PathOperation, x *treeNode) error {
	v := c.s.k.VFS()
	for n, value := range x.xattrs {
		if err := v.SetXattrAt(c.ctx, c.s.creds, to, &vfs.SetXattrOptions{Name: n, Value: value}); err != nil {
			return err
		}
	}
	return v.SetStatAt(c.ctx, c.s.creds, to, &vfs.SetStatOptions{Stat: c.said(x)})
}

// said is what is said of x.
func (c *treeCopier) said(x *treeNode) linux.Statx {
	stat := &x.stat
	set := linux.Statx{
		Mask: linux.STATX_UID | linux.STATX_GID | linux.STATX_ATIME | linux.STATX_MTIME,
		UID:  stat.UID, GID: stat.GID, Atime: stat.Atime, Mtime: stat.Mtime, Ctime: stat.Ctime,
	}
	if c.dated {
		set.Mask |= linux.STATX_CTIME
	}
	if stat.Mode&linux.S_IFMT != linux.S_IFLNK {
		set.Mask |= linux.STATX_MODE
		set.Mode = stat.Mode & 0o7777
	}
	return set
}

// regular copies a plain file. What is said of it is said while it is open, when it
// need not be looked for, unless it has extended attributes.
func (c *treeCopier) regular(x *treeNode, from, to *vfs.PathOperation, mode linux.FileMode) error {
	v := c.s.k.VFS()
	in, err := v.OpenAt(c.ctx, c.s.creds, from, &vfs.OpenOptions{Flags: linux.O_RDONLY})
	if err != nil {
		return err
	}
	defer in.DecRef(c.ctx)
	out, err := v.OpenAt(c.ctx, c.s.creds, to, &vfs.OpenOptions{Flags: linux.O_WRONLY | linux.O_CREAT | linux.O_EXCL, Mode: mode})
	if err != nil {
		return err
	}
	defer out.DecRef(c.ctx)
	if err := copyBytes(c.ctx, in, out, c.room); err != nil || len(x.xattrs) > 0 || !c.whole {
		return err
	}
	return out.SetStat(c.ctx, vfs.SetStatOptions{Stat: c.said(x)})
}

// copyChunk is how much is copied at a time.
const copyChunk = 256 << 10

// copyBytes makes the content of out that of in. Holes stay holes. Room, if it is not
// nil, is asked before bytes are written.
func copyBytes(ctx context.Context, in, out *vfs.FileDescription, room func(n int) error) error {
	stat, err := in.Stat(ctx, vfs.StatOptions{Mask: linux.STATX_SIZE})
	if err != nil || stat.Size == 0 {
		return err
	}
	buf := make([]byte, min(stat.Size, copyChunk))
	for at := uint64(0); at < stat.Size; {
		n, err := in.PRead(ctx, usermem.BytesIOSequence(buf), int64(at), vfs.ReadOptions{})
		if n == 0 {
			break
		}
		if err != nil && n < 0 {
			return err
		}
		if p := buf[:n]; !zero(p) {
			if room != nil {
				if err := room(len(p)); err != nil {
					return err
				}
			}
			for len(p) > 0 {
				w, err := out.PWrite(ctx, usermem.BytesIOSequence(p), int64(at)+n-int64(len(p)), vfs.WriteOptions{})
				if err != nil && w == 0 {
					return err
				}
				p = p[w:]
			}
		}
		at += uint64(n)
	}
	return out.SetStat(ctx, vfs.SetStatOptions{Stat: linux.Statx{Mask: linux.STATX_SIZE, Size: stat.Size}})
}

func zero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}
