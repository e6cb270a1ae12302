package netstack

import (
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/inet"
	gvnetstack "gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/link/nested"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"aios.dev/aios/ktime"
	"aios.dev/aios/sentry/irq"
)

// port stands between an interface and its link. A packet that comes in is an
// interrupt: most often it is passed on where it is, by whoever sent it; when it
// is to be put off it waits here, in order, for the worker of a CPU.
type port struct {
	nested.Endpoint
	c *Creator

	// src interrupts, by work where that is put off. nil before the stack is
	// given to anybody.
	src  atomic.Pointer[irq.Source]
	work atomic.Pointer[irq.Work]
	meter

	// waiting counts the packets in queue, and the one that is passed on.
	waiting atomic.Int32

	mu sync.Mutex
	// A ring: count of them from first on. It is made when it is needed first.
	queue []arrival // +checklocks:mu
	first int       // +checklocks:mu
	count int       // +checklocks:mu
	bytes int       // +checklocks:mu
}

// arrival is a packet that waits.
type arrival struct {
	protocol tcpip.NetworkProtocolNumber
	packet   *stack.PacketBuffer
}

// Bounds of what waits at a port. What comes beyond them is dropped, as by a
// network card whose ring is full.
const (
	portPackets = 1000
	portBytes   = 4 << 20
)

func newPort(c *Creator, link stack.LinkEndpoint) *port {
	p := &port{c: c}
	p.Endpoint.Init(link, p)
	return p
}

// Interrupts has the packets and the timers of a stack be interrupts of src. A
// stack that is not ours has none.
func Interrupts(s inet.Stack, src *irq.Source) {
	if p := portOf(s); p != nil {
		p.work.Store(src.NewWork(irq.NetRx, p.poll))
		p.src.Store(src)
	}
}

func portOf(s inet.Stack) *port {
	ns, ok := s.(*gvnetstack.Stack)
	if !ok {
		return nil
	}
	p, _ := ns.Stack.GetLinkEndpointByName(loopbackName).(*port)
	return p
}

// DeliverNetworkPacket implements stack.NetworkDispatcher: a packet comes in.
func (p *port) DeliverNetworkPacket(protocol tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	src := p.src.Load()
	now := src.Raise(irq.NetRx)
	if p.c.tapped.Load() {
		p.tap(src, true, protocol, pkt)
	}
	if now && p.waiting.Load() == 0 {
		p.Endpoint.DeliverNetworkPacket(protocol, pkt)
		return
	}
	if !p.put(protocol, pkt) {
		src.Drop(irq.NetRx)
		return
	}
	p.work.Load().Schedule()
}

// WritePackets implements stack.LinkEndpoint: packets go out.
func (p *port) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	if p.c.tapped.Load() {
		for _, pkt := range pkts.AsSlice() {
			p.tap(p.src.Load(), false, pkt.NetworkProtocolNumber, pkt)
		}
	}
	return p.Endpoint.WritePackets(pkts)
}

// put queues a packet, and reports whether there was room.
func (p *port) put(protocol tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count >= portPackets || p.bytes+pkt.Size() > portBytes {
		return false
	}
	if p.queue == nil {
		p.queue = make([]arrival, portPackets)
	}
	p.queue[(p.first+p.count)%portPackets] = arrival{protocol, pkt.IncRef()}
	p.count++
	p.bytes += pkt.Size()
	p.waiting.Add(1)
	return true
}

// poll passes on at most budget of the packets that wait, and reports whether
// more do.
func (p *port) poll(budget int) (more bool) {
	p.c.still.RLock()
	defer p.c.still.RUnlock()
	for ; budget > 0; budget-- {
		a, ok := p.take()
		if !ok {
			return false
		}
		p.Endpoint.DeliverNetworkPacket(a.protocol, a.packet)
		a.packet.DecRef()
		p.waiting.Add(-1)
	}
	return p.waiting.Load() > 0
}

func (p *port) take() (a arrival, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count == 0 {
		return a, false
	}
	a, p.queue[p.first] = p.queue[p.first], arrival{}
	p.first = (p.first + 1) % portPackets
	p.count--
	p.bytes -= a.packet.Size()
	return a, true
}

// Attach implements stack.LinkEndpoint. When the interface goes, so does what
// waits for it.
func (p *port) Attach(d stack.NetworkDispatcher) {
	p.Endpoint.Attach(d)
	for d == nil {
		a, ok := p.take()
		if !ok {
			return
		}
		a.packet.DecRef()
		p.waiting.Add(-1)
	}
}

// portClock is the clock of the stack of a port.
type portClock struct {
	tcpip.Clock
	p *port
}

// portTimer is a timer of a stack. Most are stopped before they end: they time
// out what comes.
type portTimer struct {
	ktime.WheelTimer
	p *port
	f func()
}

// AfterFunc implements tcpip.Clock.
func (c portClock) AfterFunc(d time.Duration, f func()) tcpip.Timer {
	t := &portTimer{p: c.p, f: f}
	t.Init(c.p.c.Wheel, t.ended)
	t.Reset(d)
	return t
}

// ended is called by the wheel, which must not wait for locks of a stack.
func (t *portTimer) ended() { go t.call() }

// call does what the timer is for: its end is an interrupt.
func (t *portTimer) call() {
	t.p.src.Load().Raise(irq.Timer)
	t.p.c.still.RLock()
	defer t.p.c.still.RUnlock()
	t.f()
}
