package sentry

import (
	"bytes"
	"net/netip"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/marshal/primitive"
	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/socket"
	"gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/syserr"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// TCP connections of which the agent has both ends are made anew in the copy's own
// network, under the same addresses, with what has arrived and was not read.
// Nothing may be on its way at that moment: the endpoints of the original say when
// all that was sent has been acknowledged.

const (
	// onItsWay is how long what was sent is waited for. It arrives within
	// microseconds unless its receiver has no room for it.
	onItsWay = 2 * time.Millisecond
	// settling bounds how long a connection within the copy takes to be made, and
	// what is put into it to arrive.
	settling = 200 * time.Millisecond
	// moreRoom is what a receiver can take beyond what its sender may hold, with what
	// packets cost.
	moreRoom = 1 << 20
	// pollTCP is the time between the first two looks at an endpoint, and mostPoll
	// the longest between two. An endpoint tells nobody when the last of what it has
	// sent is acknowledged.
	pollTCP, mostPoll = 20 * time.Microsecond, 640 * time.Microsecond
)

// flow is one direction of a connection: its sender and its receiver.
type flow struct {
	at, to netip.AddrPort
}

func (w flow) reverse() flow { return flow{w.to, w.at} }

// tcpEnd is one end of a connection.
type tcpEnd struct {
	flow  flow
	file  *vfs.FileDescription // nil if nobody has it open any more
	sock  socket.Socket
	ep    tcpip.Endpoint // nil if the stack has forgotten it
	waits []byte         // what it has not read
	// backlog says that it is a server's end that waits to be accepted.
	backlog bool
}

// wanted reports whether the copy has the end.
func (e *tcpEnd) wanted() bool { return e.file != nil || e.backlog }

// tcpPair are the two ends of a connection, and what listens at the server's address.
type tcpPair struct {
	client, server *tcpEnd
	listeners      []*vfs.FileDescription
}

// connections makes anew what TCP connections there are within the agent.
func (f *fileCopier) connections() error {
	ends, listeners, err := f.tcpEnds()
	if err != nil || len(ends)+len(listeners) == 0 {
		return err
	}
	of := endpoints(f.c.src.network())
	if err := f.backlog(ends, listeners, of); err != nil {
		return err
	}
	var pairs []tcpPair
	done := make(map[flow]bool)
	for w, e := range ends {
		e.ep = of[w]
		if done[w] || e.ep == nil {
			continue
		}
		mate := ends[w.reverse()]
		if mate == nil {
			// It may have been closed, and what it had sent wait here.
			at := of[w.reverse()]
			if why := f.coming(e, at, listeners); why != "" {
				return f.busy(why)
			}
			if !w.to.Addr().IsLoopback() || !e.backlog && !hasEnded(e.ep) && (at == nil || !isClosed(at)) {
				continue // It is to somebody else.
			}
			mate = &tcpEnd{flow: w.reverse()}
		}
		if mate.ep = of[mate.flow]; mate.ep == nil && mate.file != nil {
			return f.busy("a connection is ending")
		}
		done[w], done[mate.flow] = true, true
		p := tcpPair{e, mate, f.serving(listeners, mate.flow.at)}
		if at := f.serving(listeners, w.at); len(at) > 0 {
			p = tcpPair{mate, e, at}
		}
		pairs = append(pairs, p)
	}
	for _, p := range pairs {
		if err := f.take(p.client, p.server); err != nil {
			return err
		}
		if err := f.take(p.server, p.client); err != nil {
			return err
		}
	}
	// What is accepted at once finds no other at its listener.
	slices.SortStableFunc(pairs, func(a, b tcpPair) int {
		switch {
		case a.server.backlog == b.server.backlog:
			return 0
		case b.server.backlog:
			return -1
		}
		return 1
	})
	for _, p := range pairs {
		if err := f.connect(p.client, p.server, p.listeners); err != nil {
			return err
		}
	}
	if len(pairs) > 0 {
		of = endpoints(f.c.dst.network())
	}
	for _, p := range pairs {
		if err := f.put(p.client, of[p.client.flow], of[p.server.flow]); err != nil {
			return err
		}
		if err := f.put(p.server, of[p.server.flow], of[p.client.flow]); err != nil {
			return err
		}
	}
	return nil
}

// tcpEnds finds the agent's connections, by who sends and who receives, and the
// sockets at which it listens.
func (f *fileCopier) tcpEnds() (map[flow]*tcpEnd, []*vfs.FileDescription, error) {
	ends := make(map[flow]*tcpEnd)
	var listeners []*vfs.FileDescription
	for file := range f.holder {
		s, ok := file.Impl().(socket.Socket)
		if !ok || !socket.IsTCP(s) {
			continue
		}
		switch s.State() {
		case linux.TCP_LISTEN:
			listeners = append(listeners, file)
		case linux.TCP_SYN_SENT, linux.TCP_SYN_RECV:
			return nil, nil, f.busy("a connection is being made")
		case linux.TCP_CLOSE:
		default:
			at, _, err1 := s.GetSockName(f.src(file))
			to, _, err2 := s.GetPeerName(f.src(file))
			if err1 == nil && err2 == nil {
				w := flow{addrPort(at), addrPort(to)}
				ends[w] = &tcpEnd{flow: w, file: file, sock: s}
			}
		}
	}
	return ends, listeners, nil
}

// endpoints returns the ends of connections that a stack knows, by their flows.
func endpoints(of inet.Stack) map[flow]tcpip.Endpoint {
	all := make(map[flow]tcpip.Endpoint)
	n, ok := of.(*netstack.Stack)
	if !ok {
		return all
	}
	for _, e := range n.Stack.RegisteredEndpoints() {
		ep, ok := e.(tcpip.Endpoint)
		if !ok {
			continue
		}
		info, ok := ep.Info().(*stack.TransportEndpointInfo)
		if !ok || info.TransProto != header.TCPProtocolNumber || info.ID.RemotePort == 0 {
			continue
		}
		at, _ := netip.AddrFromSlice(info.ID.LocalAddress.AsSlice())
		to, _ := netip.AddrFromSlice(info.ID.RemoteAddress.AsSlice())
		all[flow{netip.AddrPortFrom(at.Unmap(), info.ID.LocalPort), netip.AddrPortFrom(to.Unmap(), info.ID.RemotePort)}] = ep
	}
	return all
}

// addrPort is the address of a socket; that of IPv4 whichever family the socket has.
func addrPort(a linux.SockAddr) netip.AddrPort {
	swap := func(p uint16) uint16 { return p<<8 | p>>8 }
	switch a := a.(type) {
	case *linux.SockAddrInet:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), swap(a.Port))
	case *linux.SockAddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), swap(a.Port))
	}
	return netip.AddrPort{}
}

