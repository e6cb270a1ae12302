package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
)

// served is a server on a socket of its own.
type served struct {
	*Server
	socket   string
	listener *net.UnixListener
	done     chan error
}

type echo struct {
	Text string `json:"text"`
}

func serve(t testing.TB, change ...func(*Server)) *served {
	t.Helper()
	release := make(chan struct{})
	s := &served{
		socket: filepath.Join(t.TempDir(), "s"), done: make(chan error, 1),
		Server: NewServer(func() HelloReply { return HelloReply{Version: abi.ProtocolVersion, Domain: "dom", PID: 7} }, map[string]Handler{
			"echo": Handle(func(e echo) (echo, error) { return e, nil }),
			"fail": Handle(func(e echo) (echo, error) {
				return e, errdefs.New(errdefs.WrongState, e.Text, errdefs.Op("fail"), errdefs.Fix("do not"))
			}),
			"read": HandleFiles(func(_ echo, files []*os.File) (echo, error) {
				defer closeAll(files)
				var text strings.Builder
				for _, f := range files {
					f.Seek(0, io.SeekStart)
					io.Copy(&text, f)
				}
				return echo{text.String()}, nil
			}),
			"block": Handle(func(e echo) (echo, error) {
				<-release
				return e, nil
			}),
			"odd": func(json.RawMessage, []*os.File) (any, error) { return func() {}, nil },
		}),
	}
	for _, f := range change {
		f(s.Server)
	}
	var err error
	if s.listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: s.socket, Net: "unix"}); err != nil {
		t.Fatal(err)
	}
	go func() { s.done <- s.Serve(s.listener) }()
	t.Cleanup(func() {
		close(release)
		s.listener.Close()
		if err := <-s.done; err != nil {
			t.Errorf("Serve ends with %v", err)
		}
	})
	return s
}

func ignore(string, json.RawMessage) {}

