package grantfs

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/abi"
)

// UnlinkAt implements vfs.FilesystemImpl.UnlinkAt.
func (fs *FS) UnlinkAt(ctx context.Context, rp *vfs.ResolvingPath) error {
	w, err := fs.walkToParent(ctx, rp, "unlink")
	if err != nil {
		return err
	}
	defer w.end()
	name := rp.Component()
	if err := w.change(abi.FSDelete, name); err != nil {
		return err
	}
	defer rp.Mount().EndWrite()
	return w.remove(name, linux.IN_DELETE, func() error {
		pop := w.pop(name)
		pop.Path.Dir = rp.MustBeDir() // The inner file system says what is wrong.
		return fs.vfs.UnlinkAt(ctx, rp.Credentials(), &pop)
	})
}

// RmdirAt implements vfs.FilesystemImpl.RmdirAt.
func (fs *FS) RmdirAt(ctx context.Context, rp *vfs.ResolvingPath) error {
	w, err := fs.walkToParent(ctx, rp, "rmdir")
	if err != nil {
		return err
	}
	defer w.end()
	name := rp.Component()
	if err := w.change(abi.FSDelete, name); err != nil {
		return err
	}
	defer rp.Mount().EndWrite()
	return w.remove(name, linux.IN_DELETE|linux.IN_ISDIR, func() error {
		pop := w.pop(name)
		return fs.vfs.RmdirAt(ctx, rp.Credentials(), &pop)
	})
}

// remove removes name from w.cur by do.
func (w *walk) remove(name string, events uint32, do func() error) error {
	fs := w.fs
	if dots(name) {
		return do() // The inner file system says what is wrong.
	}
	defer fs.quota.lockTree()()
	child := fs.peek(w.ctx, w.cur, name)
	if child == nil {
		return do()
	}
	defer child.DecRef(w.ctx)
	if err := w.checkMounted(child); err != nil {
		return err
	}
	last := fs.lastLink(w.ctx, child)
	if err := do(); err != nil {
		return err
	}
	fs.unlinked(w.ctx, child, last)
	fs.buried(w.ctx, child)
	fs.notify(w.ctx, w.cur, name, events)
	return nil
}

// checkMounted returns an error if something is mounted on inner where the
// caller sees it.
//
// The VFS would have d locked while the file is removed; but the inner file
// system locks what comes before that lock. So what is mounted there meanwhile
// is unmounted after the removal, as when somebody else removes the file.
//
// +checklocksignore: the VFS locks and unlocks.
func (w *walk) checkMounted(inner *vfs.Dentry) error {
	d := w.fs.known(inner)
	if d == nil {
		return nil
	}
	defer d.DecRef(w.ctx)
	mntns := vfs.MountNamespaceFromContext(w.ctx)
	defer mntns.DecRef(w.ctx)
	if err := w.fs.vfs.PrepareDeleteDentry(mntns, &d.vfsd); err != nil {
		return err
	}
	w.fs.vfs.AbortDeleteDentry(&d.vfsd)
	return nil
}

// buried marks the dentry for inner, which was removed.
func (fs *FS) buried(ctx context.Context, inner *vfs.Dentry) {
	d := fs.known(inner)
	if d == nil {
		return
	}
	for _, ref := range fs.vfs.InvalidateDentry(ctx, &d.vfsd) {
		ref.DecRef(ctx)
	}
	d.watches.Notify(ctx, "", linux.IN_ATTRIB, 0, vfs.InodeEvent, true)
	d.DecRef(ctx)
}

// RenameAt implements vfs.FilesystemImpl.RenameAt.
func (fs *FS) RenameAt(ctx context.Context, rp *vfs.ResolvingPath, oldParentVD vfs.VirtualDentry, oldName string, opts vfs.RenameOptions) error {
	w, err := fs.walkToParent(ctx, rp, "rename")
	if err != nil {
		return err
	}
	defer w.end()
	newName := rp.Component()
	if rp.Mount() != oldParentVD.Mount() {
		return linuxerr.EXDEV
	}
	from := oldParentVD.Dentry().Impl().(*dentry)
	if !fs.belowRoot(from.inner) {
		return linuxerr.ENOENT
	}
	if err := fs.allows(abi.FSDelete); err != nil {
		return fs.refuse("rename", from.inner, oldName, abi.FSDelete, err)
	}
	if err := w.change(abi.FSCreate, newName); err != nil {
		return err
	}
	defer rp.Mount().EndWrite()
	oldpop, newpop := fs.pop(from.inner, oldName), w.pop(newName)
	newpop.Path.Dir = rp.MustBeDir()
	rename := func() error { return fs.vfs.RenameAt(ctx, rp.Credentials(), &oldpop, &newpop, &opts) }
	if dots(newName) {
		return rename() // The inner file system says what is wrong.
	}
	defer fs.quota.lockTree()()

	moved := fs.peek(ctx, from.inner, oldName)
	if moved == nil {
		return rename()
	}
	defer moved.DecRef(ctx)
	if err := w.checkMounted(moved); err != nil {
		return err
	}
	replaced, last := fs.peek(ctx, w.cur, newName), false
	if replaced != nil {
		defer replaced.DecRef(ctx)
		if err := w.checkMounted(replaced); err != nil {
			return err
		}
		last = fs.lastLink(ctx, replaced)
	}
	if err := rename(); err != nil {
		return err
	}
	// Renaming one link of a file to another of the same does nothing.
	if replaced != nil && replaced != moved && opts.Flags&linux.RENAME_EXCHANGE == 0 && replaced.IsDead() {
		fs.unlinked(ctx, replaced, last)
		fs.buried(ctx, replaced)
	}
	if fs.watched.Load() {
		fs.notifyRename(ctx, moved, from.inner, w.cur, oldName, newName)
	}
	return nil
}
