package sentry

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/socket"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix/transport"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"

	"aios.dev/aios/errdefs"
)

// datagrams copies a socket of AF_UNIX without connections, with what waits in it
// and with whom it sends to, if that was said.
func (f *fileCopier) datagrams(old *vfs.FileDescription, s *unix.Socket, proto int) (*vfs.FileDescription, error) {
	ep := s.Endpoint()
	shut := s.Readiness(waiter.EventRdHUp)&waiter.EventRdHUp != 0
	if shut && s.Readiness(waiter.ReadableEvents)&waiter.ReadableEvents != 0 {
		if size, err := ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption); err != nil || size > 0 { // It could not be put back.
			return nil, f.busy("a message waits in a socket that takes no more of them")
		}
	}
	file, err := f.bound(old, ep, linux.SOCK_DGRAM, proto)
	if err != nil {
		return nil, err
	}
	f.files[old] = file // Whom it sends to may send to it.
	if !shut {
		if err := f.letters(old, file); err != nil {
			return nil, err
		}
	}
	if _, err := ep.GetRemoteAddress(); err != nil { // It sends to no certain socket.
		return file, nil
	}
	for other := range f.holder {
		o, ok := other.Impl().(*unix.Socket)
		if !ok {
			continue
		}
		if _, stype, _ := o.Type(); stype != linux.SOCK_DGRAM || !joined(s, o) {
			continue
		}
		peer, err := f.file(other)
		if err != nil {
			return nil, err
		}
		return file, f.sendsTo(file, peer, shut)
	}
	// It is closed, or somebody else's: the copy finds that nobody is there.
	gone, serr := socket.New(f.creator(old), linux.AF_UNIX, linux.SOCK_DGRAM, 0)
	if serr != nil {
		return nil, sockErr(serr, "make a socket")
	}
	defer gone.DecRef(f.ctx)
	return file, f.sendsTo(file, gone, shut)
}

// sendsTo has a socket send to another, and take nothing itself if it is shut.
func (f *fileCopier) sendsTo(file, peer *vfs.FileDescription, shut bool) error {
	to, ok := ep2(peer).(transport.BoundEndpoint)
	if !ok {
		return errdefs.New(errdefs.Internal, "a socket cannot be sent to", errdefs.Op("clone"))
	}
	if err := sockErr(ep2(file).Connect(f.ctx, to), "connect a socket"); err != nil || !shut {
		return err
	}
	return sockErr(ep2(file).Shutdown(tcpip.ShutdownRead), "shut a socket")
}

// letters has the copy of a socket hold what waits in the original, which holds it
// again.
func (f *fileCopier) letters(old, file *vfs.FileDescription) error {
	all := f.drain(ep2(old))
	var own []queued
	var err error
	for _, m := range all {
		var o queued
		if o, err = f.mine(m, f.creator(old)); err != nil {
			break
		}
		o.from = m.from
		own = append(own, o)
	}
	if err2 := f.post(old, all); err == nil {
		err = err2
	}
	if err == nil {
		err = f.post(file, own)
	}
	return err
}

// post sends messages to a socket, from whoever sent them.
func (f *fileCopier) post(to *vfs.FileDescription, all []queued) error {
	if len(all) == 0 {
		return nil
	}
	sender, serr := ep2(to).(transport.BoundEndpoint).UnidirectionalConnect(f.ctx)
	if serr != nil {
		return sockErr(serr, "put back what was in a socket")
	}
	defer sender.Release(f.ctx)
	// What was there may be more than it takes by now.
	limit, room := sender.SendMaxQueueSize(), int64(0)
	for _, m := range all {
		room += int64(len(m.data))
	}
	sender.SetSendBufferSize(limit + room)
	defer sender.SetSendBufferSize(limit)
	for _, m := range all {
		_, notify, serr := sender.Send(f.ctx, [][]byte{m.data}, m.control, m.from)
		if serr != nil {
			return sockErr(serr, "put back what was in a socket")
		}
		if notify {
			sender.NotifyDataReady()
		}
	}
	return nil
}
