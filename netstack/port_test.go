package netstack

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/inet"
	gvnetstack "gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"aios.dev/aios/ktime"
	"aios.dev/aios/sentry/irq"
)

// network is a stack whose interrupts are counted.
type network struct {
	*stack.Stack
	c       *Creator
	lines   *irq.Controller
	src     *irq.Source
	mu      sync.Mutex
	packets []Packet // +checklocks:mu
}

func newNetwork(t testing.TB) *network {
	t.Helper()
	n := &network{lines: irq.New(irq.Config{CPUs: 2})}
	n.c = &Creator{Clock: tcpip.NewStdClock(), Wheel: ktime.NewWheel(ktime.Real, time.Millisecond), IDs: &ids{}, OnPacket: func(_ *irq.Source, p Packet) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.packets = append(n.packets, p)
	}}
	is, err := n.c.CreateStack()
	if err != nil {
		t.Fatal(err)
	}
	n.Stack = stackOf(is)
	n.src = n.lines.NewSource("agent")
	Interrupts(is, n.src)
	t.Cleanup(n.Destroy)
	return n
}

func (n *network) received() (sum uint64) {
	for _, c := range n.src.Counts(irq.NetRx) {
		sum += c
	}
	return sum
}

// pair is two ends that send packets to each other.
func (n *network) pair(t testing.TB) (server, client *gonet.UDPConn) {
	t.Helper()
	to := at(loopbacks["127.0.0.1"].address, 7000)
	server, err := gonet.DialUDP(n.Stack, &to, nil, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	client, err = gonet.DialUDP(n.Stack, nil, &to, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close(); client.Close() })
	return server, client
}

func send(t testing.TB, c *gonet.UDPConn, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

// next reads a packet; "" if none comes.
func next(c *gonet.UDPConn, wait time.Duration) string {
	p := make([]byte, 2000)
	c.SetReadDeadline(time.Now().Add(wait))
	n, _ := c.Read(p)
	return string(p[:n])
}

func TestPacketsAreInterrupts(t *testing.T) {
	n := newNetwork(t)
	server, client := n.pair(t)
	for range 5 {
		send(t, client, "x")
	}
	if got := n.received(); got != 5 {
		t.Errorf("5 packets, %d interrupts", got)
	}
	if next(server, time.Second) != "x" {
		t.Error("it did not come")
	}
}

// TestMaskedPacketsWait: they come when the line is unmasked, in order; what finds
// no room is dropped, and counted.
func TestMaskedPacketsWait(t *testing.T) {
	n := newNetwork(t)
	server, client := n.pair(t)
	if err := n.lines.Mask(irq.NetRx); err != nil {
		t.Fatal(err)
	}
	for i := range portPackets + 10 {
		send(t, client, fmt.Sprint(i))
	}
	if got := next(server, 20*time.Millisecond); got != "" {
		t.Fatalf("%q came through", got)
	}
	if st := n.lines.States()[irq.NetRx]; st.Dropped != 10 || st.Pending != 1 || n.src.Dropped(irq.NetRx) != 10 {
		t.Errorf("%+v", st)
	}
	n.lines.Unmask(irq.NetRx)
	for i := range 100 {
		if got := next(server, 5*time.Second); got != fmt.Sprint(i) {
			t.Fatalf("packet %d is %q", i, got)
		}
	}
	if st := n.lines.States()[irq.NetRx]; st.Latency.Count == 0 || st.Latency.Max < 20*time.Millisecond {
		t.Errorf("latency %+v", st.Latency)
	}
}

// TestBigPacketsAreBounded: it is not their number alone that bounds what waits.
func TestBigPacketsAreBounded(t *testing.T) {
	n := newNetwork(t)
	_, client := n.pair(t)
	n.lines.Mask(irq.NetRx)
	big := strings.Repeat("x", 60000)
	for range 100 {
		send(t, client, big)
	}
	if d := n.src.Dropped(irq.NetRx); d < 100-portBytes/60000 || d > 100-portBytes/70000+1 {
		t.Errorf("%d of 100 are dropped", d)
	}
}

// TestRoutedStreamsAreWhole: a stream whose packets are put off, now to one CPU
// and now to none, comes as it was sent.
func TestRoutedStreamsAreWhole(t *testing.T) {
	n := newNetwork(t)
	lo := at(loopbacks["127.0.0.1"].address, 7001)
	l, err := gonet.ListenTCP(n.Stack, lo, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	want := make([]byte, 4<<20)
	rand.Read(want)
	go func() {
		if c, err := l.Accept(); err == nil {
			for piece := range slices.Chunk(want, 64<<10) {
				c.Write(piece)
				time.Sleep(time.Millisecond) // A route at least is another by then.
			}
			c.Close()
		}
	}()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			n.lines.Route(irq.NetRx, [][]int{{0}, {1}, nil, {0, 1}}[i%4])
		}
	}()
	c, err := gonet.DialTCP(n.Stack, lo, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	close(stop)
	<-stopped
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes, %v", len(got), len(want), err)
	}
	if st := n.lines.States()[irq.NetRx]; st.Deferred == 0 || st.Dropped != 0 {
		t.Errorf("%+v", st)
	}
}

// TestStackThatEndsWhileMasked: what waits is let go of.
func TestStackThatEndsWhileMasked(t *testing.T) {
	n := newNetwork(t)
	_, client := n.pair(t)
	n.lines.Mask(irq.NetRx)
	send(t, client, "x")
	p := n.GetLinkEndpointByName(loopbackName).(*port)
	if p.waiting.Load() != 1 {
		t.Fatal("it does not wait")
	}
	n.RemoveNIC(1)
	if p.waiting.Load() != 0 {
		t.Error("it waits for an interface that is gone")
	}
}

