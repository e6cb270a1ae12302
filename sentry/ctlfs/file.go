package ctlfs

import (
	"bytes"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/errdefs"
)

// inode is what the files have in common.
type inode struct {
	kernfs.InodeAttrs
	kernfs.InodeFSOwned
	kernfs.InodeNoopRefCount
	kernfs.InodeNotAnonymous
	kernfs.InodeNotDirectory
	kernfs.InodeNotSymlink
	kernfs.InodeWatches

	fs    *filesystem
	entry *entry
	locks vfs.FileLocks
}

func (i *inode) init(ctx context.Context, fs *filesystem, e *entry) {
	i.fs, i.entry = fs, e
	i.InodeAttrs.InitWithIDs(ctx, auth.RootKUID, auth.RootKGID, linux.UNNAMED_MAJOR, fs.devMinor, e.ino, e.mode)
}

// SetStat implements kernfs.Inode.
func (*inode) SetStat(context.Context, *vfs.Filesystem, *auth.Credentials, vfs.SetStatOptions) error {
	return linuxerr.EPERM
}

// StatFS implements kernfs.Inode.
func (*inode) StatFS(context.Context, *vfs.Filesystem) (linux.Statfs, error) {
	return vfs.GenericStatFS(superMagic), nil
}

// openFile is what the open files have in common.
type openFile struct {
	vfs.FileDescriptionDefaultImpl
	vfs.LockFD

	vfsfd   vfs.FileDescription
	inode   *inode
	session *session
}

// open makes impl, which embeds f, an open file for the calling task.
func (i *inode) open(ctx context.Context, f *openFile, impl vfs.FileDescriptionImpl, rp *vfs.ResolvingPath, d *kernfs.Dentry, opts vfs.OpenOptions, fdOpts vfs.FileDescriptionOptions) (*vfs.FileDescription, error) {
	s, err := newSession(ctx, i.fs.auth, i.entry.path)
	if err != nil {
		return nil, err
	}
	f.inode, f.session = i, s
	f.LockFD.Init(&i.locks)
	fdOpts.DenySpliceIn = true
	if err := f.vfsfd.Init(impl, opts.Flags, rp.Credentials(), rp.Mount(), d.VFSDentry(), &fdOpts); err != nil {
		return nil, err
	}
	return &f.vfsfd, nil
}

// Release implements vfs.FileDescriptionImpl.
func (*openFile) Release(context.Context) {}

// Stat implements vfs.FileDescriptionImpl.
func (f *openFile) Stat(ctx context.Context, opts vfs.StatOptions) (linux.Statx, error) {
	return f.inode.Stat(ctx, f.inode.fs.VFSFilesystem(), opts)
}

// StatFS implements vfs.FileDescriptionImpl.
func (*openFile) StatFS(context.Context) (linux.Statfs, error) {
	return vfs.GenericStatFS(superMagic), nil
}

// SetStat implements vfs.FileDescriptionImpl.
func (*openFile) SetStat(context.Context, vfs.SetStatOptions) error { return linuxerr.EPERM }

// file is a file whose text is made when it is read.
type file struct{ inode }

var _ kernfs.Inode = (*file)(nil)

func (fs *filesystem) newFile(ctx context.Context, e *entry) *file {
	f := &file{}
	f.init(ctx, fs, e)
	return f
}

// Open implements kernfs.Inode.
func (f *file) Open(ctx context.Context, rp *vfs.ResolvingPath, d *kernfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	if opts.Flags&linux.O_ACCMODE != linux.O_RDONLY { // Root's override of the mode included.
		if s, err := newSession(ctx, f.fs.auth, f.entry.path); err == nil {
			s.auth.Denied(s.agent, "open", s.door, errdefs.New(errdefs.Denied, "it is to be read only", errdefs.Fix("write commands to "+Mountpoint+"/ctl")))
		}
		return nil, linuxerr.EACCES
	}
	fd := &readFile{}
	vfsfd, err := f.open(ctx, &fd.openFile, fd, rp, d, opts, vfs.FileDescriptionOptions{})
	if err != nil {
		return nil, err
	}
	fd.text.Init(vfsfd, fd)
	return vfsfd, nil
}

// readFile is an open file. Its text is made anew whenever it is read from the
// start, and stays the same for the reads that go on from there.
type readFile struct {
	openFile
	text vfs.DynamicBytesFileDescriptionImpl
}

// Generate implements vfs.DynamicBytesSource.
func (f *readFile) Generate(_ context.Context, buf *bytes.Buffer) error {
	text, err := f.inode.entry.generate(f.session)
	if err != nil {
		return errnoOf(err)
	}
	buf.Write(text)
	return nil
}

// Read implements vfs.FileDescriptionImpl.
func (f *readFile) Read(ctx context.Context, dst usermem.IOSequence, opts vfs.ReadOptions) (int64, error) {
	if err := f.session.check(ctx); err != nil {
		return 0, err
	}
	return f.text.Read(ctx, dst, opts)
}

// PRead implements vfs.FileDescriptionImpl.
func (f *readFile) PRead(ctx context.Context, dst usermem.IOSequence, offset int64, opts vfs.ReadOptions) (int64, error) {
	if err := f.session.check(ctx); err != nil {
		return 0, err
	}
	return f.text.PRead(ctx, dst, offset, opts)
}

// Seek implements vfs.FileDescriptionImpl.
func (f *readFile) Seek(ctx context.Context, offset int64, whence int32) (int64, error) {
	if err := f.session.check(ctx); err != nil {
		return 0, err
	}
	return f.text.Seek(ctx, offset, whence)
}
