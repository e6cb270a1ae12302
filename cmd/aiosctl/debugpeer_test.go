package main

import (
	"net"
	"net/netip"
	"os"
	"testing"
)

// TestOwnerOfConnections looks up real connections, over both kinds of loopback
// addresses.
func TestOwnerOfConnections(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", at)
		if err != nil {
			t.Logf("this host has no %s: %v", at, err)
			continue
		}
		defer l.Close()
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		theirs, ours := addrPortOf(server.RemoteAddr()), addrPortOf(server.LocalAddr())
		if uid, ok := ownerOf(theirs, ours); !ok || uid != uint32(os.Geteuid()) {
			t.Errorf("%s: user %d, %v", at, uid, ok)
		}
		if uid, ok := ownerOf(theirs, netip.AddrPortFrom(ours.Addr(), ours.Port()^1)); ok {
			t.Errorf("%s: a connection that is not there is of user %d", at, uid)
		}
		if err := oursAtLoopback(server); err != nil {
			t.Error(err)
		}
	}
}

func TestRowsOfConnections(t *testing.T) {
	here, there := netip.MustParseAddrPort("127.0.0.1:4660"), netip.MustParseAddrPort("127.0.0.1:80")
	for row, want := range map[string]bool{
		"  0: 0100007F:1234 0100007F:0050 01 00000000:00000000 00:00000000 00000000  1000        0 1 1":                                                 true,
		"  0: 0000000000000000FFFF00000100007F:1234 0000000000000000FFFF00000100007F:0050 01 00000000:00000000 00:00000000 00000000  1000        0 1 1": true,
		"  0: 0100007F:0050 0100007F:1234 01 00000000:00000000 00:00000000 00000000  1000        0 1 1":                                                 false,
		"  0: 0100007F:1234 0100007F:0050 01 00000000:00000000 00:00000000 00000000  -1        0 1 1":                                                   false,
		"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode":                                              false,
		"  0: 01007F:1234 0100007F:0050 01 00000000:00000000 00:00000000 00000000  1000":                                                                false,
		"": false,
	} {
		if uid, ok := ownerInRow(row, here, there); ok != want || ok && uid != 1000 {
			t.Errorf("%q: user %d, %v", row, uid, ok)
		}
	}
}

func TestAddressesForGDB(t *testing.T) {
	for address, ok := range map[string]bool{
		":0": true, "localhost:0": true, "127.0.0.2:0": true, "unix:" + t.TempDir() + "/g": true,
		"0.0.0.0:0": false, "[::]:0": false, "8.8.8.8:0": false, "1234": false, "": false, "unix:": false, "127.0.0.1:x": false,
	} {
		l, err := listenGDB(address, false)
		if (err == nil) != ok {
			t.Errorf("%q: %v", address, err)
		}
		if err == nil {
			l.Close()
		}
	}
	l, err := listenGDB("0.0.0.0:0", true)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}
