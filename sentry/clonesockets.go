package sentry

import (
	"encoding/binary"
	"path"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/marshal"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/socket"
	"gvisor.dev/gvisor/pkg/sentry/socket/control"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix/transport"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/syserr"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"

	"aios.dev/aios/errdefs"
)

// Sockets in a copy: what listens, listens; a pair of the agent's own is made
// anew with what is in it; a connection to somebody else stays the original's, and
// is reset in the copy.

// socketCopier is the part of a fileCopier that copies sockets.
type socketCopier struct {
}

// busy says that an agent has to run on for a moment before it is copied.
func (f *fileCopier) busy(why string) error {
	f.c.f.busy = why
	return errdefs.New(errdefs.WrongState, why, errdefs.Op("clone"))
}

// copy returns the copy of a socket; ok is false if old is none.
func (x *socketCopier) copy(f *fileCopier, old *vfs.FileDescription) (file *vfs.FileDescription, ok bool, err error) {
	s, ok := old.Impl().(socket.Socket)
	if !ok {
		return nil, false, nil
	}
	if u, ok := s.(*unix.Socket); ok {
		file, err = f.copyUnix(old, u)
	} else {
		file, err = f.copyInet(old, s)
	}
	return file, true, err
}

func sockErr(err *syserr.Error, op string) error {
	if err == nil {
		return nil
	}
	return errdefs.Wrap(err.ToError(), errdefs.Internal, op)
}

// queued is what waits in a socket.
type queued struct {
	data    []byte
	control transport.ControlMessages
	from    transport.Address
}

// socketRoom is more than any message has.
const socketRoom = 4 << 20

// drain takes everything out of an endpoint.
func (f *fileCopier) drain(ep transport.Endpoint) (all []queued) {
	if last := ep.LastError(); last != nil { // That would be told instead of the end.
		defer ep.SocketOptions().SetLastError(last)
	}
	buf := make([]byte, socketRoom)
	for {
		// One by one, or files of one would come with what was sent before it.
		next, _, err := ep.RecvMsg(f.ctx, [][]byte{buf}, transport.RecvArgs{Creds: true, NumRights: 1 << 10, Peek: true})
		if err != nil {
			return all
		}
		next.Control.Release(f.ctx)
		out, notify, err := ep.RecvMsg(f.ctx, [][]byte{buf[:next.RecvLen]}, transport.RecvArgs{Creds: true, NumRights: 1 << 10})
		if notify != nil {
			notify()
		}
		if err != nil {
			return all
		}
		all = append(all, queued{append([]byte(nil), buf[:out.RecvLen]...), out.Control, out.Source})
	}
}

// refill puts messages back into an endpoint's peer, which may have had more of
// them than its queue takes: some of one that was read in part.
func (f *fileCopier) refill(from transport.Endpoint, all []queued) error {
	o, room := from.SocketOptions(), int64(0)
	for _, m := range all {
		room += int64(len(m.data))
	}
	size := o.GetSendBufferSize()
	o.SetSendBufferSize(size+room, true)
	defer o.SetSendBufferSize(size, true)
	for _, m := range all {
		for rest := m.data; ; {
			n, notify, err := from.SendMsg(f.ctx, [][]byte{rest}, m.control, nil)
			if notify != nil {
				notify()
			}
			if err != nil {
				return sockErr(err, "put back what was in a socket")
			}
			m.control = transport.ControlMessages{}
			if rest = rest[n:]; len(rest) == 0 {
				break
			}
		}
	}
	return nil
}

// mine returns a message as the copy has it: with the copies of files that it
// carries.
func (f *fileCopier) mine(m queued, sender *kernel.Task) (queued, error) {
	out := queued{data: m.data}
	if m.control.Credentials != nil {
		out.control.Credentials = control.MakeCreds(sender)
	}
	if r, ok := m.control.Rights.(*control.RightsFiles); ok && r != nil {
		var files control.RightsFiles
		for _, file := range *r {
			if f.holder[file] == nil {
				f.holder[file] = f.c.f.head
			}
			n, err := f.file(file)
			if err != nil {
				return out, err
			}
			n.IncRef()
			files = append(files, n)
		}
		out.control.Rights = &files
	}
	return out, nil
}

