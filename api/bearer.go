package api

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/tap"

	"aios.dev/aios/errdefs"
)

// authorizationKey is the metadata that carries a token, after bearerScheme.
const (
	authorizationKey = "authorization"
	bearerScheme     = "Bearer "
)

// Bearer decides whether a call that shows a token is admitted, and returns the
// context that its handler is given. method is the full name of what is called;
// token is "" when one is needed and none is shown.
type Bearer func(ctx context.Context, method, token string) (context.Context, error)

// Door says whom a server admits. All of it is looked at before a call's
// message is read.
type Door struct {
	// UIDs are the users who may call, and root; none: the user that the
	// process runs as.
	UIDs []uint32
	// Bearer is asked about every call that shows a token, or has to; nil: no
	// token is accepted.
	Bearer Bearer
	// TokensOnly demands a token of every call, and of nobody to be a certain
	// user. The server may then listen elsewhere than at a Unix socket.
	TokensOnly bool
}

// creds is the transport security of the door's listener. Where tokens decide
// there is none: it is up to the listener to be out of strangers' reach.
func (d Door) creds() credentials.TransportCredentials {
	if d.TokensOnly {
		return insecure.NewCredentials()
	}
	return peerCreds{}
}

// admit is the check of every call.
func (d Door) admit() tap.ServerInHandle {
	check := d.admitToken
	if !d.TokensOnly {
		peer := admitPeer(d.UIDs)
		check = func(ctx context.Context, info *tap.Info) (context.Context, error) {
			if err := peer(ctx); err != nil {
				return ctx, err
			}
			return d.admitToken(ctx, info)
		}
	}
	return func(ctx context.Context, info *tap.Info) (context.Context, error) {
		ctx, id := received(ctx)
		ctx, err := check(ctx, info)
		return ctx, toStatus(err, id)
	}
}

func (d Door) admitToken(ctx context.Context, info *tap.Info) (context.Context, error) {
	token, shown := tokenOf(ctx)
	switch {
	case !shown && !d.TokensOnly:
		return ctx, nil
	case d.Bearer == nil: // To go on would be to do more than the token allows.
		return ctx, errdefs.New(errdefs.Unsupported, "this server accepts no tokens", errdefs.Op("connect to daemon"),
			errdefs.Fix("call without a token"))
	}
	return d.Bearer(ctx, info.FullMethodName, token)
}

// tokenOf returns the token that a call shows; "" when what it shows is not
// one.
func tokenOf(ctx context.Context) (token string, shown bool) {
	md, _ := metadata.FromIncomingContext(ctx)
	v := md.Get(authorizationKey)
	if len(v) == 1 && len(v[0]) > len(bearerScheme) && strings.EqualFold(v[0][:len(bearerScheme)], bearerScheme) {
		return v[0][len(bearerScheme):], true
	}
	return "", len(v) > 0
}

// Bounds of a door at which strangers may knock.
const (
	// tokenStreams bounds the calls in flight on one connection.
	tokenStreams = 256
	// tokenHeaders bounds the metadata of a call in bytes: a token takes 4,096.
	tokenHeaders = 16 << 10
)

// WithToken returns the option by which every call of a connection shows a
// token.
func WithToken(token string) grpc.DialOption { return grpc.WithPerRPCCredentials(bearerToken(token)) }

type bearerToken string

// GetRequestMetadata returns what goes beside every call.
func (t bearerToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{authorizationKey: bearerScheme + string(t)}, nil
}

// RequireTransportSecurity says no: the addresses that ParseAddress knows do
// not leave the host.
func (bearerToken) RequireTransportSecurity() bool { return false }
