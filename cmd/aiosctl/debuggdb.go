package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/spf13/cobra"

	"aios.dev/aios/client"
	"aios.dev/aios/errdefs"
)

// gdbOptions is what `debug --gdb` was asked for.
type gdbOptions struct {
	agent, address string
	pid            int32
	remote, once   bool
}

// gdb serves gdb.
func (a *app) gdb(cmd *cobra.Command, g gdbOptions) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err := a.with(cmd, func(_ context.Context, c *client.Client) error {
		d, err := c.Debug(ctx, g.agent, g.pid)
		if err != nil {
			return a.suggest(ctx, c, err, g.agent)
		}
		s := &gdbServer{a: a, c: c, gdbOptions: g, d: newFromAgent(d)}
		defer func() { s.d.Close() }()
		if g.address == "-" {
			_, err := s.serve(ctx, stdio{a.stdin, a.stdout})
			return err
		}
		l, err := listenGDB(g.address, g.remote)
		if err != nil {
			return err
		}
		defer l.Close()
		fmt.Fprintf(a.stdout, "waiting for gdb at %s; start it with\n  gdb -ex 'target remote %s'\n", l.Addr(), l.Addr())
		return s.run(ctx, l)
	})
	if ctx.Err() != nil && cmd.Context().Err() == nil {
		return status(128 + int(syscall.SIGINT)) // The agent goes on.
	}
	return err
}

// gdbServer serves one gdb after the other. For each there is a debugger of the
// daemon's, which does nothing to the agent until gdb is there; it is also what
// tells that the agent has ended.
type gdbServer struct {
	a *app
	c *client.Client
	gdbOptions
	d    *fromAgent
	busy atomic.Bool // a gdb is there
}

// fromAgent reads from a debugger on a goroutine of its own.
type fromAgent struct {
	*client.Debugger
	said chan []byte // closed when there is no more
	err  error       // why not, after that
}

// gdbPiece is how much of gdb's protocol is carried at once.
const gdbPiece = 64 << 10

func newFromAgent(d *client.Debugger) *fromAgent {
	f := &fromAgent{Debugger: d, said: make(chan []byte)}
	go func() {
		defer close(f.said)
		for {
			buf := make([]byte, gdbPiece)
			n, err := d.Read(buf)
			if err != nil {
				f.err = err
				return
			}
			f.said <- buf[:n]
		}
	}()
	return f
}

// Close also ends the goroutine.
func (f *fromAgent) Close() {
	f.Debugger.Close()
	for range f.said {
	}
}

// run serves whoever connects.
func (s *gdbServer) run(ctx context.Context, l net.Listener) error {
	came, failed := make(chan net.Conn, 1), make(chan error, 1)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				failed <- err
				return
			}
			if err := s.admit(conn); err != nil {
				fmt.Fprintf(s.a.stderr, "aiosctl: a client was turned away: %s\n", printable(err.Error()))
				conn.Close()
				continue
			}
			came <- conn
		}
	}()
	for served := false; ; served = true {
		var conn net.Conn
		select {
		case conn = <-came:
		case err := <-failed:
			return errdefs.Wrap(err, errdefs.HostIO, "serve gdb")
		case <-s.d.said: // Nobody has said anything that it could be an answer to.
			return s.ended(s.d.err, served)
		case <-ctx.Done():
			return nil
		}
		fmt.Fprintln(s.a.stderr, "aiosctl: gdb is there")
		attached, err := s.serve(ctx, conn)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && (s.once || errdefs.CodeOf(err) == errdefs.AgentNotRunning):
			return err
		case err != nil:
			fmt.Fprintf(s.a.stderr, "aiosctl: %s\n", printable(err.Error()))
		case attached:
			fmt.Fprintln(s.a.stderr, "aiosctl: gdb has left")
		}
		if s.once {
			return nil
		}
		d, err := s.c.Debug(ctx, s.agent, s.pid)
		if err != nil {
			return s.ended(err, true)
		}
		s.d.Close()
		s.d = newFromAgent(d)
		s.busy.Store(false)
	}
}

