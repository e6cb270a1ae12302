package ctlfs

import (
	"sync"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/abi"
	"aios.dev/aios/fabric"
)

// Open implements kernfs.Inode. A region has one size: that it is to be emptied
// is ignored, as a disk ignores it.
func (f *regionFile) Open(ctx context.Context, rp *vfs.ResolvingPath, d *kernfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	var want abi.Rights
	if vfs.MayReadFileWithOpenFlags(opts.Flags) {
		want |= abi.RegionRead
	}
	if vfs.MayWriteFileWithOpenFlags(opts.Flags) {
		want |= abi.RegionWrite
	}
	fd := &regionFD{}
	vfsfd, err := f.open(ctx, &fd.openFile, fd, rp, d, opts, vfs.FileDescriptionOptions{})
	if err != nil {
		return nil, err
	}
	if fd.view, err = f.fs.auth.OpenRegion(fd.session.agent, f.region.Name(), want); err != nil {
		fd.session.report("open", f.entry.path, err)
		vfsfd.DecRef(ctx)
		return nil, errnoOf(err)
	}
	return vfsfd, nil
}

// regionFD is an open region. It is good for one capability of one agent, and
// fails when that ends.
type regionFD struct {
	openFile
	view *fabric.View

	mu  sync.Mutex
	off int64 // +checklocks:mu
}

// may refuses what is not, or no longer, allowed.
func (f *regionFD) may(ctx context.Context, op string, want abi.Rights) error {
	if err := f.session.check(ctx); err != nil {
		return err
	}
	if err := f.view.Err(want); err != nil {
		f.session.report(op, f.inode.entry.path, err)
		return errnoOf(err)
	}
	return nil
}

// PRead implements vfs.FileDescriptionImpl.
func (f *regionFD) PRead(ctx context.Context, dst usermem.IOSequence, offset int64, _ vfs.ReadOptions) (int64, error) {
	if offset < 0 {
		return 0, linuxerr.EINVAL
	}
	return f.move(ctx, "read", abi.RegionRead, dst, offset, func(p []byte, at uint64) (int, error) {
		n, err := f.view.Region().ReadAt(p, at)
		if err != nil || n == 0 {
			return 0, err
		}
		return dst.CopyOut(ctx, p[:n])
	}, &dst)
}

// PWrite implements vfs.FileDescriptionImpl.
func (f *regionFD) PWrite(ctx context.Context, src usermem.IOSequence, offset int64, _ vfs.WriteOptions) (int64, error) {
	if offset < 0 {
		return 0, linuxerr.EINVAL
	}
	n, err := f.move(ctx, "write", abi.RegionWrite, src, offset, func(p []byte, at uint64) (int, error) {
		n, err := src.CopyIn(ctx, p)
		if err != nil || n == 0 {
			return 0, err
		}
		return f.view.Region().WriteAt(p[:n], at)
	}, &src)
	if n == 0 && err == nil && src.NumBytes() > 0 {
		return 0, linuxerr.ENOSPC // A region does not grow.
	}
	return n, err
}

// bounce is how much is copied at once.
const bounce = 64 << 10

// move copies between the region and a program, through memory of the kernel:
// what the program names may be the region itself.
func (f *regionFD) move(ctx context.Context, op string, want abi.Rights, seq usermem.IOSequence, offset int64, step func([]byte, uint64) (int, error), rest *usermem.IOSequence) (int64, error) {
	if err := f.may(ctx, op, want); err != nil {
		return 0, err
	}
	size := int64(f.view.Region().Size())
	buf := make([]byte, min(bounce, seq.NumBytes(), max(0, size-offset)))
	var done int64
	for rest.NumBytes() > 0 && offset+done < size {
		p := buf[:min(int64(len(buf)), rest.NumBytes(), size-offset-done)]
		if err := f.view.Err(want); err != nil { // It may end meanwhile.
			return done, errnoOf(err)
		}
		n, err := step(p, uint64(offset+done))
		done += int64(n)
		*rest = rest.DropFirst(n)
		if err != nil {
			if done > 0 {
				return done, nil
			}
			return 0, errnoOf(err)
		}
		if n == 0 {
			break
		}
	}
	return done, nil
}

// Read implements vfs.FileDescriptionImpl.
func (f *regionFD) Read(ctx context.Context, dst usermem.IOSequence, opts vfs.ReadOptions) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.PRead(ctx, dst, f.off, opts)
	f.off += n
	return n, err
}

// Write implements vfs.FileDescriptionImpl.
func (f *regionFD) Write(ctx context.Context, src usermem.IOSequence, opts vfs.WriteOptions) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.PWrite(ctx, src, f.off, opts)
	f.off += n
	return n, err
}

// Seek implements vfs.FileDescriptionImpl.
func (f *regionFD) Seek(_ context.Context, offset int64, whence int32) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch whence {
	case linux.SEEK_SET:
	case linux.SEEK_CUR:
		offset += f.off
	case linux.SEEK_END:
		offset += int64(f.view.Region().Size())
	default:
		return 0, linuxerr.EINVAL
	}
	if offset < 0 {
		return 0, linuxerr.EINVAL
	}
	f.off = offset
	return offset, nil
}

// Stat implements vfs.FileDescriptionImpl.
func (f *regionFD) Stat(ctx context.Context, opts vfs.StatOptions) (linux.Statx, error) {
	st, err := f.openFile.Stat(ctx, opts)
	if err == nil {
		st.Mask |= linux.STATX_SIZE | linux.STATX_BLOCKS
		st.Size, st.Blocks = f.view.Region().Size(), f.view.Region().Size()/512
	}
	return st, err
}

// Sync implements vfs.FileDescriptionImpl: there is nothing behind it.
func (*regionFD) Sync(context.Context, vfs.SyncOptions) error { return nil }

// ConfigureMMap implements vfs.FileDescriptionImpl. A region that has an address
// is mapped there, unless the program asks for another.
func (f *regionFD) ConfigureMMap(ctx context.Context, opts *memmap.MMapOpts) error {
	want := abi.RegionRead
	if opts.Perms.Write && !opts.Private && f.vfsfd.IsWritable() {
		want |= abi.RegionWrite // Else gVisor says that it was opened to be read.
	}
	if err := f.may(ctx, "mmap", want); err != nil {
		return err
	}
	if opts.Perms.Execute {
		return linuxerr.EPERM // No right to a region makes it a program.
	}
	opts.MaxPerms.Execute = false
	if !opts.Private && f.view.Err(abi.RegionWrite) != nil {
		opts.MaxPerms.Write = false
	}
	r := f.view.Region()
	length, ok := hostarch.PageRoundUp(opts.Length)
	if !ok || opts.Offset > r.Size() || length > r.Size()-opts.Offset {
		return linuxerr.EINVAL // Beyond its end there never is anything.
	}
	if r.Addr() != 0 && opts.Addr == 0 && !opts.Fixed && !opts.Map32Bit {
		opts.Addr, opts.Fixed, opts.NoReplace = hostarch.Addr(r.Addr()+opts.Offset), true, true
	}
	return vfs.GenericConfigureMMap(&f.vfsfd, f.view, opts)
}
