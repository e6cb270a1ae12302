package sentry

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/socket"
	"gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Datagrams of UDP that wait in a socket can only be seen by reading them. They are
// put back, and into the copy's socket, as packets that arrive.

// datagram is one that waits, with what its headers said.
type datagram struct {
	data     []byte
	from, to tcpip.FullAddress
	tos, ttl uint8
}

// copyDatagrams has the copy of a socket of UDP hold what waits in the original.
func (f *fileCopier) copyDatagrams(old, file *vfs.FileDescription) error {
	s, n := old.Impl().(socket.Socket), file.Impl().(socket.Socket)
	if s.Readiness(waiter.ReadableEvents)&waiter.ReadableEvents == 0 {
		return nil
	}
	from := udpEndpoint(f.c.src.network(), s, f.src(old))
	to := udpEndpoint(f.c.dst.network(), n, f.creator(old))
	if from == nil || to == nil {
		return f.busy("a datagram waits in a socket whose address others have as well")
	}
	all := takeDatagrams(from)
	deliver(from, all)
	deliver(to, all)
	return nil
}

// udpEndpoint returns the end of a socket in a stack; nil if it is not known which of
// several it is.
func udpEndpoint(of inet.Stack, s socket.Socket, t *kernel.Task) tcpip.Endpoint {
	n, ok := of.(*netstack.Stack)
	if !ok {
		return nil
	}
	family, _, _ := s.Type()
	proto := header.IPv4ProtocolNumber
	if family == linux.AF_INET6 {
		proto = header.IPv6ProtocolNumber
	}
	name, _, serr := s.GetSockName(t)
	if serr != nil {
		return nil
	}
	want := flow{at: plain(addrPort(name))}
	if to, _, err := s.GetPeerName(t); err == nil {
		want.to = plain(addrPort(to))
	}
	var found []tcpip.Endpoint
	for _, e := range n.Stack.RegisteredEndpoints() {
		ep, ok := e.(tcpip.Endpoint)
		if !ok || slices.Contains(found, ep) {
			continue
		}
		info, ok := ep.Info().(*stack.TransportEndpointInfo)
		if !ok || info.TransProto != header.UDPProtocolNumber || info.NetProto != proto {
			continue
		}
		var w flow
		if at, err := ep.GetLocalAddress(); err == nil {
			w.at = fullPort(at)
		}
		if to, err := ep.GetRemoteAddress(); err == nil {
			w.to = fullPort(to)
		}
		if w == want {
			found = append(found, ep)
		}
	}
	if len(found) != 1 {
		return nil
	}
	return found[0]
}

// fullPort is an address of the stack's.
func fullPort(a tcpip.FullAddress) netip.AddrPort {
	at, _ := netip.AddrFromSlice(a.Addr.AsSlice())
	return plain(netip.AddrPortFrom(at.Unmap(), a.Port))
}

// plain is a without an address if that is any.
func plain(a netip.AddrPort) netip.AddrPort {
	if a.Addr().IsUnspecified() {
		return netip.AddrPortFrom(netip.Addr{}, a.Port())
	}
	return a
}

// takeDatagrams reads everything that waits at an end.
func takeDatagrams(ep tcpip.Endpoint) (all []datagram) {
	o := ep.SocketOptions()
	if last := ep.LastError(); last != nil { // It would be told instead.
		defer o.SetLastError(last)
	}
	for _, x := range []struct {
		get func() bool
		set func(bool)
	}{
		{o.GetReceiveOriginalDstAddress, o.SetReceiveOriginalDstAddress}, {o.GetReceiveTOS, o.SetReceiveTOS}, {o.GetReceiveTTL, o.SetReceiveTTL},
		{o.GetReceiveTClass, o.SetReceiveTClass}, {o.GetReceiveHopLimit, o.SetReceiveHopLimit},
	} {
		if !x.get() {
			x.set(true)
			defer x.set(false)
		}
	}
	for {
		var buf bytes.Buffer
		got, err := ep.Read(&buf, tcpip.ReadOptions{NeedRemoteAddr: true})
		if _, bad := err.(*tcpip.ErrBadBuffer); err != nil && !(bad && got.Total == 0) { // That is one without anything in it.
			return all
		}
		m := got.ControlMessages
		d := datagram{data: buf.Bytes(), from: got.RemoteAddr, to: m.OriginalDstAddress, tos: m.TOS, ttl: m.TTL}
		if d.from.Addr.Len() == header.IPv6AddressSize {
			d.tos, d.ttl = uint8(m.TClass), m.HopLimit
		}
		all = append(all, d)
	}
}

// deliver has datagrams arrive at an end, which has room for them.
func deliver(ep tcpip.Endpoint, all []datagram) {
	to, ok := ep.(stack.TransportEndpoint)
	if !ok || len(all) == 0 {
		return
	}
	o, room := ep.SocketOptions(), int64(1)
	for _, d := range all {
		room += int64(len(d.data))
	}
	size := o.GetReceiveBufferSize()
	o.SetReceiveBufferSize(size+room, false)
	defer o.SetReceiveBufferSize(size, false)
	for _, d := range all {
		pkt := d.packet()
		to.HandlePacket(stack.TransportEndpointID{
			LocalPort: d.to.Port, LocalAddress: d.to.Addr, RemotePort: d.from.Port, RemoteAddress: d.from.Addr,
		}, pkt)
		pkt.DecRef()
	}
}

// packet is the datagram with headers, as far as they are looked at.
func (d datagram) packet() *stack.PacketBuffer {
	six := d.from.Addr.Len() == header.IPv6AddressSize
	size, proto := header.IPv4MinimumSize, header.IPv4ProtocolNumber
	if six {
		size, proto = header.IPv6MinimumSize, header.IPv6ProtocolNumber
	}
	raw := make([]byte, size+header.UDPMinimumSize, size+header.UDPMinimumSize+len(d.data))
	length := uint16(header.UDPMinimumSize + len(d.data))
	if six {
		header.IPv6(raw).Encode(&header.IPv6Fields{
			TrafficClass: d.tos, PayloadLength: length, TransportProtocol: header.UDPProtocolNumber, HopLimit: d.ttl, SrcAddr: d.from.Addr, DstAddr: d.to.Addr,
		})
	} else {
		header.IPv4(raw).Encode(&header.IPv4Fields{
			TOS: d.tos, TotalLength: uint16(size) + length, TTL: d.ttl, Protocol: uint8(header.UDPProtocolNumber), SrcAddr: d.from.Addr, DstAddr: d.to.Addr,
		})
	}
	udp := raw[size:]
	binary.BigEndian.PutUint16(udp[0:], d.from.Port)
	binary.BigEndian.PutUint16(udp[2:], d.to.Port)
	binary.BigEndian.PutUint16(udp[4:], length)
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(append(raw, d.data...))})
	pkt.NetworkHeader().Consume(size)
	pkt.TransportHeader().Consume(header.UDPMinimumSize)
	pkt.NetworkProtocolNumber, pkt.TransportProtocolNumber = proto, header.UDPProtocolNumber
	pkt.NICID, pkt.RXChecksumValidated = d.from.NIC, true
	return pkt
}
