package netstack

import (
	"io"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// BenchmarkUDP sends a small packet and receives it.
func BenchmarkUDP(b *testing.B) {
	s := newStack(b)
	defer s.Destroy()
	lo := loopbacks["127.0.0.1"]
	to := at(lo.address, 7000)
	server, err := gonet.DialUDP(s, &to, nil, ipv4.ProtocolNumber)
	if err != nil {
		b.Fatal(err)
	}
	defer server.Close()
	client, err := gonet.DialUDP(s, nil, &to, ipv4.ProtocolNumber)
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	p := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Write(p); err != nil {
			b.Fatal(err)
		}
		if _, err := server.Read(p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTCP sends a byte and waits for it to come back.
func BenchmarkTCP(b *testing.B) {
	s := newStack(b)
	defer s.Destroy()
	lo := loopbacks["127.0.0.1"]
	l, err := gonet.ListenTCP(s, at(lo.address, 7001), ipv4.ProtocolNumber)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}()
	c, err := gonet.DialTCP(s, tcpip.FullAddress{Addr: at(lo.address, 7001).Addr, Port: 7001}, ipv4.ProtocolNumber)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	p := make([]byte, 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(p); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(p); err != nil {
			b.Fatal(err)
		}
	}
}
