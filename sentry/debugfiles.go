package sentry

import (
	"io"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/kdb/gdbstub"
)

// A debugger reads files as the program that it debugs would find them: gdb
// needs the program itself and its libraries. Only regular files are opened, for
// an open of others may do something.

// debugFile is a file that a debugger has open.
type debugFile struct {
	ctx context.Context
	fd  *vfs.FileDescription
}

// where is the root directory that paths are found from, and who looks. The
// caller drops the reference.
func (d *debugger) where() (context.Context, vfs.VirtualDentry, error) {
	ctx := d.s.dumpContext(d.a)
	for _, t := range d.tasks() {
		var fs *kernel.FSContext
		t.WithMuLocked(func(t *kernel.Task) { fs = t.FSContext() })
		if fs != nil {
			return ctx, fs.RootDirectory(), nil
		}
	}
	return ctx, vfs.VirtualDentry{}, errdefs.New(errdefs.NotFound, "the program has ended")
}

// Open implements gdbstub.Target.
func (d *debugger) Open(path string) (gdbstub.File, error) {
	ctx, root, err := d.where()
	if err != nil {
		return nil, err
	}
	defer root.DecRef(ctx)
	st, err := d.s.k.VFS().StatAt(ctx, d.s.creds, at(root, path), &vfs.StatOptions{Mask: linux.STATX_TYPE})
	if err != nil {
		return nil, fileFailure(err, path)
	}
	if st.Mode&linux.S_IFMT != linux.S_IFREG {
		return nil, errdefs.New(errdefs.Denied, "it is no file", errdefs.Op("open"), errdefs.Resource("%q", path))
	}
	fd, err := d.s.k.VFS().OpenAt(ctx, d.s.creds, at(root, path), &vfs.OpenOptions{Flags: linux.O_RDONLY | linux.O_NONBLOCK})
	if err != nil {
		return nil, fileFailure(err, path)
	}
	return &debugFile{ctx, fd}, nil
}

// fileFailure keeps the errno, which the client is told.
func fileFailure(err error, path string) error {
	return errdefs.Wrap(plainErrno(err), errdefs.HostIO, "open", errdefs.Resource("%q", path))
}

// plainErrno is an error of the kernel's as an errno, if it has one.
func plainErrno(err error) error {
	if err == nil {
		return nil
	}
	if errno := errnoFrom(err); errno != 0 {
		return errno
	}
	return err
}

// ReadAt implements gdbstub.File.
func (f *debugFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.fd.PRead(f.ctx, usermem.BytesIOSequence(p), off, vfs.ReadOptions{})
	if err != nil && err != io.EOF {
		err = plainErrno(err)
	}
	return int(n), err
}

// Stat implements gdbstub.File.
func (f *debugFile) Stat() (gdbstub.FileStat, error) {
	st, err := f.fd.Stat(f.ctx, vfs.StatOptions{Mask: linux.STATX_BASIC_STATS})
	return gdbstub.FileStat{Size: int64(st.Size), Mode: uint32(st.Mode), UID: st.UID, GID: st.GID, ModTime: st.Mtime.Sec}, plainErrno(err)
}

// Close implements gdbstub.File.
func (f *debugFile) Close() error {
	f.fd.DecRef(f.ctx)
	return nil
}

// ReadLink implements gdbstub.Target.
func (d *debugger) ReadLink(path string) (string, error) {
	ctx, root, err := d.where()
	if err != nil {
		return "", err
	}
	defer root.DecRef(ctx)
	to, err := d.s.k.VFS().ReadlinkAt(ctx, d.s.creds, creating(root, path))
	if err != nil {
		return "", fileFailure(err, path)
	}
	return to, nil
}