func dial(t testing.TB, s *served, onEvent func(string, json.RawMessage)) *Client {
	t.Helper()
	c, hello, err := Dial(context.Background(), s.socket, "dom", onEvent)
	if err != nil {
		t.Fatal(err)
	}
	if hello.Domain != "dom" || hello.PID != 7 {
		t.Errorf("hello says %+v", hello)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func within(t testing.TB, d time.Duration, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(d):
		t.Fatalf("%s did not happen in %v", what, d)
	}
}

func TestCalls(t *testing.T) {
	before := descriptors(t)
	s := serve(t)
	c := dial(t, s, ignore)
	ctx := context.Background()
	var out echo
	if err := c.Call(ctx, "echo", echo{"hello"}, &out); err != nil || out.Text != "hello" {
		t.Errorf("%+v, %v", out, err)
	}
	if err := c.Call(ctx, "echo", echo{"hello"}, nil); err != nil {
		t.Error(err)
	}
	files := openFiles(t, MaxFiles)
	want := ""
	for i := range MaxFiles {
		want += strconv.Itoa(i)
	}
	if err := c.Call(ctx, "read", echo{}, &out, files...); err != nil || out.Text != want {
		t.Errorf("%+v, %v", out, err)
	}
	if err := c.Call(ctx, "echo", echo{}, nil, files...); err != nil { // Takes none and closes them.
		t.Error(err)
	}
	if err := c.Call(ctx, "nosuch", echo{}, nil, files...); errdefs.CodeOf(err) != errdefs.Unsupported {
		t.Error(err)
	}
	if err := c.Call(ctx, "echo", "not an echo", nil, files...); errdefs.CodeOf(err) != errdefs.Protocol {
		t.Error(err)
	}
	closeAll(files)
	if err := c.Call(ctx, "fail", echo{"because"}, nil); errdefs.CodeOf(err) != errdefs.WrongState || errdefs.FixOf(err) != "do not" || err.Error() != "fail: because" {
		t.Error(err)
	}
	if err := c.Call(ctx, "odd", echo{}, nil); errdefs.CodeOf(err) != errdefs.Internal {
		t.Error(err)
	}
	if err := c.Call(ctx, "echo", echo{"x"}, new(int)); errdefs.CodeOf(err) != errdefs.Protocol {
		t.Error(err)
	}
	if err := c.Call(ctx, "echo", func() {}, nil); errdefs.CodeOf(err) != errdefs.Internal {
		t.Error(err)
	}
	if err := c.Call(ctx, "echo", echo{strings.Repeat("x", MaxMessage)}, nil); errdefs.CodeOf(err) != errdefs.InvalidArgument {
		t.Error(err)
	}
	big := echo{strings.Repeat("x", MaxMessage-1000)}
	if err := c.Call(ctx, "echo", big, &out); err != nil || out != big {
		t.Errorf("%d bytes, %v", len(out.Text), err)
	}
	c.Close()
	within(t, 5*time.Second, "the end", c.Done())
	if err := c.Call(ctx, "echo", echo{}, nil); errdefs.CodeOf(err) != errdefs.DomainDied {
		t.Error(err)
	}
	wantDescriptors(t, before+1) // The listener.
}

// TestCallsOverlap has many callers on one connection, some of whom give up.
func TestCallsOverlap(t *testing.T) {
	s := serve(t)
	c := dial(t, s, ignore)
	var wg sync.WaitGroup
	for n := range 50 {
		wg.Go(func() {
			for k := range 40 {
				want := fmt.Sprint(n, " ", k)
				var out echo
				if err := c.Call(context.Background(), "echo", echo{want}, &out); err != nil || out.Text != want {
					t.Errorf("%q answered by %q, %v", want, out.Text, err)
				}
			}
		})
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
			defer cancel()
			if err := c.Call(ctx, "block", echo{}, nil); errdefs.CodeOf(err) != errdefs.Cancelled || !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) != 0 {
		t.Errorf("%d calls are remembered", len(c.pending))
	}
}

// TestManyBlockedCalls checks that a connection is served up to its bound, and
// that others do not notice.
func TestManyBlockedCalls(t *testing.T) {
	s := serve(t)
	c := dial(t, s, ignore)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range maxConcurrent + 10 {
		wg.Go(func() { c.Call(ctx, "block", echo{}, nil) })
	}
	time.Sleep(50 * time.Millisecond)
	if err := dial(t, s, ignore).Call(context.Background(), "echo", echo{}, nil); err != nil {
		t.Error(err)
	}
	cancel()
	wg.Wait()
}

// TestPendingCallsEndWithTheConnection checks that nobody waits for a peer
// that is gone.
func TestPendingCallsEndWithTheConnection(t *testing.T) {
	s := serve(t)
	c := dial(t, s, ignore)
	errs := make(chan error, 10)
	for range cap(errs) {
		go func() { errs <- c.Call(context.Background(), "block", echo{}, nil) }()
	}
	time.Sleep(20 * time.Millisecond)
	s.mu.Lock()
	for conn := range s.conns {
		conn.c.Close()
	}
	s.mu.Unlock()
	for range cap(errs) {
		if err := <-errs; errdefs.CodeOf(err) != errdefs.DomainDied {
			t.Error(err)
		}
	}
}

func TestPushes(t *testing.T) {
	s := serve(t)
	const events = 200
	var wg sync.WaitGroup
	for range 5 {
		got := 0
		wg.Add(1)
		dial(t, s, func(method string, body json.RawMessage) {
			if method != "tick" || string(body) != fmt.Sprint(got) {
				t.Errorf("event %q %s, want tick %d", method, body, got)
			}
			if got++; got == events {
				wg.Done()
			}
		})
	}
	waitConns(t, s, 5)
	for n := range events {
		s.Push("tick", n)
	}
	wg.Wait()
	s.Push("odd", func() {}) // Cannot be encoded: nobody hears of it.
}

func waitConns(t testing.TB, s *served, n int) {
	t.Helper()
	for range 1000 {
		s.mu.Lock()
		have := len(s.conns)
		s.mu.Unlock()
		if have == n {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("there are not %d connections", n)
}

// TestPushesWhileClientsComeAndGo checks that nothing is left of them.
func TestPushesWhileClientsComeAndGo(t *testing.T) {
	s := serve(t)
	before := descriptors(t)
	var stop atomic.Bool
	var pushers, clients sync.WaitGroup
	for range 2 {
		pushers.Go(func() {
			for n := 0; !stop.Load(); n++ {
				s.Push("tick", n)
			}
		})
	}
	for range 8 {
		clients.Go(func() {
			for k := range 25 {
				c, _, err := Dial(context.Background(), s.socket, "dom", ignore)
				if err != nil {
					t.Error(err)
					return
				}
				if err := c.Call(context.Background(), "echo", echo{}, nil); err != nil && k%2 == 0 {
					t.Error(err)
				}
				c.Close()
			}
		})
	}
	clients.Wait()
	stop.Store(true)
	pushers.Wait()
	waitConns(t, s, 0)
	wantDescriptors(t, before)
}

// TestClientThatNeverReads checks that such a client is cut off, and that the
// others hear what they should.
func TestClientThatNeverReads(t *testing.T) {
	s := serve(t, func(s *Server) { s.sendTimeout = 100 * time.Millisecond })
	deaf := raw(t, s)
	greet(t, deaf)
	var heard atomic.Int64
	dial(t, s, func(string, json.RawMessage) { heard.Add(1) })
	waitConns(t, s, 2)
	start := time.Now()
	text := strings.Repeat("x", 64<<10)
	for range 50 {
		s.Push("tick", text)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("50 events took %v", took)
	}
	waitConns(t, s, 1)
	for heard.Load() < 50 {
		time.Sleep(5 * time.Millisecond)
	}
}

// raw connects without a protocol.
func raw(t testing.TB, s *served) *conn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: s.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &conn{c: c}
}

func greet(t testing.TB, c *conn) {
	t.Helper()
	body, _ := json.Marshal(Hello{Version: abi.ProtocolVersion, Domain: "dom"})
	if err := c.send(&message{ID: 1, Method: MethodHello, Body: body}); err != nil {
		t.Fatal(err)
	}
	if m, _, err := c.recv(); err != nil || m.ID != 1 || m.Err != nil {
		t.Fatalf("%+v, %v", m, err)
	}
}

// TestClientsThatDoNotIntroduceThemselves connects and hangs, at every stage
// of a first message.
func TestClientsThatDoNotIntroduceThemselves(t *testing.T) {
	s := serve(t, func(s *Server) { s.helloTimeout = 100 * time.Millisecond })
	before := descriptors(t)
	head := []byte{0, 0, 0, 50, 0, 0, 0, 0, '{', '"'}
	var open []*conn
	for n := range len(head) + 1 {
		c := raw(t, s)
		if _, err := c.c.Write(head[:n]); err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	for n, c := range open {
		c.c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("after %d bytes: %v", n, err)
		}
		c.c.Close()
	}
	wantDescriptors(t, before)
	// One that has introduced itself may be silent.
	c := dial(t, s, ignore)
	time.Sleep(200 * time.Millisecond)
	if err := c.Call(context.Background(), "echo", echo{}, nil); err != nil {
		t.Error(err)
	}
}

func TestWrongIntroductions(t *testing.T) {
	s := serve(t)
	before := descriptors(t)
	for name, test := range map[string]struct {
		method, body string
		want         errdefs.Code
		says         string
	}{
		"another version": {MethodHello, fmt.Sprintf(`{"version":%d,"domain":"dom"}`, abi.ProtocolVersion+1), errdefs.ProtocolVersion, fmt.Sprint(abi.ProtocolVersion + 1)},
		"another domain":  {MethodHello, fmt.Sprintf(`{"version":%d,"domain":"other"}`, abi.ProtocolVersion), errdefs.Protocol, "not other"},
		"no version":      {MethodHello, `{"domain":"dom"}`, errdefs.ProtocolVersion, "0"},
		"another method":  {"echo", `{}`, errdefs.Protocol, "hello"},
		"no body":         {MethodHello, ``, errdefs.Protocol, "hello"},
		"another body":    {MethodHello, `[]`, errdefs.Protocol, "hello"},
	} {
		c := raw(t, s)
		files := openFiles(t, 2)
		if err := c.send(&message{ID: 9, Method: test.method, Body: json.RawMessage(test.body)}, files...); err != nil {
			t.Fatal(err)
		}
		closeAll(files)
		m, _, err := c.recv()
		if err != nil || m.ID != 9 || m.Err == nil || m.Err.Code != test.want || !strings.Contains(m.Err.error().Error(), test.says) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
		if _, _, err := c.recv(); err != io.EOF {
			t.Errorf("%s: afterwards %v", name, err)
		}
		c.c.Close()
	}
	if _, _, err := Dial(context.Background(), s.socket, "other", ignore); errdefs.CodeOf(err) != errdefs.Protocol {
		t.Error(err)
	}
	if _, _, err := Dial(context.Background(), s.socket+"x", "dom", ignore); errdefs.CodeOf(err) != errdefs.DomainDied {
		t.Error(err)
	}
	wantDescriptors(t, before)
}

// TestDialGivesUp connects to something that never answers.
func TestDialGivesUp(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	before := descriptors(t)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := Dial(ctx, socket, "dom", ignore); errdefs.CodeOf(err) != errdefs.Cancelled {
		t.Error(err)
	}
	wantDescriptors(t, before)
}

// TestGarbageAfterHello checks that a connection which breaks the protocol is
// closed, with everything it brought.
func TestGarbageAfterHello(t *testing.T) {
	s := serve(t)
	before := descriptors(t)
	for _, garbage := range []string{"\xff\xff\xff\xff\x00\x00\x00\x00", "\x00\x00\x00\x03\x00\x00\x00\x02{]}", "GET / HTTP/1.1\r\n\r\n"} {
		c := raw(t, s)
		greet(t, c)
		files := openFiles(t, 2)
		if _, _, err := c.c.WriteMsgUnix([]byte(garbage), unix.UnixRights(int(files[0].Fd()), int(files[1].Fd())), nil); err != nil {
			t.Fatal(err)
		}
		closeAll(files)
		if _, _, err := c.recv(); err == nil {
			t.Errorf("%q is answered", garbage)
		}
		c.c.Close()
	}
	waitConns(t, s, 0)
	wantDescriptors(t, before)
}

// TestServeSurvivesALackOfDescriptors takes all of them for a while.
func TestServeSurvivesALackOfDescriptors(t *testing.T) {
	s := serve(t)
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: s.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	// No descriptor above those in use is to be had.
	low := unix.Rlimit{Cur: 1, Max: old.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: s.socket})
	time.Sleep(3 * acceptPause)
	if e := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); e != nil {
		t.Fatal(e)
	}
	if err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-s.done:
		s.done <- err
		t.Fatalf("Serve gave up: %v", err)
	default:
	}
	if err := dial(t, s, ignore).Call(context.Background(), "echo", echo{}, nil); err != nil {
		t.Error(err)
	}
}

func TestBootStatus(t *testing.T) {
	boxes := []Box{{Name: "seccomp", OK: true}, {Name: "cgroup", Reason: "read-only"}}
	for _, want := range []error{nil, errdefs.New(errdefs.PlatformUnusable, "no", errdefs.Fix("buy one"))} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := WriteJSON(w, NewBootStatus(boxes, want)); err != nil {
			t.Fatal(err)
		}
		got, err := ReadBootStatus(r)
		if fmt.Sprint(got) != fmt.Sprint(boxes) || errdefs.CodeOf(err) != errdefs.CodeOf(want) || errdefs.FixOf(err) != errdefs.FixOf(want) {
			t.Errorf("%v, %v; want %v", got, err, want)
		}
		r.Close()
	}
	for _, text := range []string{"", "{", "panic: at the disco", strings.Repeat("x", MaxMessage+10)} {
		if _, err := ReadBootStatus(strings.NewReader(text)); errdefs.CodeOf(err) != errdefs.DomainBoot {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteJSON(f, 1); errdefs.CodeOf(err) != errdefs.HostIO {
		t.Error(err)
	}
}
