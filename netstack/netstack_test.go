package netstack

import (
	"bytes"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	gvnetstack "gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"aios.dev/aios/ktime"
)

type ids struct{ last atomic.Uint64 }

func (i *ids) UniqueID() uint64 { return i.last.Add(1) }

func newStack(t testing.TB) *stack.Stack {
	t.Helper()
	c := &Creator{Clock: tcpip.NewStdClock(), Wheel: ktime.NewWheel(ktime.Real, time.Millisecond), IDs: &ids{}}
	s, err := c.CreateStack()
	if err != nil {
		t.Fatal(err)
	}
	return s.(*gvnetstack.Stack).Stack
}

var loopbacks = map[string]struct {
	address net.IP
	proto   tcpip.NetworkProtocolNumber
}{
	"127.0.0.1":     {net.IPv4(127, 0, 0, 1).To4(), ipv4.ProtocolNumber},
	"127.200.30.40": {net.IPv4(127, 200, 30, 40).To4(), ipv4.ProtocolNumber},
	"::1":           {net.IPv6loopback, ipv6.ProtocolNumber},
}

func at(ip net.IP, port uint16) tcpip.FullAddress {
	return tcpip.FullAddress{Addr: tcpip.AddrFromSlice(ip), Port: port}
}

func TestOnlyLoopback(t *testing.T) {
	c := &Creator{Clock: tcpip.NewStdClock(), Wheel: ktime.NewWheel(ktime.Real, time.Millisecond), IDs: &ids{}}
	is, err := c.CreateStack()
	if err != nil {
		t.Fatal(err)
	}
	s := is.(*gvnetstack.Stack)
	defer s.Stack.Destroy()
	all := s.Interfaces()
	lo, ok := all[linux.LOOPBACK_IFINDEX]
	if len(all) != 1 || !ok || lo.Name != "lo" || lo.Flags&(linux.IFF_UP|linux.IFF_LOOPBACK) != linux.IFF_UP|linux.IFF_LOOPBACK {
		t.Errorf("interfaces %+v", all)
	}
	if !s.SupportsIPv6() {
		t.Error("there is no IPv6")
	}
	for _, outside := range []net.IP{net.IPv4(8, 8, 8, 8).To4(), net.IPv4(10, 0, 0, 1).To4(), net.ParseIP("2001:db8::1")} {
		proto := tcpip.NetworkProtocolNumber(ipv4.ProtocolNumber)
		if len(outside) == 16 {
			proto = ipv6.ProtocolNumber
		}
		_, err := gonet.DialTCPWithBind(t.Context(), s.Stack, tcpip.FullAddress{}, at(outside, 80), proto)
		if err == nil || !strings.Contains(err.Error(), "unreachable") && !strings.Contains(err.Error(), "no route") {
			t.Errorf("%v is reached: %v", outside, err)
		}
	}
}

// TestLoopbackCarries sends data over TCP and UDP, further than one window and
// one packet.
func TestLoopbackCarries(t *testing.T) {
	s := newStack(t)
	defer s.Destroy()
	carries(t, s, 80)
}

func carries(t *testing.T, s *stack.Stack, port uint16) {
	t.Helper()
	data := bytes.Repeat([]byte("0123456789"), 200_000)
	for name, lo := range loopbacks {
		l, err := gonet.ListenTCP(s, at(lo.address, port), lo.proto)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := make(chan []byte, 1)
		go func() {
			c, err := l.Accept()
			if err != nil {
				got <- nil
				return
			}
			b, _ := io.ReadAll(c)
			c.Close()
			got <- b // Nobody is at work when carries returns.
		}()
		c, err := gonet.DialTCP(s, at(lo.address, port), lo.proto)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := c.Write(data); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
		if b := <-got; !bytes.Equal(b, data) {
			t.Errorf("%s: %d bytes of %d arrived", name, len(b), len(data))
		}
		l.Close()

		to := at(lo.address, port)
		u, err := gonet.DialUDP(s, &to, nil, lo.proto)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		v, err := gonet.DialUDP(s, nil, &to, lo.proto)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := v.Write(data[:1200]); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		buf := make([]byte, 2000)
		u.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := u.Read(buf); err != nil || !bytes.Equal(buf[:n], data[:1200]) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
		u.Close()
		v.Close()
	}
}

