package api

import (
	"context"
	"net"
	"testing"
)

func TestWhichDaemonsAreTrusted(t *testing.T) {
	for _, tc := range []struct {
		server, own uint32
		want        bool
	}{{0, 0, true}, {0, 1000, true}, {1000, 1000, true}, {1001, 1000, false}, {1001, 0, true}} {
		if trusted(tc.server, tc.own) != tc.want {
			t.Errorf("user %d trusts a daemon of user %d: %v", tc.own, tc.server, !tc.want)
		}
	}
}

func TestOnlySocketsHaveCredentials(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, _, err := (peerCreds{}).ServerHandshake(a); err == nil {
		t.Error("a pipe passed as a Unix socket to the server")
	}
	if _, _, err := (peerCreds{}).ClientHandshake(context.Background(), "", b); err == nil {
		t.Error("a pipe passed as a Unix socket to the client")
	}
}
