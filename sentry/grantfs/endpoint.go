package grantfs

import (
	"sync"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix/transport"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/syserr"

	"aios.dev/aios/abi"
)

// connects is the right to connect to a socket file, and to use the connection:
// data goes both ways.
const connects = abi.FSRead | abi.FSWrite

// BoundEndpointAt implements vfs.FilesystemImpl.BoundEndpointAt.
func (fs *FS) BoundEndpointAt(ctx context.Context, rp *vfs.ResolvingPath, opts vfs.BoundEndpointOptions) (transport.BoundEndpoint, error) {
	w, err := fs.walkTo(ctx, rp, "connect")
	if err != nil {
		return nil, err
	}
	defer w.end()
	if err := w.need(connects, ""); err != nil {
		return nil, err
	}
	pop := w.pop("")
	ep, err := fs.vfs.BoundEndpointAt(ctx, rp.Credentials(), &pop, &opts)
	if err != nil {
		return nil, err
	}
	return &endpoint{BoundEndpoint: ep, fs: fs}, nil
}

// An endpoint is what a program connects to; the connection ends with the grant.
type endpoint struct {
	transport.BoundEndpoint
	fs *FS
}

// BidirectionalConnect implements transport.BoundEndpoint.BidirectionalConnect.
func (e *endpoint) BidirectionalConnect(ctx context.Context, ce transport.ConnectingEndpoint, returnConnect func(transport.Receiver, transport.Sender)) *syserr.Error {
	var l *link
	err := e.BoundEndpoint.BidirectionalConnect(ctx, ce, func(r transport.Receiver, s transport.Sender) {
		l = e.fs.newLink(r, s)
		returnConnect(&receiver{Receiver: r, link: l}, &sender{Sender: s, link: l})
	})
	if err == nil && !l.alive() {
		l.close() // It was made while the grant was revoked.
		return syserr.ErrPermissionDenied
	}
	return err
}

// UnidirectionalConnect implements transport.BoundEndpoint.UnidirectionalConnect.
func (e *endpoint) UnidirectionalConnect(ctx context.Context) (transport.Sender, *syserr.Error) {
	s, err := e.BoundEndpoint.UnidirectionalConnect(ctx)
	if err != nil {
		return nil, err
	}
	l := e.fs.newLink(nil, s)
	if !l.alive() {
		l.close()
	}
	return &sender{Sender: s, link: l}, nil
}

// A link is a connection, as the end that connected has it.
type link struct {
	fs *FS

	// mu is held while either end is closed or released, which must not happen
	// at once. A nil end is released.
	mu sync.Mutex
	r  transport.Receiver // +checklocks:mu
	s  transport.Sender   // +checklocks:mu
}

func (fs *FS) newLink(r transport.Receiver, s transport.Sender) *link {
	l := &link{fs: fs, r: r, s: s}
	fs.filesMu.Lock()
	fs.links[l] = struct{}{}
	fs.filesMu.Unlock()
	return l
}

// alive reports whether data may go through l.
func (l *link) alive() bool { return l.fs.allows(connects) == nil }

// enter begins a transfer, unless there may be none.
func (l *link) enter() (pass, *syserr.Error) {
	p := l.fs.gate.enter(0)
	if err := l.fs.allows(connects); err != nil {
		l.fs.gate.leave(p)
		return nil, syserr.FromError(l.fs.refuse("send or receive", nil, "", connects, err))
	}
	return p, nil
}

// close ends the connection for both sides, and wakes them.
func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.r != nil {
		l.r.CloseRecv()
		l.r.NotifyStateChange()
	}
	if l.s != nil {
		l.s.CloseSend()
		l.s.NotifyStateChange()
	}
}

// forget forgets an end, or both.
func (l *link) forget(r, s bool) {
	l.mu.Lock()
	if r {
		l.r = nil
	}
	if s {
		l.s = nil
	}
	over := l.r == nil && l.s == nil
	l.mu.Unlock()
	if over {
		l.fs.filesMu.Lock()
		delete(l.fs.links, l)
		l.fs.filesMu.Unlock()
	}
}

// closeLinks ends all connections.
func (fs *FS) closeLinks() {
	fs.filesMu.Lock()
	links := make([]*link, 0, len(fs.links))
	for l := range fs.links {
		links = append(links, l)
	}
	fs.filesMu.Unlock()
	for _, l := range links {
		l.close()
	}
}

// A receiver is the receiving end of a link.
type receiver struct {
	transport.Receiver
	link *link
}

// Recv implements transport.Receiver.Recv.
func (r *receiver) Recv(ctx context.Context, data [][]byte, args transport.RecvArgs) (transport.RecvOutput, bool, *syserr.Error) {
	p, err := r.link.enter()
	if err != nil {
		return transport.RecvOutput{}, false, err
	}
	defer r.link.fs.gate.leave(p)
	return r.Receiver.Recv(ctx, data, args)
}

// Readable implements transport.Receiver.Readable: a refusal can be read.
func (r *receiver) Readable() bool { return !r.link.alive() || r.Receiver.Readable() }

// Release implements transport.Receiver.Release.
func (r *receiver) Release(ctx context.Context) {
	r.link.forget(true, false)
	r.Receiver.Release(ctx)
}

// A sender is the sending end of a link.
type sender struct {
	transport.Sender
	link *link
}

// Send implements transport.Sender.Send.
func (s *sender) Send(ctx context.Context, data [][]byte, c transport.ControlMessages, from transport.Address) (int64, bool, *syserr.Error) {
	p, err := s.link.enter()
	if err != nil {
		return 0, false, err
	}
	defer s.link.fs.gate.leave(p)
	return s.Sender.Send(ctx, data, c, from)
}

// Writable implements transport.Sender.Writable.
func (s *sender) Writable() bool { return !s.link.alive() || s.Sender.Writable() }

// Release implements transport.Sender.Release.
func (s *sender) Release(ctx context.Context) {
	s.link.forget(false, true)
	s.Sender.Release(ctx)
}
