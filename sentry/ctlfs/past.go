package ctlfs

import (
	"fmt"
	"io"
	"strings"
	"sync"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"

	"aios.dev/aios/errdefs"
)

// Past is what an agent is a copy of.
type Past struct {
	// Copies is how often the agent, and what it is a copy of, was copied.
	Copies uint64
	// From is the ID of the agent that it is a copy of, or "".
	From string
	// Template is the name of the template that it began from, or "".
	Template string
	// Job is what it was told to do, as JSON.
	Job []byte
	// Warming says that it becomes a template.
	Warming bool
}

func (s *session) job() ([]byte, error) {
	p, err := s.auth.Past(s.agent)
	return p.Job, err
}

func (s *session) template() ([]byte, error) {
	p, err := s.auth.Past(s.agent)
	switch {
	case err != nil:
		return nil, err
	case p.Warming:
		return []byte("warming\n"), nil
	case p.Template != "":
		return []byte("from " + p.Template + "\n"), nil
	}
	return []byte("none\n"), nil
}

// templateFile is /aios/self/template. Its descriptions are read like those of an
// orderFile.
type templateFile struct{ inode }

var _ kernfs.Inode = (*templateFile)(nil)

func (fs *filesystem) newTemplateFile(ctx context.Context, e *entry) kernfs.Inode {
	f := &templateFile{}
	f.init(ctx, fs, e)
	return f
}

// Open implements kernfs.Inode.
func (f *templateFile) Open(ctx context.Context, rp *vfs.ResolvingPath, d *kernfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	fd := &templateFD{}
	vfsfd, err := f.open(ctx, &fd.openFile, fd, rp, d, opts, vfs.FileDescriptionOptions{})
	if err != nil {
		return nil, err
	}
	fd.text.Init(vfsfd, fd)
	return vfsfd, nil
}

// templateFD is an open /aios/self/template. The write that says that the program
// is warm returns in the copies only: there it is made again. So nobody has to be
// woken.
type templateFD struct{ readFile }

// Write implements vfs.FileDescriptionImpl.
func (f *templateFD) Write(ctx context.Context, src usermem.IOSequence, _ vfs.WriteOptions) (int64, error) {
	if err := f.session.check(ctx); err != nil {
		return 0, err
	}
	text, err := wordOf(ctx, src)
	if err != nil {
		return 0, err
	}
	if text != "ready" {
		return 0, linuxerr.EINVAL
	}
	if !f.session.auth.Ready(f.session.agent) {
		return 0, linuxerr.ErrWouldBlock
	}
	return src.NumBytes(), nil
}

// PWrite implements vfs.FileDescriptionImpl.
func (f *templateFD) PWrite(ctx context.Context, src usermem.IOSequence, _ int64, opts vfs.WriteOptions) (int64, error) {
	return f.Write(ctx, src, opts)
}

// Readiness implements waiter.Waitable.
func (f *templateFD) Readiness(mask waiter.EventMask) waiter.EventMask {
	ready := waiter.EventMask(waiter.ReadableEvents)
	if p, err := f.session.auth.Past(f.session.agent); err != nil || !p.Warming {
		ready |= waiter.WritableEvents
	}
	return mask & ready
}

// Epollable implements vfs.FileDescriptionImpl.
func (*templateFD) Epollable() bool { return true }

// wordOf returns the word that is written.
func wordOf(ctx context.Context, src usermem.IOSequence) (string, error) {
	if src.NumBytes() > maxOrder {
		return "", linuxerr.EINVAL
	}
	raw := make([]byte, src.NumBytes())
	if _, err := src.CopyIn(ctx, raw); err != nil {
		return "", err
	}
	return strings.TrimSuffix(string(raw), "\n"), nil
}

// clonesFile is /aios/self/clones.
type clonesFile struct{ inode }

var _ kernfs.Inode = (*clonesFile)(nil)

func (fs *filesystem) newClonesFile(ctx context.Context, e *entry) kernfs.Inode {
	f := &clonesFile{}
	f.init(ctx, fs, e)
	return f
}

// Open implements kernfs.Inode.
func (f *clonesFile) Open(ctx context.Context, rp *vfs.ResolvingPath, d *kernfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	fd := &clonesFD{}
	return f.open(ctx, &fd.openFile, fd, rp, d, opts, vfs.FileDescriptionOptions{DenyPRead: true, DenyPWrite: true})
}

// clonesFD is an open /aios/self/clones. Once it was read, it has ended and poll(2)
// waits, until the reader is in a copy: that has a description of its own, so nobody
// has to be woken. There is no position to seek to.
type clonesFD struct {
	openFile

	mu sync.Mutex
	// It was read, but for rest.
	begun bool   // +checklocks:mu
	rest  []byte // +checklocks:mu
}

// Read implements vfs.FileDescriptionImpl.
func (f *clonesFD) Read(ctx context.Context, dst usermem.IOSequence, _ vfs.ReadOptions) (int64, error) {
	if err := f.session.check(ctx); err != nil {
		return 0, err
	}
	if dst.NumBytes() == 0 {
		return 0, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.begun {
		p, err := f.session.auth.Past(f.session.agent)
		if err != nil {
			return 0, errnoOf(err)
		}
		from := p.From
		if from == "" {
			from = "-"
		}
		f.begun, f.rest = true, fmt.Appendf(nil, "%d %s\n", p.Copies, from)
	}
	if len(f.rest) == 0 {
		return 0, io.EOF
	}
	n, err := dst.CopyOut(ctx, f.rest[:min(int64(len(f.rest)), dst.NumBytes())])
	f.rest = f.rest[n:]
	return int64(n), err
}

// Write implements vfs.FileDescriptionImpl.
func (f *clonesFD) Write(ctx context.Context, src usermem.IOSequence, _ vfs.WriteOptions) (int64, error) {
	if err := f.session.check(ctx); err != nil {
		return 0, err
	}
	text, err := wordOf(ctx, src)
	switch {
	case err != nil:
		return 0, err
	case text == "signal", text == "off":
		err = f.session.auth.WantSignal(ctx, f.session.agent, text == "signal")
	default:
		err = errdefs.New(errdefs.InvalidArgument, "it is neither signal nor off", errdefs.Resource("%q", text))
	}
	if err != nil {
		return 0, errnoOf(err)
	}
	return src.NumBytes(), nil
}

// Seek implements vfs.FileDescriptionImpl.
func (*clonesFD) Seek(context.Context, int64, int32) (int64, error) { return 0, linuxerr.ESPIPE }

// Readiness implements waiter.Waitable.
func (f *clonesFD) Readiness(mask waiter.EventMask) waiter.EventMask {
	f.mu.Lock()
	defer f.mu.Unlock()
	ready := waiter.EventMask(waiter.WritableEvents)
	if !f.begun || len(f.rest) > 0 {
		ready |= waiter.ReadableEvents
	}
	return mask & ready
}

// Epollable implements vfs.FileDescriptionImpl.
func (*clonesFD) Epollable() bool { return true }

// IsControlTree reports whether a file is of this file system.
func IsControlTree(file *vfs.FileDescription) bool {
	_, ok := file.Mount().Filesystem().Impl().(*filesystem)
	return ok
}

const anyWriter = linux.ModeRegular | 0o666
