package sentry

import (
	"sync"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/proc"
	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// lazyProcType is procfs, made when it is first looked into. gVisor builds the
// whole of /proc/sys for each mount: 110 KB and a third of a millisecond,
// which most agents, being programs that never look, would pay for nothing.
//
// What is mounted is a kernfs file system of ours whose root directory asks
// gVisor's for everything but the files that tell of the machine (procViews).
// Inodes below the root are gVisor's own; only the directory entries that lead
// to them are in our tree.
type lazyProcType struct{ s *Kernel }

// Name implements vfs.FilesystemType.Name.
func (lazyProcType) Name() string { return proc.Name }

// Release implements vfs.FilesystemType.Release.
func (lazyProcType) Release(context.Context) {}

// GetFilesystem implements vfs.FilesystemType.GetFilesystem.
func (t lazyProcType) GetFilesystem(ctx context.Context, vfsObj *vfs.VirtualFilesystem, creds *auth.Credentials, source string, opts vfs.GetFilesystemOptions) (*vfs.Filesystem, *vfs.Dentry, error) {
	k, pidns := kernel.KernelFromContext(ctx), kernel.PIDNamespaceFromContext(ctx)
	if k == nil || pidns == nil {
		return nil, nil, linuxerr.EINVAL
	}
	fs := &lazyProc{root: lazyProcRoot{
		s: t.s, vfsObj: vfsObj, source: source, opts: opts,
		ctx: &procContext{Context: k.SupervisorContext(), creds: creds, pidns: pidns, stack: inet.StackFromContext(ctx)},
	}}
	fs.VFSFilesystem().Init(vfsObj, t, fs)
	var dentry kernfs.Dentry
	dentry.InitRoot(&fs.Filesystem, &fs.root)
	return fs.VFSFilesystem(), dentry.VFSDentry(), nil
}

// lazyProc implements vfs.FilesystemImpl.
type lazyProc struct {
	kernfs.Filesystem
	root lazyProcRoot
}

// MountOptions implements vfs.FilesystemImpl.MountOptions.
func (*lazyProc) MountOptions() string { return "" }

// StatFSAt implements vfs.FilesystemImpl.StatFSAt.
func (fs *lazyProc) StatFSAt(ctx context.Context, rp *vfs.ResolvingPath) (linux.Statfs, error) {
	d, err := fs.GetDentryAt(ctx, rp, vfs.GetDentryOptions{})
	if err != nil {
		return linux.Statfs{}, err
	}
	d.DecRef(ctx)
	return vfs.GenericStatFS(linux.PROC_SUPER_MAGIC), nil
}

// Release implements vfs.FilesystemImpl.Release.
func (fs *lazyProc) Release(ctx context.Context) {
	fs.Filesystem.Release(ctx) // Our entries first: they hold the real inodes.
	fs.root.release(ctx)
}

// procContext is the context in which a procfs is made long after its mount:
// it answers as the context of the mount did.
type procContext struct {
	context.Context
	creds *auth.Credentials
	pidns *kernel.PIDNamespace
	stack inet.Stack
}

// Value implements context.Context.
func (c *procContext) Value(key any) any {
	switch key {
	case auth.CtxCredentials:
		return c.creds
	case kernel.CtxPIDNamespace:
		return c.pidns
	case inet.CtxStack:
		return c.stack
	default:
		return c.Context.Value(key)
	}
}

// lazyProcRoot is the root directory. What it can say without the real root, it
// says without making it.
type lazyProcRoot struct {
	kernfs.InodeAlwaysValid
	kernfs.InodeDirectoryNoNewChildren
	kernfs.InodeFSOwned
	kernfs.InodeNoopRefCount
	kernfs.InodeNotAnonymous
	kernfs.InodeNotSymlink
	kernfs.InodeWatches

	s      *Kernel
	vfsObj *vfs.VirtualFilesystem
	source string
	opts   vfs.GetFilesystemOptions
	ctx    *procContext

	mu sync.Mutex
	// The real one, or nil.
	fs *vfs.Filesystem // +checklocks:mu
	// Its root.
	root *vfs.Dentry // +checklocks:mu
}

var _ kernfs.Inode = (*lazyProcRoot)(nil)

// real returns the root of gVisor's procfs, which it makes at the first call.
func (r *lazyProcRoot) real() (kernfs.Inode, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fs == nil {
		fs, root, err := proc.FilesystemType{}.GetFilesystem(r.ctx, r.vfsObj, r.ctx.creds, r.source, r.opts)
		if err != nil {
			return nil, err
		}
		r.fs, r.root = fs, root
	}
	return r.root.Impl().(*kernfs.Dentry).Inode(), nil
}

func (r *lazyProcRoot) release(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fs != nil {
		r.root.DecRef(ctx)
		r.fs.DecRef(ctx)
		r.fs, r.root = nil, nil
	}
}

// Mode implements kernfs.Inode.Mode.
func (*lazyProcRoot) Mode() linux.FileMode { return linux.ModeDirectory | 0o555 }

// UID implements kernfs.Inode.UID.
func (*lazyProcRoot) UID() auth.KUID { return auth.RootKUID }

// GID implements kernfs.Inode.GID.
func (*lazyProcRoot) GID() auth.KGID { return auth.RootKGID }

// HasChildren implements kernfs.Inode.HasChildren.
func (*lazyProcRoot) HasChildren() bool { return true }

// CheckPermissions implements kernfs.Inode.CheckPermissions.
func (r *lazyProcRoot) CheckPermissions(_ context.Context, creds *auth.Credentials, ats vfs.AccessTypes) error {
	return vfs.GenericCheckPermissions(creds, ats, r.Mode(), nil, r.UID(), r.GID())
}

// Stat implements kernfs.Inode.Stat.
func (r *lazyProcRoot) Stat(ctx context.Context, fs *vfs.Filesystem, opts vfs.StatOptions) (linux.Statx, error) {
	real, err := r.real()
	if err != nil {
		return linux.Statx{}, err
	}
	return real.Stat(ctx, fs, opts)
}

// SetStat implements kernfs.Inode.SetStat.
func (r *lazyProcRoot) SetStat(ctx context.Context, fs *vfs.Filesystem, creds *auth.Credentials, opts vfs.SetStatOptions) error {
	real, err := r.real()
	if err != nil {
		return err
	}
	return real.SetStat(ctx, fs, creds, opts)
}

// StatFS implements kernfs.Inode.StatFS.
func (r *lazyProcRoot) StatFS(context.Context, *vfs.Filesystem) (linux.Statfs, error) {
	return vfs.GenericStatFS(linux.PROC_SUPER_MAGIC), nil
}

// Open implements kernfs.Inode.Open.
func (r *lazyProcRoot) Open(ctx context.Context, rp *vfs.ResolvingPath, d *kernfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	real, err := r.real()
	if err != nil {
		return nil, err
	}
	return real.Open(ctx, rp, d, opts)
}

// Lookup implements kernfs.Inode.Lookup.
func (r *lazyProcRoot) Lookup(ctx context.Context, name string) (kernfs.Inode, error) {
	if procViews[name] != nil {
		return r.s.newViewFile(r.ctx, linux.PROC_SUPER_MAGIC, viewText{of: "proc/" + name}), nil
	}
	if name == procPressure {
		return r.s.newPressureDir(r.ctx), nil
	}
	real, err := r.real()
	if err != nil {
		return nil, err
	}
	found, err := real.Lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	return r.s.gateProc(found, r.ctx.pidns, name, false), nil
}

// IterDirents implements kernfs.Inode.IterDirents.
func (r *lazyProcRoot) IterDirents(ctx context.Context, mnt *vfs.Mount, callback vfs.IterDirentsCallback, offset, relOffset int64) (int64, error) {
	real, err := r.real()
	if err != nil {
		return offset, err
	}
	for relOffset < int64(len(procExtra)) {
		e := procExtra[relOffset]
		d := vfs.Dirent{Name: e.name, Type: e.kind, Ino: r.s.views.ino.Add(1), NextOff: offset + 1}
		if err := callback.Handle(d); err != nil {
			return offset, err
		}
		offset, relOffset = offset+1, relOffset+1
	}
	return real.IterDirents(ctx, mnt, callback, offset, relOffset)
}

// procInterrupts is a file that gVisor's procfs does not have.
const procInterrupts = "interrupts"

// procPressure is a directory that it does not have.
const procPressure = "pressure"

// procExtra is everything in the root that gVisor's procfs does not have.
var procExtra = []struct {
	name string
	kind uint8
}{
	{procInterrupts, linux.DT_REG},
	{"vmstat", linux.DT_REG},
	{procPressure, linux.DT_DIR},
}

// Unlink implements kernfs.Inode.Unlink.
func (*lazyProcRoot) Unlink(context.Context, string, kernfs.Inode) error { return linuxerr.EPERM }

// RmDir implements kernfs.Inode.RmDir.
func (*lazyProcRoot) RmDir(context.Context, string, kernfs.Inode) error { return linuxerr.EPERM }

// Rename implements kernfs.Inode.Rename.
func (*lazyProcRoot) Rename(context.Context, string, string, kernfs.Inode, kernfs.Inode) error {
	return linuxerr.EPERM
}
