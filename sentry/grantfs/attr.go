package grantfs

import (
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/abi"
)

// Sync implements vfs.FilesystemImpl.Sync. It asks for no right: it only makes
// sure of what was done.
func (fs *FS) Sync(ctx context.Context) error { return fs.mnt.Filesystem().Impl().Sync(ctx) }

// MountOptions implements vfs.FilesystemImpl.MountOptions.
func (fs *FS) MountOptions() string {
	return "rights=" + abi.Rights(fs.state.Load()&^dead).Format(abi.ClassFS)
}

// AccessAt implements vfs.FilesystemImpl.AccessAt.
func (fs *FS) AccessAt(ctx context.Context, rp *vfs.ResolvingPath, creds *auth.Credentials, ats vfs.AccessTypes) error {
	w, err := fs.walkTo(ctx, rp, "access")
	if err != nil {
		return err
	}
	defer w.end()
	mode, err := fs.mode(ctx, w.cur)
	if err != nil {
		return err
	}
	var need abi.Rights
	if ats.MayRead() {
		need |= abi.FSRead
	}
	if ats.MayExec() && !mode.IsDir() {
		need |= abi.FSExec
	}
	if ats.MayWrite() {
		if rp.Mount().ReadOnly() {
			return linuxerr.EROFS
		}
		// A directory is written by creating and deleting in it.
		if have := abi.Rights(fs.state.Load()); !mode.IsDir() || have&(abi.FSCreate|abi.FSDelete) == 0 {
			need |= abi.FSWrite
		}
	}
	// It is only asked, not done: no refusal to tell of.
	if err := fs.allows(need); err != nil {
		return err
	}
	pop := w.pop("")
	return fs.vfs.AccessAt(ctx, creds, ats, &pop)
}

// StatAt implements vfs.FilesystemImpl.StatAt.
func (fs *FS) StatAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.StatOptions) (linux.Statx, error) {
	w, err := fs.walkTo(ctx, rp, "stat")
	if err != nil {
		return linux.Statx{}, err
	}
	defer w.end()
	pop := w.pop("")
	return fs.vfs.StatAt(ctx, rp.Credentials(), &pop, &opts)
}

// SetStatAt implements vfs.FilesystemImpl.SetStatAt.
func (fs *FS) SetStatAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.SetStatOptions) error {
	w, err := fs.walkTo(ctx, rp, "setattr")
	if err != nil {
		return err
	}
	defer w.end()
	if err := w.change(abi.FSWrite, ""); err != nil {
		return err
	}
	defer rp.Mount().EndWrite()
	if err := fs.checkMode(ctx, w.cur, &opts); err != nil {
		return err
	}
	set := func() error {
		pop := w.pop("")
		return fs.vfs.SetStatAt(ctx, rp.Credentials(), &pop, &opts)
	}
	if opts.Stat.Mask&linux.STATX_SIZE != 0 {
		err = fs.resize(ctx, w.cur, opts.Stat.Size, set)
	} else {
		err = set()
	}
	if err != nil {
		return err
	}
	if d := fs.known(w.cur); d != nil {
		if ev := vfs.InotifyEventFromStatMask(opts.Stat.Mask); ev != 0 {
			d.InotifyWithParent(ctx, ev, 0, vfs.InodeEvent)
		}
		d.DecRef(ctx)
	}
	return nil
}

// checkMode refuses mode bits that no agent may set.
func (fs *FS) checkMode(ctx context.Context, inner *vfs.Dentry, opts *vfs.SetStatOptions) error {
	if opts.Stat.Mask&linux.STATX_MODE == 0 || !privileged(linux.FileMode(opts.Stat.Mode), false) {
		return nil
	}
	mode, err := fs.mode(ctx, inner)
	if err == nil && privileged(linux.FileMode(opts.Stat.Mode), mode.IsDir()) {
		err = fs.refuse("chmod", inner, "", anyRight, linuxerr.EPERM)
	}
	return err
}

// ReadlinkAt implements vfs.FilesystemImpl.ReadlinkAt.
func (fs *FS) ReadlinkAt(ctx context.Context, rp *vfs.ResolvingPath) (string, error) {
	w, err := fs.walkTo(ctx, rp, "readlink")
	if err != nil {
		return "", err
	}
	defer w.end()
	if err := w.need(abi.FSRead, ""); err != nil {
		return "", err
	}
	pop := w.pop("")
	return fs.vfs.ReadlinkAt(ctx, rp.Credentials(), &pop)
}

