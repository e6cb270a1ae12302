package sentry

import (
	"net/netip"
	"slices"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/socket"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Connections that nobody has accepted yet have no file at their server's end. They
// wait at the copy's listeners as at the original's, though not in the same order,
// which no endpoint tells. Those of somebody else's client stay the original's.

// backlog adds the ends of servers that wait to be accepted to those that are open.
func (f *fileCopier) backlog(ends map[flow]*tcpEnd, listeners []*vfs.FileDescription, of map[flow]tcpip.Endpoint) error {
	for w, ep := range of {
		if ends[w] != nil || !w.to.Addr().IsLoopback() {
			continue
		}
		at := f.serving(listeners, w.at)
		if len(at) == 0 {
			continue
		}
		client := of[w.reverse()]
		if client != nil && ends[w.reverse()] == nil && !isClosed(client) {
			continue // It is another agent's.
		}
		switch stateOf(ep) {
		case tcp.StateSynRecv:
			return f.busy("a connection is being made")
		case tcp.StateEstablished, tcp.StateCloseWait:
		default:
			continue
		}
		// A connection of which nobody has a file may also be within a message, or be
		// that of a process that a split leaves behind. And a client's is made before
		// its server's is at the listener.
		switch {
		case f.c.f.split != nil && !slices.ContainsFunc(at, readable):
			continue // One who stays has accepted it.
		case f.c.f.split != nil:
			return f.busy("a connection waits to be accepted")
		case slices.ContainsFunc(at, func(l *vfs.FileDescription) bool { return !readable(l) }):
			return f.busy("a connection is on its way to its listener")
		case f.messagesWait():
			return f.busy("a connection waits to be accepted, or a message that waits may have it")
		}
		ends[w] = &tcpEnd{flow: w, backlog: true}
	}
	return nil
}

// readable reports whether a connection waits at a listener.
func readable(l *vfs.FileDescription) bool {
	return l.Impl().(socket.Socket).Readiness(waiter.ReadableEvents)&waiter.ReadableEvents != 0
}

// messagesWait reports whether a message waits in a socket that may carry files.
func (f *fileCopier) messagesWait() bool {
	for file := range f.holder {
		if s, ok := file.Impl().(*unix.Socket); ok && f.holds(s) {
			return true
		}
	}
	return false
}

// socketAddress is an address as a program gives it, and its family.
func socketAddress(a netip.AddrPort) ([]byte, int) {
	port := a.Port()<<8 | a.Port()>>8
	if a.Addr().Is4() {
		in := &linux.SockAddrInet{Family: linux.AF_INET, Port: port, Addr: a.Addr().As4()}
		return address(in, uint32(in.SizeBytes())), linux.AF_INET
	}
	in := &linux.SockAddrInet6{Family: linux.AF_INET6, Port: port, Addr: a.Addr().As16()}
	return address(in, uint32(in.SizeBytes())), linux.AF_INET6
}

// arrives waits until a connection is at its listener in the copy.
func (f *fileCopier) arrives(w flow) bool {
	return f.until(settling, func() bool {
		ep := endpoints(f.c.dst.network())[w]
		return ep != nil && stateOf(ep) == tcp.StateEstablished
	})
}

// coming says why the other end of a connection, which no file of the agent is known
// to have, may yet be found.
func (f *fileCopier) coming(e *tcpEnd, mate tcpip.Endpoint, listeners []*vfs.FileDescription) (why string) {
	switch {
	case f.c.f.split != nil || e.backlog || !e.flow.to.Addr().IsLoopback():
	case mate == nil && !isClosed(e.ep) && !hasEnded(e.ep) && len(f.serving(listeners, e.flow.to)) > 0:
		return "a connection waits for room at its listener"
	case mate != nil && !isClosed(mate) && f.messagesWait():
		return "a message that waits may have a connection"
	}
	return ""
}
