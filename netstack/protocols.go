package netstack

import (
	"context"

	"gvisor.dev/gvisor/pkg/state"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// What a network protocol knows is of interfaces, addresses, routes and packets on
// their way, of which nothing is in a checkpoint: so of the protocol there is not,
// either, and Reconfigure makes another. IPv4 alone would be more than two thousand
// objects in each stack, most of them numbers of packets.

// ip4 is IPv4 in a stack, and ip6 is IPv6.
type (
	ip4 struct{ anyIPv4 }
	ip6 struct{ anyIPv6 }
)

// anyIPv4 is what gVisor's IPv4 can do, and anyIPv6 the same of IPv6.
type (
	anyIPv4 interface {
		stack.MulticastForwardingNetworkProtocol
		stack.RejectIPv4WithHandler
	}
	anyIPv6 interface {
		stack.MulticastForwardingNetworkProtocol
		stack.RejectIPv6WithHandler
	}
)

func newIPv4(s *stack.Stack) stack.NetworkProtocol {
	p := &ip4{}
	p.renew(s)
	return p
}

func newIPv6(s *stack.Stack) stack.NetworkProtocol {
	p := &ip6{}
	p.renew(s)
	return p
}

func (p *ip4) renew(s *stack.Stack) { p.anyIPv4 = ipv4.NewProtocol(s).(anyIPv4) }

func (p *ip6) renew(s *stack.Stack) { p.anyIPv6 = ipv6.NewProtocol(s).(anyIPv6) }

// renewProtocols has a stack that was loaded know no interface.
func renewProtocols(s *stack.Stack) error {
	for _, n := range []tcpip.NetworkProtocolNumber{ipv4.ProtocolNumber, ipv6.ProtocolNumber} {
		p, ok := s.NetworkProtocolInstance(n).(interface{ renew(*stack.Stack) })
		if !ok {
			return failed("restore", &tcpip.ErrUnknownProtocol{})
		}
		p.renew(s)
	}
	return nil
}

// StateTypeName implements state.Type.
func (*ip4) StateTypeName() string { return "aios/netstack.ip4" }

// StateFields implements state.Type.
func (*ip4) StateFields() []string { return nil }

// StateSave implements state.SaverLoader.
func (*ip4) StateSave(state.Sink) {}

// StateLoad implements state.SaverLoader.
func (*ip4) StateLoad(context.Context, state.Source) {}

// StateTypeName implements state.Type.
func (*ip6) StateTypeName() string { return "aios/netstack.ip6" }

// StateFields implements state.Type.
func (*ip6) StateFields() []string { return nil }

// StateSave implements state.SaverLoader.
func (*ip6) StateSave(state.Sink) {}

// StateLoad implements state.SaverLoader.
func (*ip6) StateLoad(context.Context, state.Source) {}

func init() {
	state.Register((*ip4)(nil))
	state.Register((*ip6)(nil))
}
