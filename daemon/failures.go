package daemon

import (
	"context"

	"google.golang.org/grpc"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/errdefs"
)

// failures are the interceptors that remember what calls fail with. They run
// inside those of package api: the request's correlation ID is in its context,
// and the error is still the handler's own.
func (d *System) failures() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			resp, err := h(ctx, req)
			return resp, d.remember(ctx, info.FullMethod, err)
		}),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			return d.remember(ss.Context(), info.FullMethod, h(srv, ss))
		}),
	}
}

// remember counts a failure, writes the first of its kind to the log, and
// returns it.
func (d *System) remember(ctx context.Context, method string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := err.(*errdefs.Error); ok && errdefs.ScopeOf(e).Correlation == "" {
		err = e.With(errdefs.Correlation(errdefs.CorrelationFrom(ctx)))
	}
	if d.recent.Record(err) == 1 {
		d.log.Warn("call failed", "method", method, "code", errdefs.CodeOf(err), "err", err, "correlation", errdefs.CorrelationFrom(ctx))
	}
	return err
}

// ErrorsRecent implements the RPC.
func (d *System) ErrorsRecent(context.Context, *apiv1.ErrorsRecentRequest) (*apiv1.ErrorsRecentResponse, error) {
	resp := &apiv1.ErrorsRecentResponse{}
	for _, r := range d.recent.List() {
		resp.Errors = append(resp.Errors, &apiv1.ErrorRecord{
			Code: string(r.Code), Message: r.Message, Fix: r.Fix, Agent: r.Agent, Domain: r.Domain, Correlation: r.Correlation,
			Count: r.Count, FirstUnixNano: r.First.UnixNano(), LastUnixNano: r.Last.UnixNano(),
		})
	}
	return resp, nil
}
