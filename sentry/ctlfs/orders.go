package ctlfs

import (
	"strings"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
)

// maxOrder is the longest text that can be an order.
const maxOrder = 64

// orderFile is a file that is read like any, and takes orders: what is written
// to it.
type orderFile struct {
	inode
	name     string
	carryOut func(*session, string) error
}

var _ kernfs.Inode = (*orderFile)(nil)

func (fs *filesystem) newOrderFile(ctx context.Context, e *entry) *orderFile {
	f := &orderFile{name: e.name, carryOut: e.order}
	f.init(ctx, fs, e)
	return f
}

// Open implements kernfs.Inode.
func (f *orderFile) Open(ctx context.Context, rp *vfs.ResolvingPath, d *kernfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	fd := &orderFD{file: f}
	vfsfd, err := f.open(ctx, &fd.openFile, fd, rp, d, opts, vfs.FileDescriptionOptions{})
	if err != nil {
		return nil, err
	}
	fd.text.Init(vfsfd, fd)
	return vfsfd, nil
}

// orderFD is an open orderFile.
type orderFD struct {
	readFile
	file *orderFile
}

// Write implements vfs.FileDescriptionImpl. Each write is one order.
func (f *orderFD) Write(ctx context.Context, src usermem.IOSequence, _ vfs.WriteOptions) (int64, error) {
	return f.order(ctx, src)
}

// PWrite implements vfs.FileDescriptionImpl.
func (f *orderFD) PWrite(ctx context.Context, src usermem.IOSequence, _ int64, _ vfs.WriteOptions) (int64, error) {
	return f.order(ctx, src)
}

func (f *orderFD) order(ctx context.Context, src usermem.IOSequence) (int64, error) {
	if err := f.session.check(ctx); err != nil {
		return 0, err
	}
	if src.NumBytes() == 0 {
		return 0, nil
	}
	if src.NumBytes() > maxOrder {
		return 0, linuxerr.EINVAL
	}
	text := make([]byte, src.NumBytes())
	if _, err := src.CopyIn(ctx, text); err != nil {
		return 0, err
	}
	if err := f.file.carryOut(f.session, string(text)); err != nil {
		f.session.report(f.file.name, strings.TrimSpace(string(text)), err)
		return 0, errnoOf(err)
	}
	return int64(len(text)), nil
}
