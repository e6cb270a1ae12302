package api_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"aios.dev/aios/api"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/errdefs"
)

const stranger = 64123 // A user that owns nothing here.

// server answers Version with who asked, and refuses Wait on a stream and off.
type server struct {
	apiv1.UnimplementedControlServer
}

func (server) Version(ctx context.Context, _ *apiv1.VersionRequest) (*apiv1.VersionResponse, error) {
	p, ok := api.PeerFrom(ctx)
	if !ok {
		return nil, errdefs.New(errdefs.Internal, "no peer")
	}
	return &apiv1.VersionResponse{
		Version: fmt.Sprintf("uid %d gid %d", p.UID, p.GID), Pid: p.PID, ApiMinor: uint32(api.ClientMinor(ctx)),
	}, nil
}

func (server) Wait(context.Context, *apiv1.WaitRequest) (*apiv1.WaitResponse, error) {
	return nil, errdefs.New(errdefs.AgentNotFound, "no such agent", errdefs.Op("wait for agent"), errdefs.Fix("see ps"))
}

func (server) Logs(_ *apiv1.LogsRequest, s grpc.ServerStreamingServer[apiv1.LogsResponse]) error {
	if err := s.Send(&apiv1.LogsResponse{Data: []byte("line\n")}); err != nil {
		return err
	}
	return errdefs.New(errdefs.DomainDied, "its kernel is gone")
}

// serve starts a server and returns the path of its socket.
func serve(t *testing.T, opts ...grpc.ServerOption) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "aios-api")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	// Let everybody connect, so that the check under test decides.
	for _, p := range []string{dir, path} {
		if err := os.Chmod(p, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	s := grpc.NewServer(append(api.ServerOptions(), opts...)...)
	apiv1.RegisterControlServer(s, server{})
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return path
}

// client returns a client whose connections dial makes.
func client(t *testing.T, dial func(context.Context, string) (net.Conn, error)) apiv1.ControlClient {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///x", append(api.DialOptions(), grpc.WithContextDialer(dial))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return apiv1.NewControlClient(cc)
}

func dialer(path string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
}

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestThePeerIsKnown(t *testing.T) {
	c := client(t, dialer(serve(t)))
	r, err := c.Version(timeout(t), &apiv1.VersionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("uid %d gid %d", os.Geteuid(), os.Getegid()); r.Version != want || int(r.Pid) != os.Getpid() {
		t.Errorf("the server saw %s pid %d, want %s pid %d", r.Version, r.Pid, want, os.Getpid())
	}
	if r.ApiMinor != api.Minor {
		t.Errorf("the server saw minor %d", r.ApiMinor)
	}
}

func TestErrorsKeepCodeAndFix(t *testing.T) {
	c := client(t, dialer(serve(t)))
	_, err := c.Wait(timeout(t), &apiv1.WaitRequest{})
	if errdefs.CodeOf(err) != errdefs.AgentNotFound || errdefs.FixOf(err) != "see ps" || err.Error() != "wait for agent: no such agent" {
		t.Errorf("unary: %#v", err)
	}
	s, err := c.Logs(timeout(t), &apiv1.LogsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := s.Recv(); err != nil || string(m.GetData()) != "line\n" {
		t.Fatalf("first message %v, %v", m, err)
	}
	if _, err = s.Recv(); errdefs.CodeOf(err) != errdefs.DomainDied {
		t.Errorf("stream: %#v", err)
	}
	if _, err = c.List(timeout(t), &apiv1.ListRequest{}); errdefs.CodeOf(err) != errdefs.ProtocolVersion || errdefs.FixOf(err) == "" {
		t.Errorf("unknown call: %#v", err)
	}
}

// connectAs connects with the credentials of another user: it changes those of
// one thread, which ends with the goroutine.
func connectAs(uid int, path string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	got := make(chan result)
	go func() {
		runtime.LockOSThread()
		conn, err := func() (net.Conn, error) {
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
				return nil, e
			}
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
				return nil, e
			}
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return nil, err
			}
			f := os.NewFile(uintptr(fd), path)
			defer f.Close()
			if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
				return nil, err
			}
			return net.FileConn(f)
		}()
		got <- result{conn, err}
	}()
	r := <-got
	return r.conn, r.err
}

func TestStrangersAreToldWhy(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	path := serve(t)
	c := client(t, func(context.Context, string) (net.Conn, error) { return connectAs(stranger, path) })
	_, err := c.Version(timeout(t), &apiv1.VersionRequest{})
	if errdefs.CodeOf(err) != errdefs.Denied || !strings.Contains(err.Error(), fmt.Sprint("user ", stranger)) || errdefs.FixOf(err) == "" {
		t.Errorf("unary call of a stranger: %#v", err)
	}
	s, err := c.Logs(timeout(t), &apiv1.LogsRequest{})
	if err == nil {
		_, err = s.Recv()
	}
	if errdefs.CodeOf(err) != errdefs.Denied {
		t.Errorf("stream of a stranger: %#v", err)
	}
	// The server goes on serving its owner.
	if _, err := client(t, dialer(path)).Version(timeout(t), &apiv1.VersionRequest{}); err != nil {
		t.Error(err)
	}
}

func TestHalfSentRequestsHoldNobodyUp(t *testing.T) {
	path := serve(t, grpc.ConnectionTimeout(300*time.Millisecond))
	preface := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	settings := "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	var stuck []net.Conn
	for _, said := range []string{"", preface[:10], preface, preface + settings[:4], preface + "\x00\xff\xff\x04", "GET / HTTP/1.1\r\n\r\n"} {
		for range 8 {
			c, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, said); err != nil {
				t.Fatal(err)
			}
			stuck = append(stuck, c)
		}
	}
	if _, err := client(t, dialer(path)).Version(timeout(t), &apiv1.VersionRequest{}); err != nil {
		t.Fatalf("with %d half-open connections: %v", len(stuck), err)
	}
	for i, c := range stuck {
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("connection %d is not cut off: %v", i, err)
		}
	}
}

func TestAConnectionStuckInsideAFrameIsCutOff(t *testing.T) {
	path := serve(t, grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Second, Timeout: time.Second}))
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	frames := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + // The client's preface,
		"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + // its settings,
		"\x00\x10\x00\x01\x04\x00\x00\x00\x01half" // and 4 of 4096 bytes of headers.
	if _, err := io.WriteString(c, frames); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(15 * time.Second))
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Errorf("not cut off: %v", err)
	}
}

func TestOversizedRequestsAreRefused(t *testing.T) {
	c := client(t, dialer(serve(t)))
	_, err := c.Wait(timeout(t), &apiv1.WaitRequest{Agent: strings.Repeat("x", api.MaxRequest)}, grpc.MaxCallSendMsgSize(2*api.MaxRequest))
	if errdefs.CodeOf(err) != errdefs.Protocol {
		t.Errorf("got %v", err)
	}
	if _, err := c.Version(timeout(t), &apiv1.VersionRequest{}); err != nil {
		t.Errorf("after it: %v", err)
	}
}