// creator is the task of the copy in whose name a file is made.
func (f *fileCopier) creator(old *vfs.FileDescription) *kernel.Task {
	if tw := f.holder[old]; tw != nil {
		return tw.new
	}
	return f.c.f.head.new
}

// copyUnix copies a socket of AF_UNIX.
func (f *fileCopier) copyUnix(old *vfs.FileDescription, s *unix.Socket) (*vfs.FileDescription, error) {
	ep := s.Endpoint()
	_, stype, proto := s.Type()
	if listens, ok := ep.(interface{ Listening() bool }); ok && listens.Listening() {
		if s.Readiness(waiter.ReadableEvents)&waiter.ReadableEvents != 0 {
			return nil, f.busy("a connection of AF_UNIX waits to be accepted")
		}
		file, err := f.bound(old, ep, stype, proto)
		if err == nil {
			err = sockErr(file.Impl().(socket.Socket).Listen(f.creator(old), copyBacklog), "listen")
		}
		return file, err
	}
	if ep.State() == linux.SS_CONNECTED {
		return f.pair(old, s, stype, proto)
	}
	if stype == linux.SOCK_DGRAM {
		return f.datagrams(old, s, proto)
	}
	if size, err := ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption); err == nil && size > 0 {
		return nil, f.busy("a message waits in a socket")
	}
	return f.bound(old, ep, stype, proto)
}

// bound makes a socket of the same name.
func (f *fileCopier) bound(old *vfs.FileDescription, ep transport.Endpoint, stype linux.SockType, proto int) (*vfs.FileDescription, error) {
	t := f.creator(old)
	file, serr := socket.New(t, linux.AF_UNIX, stype, proto)
	if serr != nil {
		return nil, sockErr(serr, "make a socket")
	}
	f.options(old.Impl().(socket.Socket), file.Impl().(socket.Socket), t, unixOptions)
	addr, _ := ep.GetLocalAddress()
	if addr.Addr == "" {
		return file, nil
	}
	var stat linux.Statx
	var pop *vfs.PathOperation
	if addr.Addr[0] != 0 {
		name := addr.Addr
		if !path.IsAbs(name) {
			wd := t.FSContext().WorkingDirectory()
			dir, err := f.c.s.k.VFS().PathnameReachable(f.ctx, f.to, wd)
			wd.DecRef(f.ctx)
			if err != nil {
				return nil, f.refuse(old, "its name is not known any more")
			}
			name = path.Join(dir, name)
		}
		pop = creating(f.to, name)
		var err error
		stat, err = f.c.s.k.VFS().StatAt(f.ctx, f.c.s.creds, pop, &vfs.StatOptions{Mask: linux.STATX_BASIC_STATS})
		if err == nil && stat.Mode&linux.S_IFMT != linux.S_IFSOCK {
			return nil, f.refuse(old, "the name of the socket is that of another file now")
		}
		if err != nil { // It was removed: the socket stays, nobody finds it.
			if err := sockErr(ep2(file).Bind(addr), "name a socket"); err != nil {
				return nil, err
			}
			return file, nil
		}
		f.c.s.k.VFS().UnlinkAt(f.ctx, f.c.s.creds, pop)
		addr.Addr = name
	}
	raw := binary.LittleEndian.AppendUint16(nil, linux.AF_UNIX)
	raw = append(raw, addr.Addr...)
	if addr.Addr[0] != 0 {
		raw = append(raw, 0)
	}
	if err := file.Impl().(socket.Socket).Bind(t, raw); err != nil {
		return nil, sockErr(err, "name a socket")
	}
	if pop != nil {
		f.c.s.k.VFS().SetStatAt(f.ctx, f.c.s.creds, pop, &vfs.SetStatOptions{Stat: linux.Statx{
			Mask: linux.STATX_MODE | linux.STATX_UID | linux.STATX_GID, Mode: stat.Mode & 0o7777, UID: stat.UID, GID: stat.GID,
		}})
	}
	return file, nil
}

