package client

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"

	"aios.dev/aios/api"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/config"
)

// BenchmarkDial is what every command of aiosctl pays before its first answer.
func BenchmarkDial(b *testing.B) {
	p, err := config.Resolve(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	if err := p.Prepare(); err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("unix", p.Socket)
	if err != nil {
		b.Fatal(err)
	}
	s := grpc.NewServer(api.ServerOptions()...)
	apiv1.RegisterControlServer(s, versioned{})
	go s.Serve(l)
	defer s.Stop()
	for b.Loop() {
		c, err := Dial(context.Background(), Options{Paths: p, NoStart: true})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.Version(context.Background(), &apiv1.VersionRequest{}); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}
