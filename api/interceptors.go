package api

import (
	"context"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

func serverUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	resp, err := h(ctx, req)
	return resp, ToStatus(err)
}

func serverStream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	return ToStatus(h(srv, ss))
}

var minorValue = strconv.FormatUint(uint64(Minor), 10)

func clientUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	ctx = metadata.AppendToOutgoingContext(ctx, minorKey, minorValue)
	return FromStatus(invoke(ctx, method, req, reply, cc, opts...))
}

func clientStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx = metadata.AppendToOutgoingContext(ctx, minorKey, minorValue)
	s, err := open(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, FromStatus(err)
	}
	return translated{s}, nil
}

// translated is a client stream whose errors are *errdefs.Error.
type translated struct{ grpc.ClientStream }

func (t translated) SendMsg(m any) error { return FromStatus(t.ClientStream.SendMsg(m)) }
func (t translated) RecvMsg(m any) error { return FromStatus(t.ClientStream.RecvMsg(m)) }
func (t translated) CloseSend() error    { return FromStatus(t.ClientStream.CloseSend()) }

func (t translated) Header() (metadata.MD, error) {
	md, err := t.ClientStream.Header()
	return md, FromStatus(err)
}