func ep2(file *vfs.FileDescription) transport.Endpoint { return file.Impl().(*unix.Socket).Endpoint() }

// pair makes a connected pair anew, with what is in both.
func (f *fileCopier) pair(old *vfs.FileDescription, s *unix.Socket, stype linux.SockType, proto int) (*vfs.FileDescription, error) {
	t := f.creator(old)
	a, b, serr := socket.Pair(t, linux.AF_UNIX, stype, proto)
	if serr != nil {
		return nil, sockErr(serr, "make a pair of sockets")
	}
	f.options(s, a.Impl().(socket.Socket), t, unixOptions)
	peer, err := f.peer(old, s)
	if err != nil {
		a.DecRef(f.ctx)
		b.DecRef(f.ctx)
		return nil, err
	}
	if peer == nil { // Closed, or of somebody else.
		f.endings = append(f.endings, func() { b.DecRef(f.ctx) })
		if s.Readiness(waiter.EventHUp)&waiter.EventHUp == 0 {
			return a, nil // The copy finds that the other has gone.
		}
		return a, f.leftOver(old, a, b, t)
	}
	f.files[old], f.files[peer] = a, b
	ps := peer.Impl().(*unix.Socket)
	f.options(ps, b.Impl().(socket.Socket), t, unixOptions)
	b.SetStatusFlags(f.ctx, f.c.s.creds, peer.StatusFlags())
	for _, way := range []struct {
		reader    *unix.Socket
		file, own *vfs.FileDescription // of the reader
		sender    *vfs.FileDescription
		old, new  transport.Endpoint // of the sender
	}{{s, old, a, b, ps.Endpoint(), ep2(b)}, {ps, peer, b, a, s.Endpoint(), ep2(a)}} {
		if way.reader.Readiness(waiter.EventRdHUp)&waiter.EventRdHUp != 0 { // Nothing can be put back.
			if err := f.leftOver(way.file, way.own, way.sender, t); err != nil {
				return nil, err
			}
			way.new.Shutdown(tcpip.ShutdownWrite)
			continue
		}
		all := f.drain(way.reader.Endpoint())
		var own []queued
		var err error
		for _, m := range all {
			var o queued
			if o, err = f.mine(m, t); err != nil {
				break
			}
			own = append(own, o)
		}
		// In any case the original has its own again; that empties what it carries.
		if err2 := f.refill(way.old, all); err == nil {
			err = err2
		}
		if err == nil {
			err = f.refill(way.new, own)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, x := range []struct{ old, new transport.Endpoint }{{s.Endpoint(), ep2(a)}, {ps.Endpoint(), ep2(b)}} {
		if addr, err := x.old.GetLocalAddress(); err == nil && addr.Addr != "" {
			x.new.Bind(addr) // That is what it is called; nobody finds it by that.
		}
	}
	return a, nil
}

// leftOver copies what waits in old, whose peer sends no more, to file by way of from.
func (f *fileCopier) leftOver(old, file, from *vfs.FileDescription, t *kernel.Task) error {
	ep := ep2(old)
	r := f.remains[old]
	if r == nil {
		size, _ := ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
		buf := make([]byte, max(size, 1))
		out, notify, serr := ep.RecvMsg(f.ctx, [][]byte{buf}, transport.RecvArgs{Creds: true, NumRights: 1 << 10, Peek: true})
		if notify != nil {
			notify()
		}
		r = &remains{reset: serr == syserr.ErrConnectionReset}
		if serr == nil {
			defer out.Control.Release(f.ctx)
			if out.RecvLen != int64(size) {
				return f.busy("a socket whose other end is shut down holds several messages, and is held by more than the agent's processes")
			}
			r.all = []queued{{data: buf[:size], control: out.Control}}
		}
	}
	var own []queued
	for _, m := range r.all {
		o, err := f.mine(m, t)
		if err != nil {
			return err
		}
		own = append(own, o)
	}
	if r.reset { // So it is if not all was read at the other end.
		f.endings = append([]func(){func() { ep2(file).SendMsg(f.ctx, [][]byte{{0}}, transport.ControlMessages{}, nil) }}, f.endings...)
	}
	return f.refill(ep2(from), own)
}

// copyInet copies a socket of another family.
func (f *fileCopier) copyInet(old *vfs.FileDescription, s socket.Socket) (*vfs.FileDescription, error) {
	family, stype, proto := s.Type()
	t := f.creator(old)
	file, serr := socket.New(t, family, stype, proto)
	if serr != nil {
		return nil, f.refuse(old, "its kind of socket cannot be made again")
	}
	n := file.Impl().(socket.Socket)
	tcp := stype == linux.SOCK_STREAM && (family == linux.AF_INET || family == linux.AF_INET6)
	if tcp {
		switch s.State() {
		case linux.TCP_LISTEN, linux.TCP_CLOSE:
		default:
			file.DecRef(f.ctx)
			return f.resetSocket(old, s, family)
		}
	}
	if family == linux.AF_INET || family == linux.AF_INET6 {
		f.options(s, n, t, inetOptions)
	}
	name, size, serr := s.GetSockName(f.src(old))
	if serr == nil && hasName(name) {
		if err := n.Bind(t, address(name, size)); err != nil && family != linux.AF_NETLINK {
			return nil, sockErr(err, "name a socket")
		}
	}
	switch {
	case tcp && s.State() == linux.TCP_LISTEN:
		return file, sockErr(n.Listen(t, copyBacklog), "listen")
	case !tcp && family != linux.AF_NETLINK:
		if to, size, err := s.GetPeerName(f.src(old)); err == nil {
			if err := n.Connect(t, address(to, size), false); err != nil {
				return file, nil // The copy has no way there; the program hears of it when it sends.
			}
		}
	}
	if stype == linux.SOCK_DGRAM && (family == linux.AF_INET || family == linux.AF_INET6) && (proto == 0 || proto == linux.IPPROTO_UDP) {
		return file, f.copyDatagrams(old, file)
	}
	return file, nil
}

// src is a task of the original that has the file.
func (f *fileCopier) src(old *vfs.FileDescription) *kernel.Task {
	if tw := f.holder[old]; tw != nil {
		return tw.old
	}
	return f.c.f.head.old
}

// hasName reports whether an address says more than its family.
func hasName(a linux.SockAddr) bool {
	switch a := a.(type) {
	case *linux.SockAddrInet:
		return a.Port != 0
	case *linux.SockAddrInet6:
		return a.Port != 0
	case *linux.SockAddrNetlink:
		return a.PortID != 0 || a.Groups != 0
	case *linux.SockAddrLink:
		return a.Protocol != 0
	}
	return false
}

func address(a linux.SockAddr, size uint32) []byte {
	raw := marshal.Marshal(a.(marshal.Marshallable))
	return raw[:min(int(size), len(raw))]
}

// resetSocket makes a connection that the other side has reset.
func (f *fileCopier) resetSocket(old *vfs.FileDescription, s socket.Socket, family int) (*vfs.FileDescription, error) {
	t := f.creator(old)
	fail := func(err *syserr.Error) (*vfs.FileDescription, error) {
		return nil, sockErr(err, "make a connection that is reset")
	}
	l, err := socket.New(t, linux.AF_INET, linux.SOCK_STREAM, 0)
	if err != nil {
		return fail(err)
	}
	defer l.DecRef(f.ctx)
	listener := l.Impl().(socket.Socket)
	local := &linux.SockAddrInet{Family: linux.AF_INET, Addr: [4]byte{127, 0, 0, 1}}
	if err := listener.Bind(t, address(local, 16)); err != nil {
		return fail(err)
	}
	if err := listener.Listen(t, 1); err != nil {
		return fail(err)
	}
	at, size, err := listener.GetSockName(t)
	if err != nil {
		return fail(err)
	}
	to := address(at, size)
	if family == linux.AF_INET6 {
		in := at.(*linux.SockAddrInet)
		six := &linux.SockAddrInet6{Family: linux.AF_INET6, Port: in.Port}
		copy(six.Addr[10:], []byte{0xff, 0xff, 127, 0, 0, 1})
		to = address(six, 28)
	}
	file, err := socket.New(t, family, linux.SOCK_STREAM, 0)
	if err != nil {
		return fail(err)
	}
	c := file.Impl().(socket.Socket)
	f.options(s, c, t, inetOptions)
	c.Connect(t, to, false)                  // It is under way.
	f.endings = append(f.endings, func() {}) // The listener ends, and with it the connection.
	return file, nil
}

// copyBacklog is how many connections may wait at a socket of a copy: how many may
// at the original's is not known.
const copyBacklog = 4096

type sockOption struct{ level, name, size int }

var unixOptions = []sockOption{
	{linux.SOL_SOCKET, linux.SO_PASSCRED, 4}, {linux.SOL_SOCKET, linux.SO_SNDBUF, 4}, {linux.SOL_SOCKET, linux.SO_RCVTIMEO, 16}, {linux.SOL_SOCKET, linux.SO_SNDTIMEO, 16},
}

var inetOptions = []sockOption{
	{linux.SOL_SOCKET, linux.SO_REUSEADDR, 4}, {linux.SOL_SOCKET, linux.SO_REUSEPORT, 4}, {linux.SOL_SOCKET, linux.SO_KEEPALIVE, 4},
	{linux.SOL_SOCKET, linux.SO_BROADCAST, 4}, {linux.SOL_SOCKET, linux.SO_LINGER, 8}, {linux.SOL_SOCKET, linux.SO_OOBINLINE, 4},
	{linux.SOL_SOCKET, linux.SO_RCVTIMEO, 16}, {linux.SOL_SOCKET, linux.SO_SNDTIMEO, 16},
	{linux.SOL_IPV6, linux.IPV6_V6ONLY, 4}, {linux.SOL_IP, linux.IP_TTL, 4}, {linux.SOL_IP, linux.IP_TOS, 4},
	{linux.SOL_TCP, linux.TCP_NODELAY, 4}, {linux.SOL_TCP, linux.TCP_CORK, 4}, {linux.SOL_TCP, linux.TCP_QUICKACK, 4},
	{linux.SOL_TCP, linux.TCP_KEEPIDLE, 4}, {linux.SOL_TCP, linux.TCP_KEEPINTVL, 4}, {linux.SOL_TCP, linux.TCP_KEEPCNT, 4},
	{linux.SOL_TCP, linux.TCP_USER_TIMEOUT, 4}, {linux.SOL_TCP, linux.TCP_DEFER_ACCEPT, 4},
}

// options gives a socket the options of another, as far as it has them.
func (f *fileCopier) options(from, to socket.Socket, t *kernel.Task, list []sockOption) {
	for _, o := range list {
		v, err := from.GetSockOpt(t, o.level, o.name, 0, o.size)
		if err != nil || v == nil {
			continue
		}
		raw := marshal.Marshal(v)
		if o.name == linux.SO_SNDBUF && o.level == linux.SOL_SOCKET && len(raw) == 4 { // It is doubled when it is set.
			binary.LittleEndian.PutUint32(raw, binary.LittleEndian.Uint32(raw)/2)
		}
		to.SetSockOpt(t, o.level, o.name, raw)
	}
	to.SetRecvTimeout(from.RecvTimeout())
	to.SetSendTimeout(from.SendTimeout())
}
