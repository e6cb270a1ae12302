package sentry

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix/transport"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/syserr"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"

	"aios.dev/aios/errdefs"
)

// What waits in a socket of AF_UNIX can only be seen by taking it, and a connection
// that has ended takes nothing back. So before anything is copied, the original gets
// a connection in its place that has ended in the same way, with the same in it.
// Its tasks stand still, and begin again with numbers of descriptors: they do not
// notice. Whatever is not known well enough for that stays as it is.

// remains is what waits in a socket whose other end sends no more.
type remains struct {
	all   []queued
	reset bool // after that it says ECONNRESET
}

// place is where a description is open.
type place struct {
	table *kernel.FDTable
	fd    int32
	flags kernel.FDFlags
}

// places finds every descriptor of every process of the agent that is for a socket
// of AF_UNIX, those that are not copied included.
func (f *fileCopier) places() map[*vfs.FileDescription][]place {
	all := make(map[*vfs.FileDescription][]place)
	seen := make(map[*kernel.FDTable]bool)
	for _, t := range f.c.src.ns.pid().Tasks() {
		if t.ExitState() != kernel.TaskExitNone {
			continue
		}
		table := t.FDTable()
		if table == nil || seen[table] {
			continue
		}
		seen[table] = true
		table.ForEach(f.ctx, func(fd int32, file *vfs.FileDescription, flags kernel.FDFlags) bool {
			if _, ok := file.Impl().(*unix.Socket); ok {
				all[file] = append(all[file], place{table, fd, flags})
			}
			return true
		})
	}
	return all
}