// TestTimersOfTheStack: TCP's timers are interrupts too.
func TestTimersOfTheStack(t *testing.T) {
	n := newNetwork(t)
	// Nobody answers while the line is masked: the SYN is sent again.
	n.lines.Mask(irq.NetRx)
	lo := at(loopbacks["127.0.0.1"].address, 7002)
	go gonet.DialTCP(n.Stack, lo, ipv4.ProtocolNumber)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if c := n.src.Counts(irq.Timer); c[0]+c[1] > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no timer expired")
		}
	}
	n.lines.Unmask(irq.NetRx)
}

func TestTap(t *testing.T) {
	n := newNetwork(t)
	server, client := n.pair(t)
	send(t, client, "before")
	n.c.Tap(true)
	send(t, client, "SECRET")
	n.c.Tap(false)
	send(t, client, "after")
	next(server, time.Second)
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.packets) != 2 {
		t.Fatalf("%+v", n.packets)
	}
	from := client.LocalAddr().String()
	for i, p := range n.packets {
		want := Packet{
			In: i == 1, Interface: "lo", Network: "ipv4", Protocol: "udp", From: from, To: "127.0.0.1:7000", Length: 20 + 8 + 6, Hops: 64, Sampled: 1,
		}
		if p != want {
			t.Errorf("%+v, want %+v", p, want)
		}
	}
}

// TestTapIsBounded: of a flood samples are told, and for how many they stand.
func TestTapIsBounded(t *testing.T) {
	n := newNetwork(t)
	_, client := n.pair(t)
	n.c.Tap(true)
	began := time.Now()
	const packets = 5000
	for range packets {
		send(t, client, "x")
	}
	most := sampleBurst + int(time.Since(began)/sampleEvery) + 2
	n.mu.Lock()
	defer n.mu.Unlock()
	var sum uint64
	for _, p := range n.packets {
		sum += p.Sampled
	}
	if len(n.packets) < sampleBurst || len(n.packets) > most || sum > 2*packets || sum < 2*packets/10 {
		t.Errorf("%d samples, at most %d; for %d packets of %d", len(n.packets), most, sum, 2*packets)
	}
}

func TestMeter(t *testing.T) {
	var m meter
	clock := tcpip.NewStdClock()
	now := clock.NowMonotonic()
	told := 0
	for range 1000 {
		if _, ok := m.sample(now); ok {
			told++
		}
	}
	if told != sampleBurst {
		t.Errorf("%d at once", told)
	}
	now = now.Add(sampleEvery)
	if n, ok := m.sample(now); !ok || n != 1000-sampleBurst+1 {
		t.Errorf("then %d, %v", n, ok)
	}
	if _, ok := m.sample(now); ok {
		t.Error("and another")
	}
}

func TestHeaders(t *testing.T) {
	tcp := func(n int, from, to byte) []byte {
		p := make([]byte, n+20)
		p[n], p[n+1], p[n+2], p[n+3] = 0, from, 0, to
		p[n+header.TCPFlagsOffset] = 0x12
		return p
	}
	v4 := tcp(24, 80, 81)
	copy(v4, []byte{0x46, 0, 0, 44, 0, 0, 0, 0, 9, 6, 0, 0, 127, 0, 0, 1, 127, 0, 0, 2})
	fragment := append([]byte(nil), v4...)
	fragment[7] = 5
	v6 := tcp(40, 80, 81)
	v6[0], v6[6], v6[7], v6[23], v6[39] = 0x60, 6, 7, 1, 2
	for _, tc := range []struct {
		name  string
		proto tcpip.NetworkProtocolNumber
		head  []byte
		want  Packet
	}{
		{"IPv4 with options", header.IPv4ProtocolNumber, v4, Packet{Network: "ipv4", Protocol: "tcp", From: "127.0.0.1:80", To: "127.0.0.2:81", Hops: 9, Flags: "SYN|ACK"}},
		{"a later fragment", header.IPv4ProtocolNumber, fragment, Packet{Network: "ipv4", Protocol: "tcp", From: "127.0.0.1", To: "127.0.0.2", Hops: 9}},
		{"cut after the header", header.IPv4ProtocolNumber, v4[:24], Packet{Network: "ipv4", Protocol: "tcp", From: "127.0.0.1", To: "127.0.0.2", Hops: 9}},
		{"cut before", header.IPv4ProtocolNumber, v4[:10], Packet{Network: "ipv4"}},
		{"IPv6", header.IPv6ProtocolNumber, v6, Packet{Network: "ipv6", Protocol: "tcp", From: "[::1]:80", To: "[::2]:81", Hops: 7, Flags: "SYN|ACK"}},
		{"ARP", header.ARPProtocolNumber, nil, Packet{Network: "arp"}},
		{"something else", 0x1234, v4, Packet{Network: "0x1234"}},
	} {
		if got := readHeaders(tc.proto, tc.head, 0); got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
	}
}

func FuzzHeaders(f *testing.F) {
	f.Add(uint32(header.IPv4ProtocolNumber), []byte{0x4f, 0, 0, 44, 0, 0, 0, 0, 9, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 2})
	f.Add(uint32(header.IPv6ProtocolNumber), make([]byte, 60))
	f.Fuzz(func(t *testing.T, proto uint32, head []byte) {
		p := readHeaders(tcpip.NetworkProtocolNumber(proto), head[:min(len(head), headBytes)], len(head))
		if p.Network == "" || len(p.From) > 60 {
			t.Errorf("%+v", p)
		}
	})
}

func stackOf(s inet.Stack) *stack.Stack { return s.(*gvnetstack.Stack).Stack }
