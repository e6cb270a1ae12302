package grantfs

import (
	"strings"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// A dentry stands for one dentry of the inner file system while the VFS needs
// something to refer to: for open files, working directories, mount points and
// watches. There is at most one per inner dentry, so that what is mounted on it
// is found again. It knows neither its name nor its parent: those are asked of
// the inner file system, where renames by anybody are seen.
type dentry struct {
	vfsd  vfs.Dentry
	fs    *FS
	inner *vfs.Dentry // a reference is held; immutable
	hint  uint32      // to the gate; immutable

	// refs becomes positive again only under FS.dentriesMu, negative for ever
	// when the dentry is dropped.
	refs    atomic.Int64
	watches vfs.Watches
}

// dentryOf returns the dentry for inner, with a reference for the caller.
func (fs *FS) dentryOf(inner *vfs.Dentry) *dentry {
	fs.dentriesMu.Lock()
	defer fs.dentriesMu.Unlock()
	d := fs.dentries[inner]
	if d == nil {
		d = &dentry{fs: fs, inner: inner, hint: fs.hints.Add(1)}
		d.vfsd.Init(d)
		inner.IncRef()
		fs.dentries[inner] = d
	}
	d.refs.Add(1)
	return d
}

// known returns the dentry for inner if there is one, with a reference.
func (fs *FS) known(inner *vfs.Dentry) *dentry {
	fs.dentriesMu.Lock()
	defer fs.dentriesMu.Unlock()
	d := fs.dentries[inner]
	if d != nil {
		d.refs.Add(1)
	}
	return d
}

// IncRef implements vfs.DentryImpl.IncRef.
func (d *dentry) IncRef() { d.refs.Add(1) }

// TryIncRef implements vfs.DentryImpl.TryIncRef.
func (d *dentry) TryIncRef() bool {
	for {
		n := d.refs.Load()
		if n <= 0 {
			return false
		}
		if d.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// DecRef implements vfs.DentryImpl.DecRef.
func (d *dentry) DecRef(ctx context.Context) {
	if d.refs.Add(-1) == 0 {
		d.drop(ctx)
	}
}

// drop forgets d, unless it came into use again or is watched.
func (d *dentry) drop(ctx context.Context) {
	fs := d.fs
	deleted := d.vfsd.IsDead()
	fs.dentriesMu.Lock()
	if d.refs.Load() != 0 || fs.dentries[d.inner] != d || (!deleted && d.watches.Size() > 0) {
		fs.dentriesMu.Unlock()
		return
	}
	d.refs.Store(-1)
	delete(fs.dentries, d.inner)
	fs.dentriesMu.Unlock()
	if deleted {
		d.watches.HandleDeletion(ctx)
	}
	d.inner.DecRef(ctx)
}

// OnZeroWatches implements vfs.DentryImpl.OnZeroWatches.
func (d *dentry) OnZeroWatches(ctx context.Context) {
	if d.refs.Load() == 0 {
		d.drop(ctx)
	}
}

// belowRoot reports whether inner is the root, or still below it: whoever has
// more than this grant can move a directory out of it.
func (fs *FS) belowRoot(inner *vfs.Dentry) bool {
	return inner == fs.root || fs.mnt.Filesystem().Impl().IsDescendant(fs.at(fs.root), fs.at(inner))
}

// PrependPath implements vfs.FilesystemImpl.PrependPath.
func (fs *FS) PrependPath(ctx context.Context, vfsroot, vd vfs.VirtualDentry, b *fspath.Builder) error {
	inner := vd.Dentry().Impl().(*dentry).inner
	impl := fs.mnt.Filesystem().Impl()
	above := func(top *vfs.Dentry) bool {
		return top == inner || impl.IsDescendant(fs.at(top), fs.at(inner))
	}
	// The path ends at the VFS root if that is on the way, else at the root of
	// the mount; the inner file system is told that it ends at its VFS root,
	// because its own mount has another root.
	top, atRoot := fs.root, error(vfs.PrependPathAtNonMountRootError{})
	if vd.Mount() != nil {
		top, atRoot = vd.Mount().Root().Impl().(*dentry).inner, nil
	}
	if vfsroot.Ok() && vfsroot.Mount() == vd.Mount() {
		if r := vfsroot.Dentry().Impl().(*dentry).inner; above(r) {
			top, atRoot = r, vfs.PrependPathAtVFSRootError{}
		}
	}
	if !above(top) {
		// What is above is not this grant's to tell.
		return vfs.PrependPathAtNonMountRootError{}
	}
	var path fspath.Builder
	err := impl.PrependPath(ctx, fs.at(top), fs.at(inner), &path)
	if _, ok := err.(vfs.PrependPathAtVFSRootError); !ok {
		if err == nil {
			err = vfs.PrependPathAtNonMountRootError{} // It was moved meanwhile.
		}
		return err
	}
	if p := path.String(); p != "" {
		b.PrependComponent(p)
	}
	return atRoot
}

// pathOf is the path of inner, or of what is called name in it, for people.
func (fs *FS) pathOf(inner *vfs.Dentry, name string) string {
	path := []string{fs.name}
	if inner != nil {
		if p, ok := fs.relative(inner); ok && p != "" {
			path = append(path, p)
		}
	}
	if name != "" {
		path = append(path, name)
	}
	if len(path) == 1 && fs.name == "" {
		return "/"
	}
	return strings.Join(path, "/")
}

// relative is the path of inner below the root, without a leading slash.
func (fs *FS) relative(inner *vfs.Dentry) (path string, ok bool) {
	if inner == fs.root {
		return "", true
	}
	if !fs.belowRoot(inner) {
		return "", false
	}
	var b fspath.Builder
	err := fs.mnt.Filesystem().Impl().PrependPath(context.Background(), fs.at(fs.root), fs.at(inner), &b)
	_, ok = err.(vfs.PrependPathAtVFSRootError)
	return b.String(), ok
}

// IsDescendant implements vfs.FilesystemImpl.IsDescendant.
func (fs *FS) IsDescendant(vfsroot, vd vfs.VirtualDentry) bool {
	root, ok := vfsroot.Dentry().Impl().(*dentry)
	if !ok || root.fs != fs {
		return false
	}
	top, inner := root.inner, vd.Dentry().Impl().(*dentry).inner
	return top == inner || fs.mnt.Filesystem().Impl().IsDescendant(fs.at(top), fs.at(inner))
}

// Watches implements vfs.DentryImpl.Watches.
func (d *dentry) Watches() *vfs.Watches {
	d.fs.watched.Store(true)
	return &d.watches
}

// InotifyWithParent implements vfs.DentryImpl.InotifyWithParent.
func (d *dentry) InotifyWithParent(ctx context.Context, events, cookie uint32, et vfs.EventType) {
	fs := d.fs
	if !fs.watched.Load() || fs.gone() {
		return
	}
	if mode, err := fs.mode(ctx, d.inner); err == nil && mode.IsDir() {
		events |= linux.IN_ISDIR
	}
	deleted := d.vfsd.IsDead()
	if parent, name := fs.parentOf(ctx, d.inner); parent != nil {
		parent.watches.Notify(ctx, name, events, cookie, et, deleted)
		parent.DecRef(ctx)
	}
	d.watches.Notify(ctx, "", events, cookie, et, deleted)
}
