package api_test

import (
	"context"
	"net"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"aios.dev/aios/api"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/errdefs"
)

// bearing returns a client that shows a token, "" for none, at a door.
func bearing(t *testing.T, door api.Door, token string) apiv1.ControlClient {
	t.Helper()
	dir, err := os.MkdirTemp("", "aios-api")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(door.ServerOptions()...)
	apiv1.RegisterControlServer(s, server{})
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	opts := api.DialOptions()
	if token != "" {
		opts = api.TokenDialOptions(token)
	}
	cc, err := grpc.NewClient("passthrough:///x", append(opts, grpc.WithContextDialer(dialer(dir+"/s")))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return apiv1.NewControlClient(cc)
}

func TestDoors(t *testing.T) {
	var asked []string
	bearer := func(ctx context.Context, method, token string) (context.Context, error) {
		asked = append(asked, method+" "+token)
		if token != "good" {
			return ctx, errdefs.New(errdefs.TokenInvalid, "no", errdefs.Fix("have another"))
		}
		return ctx, nil
	}
	nobody := uint32(os.Geteuid() + 1)
	for name, tc := range map[string]struct {
		door  api.Door
		token string
		code  errdefs.Code
		asked string
	}{
		"user":                  {api.Door{Bearer: bearer}, "", "", ""},
		"user with token":       {api.Door{Bearer: bearer}, "good", "", "good"},
		"user with bad token":   {api.Door{Bearer: bearer}, "bad", errdefs.TokenInvalid, "bad"},
		"token nobody takes":    {api.Door{}, "good", errdefs.Unsupported, ""},
		"bearer":                {api.Door{Bearer: bearer, TokensOnly: true}, "good", "", "good"},
		"bearer of a bad token": {api.Door{Bearer: bearer, TokensOnly: true}, "bad", errdefs.TokenInvalid, "bad"},
		"bearer of none":        {api.Door{Bearer: bearer, TokensOnly: true}, "", errdefs.TokenInvalid, ""},
		"token, wrong user":     {api.Door{Bearer: bearer, UIDs: []uint32{nobody}}, "good", errdefs.Denied, ""},
	} {
		if tc.code == errdefs.Denied && os.Geteuid() == 0 {
			continue // Root is admitted everywhere.
		}
		asked = nil
		c := bearing(t, tc.door, tc.token)
		if tc.code == "" {
			tc.code = errdefs.AgentNotFound // The handler's answer.
		}
		_, err := c.Wait(timeout(t), &apiv1.WaitRequest{})
		if errdefs.CodeOf(err) != tc.code {
			t.Errorf("%s: %v", name, err)
		}
		if tc.code == errdefs.TokenInvalid && errdefs.FixOf(err) != "have another" {
			t.Errorf("%s: the fix is %q", name, errdefs.FixOf(err))
		}
		if want := "/aios.v1.Control/Wait " + tc.asked; (tc.asked != "" || tc.door.TokensOnly) != (len(asked) == 1) || len(asked) == 1 && asked[0] != want {
			t.Errorf("%s: asked %q, want %q", name, asked, want)
		}
	}
}

func TestOddAuthorizations(t *testing.T) {
	got := "unasked"
	c := bearing(t, api.Door{Bearer: func(ctx context.Context, _, token string) (context.Context, error) {
		got = token
		return ctx, errdefs.New(errdefs.TokenInvalid, "no")
	}}, "")
	for _, values := range [][]string{{""}, {"Bearer "}, {"Basic eDp5"}, {"good"}, {"Bearer a", "Bearer b"}} {
		got = "unasked"
		ctx := timeout(t)
		for _, v := range values {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", v)
		}
		if _, err := c.Version(ctx, &apiv1.VersionRequest{}); errdefs.CodeOf(err) != errdefs.TokenInvalid || got != "" {
			t.Errorf("%q: %v; the token is %q", values, err, got)
		}
	}
	if _, err := c.Version(metadata.AppendToOutgoingContext(timeout(t), "authorization", "bearer x"), &apiv1.VersionRequest{}); err == nil || got != "x" {
		t.Errorf("the scheme in small letters: %v, %q", err, got)
	}
}

func TestParseAddress(t *testing.T) {
	for text, want := range map[string]string{
		"unix:/run/x/../aios.sock": "unix:/run/aios.sock", "tcp:127.0.0.1:7000": "", "tcp:[::1]:7000": "", "tcp:127.9.9.9:0": "",
	} {
		a, err := api.ParseAddress(text)
		if want == "" {
			want = text
		}
		if err != nil || a.String() != want {
			t.Errorf("%s: %v, %v", text, a, err)
		}
		if again, err := api.ParseAddress(a.String()); err != nil || again != a {
			t.Errorf("%s is not read again: %v, %v", a, again, err)
		}
	}
	for text, fix := range map[string]string{
		"": "unix:/PATH", "off": "unix:/PATH", "/run/x": "unix:/PATH", "unix:": "unix:/PATH", "unix:x": "unix:/PATH", "unix:/x\x00": "unix:/PATH",
		"unix:/" + strings.Repeat("x", 107): "shorter", "tcp:7000": "tcp:127.0.0.1:PORT", "tcp:localhost:7000": "tcp:127.0.0.1:PORT",
		"tcp:127.0.0.1": "PORT", "tcp:127.0.0.1:70000": "PORT", "tcp:0.0.0.0:7000": "SSH tunnel", "tcp:[::]:7000": "SSH tunnel",
		"tcp:10.0.0.1:7000": "SSH tunnel", "tcp:[::ffff:10.0.0.1]:7000": "SSH tunnel", "udp:127.0.0.1:1": "unix:/PATH",
	} {
		if a, err := api.ParseAddress(text); errdefs.CodeOf(err) != errdefs.InvalidArgument || !strings.Contains(errdefs.FixOf(err), fix) {
			t.Errorf("%q: %v, %v; fix %q", text, a, err, errdefs.FixOf(err))
		}
	}
}
