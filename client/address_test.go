package client

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"aios.dev/aios/api"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/config"
	"aios.dev/aios/errdefs"
)

// door serves a scripted server to bearers of the token "good", at a Unix
// socket and over TCP, and returns both addresses.
func door(t *testing.T) (unix, tcp string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "aios-client")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := grpc.NewServer(api.Door{TokensOnly: true, Bearer: func(ctx context.Context, _, token string) (context.Context, error) {
		if token != "good" {
			return ctx, errdefs.New(errdefs.TokenInvalid, "not good")
		}
		return ctx, nil
	}}.ServerOptions()...)
	apiv1.RegisterControlServer(s, &scripted{})
	var wg sync.WaitGroup
	var at []string
	for _, l := range [][2]string{{"unix", filepath.Join(dir, "s")}, {"tcp", "127.0.0.1:0"}} {
		listener, err := net.Listen(l[0], l[1])
		if err != nil {
			t.Fatal(err)
		}
		at = append(at, l[0]+":"+listener.Addr().String())
		wg.Go(func() { s.Serve(listener) })
	}
	t.Cleanup(func() { s.Stop(); wg.Wait() })
	return at[0], at[1]
}

func TestDialAddress(t *testing.T) {
	unix, tcp := door(t)
	f := serve(t, nil)
	for name, tc := range map[string]struct {
		o    Options
		code errdefs.Code
		fix  string
	}{
		"unix":             {Options{Address: unix, Token: "good"}, "", ""},
		"tcp":              {Options{Address: tcp, Token: "good"}, "", ""},
		"bad token":        {Options{Address: tcp, Token: "bad"}, errdefs.TokenInvalid, ""},
		"tcp, no token":    {Options{Address: tcp}, errdefs.TokenInvalid, "AIOS_TOKEN"},
		"no token":         {Options{Address: unix}, errdefs.TokenInvalid, ""},
		"a daemon's own":   {Options{Address: "unix:" + f.paths.Socket}, "", ""},
		"nobody there":     {Options{Address: "unix:/nonexistent/socket", Token: "good"}, errdefs.DaemonUnreachable, "aiosctl token key"},
		"another host":     {Options{Address: "tcp:192.0.2.1:7000", Token: "good"}, errdefs.InvalidArgument, "SSH tunnel"},
		"not an address":   {Options{Address: "nonsense", Token: "good"}, errdefs.InvalidArgument, "unix:/PATH"},
		"token, no tokens": {Options{Paths: f.paths, Token: "good"}, errdefs.Unsupported, ""},
	} {
		c, err := Dial(within(t), tc.o)
		if err == nil {
			_, err = c.Version(within(t), &apiv1.VersionRequest{})
			c.Close()
		}
		if err == nil && tc.code != "" || err != nil && errdefs.CodeOf(err) != tc.code || !strings.Contains(errdefs.FixOf(err), tc.fix) {
			t.Errorf("%s: %v; fix %q", name, err, errdefs.FixOf(err))
		}
	}
}

// TestTokensStartNoDaemon: what they allow is decided by one that runs.
func TestTokensStartNoDaemon(t *testing.T) {
	p, err := config.Resolve(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []Options{{Paths: p, Token: "good"}, {Paths: p, Address: "unix:" + p.Socket}} {
		o.Daemon = "/bin/false" // It would say so if it was started.
		if _, err := Dial(within(t), o); errdefs.CodeOf(err) != errdefs.DaemonUnreachable || strings.Contains(err.Error(), "ended at once") {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if _, err := os.Stat(p.LogFile); err == nil {
		t.Error("a daemon was started")
	}
}
