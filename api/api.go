// Package api is what both ends of the control socket share: how a refusal
// crosses the wire without losing its code or its fix, which request it was an
// answer to, who may speak to the daemon, and the bounds within which they
// speak. The messages themselves are in api/v1.
//
// Key types: Door is whom a server admits, users of the host or bearers of
// tokens; Peer a user at the other end; Address a place where bearers are
// served.
//
// A daemon builds its server with ServerOptions and returns *errdefs.Error
// from its handlers; a client dials with DialOptions and gets the same
// *errdefs.Error back. Neither sees a gRPC status.
//
// Units: sizes are bytes. The package holds no locks. It must import nothing of AIOS but errdefs,
// because clients that start in milliseconds link it.
package api

import (
	"context"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
)

const (
	// Minor is the highest minor version of protocol 1 that this build knows.
	Minor uint32 = 0
	// ChunkSize is the most a stream message carries of standard input,
	// output or error; a longer chunk is split by its sender.
	ChunkSize = 32 << 10
	// MaxRequest is the largest message a daemon reads. Linux limits argv and
	// environment together to 2 MiB by default, which fits.
	MaxRequest = 4 << 20
	// MaxResponse is the largest message a client reads: a list of ten
	// thousand agents with long command lines.
	MaxResponse = 64 << 20

	// minorKey is the metadata key that carries the client's Minor.
	minorKey = "aios-api"

	// handshakeTimeout is how long a new connection may take until it has
	// spoken HTTP/2; a peer that sends half a preface is cut off then.
	handshakeTimeout = 5 * time.Second
	// A peer that sends nothing for pingAfter is asked for a sign of life and
	// cut off pingTimeout later; this ends connections stuck inside a frame.
	pingAfter   = 20 * time.Second
	pingTimeout = 20 * time.Second
	// idleAfter is how long a connection of bearers may stay open without a
	// call.
	idleAfter = time.Minute
	// maxStreams bounds the calls in flight on one connection.
	maxStreams = 4096
	// Flow-control windows: what may be in flight of one stream, and of all
	// streams of a connection, before the sender waits for the reader.
	streamWindow = 256 << 10
	connWindow   = 1 << 20
)

// ServerOptions returns what a daemon's grpc.Server is built with: the
// admission of root and the given users only (none given: the user the
// process runs as), the translation of errors, and the bounds.
func ServerOptions(uids ...uint32) []grpc.ServerOption { return Door{UIDs: uids}.ServerOptions() }

// ServerOptions returns what a server behind this door is built with.
func (d Door) ServerOptions() []grpc.ServerOption {
	streams, idle := uint32(maxStreams), time.Duration(0)
	opts := []grpc.ServerOption{
		grpc.Creds(d.creds()),
		grpc.InTapHandle(d.admit()),
		grpc.UnaryInterceptor(serverUnary),
		grpc.StreamInterceptor(serverStream),
		grpc.MaxRecvMsgSize(MaxRequest),
		grpc.MaxSendMsgSize(MaxResponse),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingAfter / 4, PermitWithoutStream: true}),
	}
	if d.TokensOnly {
		streams, idle = tokenStreams, idleAfter
		opts = append(opts, grpc.MaxHeaderListSize(tokenHeaders))
	}
	return append(opts, grpc.MaxConcurrentStreams(streams),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout, MaxConnectionIdle: idle}))
}

// DialOptions returns what a client's connection is built with. The server
// must be run by root or by the client's own user; a client that is root
// accepts any.
func DialOptions() []grpc.DialOption { return dialOptions(peerCreds{}) }

// TokenDialOptions is DialOptions for a connection that shows a token at an
// address that was named by its user, who knows whose it is.
func TokenDialOptions(token string) []grpc.DialOption {
	return append(dialOptions(insecure.NewCredentials()), WithToken(token))
}

func dialOptions(creds credentials.TransportCredentials) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithUnaryInterceptor(clientUnary),
		grpc.WithStreamInterceptor(clientStream),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxResponse), grpc.MaxCallSendMsgSize(MaxRequest)),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
	}
}

// ClientMinor returns the minor version that the caller of a handler knows;
// 0 when it did not say.
func ClientMinor(ctx context.Context) int {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get(minorKey); len(v) == 1 {
		if n, err := strconv.ParseUint(v[0], 10, 16); err == nil {
			return int(n)
		}
	}
	return 0
}
