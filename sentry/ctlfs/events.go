package ctlfs

import (
	"errors"
	"sync"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"

	"aios.dev/aios/event"
	"aios.dev/aios/sentry/ctlfs/command"
)

// eventsInode is /aios/events.
type eventsInode struct{ inode }

var _ kernfs.Inode = (*eventsInode)(nil)

func (fs *filesystem) newEventsFile(ctx context.Context, e *entry) *eventsInode {
	f := &eventsInode{}
	f.init(ctx, fs, e)
	return f
}

// Open implements kernfs.Inode. It begins to listen.
func (i *eventsInode) Open(ctx context.Context, rp *vfs.ResolvingPath, d *kernfs.Dentry, opts vfs.OpenOptions) (*vfs.FileDescription, error) {
	if opts.Flags&linux.O_ACCMODE == linux.O_WRONLY { // What is written would end with the file.
		return nil, linuxerr.EINVAL
	}
	f := &eventsFile{}
	vfsfd, err := i.open(ctx, &f.openFile, f, rp, d, opts, vfs.FileDescriptionOptions{DenyPRead: true, DenyPWrite: true})
	if err != nil {
		return nil, err
	}
	want, err := command.ParseWatch("")
	if err == nil {
		f.lines.want = want // +checklocksignore: nobody else has it.
		f.lines.w, err = f.session.auth.Watch(f.session.agent, want, f.ready)
	}
	if err != nil {
		f.session.auth.Denied(f.session.agent, "open", f.session.door, err)
		vfsfd.DecRef(ctx)
		return nil, errnoOf(err)
	}
	return vfsfd, nil
}

// eventsFile is an open /aios/events. What is read are lines of JSON, as many
// whole ones as fit; a line that is larger than what it is read into comes in
// parts. What is written says which events; if it is refused, the next read
// gives the explanation, by itself. There is no position to seek to.
type eventsFile struct {
	openFile
	queue waiter.Queue

	// op is held by the one call that reads or writes.
	op sync.Mutex

	mu    sync.Mutex
	lines stream // +checklocks:mu
	// What was written last, and not refused.
	wish string // +checklocks:mu
	// Why the last write was refused, until it is read.
	refusal []byte // +checklocks:mu
}

var _ vfs.FileDescriptionImpl = (*eventsFile)(nil)

// anything is what those wait for who wait for the file.
const anything = waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr

// ready wakes who waits. The bus calls it.
func (f *eventsFile) ready() { f.queue.Notify(anything) }

// maxRead is how many bytes are made of lines for one read, unless one line is
// longer.
const maxRead = 64 << 10

// Read implements vfs.FileDescriptionImpl.
func (f *eventsFile) Read(ctx context.Context, dst usermem.IOSequence, _ vfs.ReadOptions) (int64, error) {
	if err := f.session.check(ctx); err != nil {
		return 0, err
	}
	if dst.NumBytes() == 0 {
		return 0, nil
	}
	f.op.Lock()
	defer f.op.Unlock()
	text, explains, err := f.take(dst.NumBytes())
	if err != nil {
		return 0, err
	}
	n, err := dst.CopyOut(ctx, text)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch gone := f.gone(); {
	case gone != nil:
		return 0, gone
	case explains:
		f.refusal = append(text[n:len(text):len(text)], f.refusal...)
	default:
		f.lines.unread(text[n:])
	}
	if n > 0 {
		return int64(n), nil
	}
	return 0, err
}

// take takes what one read gives: explains says that it is a refusal's
// explanation.
func (f *eventsFile) take(most int64) (text []byte, explains bool, err error) {
	f.mu.Lock()
	text, explains, more, err := f.takeLocked(most)
	f.mu.Unlock()
	if more {
		f.ready() // It goes on where this call has stopped.
	}
	return text, explains, err
}

