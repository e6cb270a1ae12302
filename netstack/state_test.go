package netstack

import (
	"bytes"
	"context"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/inet"
	gvnetstack "gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/state"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"aios.dev/aios/ktime"
)

// What a checkpoint has of a stack is little, and what is made of it carries as before.
func TestSavedStack(t *testing.T) {
	c := &Creator{Clock: tcpip.NewStdClock(), Wheel: ktime.NewWheel(ktime.Real, time.Millisecond), IDs: &ids{}}
	is, err := c.CreateStack()
	if err != nil {
		t.Fatal(err)
	}
	s := is.(*gvnetstack.Stack)
	carries(t, s.Stack, 80)
	s.SetRemoveConf(false)
	s.Pause()
	var saved bytes.Buffer
	if _, err := state.Save(t.Context(), &saved, s); err != nil {
		t.Fatal(err)
	}
	s.Resume()
	carries(t, s.Stack, 81) // It goes on.
	s.Stack.Destroy()
	if n := saved.Len(); n > 30_000 { // A table of IPv4 alone was as large.
		t.Errorf("%d bytes are saved of it", n)
	}
	var again gvnetstack.Stack
	ctx := context.WithValue(t.Context(), RestoredCreator, c)
	if _, err := state.Load(ctx, &saved, &again); err != nil {
		t.Fatal(err)
	}
	if err := Restore([]inet.Stack{&again}); err != nil {
		t.Fatal(err)
	}
	defer again.Stack.Destroy()
	carries(t, again.Stack, 82)
	var ttl tcpip.DefaultTTLOption
	for _, n := range []tcpip.NetworkProtocolNumber{ipv4.ProtocolNumber, ipv6.ProtocolNumber} {
		if err := again.Stack.NetworkProtocolOption(n, &ttl); err != nil || ttl != gvnetstack.DefaultTTL {
			t.Errorf("protocol %#x: TTL %d, %v", n, ttl, err)
		}
	}
}

// Whatever a protocol can do that gVisor asks it for can be done through ours.
func TestProtocolsAreWhole(t *testing.T) {
	s := newStack(t)
	defer s.Destroy()
	for n, bare := range map[tcpip.NetworkProtocolNumber]stack.NetworkProtocol{ipv4.ProtocolNumber: ipv4.NewProtocol(s), ipv6.ProtocolNumber: ipv6.NewProtocol(s)} {
		ours := s.NetworkProtocolInstance(n)
		for what, does := range map[string]func(stack.NetworkProtocol) bool{
			"forward to many": func(p stack.NetworkProtocol) bool { _, ok := p.(stack.MulticastForwardingNetworkProtocol); return ok },
			"reject IPv4":     func(p stack.NetworkProtocol) bool { _, ok := p.(stack.RejectIPv4WithHandler); return ok },
			"reject IPv6":     func(p stack.NetworkProtocol) bool { _, ok := p.(stack.RejectIPv6WithHandler); return ok },
		} {
			if does(bare) != does(ours) {
				t.Errorf("protocol %#x: that it can %s is %v, and of gVisor's %v", n, what, does(ours), does(bare))
			}
		}
	}
}
