package grantfs

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/abi"
)

// GetDentryAt implements vfs.FilesystemImpl.GetDentryAt.
//
// The root can be named also when the grant is revoked, for it to be unmounted.
func (fs *FS) GetDentryAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.GetDentryOptions) (*vfs.Dentry, error) {
	if d := rp.Start(); rp.Done() && !opts.CheckSearchable && d.Impl().(*dentry).inner == fs.root {
		d.IncRef()
		return d, nil
	}
	w, err := fs.walkTo(ctx, rp, "lookup")
	if err != nil {
		return nil, err
	}
	defer w.end()
	if opts.CheckSearchable {
		if err := w.searchable(); err != nil {
			return nil, err
		}
	}
	return &fs.dentryOf(w.cur).vfsd, nil
}

// GetParentDentryAt implements vfs.FilesystemImpl.GetParentDentryAt.
func (fs *FS) GetParentDentryAt(ctx context.Context, rp *vfs.ResolvingPath) (*vfs.Dentry, error) {
	w, err := fs.walkToParent(ctx, rp, "lookup")
	if err != nil {
		return nil, err
	}
	defer w.end()
	return &fs.dentryOf(w.cur).vfsd, nil
}

// dots reports whether name is none that something could be given.
func dots(name string) bool { return name == "." || name == ".." }

// create makes something new of the last component of rp. inodes is how many
// files come into being.
func (fs *FS) create(ctx context.Context, rp *vfs.ResolvingPath, op string, dir bool, inodes uint64, do func(w *walk, pop *vfs.PathOperation) error) error {
	w, err := fs.walkToParent(ctx, rp, op)
	if err != nil {
		return err
	}
	defer w.end()
	name := rp.Component()
	if dots(name) {
		pop := w.pop(name)
		return do(&w, &pop) // The inner file system says what is wrong.
	}
	// mkdir -p and its like want to hear, first of all, that it is there already.
	refused := func(missing abi.Rights, err error) error {
		if child, lookErr := w.lookup(name); lookErr == nil {
			child.DecRef(ctx)
			return linuxerr.EEXIST
		}
		return fs.refuse(op, w.cur, name, missing, err)
	}
	if err := fs.allows(abi.FSCreate); err != nil {
		return refused(abi.FSCreate, err)
	}
	if err := rp.Mount().CheckBeginWrite(); err != nil {
		return refused(anyRight, err)
	}
	defer rp.Mount().EndWrite()
	if !fs.quota.takeInodes(inodes) {
		return refused(anyRight, linuxerr.EDQUOT)
	}
	defer fs.quota.lockTree()()
	pop := w.pop(name)
	pop.Path.Dir = rp.MustBeDir() // If dir is not, the inner file system says so.
	if err := do(&w, &pop); err != nil {
		fs.quota.giveInodes(inodes)
		return err
	}
	events := uint32(linux.IN_CREATE)
	if dir {
		events |= linux.IN_ISDIR
	}
	fs.notify(ctx, w.cur, name, events)
	return nil
}

// MkdirAt implements vfs.FilesystemImpl.MkdirAt.
func (fs *FS) MkdirAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.MkdirOptions) error {
	return fs.create(ctx, rp, "mkdir", true, 1, func(w *walk, pop *vfs.PathOperation) error {
		return fs.vfs.MkdirAt(ctx, rp.Credentials(), pop, &opts)
	})
}

// MknodAt implements vfs.FilesystemImpl.MknodAt.
func (fs *FS) MknodAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.MknodOptions) error {
	return fs.create(ctx, rp, "mknod", false, 1, func(w *walk, pop *vfs.PathOperation) error {
		t := opts.Mode.FileType()
		if t == linux.ModeCharacterDevice || t == linux.ModeBlockDevice || privileged(opts.Mode, false) {
			return fs.refuse("mknod", w.cur, rp.Component(), anyRight, linuxerr.EPERM)
		}
		return fs.vfs.MknodAt(ctx, rp.Credentials(), pop, &opts)
	})
}

// SymlinkAt implements vfs.FilesystemImpl.SymlinkAt.
func (fs *FS) SymlinkAt(ctx context.Context, rp *vfs.ResolvingPath, target string) error {
	return fs.create(ctx, rp, "symlink", false, 1, func(w *walk, pop *vfs.PathOperation) error {
		return fs.vfs.SymlinkAt(ctx, rp.Credentials(), pop, target)
	})
}

// LinkAt implements vfs.FilesystemImpl.LinkAt.
func (fs *FS) LinkAt(ctx context.Context, rp *vfs.ResolvingPath, vd vfs.VirtualDentry) error {
	return fs.create(ctx, rp, "link", false, 0, func(w *walk, pop *vfs.PathOperation) error {
		if rp.Mount() != vd.Mount() {
			return linuxerr.EXDEV
		}
		old := vd.Dentry().Impl().(*dentry).inner
		if !fs.belowRoot(old) {
			return linuxerr.ENOENT
		}
		oldpop := fs.pop(old, "")
		return fs.vfs.LinkAt(ctx, rp.Credentials(), &oldpop, pop)
	})
}