// serving returns the sockets at which a connection to an address may arrive.
func (f *fileCopier) serving(listeners []*vfs.FileDescription, at netip.AddrPort) (found []*vfs.FileDescription) {
	for _, l := range listeners {
		s := l.Impl().(socket.Socket)
		name, _, err := s.GetSockName(f.src(l))
		if err != nil {
			continue
		}
		own := addrPort(name)
		family, _, _ := s.Type()
		switch {
		case own.Port() != at.Port():
		case own.Addr() == at.Addr(),
			own.Addr().IsUnspecified() && (at.Addr().Is4() == (family == linux.AF_INET) || family == linux.AF_INET6 && !f.onlySix(l, s)):
			found = append(found, l)
		}
	}
	return found
}

// onlySix reports whether a socket of IPv6 is for that alone.
func (f *fileCopier) onlySix(file *vfs.FileDescription, s socket.Socket) bool {
	v, err := s.GetSockOpt(f.src(file), linux.SOL_IPV6, linux.IPV6_V6ONLY, 0, 4)
	only, ok := v.(*primitive.Int32)
	return err == nil && ok && *only != 0
}

// until asks every moment, and reports whether the answer was yes in time.
func (f *fileCopier) until(limit time.Duration, yes func() bool) bool {
	clock := f.c.s.cfg.Clock
	late := clock.Now().Add(limit)
	for pause := pollTCP; !yes(); pause = min(2*pause, mostPoll) {
		if clock.Now().After(late) {
			return yes()
		}
		nap(clock, pause)
	}
	return true
}

