package client

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"aios.dev/aios/api"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/config"
)

type serverStream = grpc.BidiStreamingServer[apiv1.AttachRequest, apiv1.AttachResponse]

// scripted is a server whose Attach is a function of the test's. It records
// the signals that come beside the stream.
type scripted struct {
	apiv1.UnimplementedControlServer
	attach  func(s serverStream) error
	signals chan *apiv1.SignalRequest
	grpc    *grpc.Server
	paths   config.Paths
}

func (f *scripted) Version(context.Context, *apiv1.VersionRequest) (*apiv1.VersionResponse, error) {
	return &apiv1.VersionResponse{Version: "scripted", Pid: int32(os.Getpid())}, nil
}

func (f *scripted) Attach(s serverStream) error { return f.attach(s) }

func (f *scripted) Signal(_ context.Context, r *apiv1.SignalRequest) (*apiv1.SignalResponse, error) {
	f.signals <- r
	return &apiv1.SignalResponse{}, nil
}

// serve starts a scripted server on a socket of its own.
func serve(t *testing.T, attach func(serverStream) error) *scripted {
	t.Helper()
	dir, err := os.MkdirTemp("", "aios-client") // Short, for the socket's sake.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p, err := config.Resolve(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Prepare(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", p.Socket)
	if err != nil {
		t.Fatal(err)
	}
	f := &scripted{attach: attach, signals: make(chan *apiv1.SignalRequest, 64), grpc: grpc.NewServer(api.ServerOptions()...), paths: p}
	apiv1.RegisterControlServer(f.grpc, f)
	var wg sync.WaitGroup
	wg.Go(func() { f.grpc.Serve(l) })
	t.Cleanup(func() { f.grpc.Stop(); wg.Wait() })
	return f
}

func (f *scripted) dial(t *testing.T) *Client {
	t.Helper()
	c, err := Dial(within(t), Options{Paths: f.paths, NoStart: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// within is a context for one test.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func spawn(argv ...string) *apiv1.AttachRequest {
	return &apiv1.AttachRequest{Msg: &apiv1.AttachRequest_Spawn{Spawn: &apiv1.SpawnRequest{Process: &apiv1.Process{Argv: argv}}}}
}

func started(tty bool) *apiv1.AttachResponse {
	return &apiv1.AttachResponse{Msg: &apiv1.AttachResponse_Started{Started: &apiv1.AttachStarted{Id: "a000000000001", ExecId: 3, Tty: tty}}}
}

func output(s string) *apiv1.AttachResponse {
	return &apiv1.AttachResponse{Msg: &apiv1.AttachResponse_Stdout{Stdout: []byte(s)}}
}

func exit(code, signal int32) *apiv1.AttachResponse {
	return &apiv1.AttachResponse{Msg: &apiv1.AttachResponse_Exit{Exit: &apiv1.Exit{Code: code, Signal: signal}}}
}

// begin reads the first message and says that the process started.
func begin(s serverStream, tty bool) error {
	if _, err := s.Recv(); err != nil {
		return err
	}
	return s.Send(started(tty))
}

// input reads until the client closes standard input.
func input(s serverStream) ([]byte, error) {
	var all []byte
	for {
		m, err := s.Recv()
		if err != nil {
			return all, err
		}
		if m.GetStdinClosed() {
			return all, nil
		}
		all = append(all, m.GetStdin()...)
	}
}

// endless is an input that never ends and counts what was taken of it.
type endless struct {
	mu   sync.Mutex
	read int
}

func (e *endless) Read(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.read += len(p)
	return len(p), nil
}

func (e *endless) taken() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.read
}

// brokenPipe returns the writing end of a pipe that nobody reads.
func brokenPipe(t *testing.T) io.Writer {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	t.Cleanup(func() { w.Close() })
	return w
}
