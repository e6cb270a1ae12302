package api

import (
	"context"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"aios.dev/aios/errdefs"
)

// correlationKey is the metadata that carries the correlation ID of a request.
const correlationKey = "aios-correlation-id"

// received returns the context of a call with the correlation ID that its
// client sent, or a fresh one.
func received(ctx context.Context) (context.Context, string) {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get(correlationKey); len(v) == 1 {
		ctx = errdefs.WithCorrelation(ctx, v[0])
	}
	return errdefs.EnsureCorrelation(ctx)
}

func serverUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	ctx, id := received(ctx)
	resp, err := h(ctx, req)
	return resp, toStatus(err, id)
}

func serverStream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	ctx, id := received(ss.Context())
	return toStatus(h(srv, correlated{ss, ctx}), id)
}

// correlated is a server stream whose context carries the correlation ID.
type correlated struct {
	grpc.ServerStream
	ctx context.Context
}

func (c correlated) Context() context.Context { return c.ctx }

var minorValue = strconv.FormatUint(uint64(Minor), 10)

// sent returns the context of a call to be made, with what goes beside every
// request, and the correlation ID in it.
func sent(ctx context.Context) (context.Context, string) {
	ctx, id := errdefs.EnsureCorrelation(ctx)
	return metadata.AppendToOutgoingContext(ctx, minorKey, minorValue, correlationKey, id), id
}

// answered is FromStatus for the answer to the request with the given
// correlation ID: errors that the transport made do not say it.
func answered(err error, id string) error {
	err = FromStatus(err)
	if e, ok := err.(*errdefs.Error); ok && errdefs.ScopeOf(e).Correlation == "" {
		return e.With(errdefs.Correlation(id))
	}
	return err
}

func clientUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	ctx, id := sent(ctx)
	return answered(invoke(ctx, method, req, reply, cc, opts...), id)
}

func clientStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx, id := sent(ctx)
	s, err := open(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, answered(err, id)
	}
	return translated{s, id}, nil
}

// translated is a client stream whose errors are *errdefs.Error.
type translated struct {
	grpc.ClientStream
	id string // the correlation ID
}

func (t translated) SendMsg(m any) error { return answered(t.ClientStream.SendMsg(m), t.id) }
func (t translated) RecvMsg(m any) error { return answered(t.ClientStream.RecvMsg(m), t.id) }
func (t translated) CloseSend() error    { return answered(t.ClientStream.CloseSend(), t.id) }

func (t translated) Header() (metadata.MD, error) {
	md, err := t.ClientStream.Header()
	return md, answered(err, t.id)
}