// acknowledged reports whether everything that an endpoint was given to send has
// arrived. What is left is not told; but an endpoint can be written to only if less
// than its buffer holds is left, and a buffer may be of one byte.
func acknowledged(ep tcpip.Endpoint) bool {
	if ep == nil {
		return true
	}
	switch stateOf(ep) {
	case tcp.StateFinWait1, tcp.StateClosing, tcp.StateLastAck: // So is not the end of what it sends.
		return false
	}
	o := ep.SocketOptions()
	size := o.GetSendBufferSize()
	o.SetSendBufferSize(1, false)
	defer o.SetSendBufferSize(size, false)
	return ep.Readiness(waiter.WritableEvents) != 0
}

func stateOf(ep tcpip.Endpoint) tcp.EndpointState { return tcp.EndpointState(ep.State()) }

// hasEnded reports whether the other end of a connection has said that it sends no
// more.
func hasEnded(ep tcpip.Endpoint) bool {
	switch stateOf(ep) {
	case tcp.StateCloseWait, tcp.StateLastAck, tcp.StateClosing, tcp.StateTimeWait:
		return true
	}
	return false
}

// isClosed reports whether an end has said that it sends no more.
func isClosed(ep tcpip.Endpoint) bool {
	switch stateOf(ep) {
	case tcp.StateEstablished, tcp.StateCloseWait:
		return false
	}
	return true
}

// take notes what the receiver has not read, when all that the sender has sent is
// there.
func (f *fileCopier) take(sender, receiver *tcpEnd) error {
	if !receiver.wanted() {
		return nil
	}
	there := func() bool { return acknowledged(sender.ep) }
	if !f.until(onItsWay, there) {
		// Its receiver has no room for it. It gets that, for as long as this takes.
		o := receiver.ep.SocketOptions()
		size := o.GetReceiveBufferSize()
		o.SetReceiveBufferSize(size+moreRoom+4*sender.ep.SocketOptions().GetSendBufferSize(), true)
		ok := f.until(settling, there)
		o.SetReceiveBufferSize(size, false)
		if !ok {
			return f.busy("what was sent on a connection has not arrived")
		}
	}
	var buf bytes.Buffer
	receiver.ep.Read(&buf, tcpip.ReadOptions{Peek: true}) // There may be nothing, or the end.
	receiver.waits = buf.Bytes()
	return nil
}