// +checklocks:f.mu
func (f *eventsFile) takeLocked(most int64) (text []byte, explains, more bool, err error) {
	if err := f.gone(); err != nil {
		return nil, false, false, err
	}
	if n := min(most, int64(len(f.refusal))); n > 0 {
		text, f.refusal = f.refusal[:n], f.refusal[n:]
		return text, true, false, nil
	}
	budget := maxLook
	if f.lines.advance(&budget) {
		most = min(most, int64(max(maxRead, len(f.lines.line))))
		return f.lines.read(int(most), &budget), false, false, nil
	}
	if f.lines.over != nil {
		return nil, false, false, overErrno(f.lines.over)
	}
	return nil, false, budget == 0, linuxerr.ErrWouldBlock
}

// gone returns what every call gets once the authority to listen has ended, and
// sees to it that nothing is left.
//
// +checklocks:f.mu
func (f *eventsFile) gone() error {
	err := f.lines.w.Err()
	if err == nil {
		return nil
	}
	f.lines.clear()
	f.refusal = nil
	return errnoOf(err)
}

// overErrno is what a reader gets who was too slow, and had asked to be
// disconnected then.
func overErrno(err error) error {
	if errors.Is(err, event.ErrFellBehind) {
		return linuxerr.ENOBUFS
	}
	return errnoOf(err)
}

// Write implements vfs.FileDescriptionImpl.
func (f *eventsFile) Write(ctx context.Context, src usermem.IOSequence, _ vfs.WriteOptions) (int64, error) {
	if err := f.session.check(ctx); err != nil {
		return 0, err
	}
	if src.NumBytes() > command.MaxLen+1 {
		return 0, linuxerr.E2BIG
	}
	text := make([]byte, src.NumBytes())
	if n, err := src.CopyIn(ctx, text); err != nil {
		return 0, err
	} else if n == 0 {
		return 0, nil
	}
	f.op.Lock()
	defer f.op.Unlock()
	if err := f.change(string(text)); err != nil {
		return 0, err
	}
	return int64(len(text)), nil
}

// change has the file listen to something else.
func (f *eventsFile) change(text string) error {
	want, err := command.ParseWatch(text)
	f.mu.Lock()
	if gone := f.gone(); gone != nil {
		f.mu.Unlock()
		return gone
	}
	if err == nil {
		err = f.lines.w.Change(want)
	}
	if err == nil {
		f.lines.clear()
		f.lines.want, f.refusal, f.wish = want, nil, text
	} else {
		f.refusal = []byte(errorText(err))
	}
	f.mu.Unlock()
	if err != nil {
		f.session.report("subscribe", watched(want), err)
		f.ready()
		return errnoOf(err)
	}
	return nil
}

// watched names in a report what was asked for.
func watched(want *command.Watch) string {
	if want == nil || len(want.Topics) == 0 {
		return Mountpoint + "/events"
	}
	out := want.Topics[0].String()
	for _, o := range want.Topics[1:] {
		out += " " + o.String()
	}
	return out
}

// Readiness implements waiter.Waitable.
func (f *eventsFile) Readiness(mask waiter.EventMask) waiter.EventMask {
	f.mu.Lock()
	ready, more := waiter.EventMask(waiter.WritableEvents), false
	switch budget := maxLook; {
	case f.gone() != nil:
		ready = anything
	case len(f.refusal) > 0, f.lines.advance(&budget):
		ready |= waiter.ReadableEvents
	case f.lines.over != nil:
		ready |= anything
	default:
		more = budget == 0
	}
	f.mu.Unlock()
	if more {
		f.ready()
	}
	return mask & ready
}

// EventRegister implements waiter.Waitable.
func (f *eventsFile) EventRegister(e *waiter.Entry) error {
	f.queue.EventRegister(e)
	return nil
}

// EventUnregister implements waiter.Waitable.
func (f *eventsFile) EventUnregister(e *waiter.Entry) { f.queue.EventUnregister(e) }

// Epollable implements vfs.FileDescriptionImpl.
func (*eventsFile) Epollable() bool { return true }

// Release implements vfs.FileDescriptionImpl.
func (f *eventsFile) Release(context.Context) {
	if w := f.lines.w; w != nil { // +checklocksignore: nobody else has it. It is nil if the open was refused.
		w.Close()
	}
}

// Seek implements vfs.FileDescriptionImpl.
func (*eventsFile) Seek(context.Context, int64, int32) (int64, error) { return 0, linuxerr.ESPIPE }
