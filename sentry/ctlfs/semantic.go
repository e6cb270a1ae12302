package ctlfs

import (
	"encoding/json"
	"io"
	"sync"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix/transport"
	"gvisor.dev/gvisor/pkg/sentry/uniqueid"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/syserr"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"

	"aios.dev/aios/fabric/semantic/socket"
)

// SemanticSocket is where agents find semantic memory.
const SemanticSocket = Mountpoint + "/semantic.sock"

// Memory is semantic memory, as one connection of an agent may ask it.
type Memory interface {
	// Ask puts a question; the answer is JSON. It waits for another process.
	Ask(op string, body []byte) (json.RawMessage, error)
}

// memoryInode is /aios/semantic.sock: a socket that is always listened at.
type memoryInode struct{ inode }

var _ kernfs.Inode = (*memoryInode)(nil)

func (fs *filesystem) newMemorySocket(ctx context.Context, e *entry) kernfs.Inode {
	s := &memoryInode{}
	s.init(ctx, fs, e)
	return s
}

// Open implements kernfs.Inode.
func (*memoryInode) Open(context.Context, *vfs.ResolvingPath, *kernfs.Dentry, vfs.OpenOptions) (*vfs.FileDescription, error) {
	return nil, linuxerr.ENXIO
}

// BoundEndpointAt implements vfs.FilesystemImpl.
func (fs *filesystem) BoundEndpointAt(ctx context.Context, rp *vfs.ResolvingPath, _ vfs.BoundEndpointOptions) (transport.BoundEndpoint, error) {
	creds := rp.Credentials()
	d, err := fs.Filesystem.GetDentryAt(ctx, rp, vfs.GetDentryOptions{})
	if err != nil {
		return nil, err
	}
	defer d.DecRef(ctx)
	i, ok := d.Impl().(*kernfs.Dentry).Inode().(*memoryInode)
	if !ok {
		return nil, linuxerr.ECONNREFUSED
	}
	if err := i.CheckPermissions(ctx, creds, vfs.MayWrite); err != nil {
		return nil, err
	}
	s, err := newSession(ctx, fs.auth, i.entry.path)
	if err != nil {
		return nil, err
	}
	return &memoryEndpoint{fs: fs, session: s}, nil
}

// maxLinks is how many connections to semantic memory an agent has at a time.
const maxLinks = 16

// links are the connections of one instance of the file system.
type links struct {
	mu   sync.Mutex
	open map[*link]bool // +checklocks:mu
	done bool           // +checklocks:mu
}

// memoryEndpoint is what a program connects to.
type memoryEndpoint struct {
	fs      *filesystem
	session *session
}

var _ transport.BoundEndpoint = (*memoryEndpoint)(nil)

// BidirectionalConnect implements transport.BoundEndpoint. Every connection has a
// socket of its own that listens for it alone: gVisor joins the two as it joins
// any, and the other end is the kernel's.
func (m *memoryEndpoint) BidirectionalConnect(ctx context.Context, ce transport.ConnectingEndpoint, joined func(transport.Receiver, transport.Sender)) *syserr.Error {
	if ce.Type() != linux.SOCK_STREAM {
		return syserr.ErrWrongProtocolForSocket
	}
	ep := transport.NewConnectioned(ctx, linux.SOCK_STREAM, uniqueid.GlobalProviderFromContext(ctx))
	defer ep.Close(ctx)
	if err := ep.Bind(transport.Address{Addr: m.session.door}); err != nil {
		return err
	}
	if err := ep.Listen(ctx, 1); err != nil {
		return err
	}
	l, err := m.fs.links.add()
	if err != nil {
		return err
	}
	err = ep.(transport.BoundEndpoint).BidirectionalConnect(ctx, ce, func(r transport.Receiver, s transport.Sender) {
		joined(&ownReceiver{r, m.session}, &ownSender{s, m.session})
	})
	if err == nil {
		err = m.fs.links.join(l, func() (transport.Endpoint, *syserr.Error) { return ep.Accept(ctx, nil) })
	}
	if err != nil {
		m.fs.links.remove(l)
		return err
	}
	memory := m.session.auth.Memory(m.session.agent)
	go func() {
		defer m.fs.links.remove(l)
		defer l.Close()
		socket.Serve(l, memory.Ask) // How it ended concerns the program.
	}()
	return nil
}

// UnidirectionalConnect implements transport.BoundEndpoint.
func (*memoryEndpoint) UnidirectionalConnect(context.Context) (transport.Sender, *syserr.Error) {
	return nil, syserr.ErrWrongProtocolForSocket
}