// fill sends data, whatever the size of the buffer.
func fill(ep tcpip.Endpoint, data []byte) tcpip.Error {
	if len(data) == 0 {
		return nil
	}
	o := ep.SocketOptions()
	size := o.GetSendBufferSize()
	o.SetSendBufferSize(size+2*int64(len(data)), false)
	defer o.SetSendBufferSize(size, false)
	for r := bytes.NewReader(data); r.Len() > 0; {
		if _, err := ep.Write(r, tcpip.WriteOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// connect makes a connection in the copy, from the client to who listens.
func (f *fileCopier) connect(client, server *tcpEnd, listeners []*vfs.FileDescription) error {
	open := client.file
	switch {
	case open != nil:
	case server.file != nil:
		open = server.file
	default:
		open = listeners[0]
	}
	t := f.creator(open)
	from, to, family, err := f.addresses(client, server)
	if err != nil {
		return err
	}
	var at []socket.Socket // where it arrives
	for _, old := range listeners {
		l, err := f.file(old)
		if err != nil {
			return err
		}
		at = append(at, l.Impl().(socket.Socket))
	}
	if len(at) == 0 {
		l, err := f.listenFor(t, family, to)
		if err != nil {
			return err
		}
		defer l.DecRef(f.ctx)
		at = append(at, l.Impl().(socket.Socket))
	}
	a, serr := socket.New(t, family, linux.SOCK_STREAM, 0)
	if serr != nil {
		return sockErr(serr, "make a connection")
	}
	c := a.Impl().(socket.Socket)
	c.SetSockOpt(t, linux.SOL_SOCKET, linux.SO_REUSEADDR, []byte{1, 0, 0, 0})
	if serr = c.Bind(t, from); serr == nil {
		if serr = c.Connect(t, to, false); serr == syserr.ErrConnectStarted {
			serr = nil
		}
	}
	var b *vfs.FileDescription
	switch {
	case serr != nil:
	case server.backlog:
		if !f.arrives(server.flow) {
			serr = syserr.ErrTimedOut
		}
	default:
		b, serr = f.accept(t, at)
	}
	if serr == nil && !f.until(settling, func() bool { return c.State() == linux.TCP_ESTABLISHED }) {
		serr = syserr.ErrTimedOut
	}
	for _, end := range []struct {
		of   *tcpEnd
		file *vfs.FileDescription
	}{{client, a}, {server, b}} {
		switch {
		case end.file == nil:
		case end.of.file == nil:
			f.endings = append(f.endings, func() { end.file.DecRef(f.ctx) })
		default:
			f.files[end.of.file] = end.file
			f.options(end.of.sock, end.file.Impl().(socket.Socket), t, inetOptions)
			end.file.SetStatusFlags(f.ctx, f.c.s.creds, end.of.file.StatusFlags())
		}
	}
	return sockErr(serr, "make a connection")
}

// addresses returns what the client of a connection is called, what the server is,
// and in which family.
func (f *fileCopier) addresses(client, server *tcpEnd) (from, to []byte, family int, err error) {
	own, other := (socket.Socket).GetSockName, (socket.Socket).GetPeerName
	e := client
	switch {
	case client.file != nil:
	case server.file != nil:
		e, own, other = server, other, own
	default:
		from, family = socketAddress(client.flow.at)
		to, _ = socketAddress(server.flow.at)
		return from, to, family, nil
	}
	family, _, _ = e.sock.Type()
	t := f.src(e.file)
	at, size, err1 := own(e.sock, t)
	peer, peerSize, err2 := other(e.sock, t)
	if err1 != nil || err2 != nil {
		return nil, nil, 0, f.busy("a connection is ending")
	}
	return address(at, size), address(peer, peerSize), family, nil
}

// listenFor listens at the address of a server that does so no more.
func (f *fileCopier) listenFor(t *kernel.Task, family int, at []byte) (*vfs.FileDescription, error) {
	l, serr := socket.New(t, family, linux.SOCK_STREAM, 0)
	if serr != nil {
		return nil, sockErr(serr, "make a connection")
	}
	s := l.Impl().(socket.Socket)
	s.SetSockOpt(t, linux.SOL_SOCKET, linux.SO_REUSEADDR, []byte{1, 0, 0, 0})
	if serr = s.Bind(t, at); serr == nil {
		serr = s.Listen(t, 1)
	}
	if serr != nil {
		l.DecRef(f.ctx)
		return nil, sockErr(serr, "make a connection")
	}
	return l, nil
}

// accept returns the other end of the connection that was just made.
func (f *fileCopier) accept(t *kernel.Task, at []socket.Socket) (*vfs.FileDescription, *syserr.Error) {
	var l socket.Socket
	if !f.until(settling, func() bool {
		for _, l = range at {
			if l.Readiness(waiter.ReadableEvents)&waiter.ReadableEvents != 0 {
				return true
			}
		}
		return false
	}) {
		return nil, syserr.ErrTimedOut
	}
	fd, _, _, serr := l.Accept(t, false, 0, false)
	if serr != nil {
		return nil, serr
	}
	return t.FDTable().Remove(f.ctx, fd), nil // The table is filled later.
}

// put gives an end what it has not read, through the other, and ends what the
// original has ended.
func (f *fileCopier) put(e *tcpEnd, ep, mate tcpip.Endpoint) error {
	if ep == nil || mate == nil {
		return f.busy("a connection in the copy has ended")
	}
	if !e.wanted() {
		return nil
	}
	from, to := e.ep.SocketOptions(), ep.SocketOptions()
	if size := from.GetReceiveBufferSize(); size > to.GetReceiveBufferSize() {
		to.SetReceiveBufferSize(size, true)
	}
	to.SetSendBufferSize(from.GetSendBufferSize(), false)
	if err := fill(mate, e.waits); err != nil {
		return sockErr(syserr.TranslateNetstackError(err), "put back what was in a connection")
	}
	// Who was told that something can be read finds it; the rest of what the
	// receiver has no room for stays with the sender.
	was, _ := e.ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
	f.until(settling, func() bool {
		n, err := ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
		return err != nil || n >= min(was, len(e.waits))
	})
	if isClosed(e.ep) {
		f.endings = append(f.endings, func() { ep.Shutdown(tcpip.ShutdownWrite) })
	}
	return nil
}
