// Package netstack gives every agent a network of its own: one TCP/IP stack
// per agent, in the kernel process, sharing nothing with the host or with
// another agent.
//
// A stack has one interface today, lo, with 127.0.0.1/8 and ::1/128: programs
// inside an agent can talk to each other and to nobody else. A port stands in
// front of it: what comes in is counted as interrupts, and can be put off; and
// whoever is interested sees samples of headers.
//
// Creator makes stacks; gVisor's inet.Namespace owns each and destroys it with
// the namespace. The locks of a port are leaves, but for those of sentry/irq.
// Under sentry/ the package may import nothing else.
package netstack

import (
	"net"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/socket/netfilter"
	gvnetstack "gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/sentry/uniqueid"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/link/loopback"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/raw"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
	"aios.dev/aios/sentry/irq"
)

// loopbackName is the name of the interface that every stack has.
const loopbackName = "lo"

// Creator makes the stacks of one kernel. It implements gVisor's
// inet.NetworkStackCreator.
type Creator struct {
	Clock tcpip.Clock
	// Wheel has the timers of all stacks.
	Wheel *ktime.Wheel
	IDs   uniqueid.Provider
	// OnPacket, unless nil, hears of samples of packets while Tap is on. It is
	// called with locks of the stack held.
	OnPacket func(*irq.Source, Packet)

	tapped atomic.Bool
	// still is held for writing while nothing may change in any stack.
	still sync.RWMutex
}

var _ inet.NetworkStackCreator = (*Creator)(nil)

// CreateStack returns a stack whose only interface is lo.
func (c *Creator) CreateStack() (inet.Stack, error) {
	lo := newPort(c, ethernet.New(loopback.New()))
	s := gvnetstack.NewStack(stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{newIPv4, newIPv6, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		Clock:              portClock{c.Clock, lo},
		Stats:              gvnetstack.Metrics,
		HandleLocal:        true,
		RawFactory:         raw.EndpointFactory{},
		DefaultIPTables:    netfilter.DefaultLinuxTables,
	}), c.IDs.UniqueID())
	if err := configure(s.Stack, lo); err != nil {
		s.Stack.Destroy()
		return nil, err
	}
	return s, nil
}

// configure sets what Linux has by default, and brings lo up.
func configure(s *stack.Stack, lo *port) error {
	sack := tcpip.TCPSACKEnabled(true)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &moderate} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return failed("set TCP option", err)
		}
	}
	ttl := tcpip.DefaultTTLOption(gvnetstack.DefaultTTL)
	for _, p := range []tcpip.NetworkProtocolNumber{ipv4.ProtocolNumber, ipv6.ProtocolNumber} {
		if err := s.SetNetworkProtocolOption(p, &ttl); err != nil {
			return failed("set TTL", err)
		}
	}
	id := s.NextNICID()
	if id != linux.LOOPBACK_IFINDEX {
		return errdefs.Newf(errdefs.NetworkFailed, "lo would be interface %d, programs expect %d", id, linux.LOOPBACK_IFINDEX)
	}
	nic := stack.NICOptions{Name: loopbackName, DeliverLinkPackets: true}
	if err := s.CreateNICWithOptions(id, lo, nic); err != nil {
		return failed("create lo", err)
	}
	var routes []tcpip.Route
	for _, a := range []struct {
		proto tcpip.NetworkProtocolNumber
		addr  tcpip.AddressWithPrefix
	}{
		{ipv4.ProtocolNumber, tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4([4]byte{127, 0, 0, 1}), PrefixLen: 8}},
		{ipv6.ProtocolNumber, tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(net.IPv6loopback), PrefixLen: 128}},
	} {
		pa := tcpip.ProtocolAddress{Protocol: a.proto, AddressWithPrefix: a.addr}
		if err := s.AddProtocolAddress(id, pa, stack.AddressProperties{}); err != nil {
			return failed("give lo an address", err)
		}
		routes = append(routes, tcpip.Route{Destination: a.addr.Subnet(), NIC: id})
	}
	s.SetRouteTable(routes)
	return nil
}

func failed(op string, err tcpip.Error) error {
	return errdefs.New(errdefs.NetworkFailed, err.String(), errdefs.Op(op))
}
