package main

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"aios.dev/aios/errdefs"
)

// Every user of a host can connect to a port of its loopback interface. Whom a
// gdb belongs to is what the host's kernel says of the other end's socket.

// oursAtLoopback says whether a client that came over the loopback interface is
// run by root or by the user who runs this.
func oursAtLoopback(conn net.Conn) error {
	if _, ok := conn.(*net.TCPConn); !ok {
		return nil // A Unix socket has a mode.
	}
	theirs, ours := addrPortOf(conn.RemoteAddr()), addrPortOf(conn.LocalAddr())
	if !ours.Addr().IsLoopback() {
		return nil // It was asked for with --allow-remote.
	}
	uid, ok := ownerOf(theirs, ours)
	switch {
	case !ok:
		return errdefs.New(errdefs.Denied, "whose it is cannot be told", errdefs.Op("serve gdb"), errdefs.Resource("%s", theirs),
			errdefs.Fix("have gdb start aiosctl, with --gdb -, or use a socket, --gdb unix:PATH"))
	case uid != 0 && uid != uint32(os.Geteuid()):
		return errdefs.Newf(errdefs.Denied, "it is run by user %d", uid).With(errdefs.Op("serve gdb"), errdefs.Resource("%s", theirs))
	}
	return nil
}

func addrPortOf(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	at := t.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port())
}

// ownerOf finds the user of the TCP socket that is at local and connected to
// remote.
func ownerOf(local, remote netip.AddrPort) (uid uint32, ok bool) {
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(table)
		if err != nil {
			continue
		}
		s := bufio.NewScanner(f)
		for s.Scan() && !ok {
			uid, ok = ownerInRow(s.Text(), local, remote)
		}
		f.Close()
		if ok {
			return uid, true
		}
	}
	return 0, false
}

// ownerInRow reads a row of those tables if it is about that socket.
func ownerInRow(row string, local, remote netip.AddrPort) (uid uint32, ok bool) {
	f := strings.Fields(row)
	if len(f) < 8 {
		return 0, false
	}
	n, err := strconv.ParseUint(f[7], 10, 32)
	return uint32(n), err == nil && hexAddrPort(f[1]) == local && hexAddrPort(f[2]) == remote
}

// hexAddrPort reads an address as these tables have it: words of 32 bits in the
// host's order, and the port. It returns the zero AddrPort for what is none.
func hexAddrPort(text string) netip.AddrPort {
	words, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(words)
	n, err2 := strconv.ParseUint(port, 16, 16)
	if err != nil || err2 != nil || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	addr, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n))
}
