package control

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// Handler serves one request. It owns files and must close what it does not
// keep. Handlers of one connection run concurrently.
type Handler func(body json.RawMessage, files []*os.File) (reply any, err error)

const (
	// helloTimeout is how long a new connection may take to introduce
	// itself.
	helloTimeout = 5 * time.Second
	// sendTimeout is how long a peer may take to read one message. One that
	// takes longer is cut off, so that it cannot hold up the others.
	sendTimeout = 5 * time.Second
	// acceptPause is how long the server waits for descriptors to become
	// free when there are none left for a connection.
	acceptPause = 50 * time.Millisecond
)

// maxConcurrent bounds the requests that one connection has in progress; the
// next one waits in the socket.
const maxConcurrent = 256

// Server is the kernel process's end: it serves any number of connections.
type Server struct {
	hello    func() HelloReply
	handlers map[string]Handler

	helloTimeout time.Duration // immutable
	sendTimeout  time.Duration // immutable

	mu    sync.Mutex
	conns map[*conn]struct{} // +checklocks:mu
}

// NewServer returns a server for the given methods; hello fills the reply to
// each connection's Hello.
func NewServer(hello func() HelloReply, handlers map[string]Handler) *Server {
	return &Server{
		hello: hello, handlers: handlers, conns: make(map[*conn]struct{}),
		helloTimeout: helloTimeout, sendTimeout: sendTimeout,
	}
}

// Serve accepts connections until l is closed. A lack of descriptors or of
// memory, which agents may cause, makes connections wait.
func (s *Server) Serve(l *net.UnixListener) error {
	for {
		c, err := l.AcceptUnix()
		switch {
		case err == nil:
			go s.serveConn(&conn{c: c, sendTimeout: s.sendTimeout})
		case errors.Is(err, net.ErrClosed):
			return nil
		case scarce(err):
			ready := make(chan struct{})
			ktime.Real.AfterFunc(acceptPause, func() { close(ready) })
			<-ready
		default:
			return errdefs.Wrap(err, errdefs.Protocol, "accept")
		}
	}
}

// scarce reports whether err says that the host or the process lacks
// something that it may have again.
func scarce(err error) bool {
	for _, e := range []unix.Errno{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Push sends an event to every connection, and returns to how many. A
// connection that cannot take it is closed, so that the daemon connects anew
// and lists.
func (s *Server) Push(event string, body any) int {
	raw, err := json.Marshal(body)
	if err != nil {
		return 0 // Only values of this package are pushed.
	}
	s.mu.Lock()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	sent := 0
	for _, c := range conns {
		if c.send(&message{Method: event, Body: raw}) != nil {
			c.c.Close()
		} else {
			sent++
		}
	}
	return sent
}

func (s *Server) serveConn(c *conn) {
	defer c.c.Close()
	c.c.SetReadDeadline(deadline(s.helloTimeout))
	m, files, err := c.recv()
	closeAll(files)
	if err != nil {
		return
	}
	if err := s.greet(c, m); err != nil {
		c.send(&message{ID: m.ID, Err: toWire(err)})
		return
	}
	c.c.SetReadDeadline(time.Time{})
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	slots := make(chan struct{}, maxConcurrent)
	for {
		m, files, err := c.recv()
		if err != nil {
			return
		}
		slots <- struct{}{}
		go func() {
			s.serveRequest(c, m, files)
			<-slots
		}()
	}
}

func (s *Server) greet(c *conn, m *message) error {
	var h Hello
	if m.Method != MethodHello || json.Unmarshal(m.Body, &h) != nil {
		return errdefs.New(errdefs.Protocol, "the first message is not hello")
	}
	reply := s.hello()
	if h.Version != abi.ProtocolVersion {
		return errdefs.Newf(errdefs.ProtocolVersion, "domain %s speaks protocol %d, the daemon %d", reply.Domain, abi.ProtocolVersion, h.Version).
			With(errdefs.Fix("stop the domain with the version of AIOS that started it"))
	}
	if h.Domain != reply.Domain {
		return errdefs.Newf(errdefs.Protocol, "this is domain %s, not %s", reply.Domain, h.Domain)
	}
	body, err := json.Marshal(reply)
	if err != nil {
		return errdefs.Wrap(err, errdefs.Internal, "encode hello")
	}
	return c.send(&message{ID: m.ID, Body: body})
}

func (s *Server) serveRequest(c *conn, m *message, files []*os.File) {
	out := &message{ID: m.ID}
	if h := s.handlers[m.Method]; h == nil {
		closeAll(files)
		out.Err = toWire(errdefs.Newf(errdefs.Unsupported, "no method %q", m.Method))
	} else if reply, err := h(m.Body, files); err != nil {
		out.Err = toWire(err)
	} else if out.Body, err = json.Marshal(reply); err != nil {
		out.Err = toWire(errdefs.Wrap(err, errdefs.Internal, "encode response"))
	}
	if m.ID == 0 {
		return // A notification.
	}
	if c.send(out) != nil {
		c.c.Close()
	}
}

// Handle adapts a typed function that takes no files.
func Handle[Req, Reply any](f func(Req) (Reply, error)) Handler {
	return HandleFiles(func(r Req, files []*os.File) (Reply, error) {
		closeAll(files)
		return f(r)
	})
}

// HandleFiles adapts a typed function that owns the files of its request.
func HandleFiles[Req, Reply any](f func(Req, []*os.File) (Reply, error)) Handler {
	return func(body json.RawMessage, files []*os.File) (any, error) {
		var r Req
		if err := json.Unmarshal(body, &r); err != nil {
			closeAll(files)
			return nil, errdefs.Wrap(err, errdefs.Protocol, "decode request")
		}
		return f(r, files)
	}
}
