package api_test

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"aios.dev/aios/api"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/errdefs"
)

// Inspect fails, and says which request it was asked in.
func (server) Inspect(ctx context.Context, _ *apiv1.InspectRequest) (*apiv1.InspectResponse, error) {
	return nil, errdefs.New(errdefs.AgentNotFound, errdefs.CorrelationFrom(ctx))
}

// Attach fails as Inspect does.
func (server) Attach(s grpc.BidiStreamingServer[apiv1.AttachRequest, apiv1.AttachResponse]) error {
	return errdefs.New(errdefs.AgentNotFound, errdefs.CorrelationFrom(s.Context()))
}

// seen checks that server and client spoke of the same request.
func seen(t *testing.T, err error) string {
	t.Helper()
	id := errdefs.ScopeOf(err).Correlation
	if errdefs.CodeOf(err) != errdefs.AgentNotFound || !errdefs.ValidCorrelation(id) || err.Error() != id {
		t.Fatalf("the client knows the request as %q, the server as %q", id, err)
	}
	return id
}

func TestOneIDFollowsARequest(t *testing.T) {
	c := client(t, dialer(serve(t)))
	const mine = "0123456789abcdef"
	calls := map[string]func(context.Context) error{
		"unary": func(ctx context.Context) error {
			_, err := c.Inspect(ctx, &apiv1.InspectRequest{})
			return err
		},
		"stream": func(ctx context.Context) error {
			s, err := c.Attach(ctx)
			if err != nil {
				return err
			}
			_, err = s.Recv()
			return err
		},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			if got := seen(t, call(errdefs.WithCorrelation(timeout(t), mine))); got != mine {
				t.Errorf("%s became %s", mine, got)
			}
			if a, b := seen(t, call(timeout(t))), seen(t, call(timeout(t))); a == b {
				t.Errorf("two requests are both %s", a)
			}
		})
	}
}

func TestErrorsOfTheTransportSayTheRequest(t *testing.T) {
	c := client(t, dialer(t.TempDir()+"/none"))
	const mine = "0123456789abcdef"
	_, err := c.Version(errdefs.WithCorrelation(timeout(t), mine), &apiv1.VersionRequest{})
	if got := errdefs.ScopeOf(err).Correlation; errdefs.CodeOf(err) != errdefs.DaemonUnreachable || got != mine {
		t.Errorf("%v carries %q", err, got)
	}
}

// TestAForgedIDIsReplaced speaks to the server without our interceptors.
func TestAForgedIDIsReplaced(t *testing.T) {
	path := serve(t)
	opts := append(api.DialOptions(), grpc.WithContextDialer(dialer(path)), grpc.WithUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return api.FromStatus(invoke(ctx, method, req, reply, cc, opts...))
		}))
	cc, err := grpc.NewClient("passthrough:///x", opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	for _, forged := range [][]string{{"not an ID; rm -rf"}, {"0123456789abcdef", "fedcba9876543210"}, {}} {
		ctx := timeout(t)
		for _, v := range forged {
			ctx = metadata.AppendToOutgoingContext(ctx, "aios-correlation-id", v)
		}
		_, err := apiv1.NewControlClient(cc).Inspect(ctx, &apiv1.InspectRequest{})
		if id := seen(t, err); id == "0123456789abcdef" || id == "fedcba9876543210" {
			t.Errorf("%q: the server took %s", forged, id)
		}
	}
}
