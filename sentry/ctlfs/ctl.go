package ctlfs

import (
	"io"
	"sync"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/sentry/ctlfs/command"
)

// commandFile is /aios/ctl.
type commandFile struct{ inode }

var _ kernfs.Inode = (*commandFile)(nil)

func (fs *filesystem) newCommandFile(ctx context.Context, e *entry) *commandFile {
	f := &commandFile{}
	f.init(ctx, fs, e)
	return f
}

// Open implements kernfs.Inode.
func (f *commandFile) Open(ctx context.Context, rp *vfs.ResolvingPath, d *kernfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	fd := &ctlFile{}
	return f.open(ctx, &fd.openFile, fd, rp, d, opts, vfs.FileDescriptionOptions{DenyPRead: true, DenyPWrite: true})
}

// ctlFile is an open /aios/ctl. Each write is one command, and fails with the
// errno of its refusal; what is read is the answer to the last one, from where
// the last read ended. There is no position to seek to.
type ctlFile struct {
	openFile

	mu     sync.Mutex
	answer []byte // +checklocks:mu
}

// Write implements vfs.FileDescriptionImpl.
func (f *ctlFile) Write(ctx context.Context, src usermem.IOSequence, _ vfs.WriteOptions) (int64, error) {
	if err := f.session.check(ctx); err != nil {
		return 0, err
	}
	if src.NumBytes() > command.MaxLen+1 {
		return 0, linuxerr.E2BIG
	}
	line := make([]byte, src.NumBytes())
	if n, err := src.CopyIn(ctx, line); err != nil {
		return 0, err
	} else if n == 0 {
		return 0, nil
	}
	answer, err := f.session.execute(ctx, string(line))
	if err != nil {
		answer = errorText(err)
	}
	f.mu.Lock()
	f.answer = []byte(answer)
	f.mu.Unlock()
	if err != nil {
		return 0, errnoOf(err)
	}
	return int64(len(line)), nil
}

// Read implements vfs.FileDescriptionImpl.
func (f *ctlFile) Read(ctx context.Context, dst usermem.IOSequence, _ vfs.ReadOptions) (int64, error) {
	if err := f.session.check(ctx); err != nil {
		return 0, err
	}
	f.mu.Lock()
	answer := f.answer
	n := min(int64(len(answer)), dst.NumBytes())
	f.answer = answer[n:]
	f.mu.Unlock()
	if len(answer) == 0 {
		return 0, io.EOF
	}
	copied, err := dst.CopyOut(ctx, answer[:n])
	return int64(copied), err
}

// Seek implements vfs.FileDescriptionImpl.
func (*ctlFile) Seek(context.Context, int64, int32) (int64, error) { return 0, linuxerr.ESPIPE }