// renewals finds sockets whose other end sends no more, and takes note of what waits
// in them, which they have again.
func (f *fileCopier) renewals() error {
	var ended []*vfs.FileDescription
	for file := range f.holder {
		if s, ok := file.Impl().(*unix.Socket); ok && s.Endpoint().State() == linux.SS_CONNECTED && s.Readiness(waiter.EventRdHUp)&waiter.EventRdHUp != 0 && f.holds(s) {
			ended = append(ended, file)
		}
	}
	if len(ended) == 0 {
		return nil
	}
	at := f.places()
	for _, file := range ended {
		s := file.Impl().(*unix.Socket)
		if file.ReadRefs() != int64(len(at[file])) || f.foreign(s) {
			continue // Somebody else has it, or the other end.
		}
		var peer *vfs.FileDescription
		for other := range at {
			if o := other.Impl().(*unix.Socket); other != file && o.Endpoint().State() == linux.SS_CONNECTED && joined(s, o) {
				peer = other
			}
		}
		_, stype, _ := s.Type()
		closed := s.Readiness(waiter.EventHUp)&waiter.EventHUp != 0
		switch {
		case closed && (peer == nil || stype != linux.SOCK_DGRAM): // That has ends that are not shared.
			if err := f.again(file, s); err != nil {
				return err
			}
		case !closed && peer != nil && f.replaceable(file, at) && f.replaceable(peer, at):
			if err := f.replace(file, peer, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// holds reports whether anything waits in a socket. A message may be empty.
func (f *fileCopier) holds(s *unix.Socket) bool {
	out, notify, err := s.Endpoint().RecvMsg(f.ctx, [][]byte{make([]byte, 1)}, transport.RecvArgs{Peek: true})
	if notify != nil {
		notify()
	}
	out.Control.Release(f.ctx)
	return err == nil
}

// keep notes what was taken out of a socket, which gets it again.
func (f *fileCopier) keep(file *vfs.FileDescription, all []queued, reset bool) {
	r := &remains{reset: reset}
	for _, m := range all {
		m.control = m.control.Clone()
		r.all = append(r.all, m)
	}
	f.remains[file] = r
}

// again makes anew, in its place, a connection that has ended both ways. The other
// end is closed, or has nothing to do with it any more.
func (f *fileCopier) again(file *vfs.FileDescription, s *unix.Socket) error {
	ep, ok := s.Endpoint().(transport.ConnectingEndpoint)
	if !ok {
		return nil
	}
	_, name := namesOf(s)
	own := s.Endpoint()
	creds, last := own.PeerCreds(), own.LastError()
	l := transport.NewConnectioned(f.ctx, ep.Type(), f.c.s.k)
	defer l.Close(f.ctx)
	at := name
	if at == "" {
		at = "\x00" // Nobody finds it by that.
	}
	if err := l.Bind(transport.Address{Addr: at}); err != nil {
		return sockErr(err, "make a connection anew")
	}
	if err := l.Listen(f.ctx, 1); err != nil {
		return sockErr(err, "make a connection anew")
	}
	all := f.drain(own)
	_, _, end := own.RecvMsg(f.ctx, [][]byte{make([]byte, 1)}, transport.RecvArgs{Peek: true})
	reset := end == syserr.ErrConnectionReset
	f.keep(file, all, reset)
	own.Close(f.ctx)
	to := &introducer{BoundEndpoint: l.(transport.BoundEndpoint)}
	if err := own.Connect(f.ctx, to); err != nil {
		return sockErr(err, "make a connection anew")
	}
	peer, err := l.Accept(f.ctx, nil)
	if err != nil {
		return sockErr(err, "make a connection anew")
	}
	err2 := f.refill(peer, all)
	if reset { // So it is if not all was read at the other end.
		to.sender.Send(f.ctx, [][]byte{{0}}, transport.ControlMessages{}, transport.Address{})
	}
	peer.Close(f.ctx)
	if name == "" {
		peer.Close(f.ctx) // That takes its name.
	}
	own.SetPeerCreds(creds)
	if last != nil {
		own.SocketOptions().SetLastError(last)
	}
	return err2
}

// introducer tells what a client that connects to an endpoint sends by.
type introducer struct {
	transport.BoundEndpoint
	sender transport.Sender
}

// BidirectionalConnect implements transport.BoundEndpoint.
func (i *introducer) BidirectionalConnect(ctx context.Context, ce transport.ConnectingEndpoint, connect func(transport.Receiver, transport.Sender)) *syserr.Error {
	return i.BoundEndpoint.BidirectionalConnect(ctx, ce, func(r transport.Receiver, s transport.Sender) {
		i.sender = s
		connect(r, s)
	})
}

// replaceable reports whether everything is known that has a description, and what is
// to be known of it.
func (f *fileCopier) replaceable(file *vfs.FileDescription, at map[*vfs.FileDescription][]place) bool {
	notes := &f.c.src.notes
	notes.mu.Lock()
	x := notes.files[file]
	unsure := x != nil && x.flock != 0
	for _, x := range notes.files {
		for k, ev := range x.interests {
			unsure = unsure || k.file == file && ev.Events&linux.EPOLLONESHOT != 0
		}
	}
	notes.mu.Unlock()
	if unsure || file.AsyncHandler() != nil || file.ReadRefs() != int64(len(at[file])) {
		return false
	}
	s := file.Impl().(*unix.Socket)
	local, _ := namesOf(s)
	if local == "" || local[0] != 0 {
		return true
	}
	bound := f.c.src.ns.net.AbstractSockets().BoundEndpoint(local[1:])
	if bound == nil {
		return true
	}
	defer bound.Release(f.ctx)
	return !follows(s, bound.Passcred) // Others may find it by that name.
}

// replace gives the agent another pair of sockets for one of which one end, file,
// gets no more.
func (f *fileCopier) replace(file, peer *vfs.FileDescription, at map[*vfs.FileDescription][]place) error {
	was, mate := ep2(file), ep2(peer)
	a, b := transport.NewPair(f.ctx, was.Type(), f.c.s.k)
	own, err := f.like(file, a)
	if err != nil {
		b.Close(f.ctx)
		return errdefs.Wrap(err, errdefs.Internal, "make a socket")
	}
	defer own.DecRef(f.ctx)
	other, err := f.like(peer, b)
	if err != nil {
		return errdefs.Wrap(err, errdefs.Internal, "make a socket")
	}
	defer other.DecRef(f.ctx)
	all := f.drain(was)
	f.keep(own, all, false)
	if err := f.refill(b, all); err != nil {
		return err
	}
	if err := f.refill(a, f.drain(mate)); err != nil {
		return err
	}
	a.Shutdown(tcpip.ShutdownRead)
	f.install(file, own, at)
	f.install(peer, other, at)
	return nil
}

// like makes a description of a socket that is like another but for its endpoint,
// which it takes over.
func (f *fileCopier) like(old *vfs.FileDescription, ep transport.Endpoint) (*vfs.FileDescription, error) {
	s := old.Impl().(*unix.Socket)
	_, stype, _ := s.Type()
	ns := f.c.src.ns.net
	ns.IncRef()
	file, err := unix.NewFileDescription(ep, stype, old.StatusFlags(), ns, old.Mount(), old.Dentry(), &vfs.FileLocks{}, old.Credentials())
	if err != nil {
		ns.DecRef(f.ctx)
		ep.Close(f.ctx)
		return nil, err
	}
	f.c.s.k.RecordSocket(file)
	f.options(s, file.Impl().(*unix.Socket), f.src(old), unixOptions)
	ep.SetPeerCreds(s.Endpoint().PeerCreds())
	if local, _ := namesOf(s); local != "" {
		ep.Bind(transport.Address{Addr: local})
	}
	if err := s.Endpoint().LastError(); err != nil {
		ep.SocketOptions().SetLastError(err)
	}
	return file, nil
}

// install puts a description wherever another is.
func (f *fileCopier) install(old, file *vfs.FileDescription, at map[*vfs.FileDescription][]place) {
	old.IncRef()
	defer old.DecRef(f.ctx)
	notes := &f.c.src.notes
	type interest struct {
		ep *vfs.EpollInstance
		fd int32
		ev linux.EpollEvent
	}
	var waits []interest
	notes.mu.Lock()
	for e, x := range notes.files {
		for k, ev := range x.interests {
			if k.file != old {
				continue
			}
			x.forget(k)
			if ep, ok := e.Impl().(*vfs.EpollInstance); ok {
				x.waitFor(interestKey{file, k.fd}, ev)
				waits = append(waits, interest{ep, k.fd, ev})
			}
		}
	}
	notes.mu.Unlock()
	for _, w := range waits {
		if w.ep.DeleteInterest(old, w.fd) == nil {
			w.ep.AddInterest(file, w.fd, w.ev)
		}
	}
	for _, p := range at[old] {
		if prev, err := p.table.NewFDAt(f.ctx, p.fd, file, p.flags); err == nil && prev != nil {
			prev.DecRef(f.ctx)
		}
	}
	at[file] = at[old]
	delete(at, old)
	if tw := f.holder[old]; tw != nil {
		f.holder[file] = tw
		delete(f.holder, old)
	}
}
