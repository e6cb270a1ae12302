package grantfs

import (
	"io"
	"math"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/abi"
)

// chunk is how many bytes are read or written before the rights are looked at
// again: a revocation does not wait for more.
const chunk = 1 << 20

// transfer moves the bytes of seq in chunks by move, for as long as the grant
// has the right. What was moved when it was taken away is the result.
func (f *file) transfer(seq usermem.IOSequence, right abi.Rights, move func(part usermem.IOSequence, done int64) (int64, error)) (int64, error) {
	var done int64
	for {
		part := seq.TakeFirst64(chunk)
		n, err := move(part, done)
		done += n
		if done > 0 && err == io.EOF {
			return done, nil
		}
		seq = seq.DropFirst64(n)
		if err != nil || n < part.NumBytes() || seq.NumBytes() == 0 || f.fs.allows(right) != nil {
			return done, err
		}
	}
}

// PRead implements vfs.FileDescriptionImpl.PRead.
func (f *file) PRead(ctx context.Context, dst usermem.IOSequence, offset int64, opts vfs.ReadOptions) (int64, error) {
	right := f.reads()
	p, err := f.begin("read", right)
	if err != nil {
		return 0, err
	}
	defer f.end(p)
	if err := f.syncFlags(ctx); err != nil {
		return 0, err
	}
	if dst.NumBytes() <= chunk {
		return f.inner.PRead(ctx, dst, offset, opts)
	}
	return f.transfer(dst, right, func(part usermem.IOSequence, done int64) (int64, error) {
		return f.inner.PRead(ctx, part, offset+done, opts)
	})
}

// Read implements vfs.FileDescriptionImpl.Read.
func (f *file) Read(ctx context.Context, dst usermem.IOSequence, opts vfs.ReadOptions) (int64, error) {
	right := f.reads()
	p, err := f.begin("read", right)
	if err != nil {
		return 0, err
	}
	defer f.end(p)
	if err := f.syncFlags(ctx); err != nil {
		return 0, err
	}
	if f.kind == special {
		return f.inner.Read(ctx, dst, opts)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if dst.NumBytes() <= chunk {
		return f.inner.Read(ctx, dst, opts)
	}
	return f.transfer(dst, right, func(part usermem.IOSequence, _ int64) (int64, error) {
		return f.inner.Read(ctx, part, opts)
	})
}

// Seek implements vfs.FileDescriptionImpl.Seek.
func (f *file) Seek(ctx context.Context, offset int64, whence int32) (int64, error) {
	p, err := f.begin("seek", anyRight)
	if err != nil {
		return 0, err
	}
	defer f.end(p)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.inner.Seek(ctx, offset, whence)
}

// PWrite implements vfs.FileDescriptionImpl.PWrite.
func (f *file) PWrite(ctx context.Context, src usermem.IOSequence, offset int64, opts vfs.WriteOptions) (int64, error) {
	p, err := f.begin("write", abi.FSWrite)
	if err != nil {
		return 0, err
	}
	defer f.end(p)
	if err := f.syncFlags(ctx); err != nil {
		return 0, err
	}
	if f.fs.quota.on.Load() {
		return f.transfer(src, abi.FSWrite, func(part usermem.IOSequence, done int64) (int64, error) {
			return f.charged(ctx, part, offset+done, func(part usermem.IOSequence) (int64, error) {
				return f.inner.PWrite(ctx, part, offset+done, opts)
			})
		})
	}
	if src.NumBytes() <= chunk {
		return f.inner.PWrite(ctx, src, offset, opts)
	}
	return f.transfer(src, abi.FSWrite, func(part usermem.IOSequence, done int64) (int64, error) {
		return f.inner.PWrite(ctx, part, offset+done, opts)
	})
}

// Write implements vfs.FileDescriptionImpl.Write.
func (f *file) Write(ctx context.Context, src usermem.IOSequence, opts vfs.WriteOptions) (int64, error) {
	p, err := f.begin("write", abi.FSWrite)
	if err != nil {
		return 0, err
	}
	defer f.end(p)
	if err := f.syncFlags(ctx); err != nil {
		return 0, err
	}
	if f.kind == special {
		return f.inner.Write(ctx, src, opts)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fs.quota.on.Load() {
		return f.transfer(src, abi.FSWrite, func(part usermem.IOSequence, _ int64) (int64, error) {
			offset, err := f.inner.Seek(ctx, 0, linux.SEEK_CUR)
			if err != nil {
				return 0, err
			}
			return f.charged(ctx, part, offset, func(part usermem.IOSequence) (int64, error) {
				return f.inner.Write(ctx, part, opts)
			})
		})
	}
	if src.NumBytes() <= chunk {
		return f.inner.Write(ctx, src, opts)
	}
	return f.transfer(src, abi.FSWrite, func(part usermem.IOSequence, _ int64) (int64, error) {
		return f.inner.Write(ctx, part, opts)
	})
}

// charged writes by write, charging by how much the file grows. If the quota
// does not suffice it writes what fits.
func (f *file) charged(ctx context.Context, src usermem.IOSequence, offset int64, write func(usermem.IOSequence) (int64, error)) (int64, error) {
	if f.node == nil || src.NumBytes() == 0 {
		return write(src)
	}
	quota := &f.fs.quota
	f.node.mu.Lock()
	defer f.node.mu.Unlock()
	st, err := f.inner.Stat(ctx, vfs.StatOptions{Mask: linux.STATX_SIZE})
	if err != nil {
		return 0, err
	}
	size := int64(st.Size)
	if f.vfsfd.StatusFlags()&linux.O_APPEND != 0 {
		offset = size
	}
	if offset > math.MaxInt64-src.NumBytes() {
		return 0, linuxerr.EFBIG
	}
	want := max(0, offset+src.NumBytes()-size)
	got := int64(quota.takeBytes(uint64(want)))
	if got < want {
		fits := src.NumBytes() - (want - got)
		if fits <= 0 {
			quota.giveBytes(uint64(got))
			return 0, f.refuse("write", anyRight, linuxerr.EDQUOT)
		}
		src = src.TakeFirst64(fits)
	}
	n, err := write(src)
	quota.giveBytes(uint64(got - min(got, max(0, offset+n-size))))
	return n, err
}

// Allocate implements vfs.FileDescriptionImpl.Allocate.
func (f *file) Allocate(ctx context.Context, mode, offset, length uint64) error {
	p, err := f.begin("fallocate", abi.FSWrite)
	if err != nil {
		return err
	}
	defer f.end(p)
	quota := &f.fs.quota
	if f.node == nil || !quota.on.Load() {
		return f.inner.Allocate(ctx, mode, offset, length)
	}
	if mode != 0 {
		return linuxerr.EOPNOTSUPP // It may take room beyond the end of the file.
	}
	f.node.mu.Lock()
	defer f.node.mu.Unlock()
	st, err := f.inner.Stat(ctx, vfs.StatOptions{Mask: linux.STATX_SIZE})
	if err != nil {
		return err
	}
	end := offset + length
	if end < offset || end > math.MaxInt64 {
		return linuxerr.EFBIG
	}
	more := end - min(end, st.Size)
	if !quota.takeAllBytes(more) {
		return f.refuse("fallocate", anyRight, linuxerr.EDQUOT)
	}
	if err := f.inner.Allocate(ctx, mode, offset, length); err != nil {
		quota.giveBytes(more)
		return err
	}
	return nil
}