// ended is what it comes to when there is nothing more to debug: no failure, if
// somebody has debugged it.
func (s *gdbServer) ended(err error, served bool) error {
	if served && errdefs.CodeOf(err) == errdefs.AgentNotRunning {
		fmt.Fprintf(s.a.stderr, "aiosctl: %s\n", printable(err.Error()))
		return nil
	}
	return err
}

// admit takes a client if there is none and it is one of ours.
func (s *gdbServer) admit(conn net.Conn) error {
	if !s.busy.CompareAndSwap(false, true) {
		return errdefs.New(errdefs.WrongState, "another gdb is there", errdefs.Op("serve gdb"))
	}
	if err := oursAtLoopback(conn); err != nil {
		s.busy.Store(false)
		return err
	}
	return nil
}

// serve carries what gdb and the agent's kernel say to each other until one of
// them leaves. It closes conn, and reports whether the agent was stopped.
func (s *gdbServer) serve(ctx context.Context, conn io.ReadWriteCloser) (attached bool, err error) {
	left := make(chan struct{})
	var wrote atomic.Bool
	go func() {
		defer close(left)
		buf := make([]byte, gdbPiece)
		for {
			n, err := conn.Read(buf)
			if n > 0 {
				wrote.Store(true)
				if _, err := s.d.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	defer conn.Close()
	for {
		select {
		case data, ok := <-s.d.said:
			if !ok {
				if errors.Is(s.d.err, io.EOF) || ctx.Err() != nil {
					return wrote.Load(), nil
				}
				return false, s.d.err
			}
			_, _ = conn.Write(data) // If that fails it has left.
		case <-left:
			left = nil
			_ = s.d.CloseWrite() // It fails if that is over already.
		case <-ctx.Done():
			return wrote.Load(), nil
		}
	}
}

// stdio is a connection to whoever started aiosctl.
type stdio struct {
	in  io.Reader
	out io.Writer
}

func (s stdio) Read(p []byte) (int, error)  { return s.in.Read(p) }
func (s stdio) Write(p []byte) (int, error) { return s.out.Write(p) }
func (s stdio) Close() error                { return nil }

// listenGDB listens at [HOST]:PORT or unix:PATH. remote says that others may
// reach it.
func listenGDB(address string, remote bool) (net.Listener, error) {
	refuse := func(detail, fix string) (net.Listener, error) {
		return nil, errdefs.New(errdefs.InvalidArgument, detail, errdefs.Op("serve gdb"), errdefs.Resource("%.120q", address), errdefs.Fix("%s", fix))
	}
	failed := func(err error) (net.Listener, error) {
		code, fix := errdefs.HostIO, ""
		if errors.Is(err, syscall.EADDRINUSE) {
			code, fix = errdefs.AlreadyExists, "choose another address, or remove the socket if nobody listens there; port 0 is one that is free"
		}
		return nil, errdefs.Wrap(err, code, "serve gdb", errdefs.Resource("%.120q", address), errdefs.Fix("%s", fix))
	}
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		if path == "" {
			return refuse("the path of the socket is missing", "write unix:PATH")
		}
		defer syscall.Umask(syscall.Umask(0o177))
		l, err := net.Listen("unix", path)
		if err != nil {
			return failed(err)
		}
		return l, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return refuse("not an address", "write :PORT, HOST:PORT, unix:PATH, or - for standard input and output")
	}
	if host == "" {
		host = "127.0.0.1"
	}
	at, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return refuse("there is no such address", "write :PORT or HOST:PORT; "+err.Error())
	}
	if !at.IP.IsLoopback() && !remote {
		return refuse("others can reach this address, nothing is encrypted, and whoever connects can do with the agent what they like",
			"leave the host out, and from another host use an SSH tunnel: ssh -L "+port+":127.0.0.1:"+port+" HOST; or insist with --allow-remote")
	}
	l, err := net.ListenTCP("tcp", at)
	if err != nil {
		return failed(err)
	}
	return l, nil
}
