package api

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"aios.dev/aios/errdefs"
)

// maxSocketPath is the longest path of a Unix socket that Linux takes.
const maxSocketPath = 107

// Address is where a daemon serves bearers of tokens.
type Address struct {
	Network string // "unix" or "tcp"
	Name    string // a path, or HOST:PORT
}

// String is what ParseAddress reads.
func (a Address) String() string { return a.Network + ":" + a.Name }

// ParseAddress reads unix:/PATH or tcp:ADDRESS:PORT. A TCP address must be of
// the loopback interface: there is no encryption, and a token that is read on
// its way is as good as stolen.
func ParseAddress(text string) (Address, error) {
	network, name, _ := strings.Cut(text, ":")
	refuse := func(detail, fix string) (Address, error) {
		return Address{}, errdefs.New(errdefs.InvalidArgument, detail, errdefs.Op("address"), errdefs.Resource("%.120q", text), errdefs.Fix("%s", fix))
	}
	switch network {
	case "unix":
		switch {
		case !filepath.IsAbs(name) || strings.ContainsRune(name, 0):
			return refuse("the path of the socket is not absolute", "write unix:/PATH")
		case len(name) > maxSocketPath:
			return refuse(fmt.Sprintf("the path of the socket has %d bytes, at most %d are possible", len(name), maxSocketPath), "choose a shorter one")
		}
		return Address{network, filepath.Clean(name)}, nil
	case "tcp":
		at, err := netip.ParseAddrPort(name)
		switch {
		case err != nil:
			return refuse("not an address and a port", "write tcp:127.0.0.1:PORT or tcp:[::1]:PORT")
		case !at.Addr().Unmap().IsLoopback():
			return refuse("the address can be reached from other hosts, and there is no encryption",
				"use the loopback address, and an SSH tunnel from other hosts: ssh -L PORT:127.0.0.1:PORT HOST")
		}
		return Address{network, at.String()}, nil
	}
	return refuse("not an address", "write unix:/PATH or tcp:127.0.0.1:PORT")
}