// Passcred implements transport.BoundEndpoint.
func (*memoryEndpoint) Passcred() bool { return false }

// Release implements transport.BoundEndpoint.
func (*memoryEndpoint) Release(context.Context) {}

// ownSender is the way from a program to the kernel, for tasks of the agent that
// connected: whoever is handed the socket cannot speak in its name.
type ownSender struct {
	transport.Sender
	session *session
}

// Send implements transport.Sender. Files that are sent along are refused: nobody
// would take them.
func (s *ownSender) Send(ctx context.Context, data [][]byte, c transport.ControlMessages, from transport.Address) (int64, bool, *syserr.Error) {
	if err := s.session.check(ctx); err != nil {
		return 0, false, syserr.ErrNotPermitted
	}
	if c.Rights != nil {
		return 0, false, syserr.ErrNotSupported
	}
	return s.Sender.Send(ctx, data, c, from)
}

// ownReceiver is the way back.
type ownReceiver struct {
	transport.Receiver
	session *session
}

// Recv implements transport.Receiver.
func (r *ownReceiver) Recv(ctx context.Context, data [][]byte, args transport.RecvArgs) (transport.RecvOutput, bool, *syserr.Error) {
	if err := r.session.check(ctx); err != nil {
		return transport.RecvOutput{}, false, syserr.ErrNotPermitted
	}
	return r.Receiver.Recv(ctx, data, args)
}

// link is the kernel's end of a connection. It is an io.ReadWriter.
type link struct {
	ep   transport.Endpoint
	once sync.Once
}

func (c *links) add() (*link, *syserr.Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done {
		return nil, syserr.ErrConnectionRefused
	}
	if len(c.open) >= maxLinks {
		return nil, syserr.ErrTryAgain
	}
	l := &link{}
	if c.open == nil {
		c.open = make(map[*link]bool)
	}
	c.open[l] = true
	return l, nil
}

// join gives a connection its end, unless the agent has ended meanwhile.
func (c *links) join(l *link, accept func() (transport.Endpoint, *syserr.Error)) (err *syserr.Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.ep, err = accept(); err == nil && c.done {
		l.ep.Shutdown(tcpip.ShutdownRead | tcpip.ShutdownWrite)
	}
	return err
}

func (c *links) remove(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, l)
}

// close ends every connection: the agent has ended.
func (c *links) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = true
	for l := range c.open {
		if l.ep != nil { // Else join does it.
			l.ep.Shutdown(tcpip.ShutdownRead | tcpip.ShutdownWrite)
		}
	}
}

// Close ends the connection.
func (l *link) Close() { l.once.Do(func() { l.ep.Close(context.Background()) }) }

// wait calls try until it does not say that it would block.
func (l *link) wait(mask waiter.EventMask, try func() (int64, *syserr.Error)) (int64, *syserr.Error) {
	n, err := try()
	if err != syserr.ErrWouldBlock || n > 0 {
		return n, err
	}
	e, ch := waiter.NewChannelEntry(mask | waiter.EventHUp | waiter.EventErr)
	if err := l.ep.EventRegister(&e); err != nil {
		return 0, syserr.FromError(err)
	}
	defer l.ep.EventUnregister(&e)
	for {
		if n, err = try(); err != syserr.ErrWouldBlock || n > 0 {
			return n, err
		}
		<-ch
	}
}

// Read implements io.Reader.
func (l *link) Read(p []byte) (int, error) {
	n, err := l.wait(waiter.ReadableEvents, func() (int64, *syserr.Error) {
		out, notify, err := l.ep.RecvMsg(context.Background(), [][]byte{p}, transport.RecvArgs{})
		if notify != nil {
			notify()
		}
		out.Control.Release(context.Background())
		return out.RecvLen, err
	})
	if err != nil && n == 0 || n == 0 && len(p) > 0 {
		return 0, io.EOF // However it ended.
	}
	return int(n), nil
}

// Write implements io.Writer.
func (l *link) Write(p []byte) (written int, _ error) {
	for written < len(p) {
		n, err := l.wait(waiter.WritableEvents, func() (int64, *syserr.Error) {
			n, notify, err := l.ep.SendMsg(context.Background(), [][]byte{p[written:]}, transport.ControlMessages{}, nil)
			if notify != nil {
				notify()
			}
			return n, err
		})
		if err != nil && n == 0 {
			return written, io.ErrClosedPipe
		}
		written += int(n)
	}
	return written, nil
}
