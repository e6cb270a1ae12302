package grantfs

import (
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/waiter"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
)

// Name is the type of file system that /proc/mounts shows.
const Name = "grantfs"

// Options says what a grant gives.
type Options struct {
	// Name is what the paths told to Denied begin with: the object of the
	// capability.
	Name string
	// Rights are those of abi.ClassFS.
	Rights abi.Rights
	// Bytes and Inodes limit by how much the files may grow through this
	// grant; 0 is no limit. See SetQuota.
	Bytes, Inodes uint64
	// Live, if not nil, is asked at every operation; once it is false, every
	// operation fails. It must be quick and take no locks.
	Live func() bool
	// Denied, if not nil, is told of every refusal: of which operation, on
	// which path, for want of which rights, and with which error. No rights
	// are named when none would help: the grant is revoked, its quota is used
	// up, or nobody may do that. It is called with locks of the kernel held,
	// and must neither block nor call into the file system.
	Denied func(op, path string, right abi.Rights, errno unix.Errno)
}

// FS is the file system of one grant. It implements vfs.FilesystemImpl.
type FS struct {
	vfsfs vfs.Filesystem

	vfs   *vfs.VirtualFilesystem
	creds *auth.Credentials // for looking, where no caller's are at hand
	name  string
	live  func() bool
	deny  func(op, path string, right abi.Rights, errno unix.Errno)

	// mnt is a mount of the inner file system of our own, so that nothing is
	// mounted in it, and root is the granted directory or file. Immutable; a
	// reference to each is held.
	mnt  *vfs.Mount
	root *vfs.Dentry

	// state holds the rights, and dead.
	state atomic.Uint32
	gate  gate
	quota ledger

	revokeMu sync.Mutex // held while rights are taken away
	// changed wakes operations that block inside the inner file system when
	// rights are taken away.
	changed waiter.Queue

	// watched says that some file has, or had, an inotify watch.
	watched atomic.Bool
	hints   atomic.Uint32

	dentriesMu sync.Mutex
	// By inner dentry.
	dentries map[*vfs.Dentry]*dentry // +checklocks:dentriesMu

	mapsMu sync.Mutex
	maps   map[mapKey]*mapping // +checklocks:mapsMu

	filesMu sync.Mutex
	// files are those that somebody waits for, or holds locks through.
	files map[*file]struct{} // +checklocks:filesMu
	// links are connections made through socket files.
	links map[*link]struct{} // +checklocks:filesMu

	loaded lists // of a checkpoint that is made, or restored
}

// dead is the bit of FS.state that says: revoked.
const dead = 1 << 31

// New returns a file system that gives access to inner, a directory or a file of
// another file system, and its root. The caller owns a reference to both; inner
// remains the caller's. creds is used to look at files where the kernel asks by
// itself; what agents do is done with their own credentials.
func New(ctx context.Context, vfsObj *vfs.VirtualFilesystem, creds *auth.Credentials, inner vfs.VirtualDentry, opts Options) (*FS, *vfs.Dentry, error) {
	if opts.Rights&^abi.ClassFS.All() != 0 || opts.Rights == 0 {
		return nil, nil, errdefs.New(errdefs.InvalidArgument, "these are not rights to files",
			errdefs.Resource("%s", opts.Name), errdefs.Fix("grant one or more of read, write, exec, create and delete"))
	}
	pop := &vfs.PathOperation{Root: inner, Start: inner}
	if _, err := vfsObj.StatAt(ctx, creds, pop, &vfs.StatOptions{Mask: linux.STATX_TYPE}); err != nil {
		return nil, nil, errdefs.Wrap(err, errdefs.InvalidArgument, "grant", errdefs.Resource("%s", opts.Name))
	}
	mountOpts := inner.Mount().Options()
	fs := &FS{
		vfs: vfsObj, creds: creds, name: strings.TrimSuffix(opts.Name, "/"), live: opts.Live, deny: opts.Denied,
		mnt:      vfsObj.NewDisconnectedMount(inner.Mount().Filesystem(), inner.Dentry(), &mountOpts),
		root:     inner.Dentry(),
		dentries: map[*vfs.Dentry]*dentry{},
		maps:     map[mapKey]*mapping{},
		files:    map[*file]struct{}{},
		links:    map[*link]struct{}{},
	}
	fs.root.IncRef()
	fs.gate.init()
	fs.state.Store(uint32(opts.Rights))
	fs.quota.init(opts.Bytes, opts.Inodes)
	fs.vfsfs.Init(vfsObj, fsType{}, fs)
	return fs, &fs.dentryOf(fs.root).vfsd, nil
}

// Filesystem returns fs as the VFS knows it, for mounting.
func (fs *FS) Filesystem() *vfs.Filesystem { return &fs.vfsfs }

// Release implements vfs.FilesystemImpl.Release.
func (fs *FS) Release(ctx context.Context) {
	fs.dentriesMu.Lock()
	left := fs.dentries // Watched, and nothing else refers to them.
	fs.dentries = nil
	fs.dentriesMu.Unlock()
	for _, d := range left {
		d.watches.HandleDeletion(ctx)
		d.inner.DecRef(ctx)
	}
	fs.root.DecRef(ctx)
	fs.mnt.DecRef(ctx)
}

// at is the place of a dentry of the inner file system.
func (fs *FS) at(inner *vfs.Dentry) vfs.VirtualDentry { return vfs.MakeVirtualDentry(fs.mnt, inner) }

// pop is the operation on path, from the inner directory dir, or on dir itself if
// path is empty. Nothing it leads to is above the root.
func (fs *FS) pop(dir *vfs.Dentry, path string) vfs.PathOperation {
	op := vfs.PathOperation{Root: fs.at(fs.root), Start: fs.at(dir)}
	if path != "" {
		op.Path = fspath.Parse(path)
	}
	return op
}

// identity returns of an inner file what never changes, its type and number, and
// the mode bits, without asking anybody outside the kernel.
func (fs *FS) identity(ctx context.Context, inner *vfs.Dentry) (linux.Statx, error) {
	pop := fs.pop(inner, "")
	return fs.vfs.StatAt(ctx, fs.creds, &pop, &vfs.StatOptions{
		Mask: linux.STATX_TYPE | linux.STATX_MODE | linux.STATX_INO, Sync: linux.AT_STATX_DONT_SYNC,
	})
}

// mode returns the type and mode bits of an inner file, likewise.
func (fs *FS) mode(ctx context.Context, inner *vfs.Dentry) (linux.FileMode, error) {
	st, err := fs.identity(ctx, inner)
	return linux.FileMode(st.Mode), err
}

// fsType implements vfs.FilesystemType. It is in no table: a grantfs comes from
// New alone.
type fsType struct{}

// Name implements vfs.FilesystemType.Name.
func (fsType) Name() string { return Name }

// Release implements vfs.FilesystemType.Release.
func (fsType) Release(context.Context) {}

// GetFilesystem implements vfs.FilesystemType.GetFilesystem.
func (fsType) GetFilesystem(context.Context, *vfs.VirtualFilesystem, *auth.Credentials, string, vfs.GetFilesystemOptions) (*vfs.Filesystem, *vfs.Dentry, error) {
	return nil, nil, linuxerr.EPERM
}

var (
	_ vfs.FilesystemImpl      = (*FS)(nil)
	_ vfs.FilesystemType      = fsType{}
	_ vfs.DentryImpl          = (*dentry)(nil)
	_ vfs.FileDescriptionImpl = (*file)(nil)
	_ memmap.Mappable         = (*mapping)(nil)
)
