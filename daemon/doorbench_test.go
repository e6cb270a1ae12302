package daemon

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"aios.dev/aios/abi"
	"aios.dev/aios/api"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/capability/token"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// doorBench is a daemon behind a door for bearers. Calls that get past the
// guard are answered by a fake, which remembers them.
type doorBench struct {
	apiv1.ControlServer
	d    *System
	path string

	mu      sync.Mutex
	reached []proto.Message // guarded by mu
}

// errReached is the fake's answer.
var errReached = errdefs.New(errdefs.WrongState, "the handler was reached")

func newDoorBench(t *testing.T, clock ktime.Clock) *doorBench {
	t.Helper()
	dir := shortDir(t)
	d := newSystem(t, dir, clock)
	d.recent = errdefs.NewRecorder(recentErrors, clock.Now)
	b := &doorBench{ControlServer: d, d: d, path: filepath.Join(dir, "door")}
	l, err := net.Listen("unix", b.path)
	if err != nil {
		t.Fatal(err)
	}
	opts := d.serverOptions(api.Door{Bearer: d.admitBearer, TokensOnly: true})
	opts = append(opts, grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		b.note(req.(proto.Message))
		switch info.FullMethod {
		case apiv1.Control_List_FullMethodName, apiv1.Control_Wait_FullMethodName, apiv1.Control_TokenRevoke_FullMethodName:
			return h(ctx, req)
		}
		return nil, errReached
	}))
	s := grpc.NewServer(opts...)
	apiv1.RegisterControlServer(s, b)
	apiv1.RegisterEventsServer(s, d)
	served := make(chan struct{})
	go func() { defer close(served); s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-served })
	return b
}

func (b *doorBench) note(m proto.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reached = append(b.reached, proto.Clone(m))
}

// last returns the last message that reached a handler.
func (b *doorBench) last() proto.Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.reached) == 0 {
		return nil
	}
	return b.reached[len(b.reached)-1]
}

func (b *doorBench) Attach(s grpc.BidiStreamingServer[apiv1.AttachRequest, apiv1.AttachResponse]) error {
	m, err := s.Recv()
	if err != nil {
		return err
	}
	b.note(m)
	if m.GetTarget() == nil {
		return errReached
	}
	// As the real one: one side reads until the client stops, the other goes on.
	go func() {
		for {
			m, err := s.Recv()
			if err != nil {
				return
			}
			b.note(m)
		}
	}()
	if err := s.Send(&apiv1.AttachResponse{Msg: &apiv1.AttachResponse_Started{Started: &apiv1.AttachStarted{}}}); err != nil {
		return err
	}
	<-s.Context().Done()
	return s.Context().Err()
}

func (b *doorBench) Logs(m *apiv1.LogsRequest, s grpc.ServerStreamingServer[apiv1.LogsResponse]) error {
	b.note(m)
	if !m.GetFollow() {
		return errReached
	}
	if err := s.Send(&apiv1.LogsResponse{Data: []byte("first")}); err != nil {
		return err
	}
	<-s.Context().Done()
	return nil // As the real one does.
}

func (b *doorBench) AuditQuery(m *apiv1.AuditQueryRequest, _ grpc.ServerStreamingServer[apiv1.AuditEntry]) error {
	b.note(m)
	return errReached
}

func (b *doorBench) ImageImport(m *apiv1.ImageImportRequest, _ grpc.ServerStreamingServer[apiv1.ImageImportResponse]) error {
	b.note(m)
	return errReached
}

// bearing returns a client that shows a token.
func (b *doorBench) bearing(t *testing.T, text string) apiv1.ControlClient {
	t.Helper()
	return apiv1.NewControlClient(b.dial(t, text))
}

// dial returns a connection that shows a token.
func (b *doorBench) dial(t *testing.T, text string) *grpc.ClientConn {
	t.Helper()
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", b.path)
	}
	cc, err := grpc.NewClient("passthrough:///x", append(api.TokenDialOptions(text), grpc.WithContextDialer(dial))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

// issue signs a token of the daemon's own that allows everything for an hour,
// but for what change says.
func (b *doorBench) issue(t *testing.T, change func(*token.Claims)) token.Token {
	t.Helper()
	k, err := b.d.keyring()
	if err != nil {
		t.Fatal(err)
	}
	c := token.Claims{
		Subject: "tester", Audience: []string{k.audience}, Ops: []string{"*"}, Agents: []string{"*"},
		Expires: b.d.clock.Now().Add(time.Hour),
	}
	if change != nil {
		change(&c)
	}
	made, err := token.Issue(k.key, c, b.d.clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// agent adds one that runs, as far as the daemon knows.
func (b *doorBench) agent(t *testing.T, name string, change func(*record)) *record {
	t.Helper()
	r := newRecord(string(abi.NewAgentID()), &apiv1.SpawnRequest{Name: name}, "dom", b.d.clock.Now())
	r.state = abi.StateRunning
	if change != nil {
		change(r)
	}
	b.d.addRecord(r)
	return r
}

// trail returns the entries of an operation.
func (b *doorBench) trail(t *testing.T, op string) []audit.Entry {
	t.Helper()
	if err := b.d.trail.Sync(); err != nil {
		t.Fatal(err)
	}
	var out []audit.Entry
	for e, err := range audit.Query(b.d.trail.Dir(), audit.Filter{Ops: []string{op}}) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

func grant(t *testing.T, text string) capability.Spec {
	t.Helper()
	s, err := capability.ParseSpec(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}
