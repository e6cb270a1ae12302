package grantfs

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/abi"
)

// createTries is how often a file may be there when it is to be created and not
// be there when it is to be opened, before OpenAt gives up.
const createTries = 16

// OpenAt implements vfs.FilesystemImpl.OpenAt.
func (fs *FS) OpenAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	w, err := fs.walk(ctx, rp, "open")
	if err != nil {
		return nil, err
	}
	defer w.end()
	mayCreate := opts.Flags&linux.O_CREAT != 0
	mustCreate := mayCreate && opts.Flags&linux.O_EXCL != 0

	for try := 0; !rp.Done(); {
		if err := w.toParent(); err != nil {
			return nil, err
		}
		if mayCreate && rp.MustBeDir() {
			if err := w.searchable(); err != nil {
				return nil, err
			}
			return nil, linuxerr.EISDIR
		}
		followed, err := w.step()
		switch {
		case followed && mustCreate:
			return nil, linuxerr.EEXIST
		case mayCreate && linuxerr.Equals(linuxerr.ENOENT, err) && !rp.Done():
			fd, err := w.create(&opts)
			if linuxerr.Equals(linuxerr.EEXIST, err) && !mustCreate && try < createTries {
				try++ // Somebody else has just created it.
				continue
			}
			return fd, err
		case err != nil:
			return nil, err
		}
	}
	if mayCreate && rp.MustBeDir() {
		return nil, linuxerr.EISDIR
	}
	if mustCreate {
		return nil, linuxerr.EEXIST
	}
	return w.open(&opts)
}

// open opens w.cur.
func (w *walk) open(opts *vfs.OpenOptions) (*vfs.FileDescription, error) {
	fs := w.fs
	st, err := fs.identity(w.ctx, w.cur)
	if err != nil {
		return nil, err
	}
	if opts.Flags&linux.O_TMPFILE != 0 {
		return nil, linuxerr.EOPNOTSUPP
	}
	ats := vfs.AccessTypesForOpenFlags(opts)
	var need abi.Rights
	kind := kindOf(linux.FileMode(st.Mode))
	switch {
	case kind == directory:
		// What is in it needs the right to read, being opened does not: programs
		// open directories to create in them.
	case opts.FileExec:
		need = abi.FSExec // The kernel reads it, not the program.
	case ats.MayRead() && vfs.MayReadFileWithOpenFlags(opts.Flags):
		need = abi.FSRead
	}
	if kind != directory && ats.MayWrite() {
		need |= abi.FSWrite
	}
	if w.rp.MustBeDir() && kind != directory {
		return nil, linuxerr.ENOTDIR
	}
	if err := w.need(need, ""); err != nil {
		return nil, err
	}
	if kind == device {
		// The host's devices are no business of an agent's.
		return nil, fs.refuse(w.op, w.cur, "", anyRight, linuxerr.EACCES)
	}

	var n *node
	if kind == regularFile { // Before it is open: who removes it shall see.
		if n, err = fs.openNode(w.ctx, w.cur, &st); err != nil {
			return nil, err
		}
	}
	innerOpts := *opts
	innerOpts.Flags &^= linux.O_EXCL
	if kind != directory { // Which cannot be opened so; the inner file system says it.
		innerOpts.Flags &^= linux.O_CREAT
	}
	var inner *vfs.FileDescription
	open := func() (err error) {
		ctx := w.ctx
		if kind == special {
			// Opening a FIFO waits for its other end.
			b := &blocker{Context: ctx, fs: fs, need: need, pass: w.pass}
			defer func() { w.pass = b.pass }()
			ctx = b
		}
		pop := w.pop("")
		inner, err = fs.vfs.OpenAt(ctx, w.rp.Credentials(), &pop, &innerOpts)
		return err
	}
	if opts.Flags&linux.O_TRUNC != 0 && kind == regularFile {
		if err = w.rp.Mount().CheckBeginWrite(); err == nil {
			err = fs.resize(w.ctx, w.cur, 0, open)
			w.rp.Mount().EndWrite()
		}
	} else {
		err = open()
	}
	if err != nil {
		if n != nil {
			fs.putNode(w.ctx, n, w.cur)
		}
		if goneErr := fs.allows(need); goneErr != nil {
			// It was woken, and says that it was interrupted.
			err = fs.refuse(w.op, w.cur, "", need, goneErr)
		}
		return nil, err
	}
	return w.describe(inner, opts, kind, n)
}

// create creates the last component of w.rp and opens it.
func (w *walk) create(opts *vfs.OpenOptions) (*vfs.FileDescription, error) {
	fs, name := w.fs, w.rp.Component()
	need := abi.FSCreate
	if vfs.MayReadFileWithOpenFlags(opts.Flags) {
		need |= abi.FSRead
	}
	if vfs.MayWriteFileWithOpenFlags(opts.Flags) {
		need |= abi.FSWrite
	}
	if err := w.change(need, name); err != nil {
		return nil, err
	}
	defer w.rp.Mount().EndWrite()
	if privileged(opts.Mode, false) {
		return nil, fs.refuse(w.op, w.cur, name, anyRight, linuxerr.EPERM)
	}
	if !fs.quota.takeInodes(1) {
		return nil, fs.refuse(w.op, w.cur, name, anyRight, linuxerr.EDQUOT)
	}
	defer fs.quota.lockTree()()
	innerOpts := *opts
	innerOpts.Flags |= linux.O_CREAT | linux.O_EXCL
	pop := w.pop(name)
	inner, err := fs.vfs.OpenAt(w.ctx, w.rp.Credentials(), &pop, &innerOpts)
	if err != nil {
		fs.quota.giveInodes(1)
		return nil, err
	}
	fs.notify(w.ctx, w.cur, name, linux.IN_CREATE)
	inner.Dentry().IncRef()
	w.move(inner.Dentry())
	st, err := fs.identity(w.ctx, w.cur)
	if err != nil {
		inner.DecRef(w.ctx)
		return nil, err
	}
	n, _ := fs.quota.node(&st)
	fd, err := w.describe(inner, opts, regularFile, n)
	if err == nil {
		fd.SetCreated()
	}
	return fd, err
}

// describe makes an open file of inner, which is w.cur. It takes the references
// to inner and n, which is nil but for regular files.
func (w *walk) describe(inner *vfs.FileDescription, opts *vfs.OpenOptions, k kind, n *node) (*vfs.FileDescription, error) {
	fs := w.fs
	d := fs.dentryOf(w.cur)
	defer d.DecRef(w.ctx)
	f := &file{fs: fs, inner: inner, kind: k, node: n, image: opts.FileExec, hint: fs.hints.Add(1)}
	f.flags.Store(inner.StatusFlags())
	fdOpts := inner.Options()
	fdOpts.UseDentryMetadata = false
	if err := f.vfsfd.Init(f, opts.Flags, w.rp.Credentials(), w.rp.Mount(), &d.vfsd, &fdOpts); err != nil {
		inner.DecRef(w.ctx)
		if n != nil {
			fs.putNode(w.ctx, n, w.cur)
		}
		return nil, err
	}
	return &f.vfsfd, nil
}