// StatFSAt implements vfs.FilesystemImpl.StatFSAt.
func (fs *FS) StatFSAt(ctx context.Context, rp *vfs.ResolvingPath) (linux.Statfs, error) {
	w, err := fs.walkTo(ctx, rp, "statfs")
	if err != nil {
		return linux.Statfs{}, err
	}
	defer w.end()
	pop := w.pop("")
	st, err := fs.vfs.StatFSAt(ctx, rp.Credentials(), &pop)
	if err == nil {
		fs.quota.show(&st)
	}
	return st, err
}

// ListXattrAt implements vfs.FilesystemImpl.ListXattrAt.
func (fs *FS) ListXattrAt(ctx context.Context, rp *vfs.ResolvingPath, size uint64) ([]string, error) {
	w, err := fs.walkTo(ctx, rp, "listxattr")
	if err != nil {
		return nil, err
	}
	defer w.end()
	if err := w.need(abi.FSRead, ""); err != nil {
		return nil, err
	}
	pop := w.pop("")
	return fs.vfs.ListXattrAt(ctx, rp.Credentials(), &pop, size)
}

// GetXattrAt implements vfs.FilesystemImpl.GetXattrAt.
func (fs *FS) GetXattrAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.GetXattrOptions) (string, error) {
	w, err := fs.walkTo(ctx, rp, "getxattr")
	if err != nil {
		return "", err
	}
	defer w.end()
	if err := w.need(abi.FSRead, ""); err != nil {
		return "", err
	}
	pop := w.pop("")
	return fs.vfs.GetXattrAt(ctx, rp.Credentials(), &pop, &opts)
}

// SetXattrAt implements vfs.FilesystemImpl.SetXattrAt.
func (fs *FS) SetXattrAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.SetXattrOptions) error {
	return fs.changeXattr(ctx, rp, "setxattr", func(w *walk) error {
		if err := fs.checkXattr(w.cur, opts.Name); err != nil {
			return err
		}
		pop := w.pop("")
		return fs.vfs.SetXattrAt(ctx, rp.Credentials(), &pop, &opts)
	})
}

// RemoveXattrAt implements vfs.FilesystemImpl.RemoveXattrAt.
func (fs *FS) RemoveXattrAt(ctx context.Context, rp *vfs.ResolvingPath, name string) error {
	return fs.changeXattr(ctx, rp, "removexattr", func(w *walk) error {
		pop := w.pop("")
		return fs.vfs.RemoveXattrAt(ctx, rp.Credentials(), &pop, name)
	})
}

func (fs *FS) changeXattr(ctx context.Context, rp *vfs.ResolvingPath, op string, do func(w *walk) error) error {
	w, err := fs.walkTo(ctx, rp, op)
	if err != nil {
		return err
	}
	defer w.end()
	if err := w.change(abi.FSWrite, ""); err != nil {
		return err
	}
	defer rp.Mount().EndWrite()
	if err := do(&w); err != nil {
		return err
	}
	if d := fs.known(w.cur); d != nil {
		d.InotifyWithParent(ctx, linux.IN_ATTRIB, 0, vfs.InodeEvent)
		d.DecRef(ctx)
	}
	return nil
}

// checkXattr refuses attributes that give a program privileges on the host.
func (fs *FS) checkXattr(inner *vfs.Dentry, name string) error {
	if strings.HasPrefix(name, linux.XATTR_SECURITY_PREFIX) || strings.HasPrefix(name, linux.XATTR_TRUSTED_PREFIX) {
		return fs.refuse("setxattr", inner, "", anyRight, linuxerr.EPERM)
	}
	return nil
}

// GetPosixACLAt implements vfs.FilesystemImpl.GetPosixACLAt.
func (fs *FS) GetPosixACLAt(ctx context.Context, rp *vfs.ResolvingPath, t vfs.ACLType) (*vfs.PosixACL, error) {
	w, err := fs.walkTo(ctx, rp, "getxattr")
	if err != nil {
		return nil, err
	}
	defer w.end()
	pop := w.pop("")
	return fs.vfs.GetPosixACLAt(ctx, rp.Credentials(), &pop, t)
}

// SetPosixACLAt implements vfs.FilesystemImpl.SetPosixACLAt.
func (fs *FS) SetPosixACLAt(ctx context.Context, rp *vfs.ResolvingPath, t vfs.ACLType, acl *vfs.PosixACL, clearSGID bool) (*vfs.PosixACL, linux.FileMode, error) {
	w, err := fs.walkTo(ctx, rp, "setxattr")
	if err != nil {
		return nil, 0, err
	}
	defer w.end()
	if err := w.change(abi.FSWrite, ""); err != nil {
		return nil, 0, err
	}
	defer rp.Mount().EndWrite()
	pop := w.pop("")
	return fs.vfs.SetPosixACLAt(ctx, rp.Credentials(), &pop, t, acl, clearSGID)
}
