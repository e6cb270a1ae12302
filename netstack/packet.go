package netstack

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"aios.dev/aios/sentry/irq"
)

// Packet is one packet of many: what its headers say. Its contents are not in it.
type Packet struct {
	// In tells what comes from what goes.
	In        bool
	Interface string
	// Network and Protocol are names such as "ipv4" and "tcp", or numbers.
	Network, Protocol string
	// From and To are addresses, with ports if the protocol has any.
	From, To string
	// Length is that of the packet, in bytes, without the header of the link.
	Length int
	// Hops are left to it.
	Hops int
	// Flags are those of TCP, such as "SYN|ACK".
	Flags string
	// Sampled is for how many packets this one stands.
	Sampled uint64
}

// Rate of samples of one port: so many at once, then one each sampleEvery.
const (
	sampleBurst = 50
	sampleEvery = 10 * time.Millisecond
)

// meter says which packets of a port are told.
type meter struct {
	lock  sync.Mutex
	until time.Duration // to when what was told is paid for
	since uint64        // packets since the last that was told
	began bool
	now   tcpip.MonotonicTime // when it began
}

// sample counts a packet, and returns for how many it stands if it is told.
func (m *meter) sample(now tcpip.MonotonicTime) (n uint64, ok bool) {
	m.lock.Lock()
	defer m.lock.Unlock()
	if !m.began {
		m.began, m.now = true, now
	}
	at := now.Sub(m.now)
	m.since++
	m.until = max(m.until, at)
	if m.until-at > (sampleBurst-1)*sampleEvery {
		return 0, false
	}
	m.until += sampleEvery
	n, m.since = m.since, 0
	return n, true
}

// Tap has OnPacket hear of packets, or no longer.
func (c *Creator) Tap(on bool) { c.tapped.Store(on && c.OnPacket != nil) }

// tap tells of a packet, if its turn has come.
func (p *port) tap(src *irq.Source, in bool, protocol tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	if src == nil {
		return
	}
	n, ok := p.sample(p.c.Clock.NowMonotonic())
	if !ok {
		return
	}
	whole := pkt.ToBuffer()
	defer whole.Release()
	link := int64(len(pkt.LinkHeader().Slice()))
	var head [headBytes]byte
	got, _ := whole.ReadAt(head[:], link) // It may be shorter.
	told := readHeaders(protocol, head[:got], int(whole.Size()-link))
	told.In, told.Interface, told.Sampled = in, loopbackName, n
	p.c.OnPacket(src, told)
}

// headBytes is how much of a packet is looked at: the longest header of IPv4 and
// the beginning of that of TCP.
const headBytes = 60 + 20

// readHeaders says what a packet that begins with head is, as far as that is
// there. Anything may be in it.
func readHeaders(protocol tcpip.NetworkProtocolNumber, head []byte, length int) Packet {
	p := Packet{Length: length}
	var transport uint8
	var from, to netip.Addr
	var rest []byte
	switch protocol {
	case header.IPv4ProtocolNumber:
		p.Network = "ipv4"
		if len(head) < header.IPv4MinimumSize {
			return p
		}
		h := header.IPv4(head)
		from, to = netip.AddrFrom4(h.SourceAddress().As4()), netip.AddrFrom4(h.DestinationAddress().As4())
		p.Hops, transport = int(h.TTL()), h.Protocol()
		if n := int(h.HeaderLength()); n >= header.IPv4MinimumSize && n <= len(head) && h.FragmentOffset() == 0 {
			rest = head[n:]
		}
	case header.IPv6ProtocolNumber:
		p.Network = "ipv6"
		if len(head) < header.IPv6MinimumSize {
			return p
		}
		h := header.IPv6(head)
		from, to = netip.AddrFrom16(h.SourceAddress().As16()), netip.AddrFrom16(h.DestinationAddress().As16())
		p.Hops, transport = int(h.HopLimit()), h.NextHeader()
		rest = head[header.IPv6MinimumSize:]
	case header.ARPProtocolNumber:
		p.Network = "arp"
		return p
	default:
		p.Network = "0x" + strconv.FormatUint(uint64(protocol), 16)
		return p
	}
	p.From, p.To = from.String(), to.String()
	ports := func(name string) {
		p.Protocol = name
		if len(rest) >= 4 {
			p.From = netip.AddrPortFrom(from, binary.BigEndian.Uint16(rest)).String()
			p.To = netip.AddrPortFrom(to, binary.BigEndian.Uint16(rest[2:])).String()
		}
	}
	switch tcpip.TransportProtocolNumber(transport) {
	case header.TCPProtocolNumber:
		if ports("tcp"); len(rest) > header.TCPFlagsOffset {
			p.Flags = tcpFlags(rest[header.TCPFlagsOffset])
		}
	case header.UDPProtocolNumber:
		ports("udp")
	case header.ICMPv4ProtocolNumber:
		p.Protocol = "icmp"
	case header.ICMPv6ProtocolNumber:
		p.Protocol = "icmpv6"
	default:
		p.Protocol = strconv.Itoa(int(transport))
	}
	return p
}

// tcpFlags names the flags of a segment.
func tcpFlags(bits uint8) string {
	var names []string
	for i, name := range []string{"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"} {
		if bits&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, "|")
}
