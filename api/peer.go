package api

import (
	"context"
	"net"
	"os"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"aios.dev/aios/errdefs"
)

// Peer is who is at the other end of a Unix socket, as the host's kernel
// recorded it when the connection was made.
type Peer struct {
	credentials.CommonAuthInfo
	UID, GID uint32
	PID      int32
}

// AuthType names the mechanism.
func (Peer) AuthType() string { return "unix-peer" }

// PeerFrom returns who called the handler that was given ctx.
func PeerFrom(ctx context.Context) (Peer, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Peer{}, false
	}
	id, ok := p.AuthInfo.(Peer)
	return id, ok
}

// peerCreds is the transport security of a Unix socket: nothing is encrypted,
// and the host's kernel vouches for the peer.
type peerCreds struct{}

// ServerHandshake records who connected. Admission happens per call, so that
// a stranger is told why instead of being cut off.
func (peerCreds) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	p, err := peerOf(c)
	if err != nil {
		return nil, nil, err
	}
	return c, p, nil
}

// ClientHandshake refuses a server that another ordinary user runs: it could
// be an impostor that waits for programs and secrets.
func (peerCreds) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	p, err := peerOf(c)
	if err != nil {
		return nil, nil, err
	}
	if own := uint32(os.Geteuid()); !trusted(p.UID, own) {
		return nil, nil, errdefs.Newf(errdefs.Denied, "the daemon's socket is served by user %d, who is neither root nor user %d", p.UID, own)
	}
	return c, p, nil
}

// trusted reports whether user own may entrust its programs to a daemon that
// user server runs.
func trusted(server, own uint32) bool { return own == 0 || server == 0 || server == own }

func (peerCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix-peer"}
}

func (c peerCreds) Clone() credentials.TransportCredentials { return c }

// OverrideServerName does nothing: a Unix socket has no name to check. The
// interface of gRPC demands it.
func (peerCreds) OverrideServerName(string) error { return nil }

func peerOf(c net.Conn) (Peer, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return Peer{}, errdefs.Newf(errdefs.Protocol, "a %T has no peer credentials; the control protocol runs over Unix sockets", c)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return Peer{}, errdefs.Wrap(err, errdefs.HostIO, "read peer credentials")
	}
	var (
		cred *unix.Ucred
		serr error
	)
	if err := raw.Control(func(fd uintptr) {
		cred, serr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		serr = err
	}
	if serr != nil {
		return Peer{}, errdefs.Wrap(serr, errdefs.HostIO, "read peer credentials")
	}
	return Peer{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		UID:            cred.Uid, GID: cred.Gid, PID: cred.Pid,
	}, nil
}

// admitPeer returns the check of who has connected.
func admitPeer(uids []uint32) func(context.Context) error {
	allowed := slices.Clone(uids)
	if len(allowed) == 0 {
		allowed = []uint32{uint32(os.Geteuid())}
	}
	return func(ctx context.Context) error {
		p, ok := PeerFrom(ctx)
		if ok && (p.UID == 0 || slices.Contains(allowed, p.UID)) {
			return nil
		}
		who := "an unknown user"
		if ok {
			who = "user " + strconv.FormatUint(uint64(p.UID), 10)
		}
		return errdefs.New(errdefs.Denied, who+" may not use this daemon; it serves root and the user it runs as",
			errdefs.Op("connect to daemon"),
			errdefs.Fix("run the command as that user, or start a daemon of your own: unset AIOS_STATE_DIR and --state-dir"))
	}
}
