package ctlfs

import (
	"slices"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// directory is a directory whose children come to be when they are looked up.
type directory struct {
	kernfs.InodeAlwaysValid
	kernfs.InodeAttrs
	kernfs.InodeDirectoryNoNewChildren
	kernfs.InodeFSOwned
	kernfs.InodeNoopRefCount
	kernfs.InodeNotAnonymous
	kernfs.InodeNotSymlink
	kernfs.InodeWatches
	// OrderedChildren stays empty; it refuses to remove and to rename.
	kernfs.OrderedChildren

	fs    *filesystem
	entry *entry
	locks vfs.FileLocks
}

var _ kernfs.Inode = (*directory)(nil)

func (fs *filesystem) newDirectory(ctx context.Context, e *entry) *directory {
	d := &directory{}
	d.init(ctx, fs, e)
	return d
}

func (d *directory) init(ctx context.Context, fs *filesystem, e *entry) {
	d.fs, d.entry = fs, e
	d.InodeAttrs.InitWithIDs(ctx, auth.RootKUID, auth.RootKGID, linux.UNNAMED_MAJOR, fs.devMinor, e.ino, e.mode)
	d.OrderedChildren.Init(kernfs.OrderedChildrenOptions{})
	for _, c := range e.children {
		if c.children != nil {
			d.IncLinks(1)
		}
	}
}

// HasChildren implements kernfs.Inode.
func (d *directory) HasChildren() bool { return len(d.entry.children) > 0 }

// Lookup implements kernfs.Inode.
func (d *directory) Lookup(ctx context.Context, name string) (kernfs.Inode, error) {
	i := slices.IndexFunc(d.entry.children, func(e *entry) bool { return e.name == name })
	if i < 0 {
		return nil, linuxerr.ENOENT
	}
	return d.fs.newInode(ctx, d.entry.children[i]), nil
}

// IterDirents implements kernfs.Inode.
func (d *directory) IterDirents(_ context.Context, _ *vfs.Mount, cb vfs.IterDirentsCallback, offset, relOffset int64) (int64, error) {
	if relOffset < 0 || relOffset >= int64(len(d.entry.children)) {
		return offset, nil
	}
	for _, e := range d.entry.children[relOffset:] {
		err := cb.Handle(vfs.Dirent{Name: e.name, Type: e.mode.DirentType(), Ino: e.ino, NextOff: offset + 1})
		if err != nil {
			return offset, err
		}
		offset++
	}
	return offset, nil
}

// Open implements kernfs.Inode.
func (d *directory) Open(_ context.Context, rp *vfs.ResolvingPath, dentry *kernfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	fd, err := kernfs.NewGenericDirectoryFD(rp.Mount(), dentry, rp.Credentials(), &d.OrderedChildren, &d.locks, &opts, kernfs.GenericDirectoryFDOptions{SeekEnd: kernfs.SeekEndZero})
	if err != nil {
		return nil, err
	}
	return fd.VFSFileDescription(), nil
}

// SetStat implements kernfs.Inode.
func (*directory) SetStat(context.Context, *vfs.Filesystem, *auth.Credentials, vfs.SetStatOptions) error {
	return linuxerr.EPERM
}

// StatFS implements kernfs.Inode.
func (*directory) StatFS(context.Context, *vfs.Filesystem) (linux.Statfs, error) {
	return vfs.GenericStatFS(superMagic), nil
}