// TestStacksAreApart checks that what listens in one is not there in another.
func TestStacksAreApart(t *testing.T) {
	one, two := newStack(t), newStack(t)
	defer one.Destroy()
	defer two.Destroy()
	for name, lo := range loopbacks {
		l, err := gonet.ListenTCP(one, at(lo.address, 80), lo.proto)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := gonet.DialTCP(two, at(lo.address, 80), lo.proto); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v", name, err)
		}
		l.Close()
	}
}

// TestDestroyLeavesNothing makes and destroys stacks, some of them in use.
func TestDestroyLeavesNothing(t *testing.T) {
	run := func() {
		s := newStack(t)
		lo := loopbacks["127.0.0.1"]
		l, err := gonet.ListenTCP(s, at(lo.address, 80), lo.proto)
		if err != nil {
			t.Fatal(err)
		}
		c, err := gonet.DialTCP(s, at(lo.address, 80), lo.proto)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		l.Close()
		s.Destroy()
	}
	run()
	before := runtime.NumGoroutine()
	for range 50 {
		run()
	}
	for range 500 {
		if runtime.NumGoroutine() <= before+2 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	stacks := make([]byte, 1<<20)
	t.Fatalf("%d goroutines before, %d now\n%s", before, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
}

func BenchmarkCreateStack(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		newStack(b).Destroy()
	}
}

// TestCutEndsEveryFlow checks that connections, listeners and datagram sockets
// fail, also for whoever waits on them, and that new ones work.
func TestCutEndsEveryFlow(t *testing.T) {
	c := Creator{Clock: tcpip.NewStdClock(), Wheel: ktime.NewWheel(ktime.Real, time.Millisecond), IDs: new(ids)}
	is, err := c.CreateStack()
	if err != nil {
		t.Fatal(err)
	}
	s := is.(*gvnetstack.Stack).Stack
	defer s.Destroy()
	for name, lo := range loopbacks {
		l, err := gonet.ListenTCP(s, at(lo.address, 80), lo.proto)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := gonet.DialTCP(s, at(lo.address, 80), lo.proto)
		if err != nil {
			t.Fatal(err)
		}
		local := at(lo.address, 53)
		u, err := gonet.DialUDP(s, &local, nil, lo.proto)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan string, 3)
		wait := func(what string, f func() error) {
			go func() {
				if f() == nil {
					what += " succeeded"
				}
				ended <- what
			}()
		}
		wait("read", func() error { _, err := conn.Read(make([]byte, 1)); return err })
		wait("datagram", func() error { _, _, err := u.ReadFrom(make([]byte, 1)); return err })
		for range 2 { // The first has a connection waiting.
			if _, err := l.Accept(); err == nil {
				break
			}
		}
		wait("accept", func() error { _, err := l.Accept(); return err })
		time.Sleep(20 * time.Millisecond)
		if n := Cut(is); n < 3 {
			t.Errorf("%s: cut %d endpoints", name, n)
		}
		for range 3 {
			select {
			case what := <-ended:
				if strings.Contains(what, "succeeded") {
					t.Errorf("%s: %s", name, what)
				}
			case <-time.After(5 * time.Second):
				t.Fatalf("%s: a blocked call did not return", name)
			}
		}
		if _, err := conn.Write([]byte("x")); err == nil {
			t.Errorf("%s: a write after the cut succeeded", name)
		}
		if l, err := gonet.ListenTCP(s, at(lo.address, 80), lo.proto); err != nil {
			t.Errorf("%s: listen again: %v", name, err)
		} else {
			l.Close()
		}
	}
}
