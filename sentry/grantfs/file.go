package grantfs

import (
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	fslock "gvisor.dev/gvisor/pkg/sentry/fsimpl/lock"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"

	"aios.dev/aios/abi"
)

// A kind is what matters of a file's type.
type kind uint8

const (
	regularFile kind = iota
	directory
	special // FIFOs and sockets
	device
)

func kindOf(mode linux.FileMode) kind {
	switch mode.FileType() {
	case linux.ModeRegular:
		return regularFile
	case linux.ModeDirectory:
		return directory
	case linux.ModeCharacterDevice, linux.ModeBlockDevice:
		return device
	default:
		return special
	}
}

// A file is an open file description; it does what it does by that of the inner
// file system. It implements vfs.FileDescriptionImpl. Whoever has it, by
// inheritance, dup, a Unix socket or /proc, has it with the grant in it.
type file struct {
	vfsfd vfs.FileDescription
	// For what it implements of asynchronous notification.
	vfs.FileDescriptionDefaultImpl

	fs    *FS
	inner *vfs.FileDescription
	kind  kind
	image bool // opened by the kernel, to be executed
	hint  uint32
	node  *node // if it is a regular file

	// flags are the status flags that inner has.
	flags atomic.Uint32

	// mu serializes what uses or moves the offset.
	mu sync.Mutex

	// waitMu protects what follows. FS.filesMu may be taken while it is held.
	waitMu sync.Mutex
	// Those who wait for events.
	waiters map[*waiter.Entry]struct{} // +checklocks:waitMu
	// A BSD lock was taken.
	bsd bool // +checklocks:waitMu
	// Who took POSIX locks.
	posix map[fslock.UniqueID]struct{} // +checklocks:waitMu

	// maps are what was mapped of the file.
	maps []*mapping // under FS.mapsMu
}

// reads is the right to read this file.
func (f *file) reads() abi.Rights {
	if f.image {
		return abi.FSExec
	}
	return abi.FSRead
}

func (f *file) dentry() *dentry { return f.vfsfd.Dentry().Impl().(*dentry) }

// begin begins an operation.
func (f *file) begin(op string, need abi.Rights) (pass, error) {
	p := f.fs.gate.enter(f.hint)
	if err := f.fs.allows(need); err != nil {
		f.fs.gate.leave(p)
		return nil, f.refuse(op, need, err)
	}
	return p, nil
}

// end ends it.
func (f *file) end(p pass) { f.fs.gate.leave(p) }

func (f *file) refuse(op string, need abi.Rights, err error) error {
	return f.fs.refuse(op, f.dentry().inner, "", need, err)
}

// do does an operation.
func (f *file) do(op string, need abi.Rights, what func() error) error {
	p, err := f.begin(op, need)
	if err != nil {
		return err
	}
	defer f.end(p)
	return what()
}

// change does an operation that changes the file, other than by a descriptor
// that is open for writing.
func (f *file) change(op string, what func() error) error {
	return f.do(op, abi.FSWrite, func() error {
		if err := f.vfsfd.Mount().CheckBeginWrite(); err != nil {
			return err
		}
		defer f.vfsfd.Mount().EndWrite()
		return what()
	})
}

// syncFlags gives inner the status flags that a program has set.
func (f *file) syncFlags(ctx context.Context) error {
	flags := f.vfsfd.StatusFlags()
	if flags == f.flags.Load() {
		return nil
	}
	if err := f.inner.SetStatusFlags(ctx, auth.CredentialsFromContext(ctx), flags); err != nil {
		return err
	}
	f.flags.Store(flags)
	return nil
}

// Release implements vfs.FileDescriptionImpl.Release.
func (f *file) Release(ctx context.Context) {
	f.fs.filesMu.Lock()
	delete(f.fs.files, f)
	f.fs.filesMu.Unlock()
	f.fs.unmapAll(f)
	if f.node != nil {
		f.fs.putNode(ctx, f.node, f.dentry().inner)
	}
	f.inner.DecRef(ctx)
}

// OnClose implements vfs.FileDescriptionImpl.OnClose.
func (f *file) OnClose(ctx context.Context) error { return f.inner.OnClose(ctx) }

// Stat implements vfs.FileDescriptionImpl.Stat.
func (f *file) Stat(ctx context.Context, opts vfs.StatOptions) (linux.Statx, error) {
	p, err := f.begin("stat", anyRight)
	if err != nil {
		return linux.Statx{}, err
	}
	defer f.end(p)
	return f.inner.Stat(ctx, opts)
}

// SetStat implements vfs.FileDescriptionImpl.SetStat.
func (f *file) SetStat(ctx context.Context, opts vfs.SetStatOptions) error {
	return f.change("setattr", func() error {
		inner := f.dentry().inner
		if err := f.fs.checkMode(ctx, inner, &opts); err != nil {
			return err
		}
		set := func() error { return f.inner.SetStat(ctx, opts) }
		if opts.Stat.Mask&linux.STATX_SIZE != 0 {
			return f.fs.resize(ctx, inner, opts.Stat.Size, set)
		}
		return set()
	})
}

// StatFS implements vfs.FileDescriptionImpl.StatFS.
func (f *file) StatFS(ctx context.Context) (linux.Statfs, error) {
	p, err := f.begin("statfs", anyRight)
	if err != nil {
		return linux.Statfs{}, err
	}
	defer f.end(p)
	st, err := f.inner.StatFS(ctx)
	if err == nil {
		f.fs.quota.show(&st)
	}
	return st, err
}

// IterDirents implements vfs.FileDescriptionImpl.IterDirents.
func (f *file) IterDirents(ctx context.Context, cb vfs.IterDirentsCallback) error {
	return f.do("readdir", abi.FSRead, func() error { return f.inner.IterDirents(ctx, cb) })
}

// Sync implements vfs.FileDescriptionImpl.Sync. It does not keep a revocation
// waiting: a disk can take long, and nothing new comes of it.
func (f *file) Sync(ctx context.Context, opts vfs.SyncOptions) error {
	if err := f.fs.allows(anyRight); err != nil {
		return f.refuse("sync", anyRight, err)
	}
	if opts.DataOnly {
		return f.inner.SyncData(ctx)
	}
	return f.inner.Sync(ctx)
}

// Ioctl implements vfs.FileDescriptionImpl.Ioctl. Files and directories have
// none that an agent needs, and some that would get around the quota.
func (f *file) Ioctl(ctx context.Context, uio usermem.IO, sysno uintptr, args arch.SyscallArguments) (uintptr, error) {
	p, err := f.begin("ioctl", anyRight)
	if err != nil {
		return 0, err
	}
	defer f.end(p)
	if f.kind != special {
		return f.FileDescriptionDefaultImpl.Ioctl(ctx, uio, sysno, args)
	}
	return f.inner.Ioctl(ctx, uio, sysno, args)
}

// ListXattr implements vfs.FileDescriptionImpl.ListXattr.
func (f *file) ListXattr(ctx context.Context, size uint64) ([]string, error) {
	p, err := f.begin("listxattr", abi.FSRead)
	if err != nil {
		return nil, err
	}
	defer f.end(p)
	return f.inner.ListXattr(ctx, size)
}

// GetXattr implements vfs.FileDescriptionImpl.GetXattr.
func (f *file) GetXattr(ctx context.Context, opts vfs.GetXattrOptions) (string, error) {
	p, err := f.begin("getxattr", f.reads())
	if err != nil {
		return "", err
	}
	defer f.end(p)
	return f.inner.GetXattr(ctx, &opts)
}

// SetXattr implements vfs.FileDescriptionImpl.SetXattr.
func (f *file) SetXattr(ctx context.Context, opts vfs.SetXattrOptions) error {
	return f.change("setxattr", func() error {
		if err := f.fs.checkXattr(f.dentry().inner, opts.Name); err != nil {
			return err
		}
		return f.inner.SetXattr(ctx, &opts)
	})
}

// RemoveXattr implements vfs.FileDescriptionImpl.RemoveXattr.
func (f *file) RemoveXattr(ctx context.Context, name string) error {
	return f.change("removexattr", func() error { return f.inner.RemoveXattr(ctx, name) })
}

// GetPosixACL implements vfs.FileDescriptionImpl.GetPosixACL.
func (f *file) GetPosixACL(ctx context.Context, t vfs.ACLType) (acl *vfs.PosixACL, err error) {
	err = f.do("getxattr", anyRight, func() (err error) {
		acl, err = f.inner.GetPosixACL(ctx, t)
		return err
	})
	return acl, err
}

// SetPosixACL implements vfs.FileDescriptionImpl.SetPosixACL.
func (f *file) SetPosixACL(ctx context.Context, t vfs.ACLType, acl *vfs.PosixACL, clearSGID bool) (set *vfs.PosixACL, mode linux.FileMode, err error) {
	err = f.change("setxattr", func() (err error) {
		set, mode, err = f.inner.SetPosixACL(ctx, t, acl, clearSGID)
		return err
	})
	return set, mode, err
}
