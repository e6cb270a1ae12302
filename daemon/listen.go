package daemon

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"aios.dev/aios/api"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/errdefs"
)

// bearerDoor is where bearers of tokens are served, besides the daemon's own
// socket. The zero value is shut.
type bearerDoor struct {
	change sync.Mutex // held while it is opened or shut

	mu sync.Mutex // a leaf
	// What the operator has set; the zero Address is none.
	// +checklocks:mu
	address api.Address
	// Nil while nobody is served.
	// +checklocks:mu
	server *grpc.Server
	// Why nobody is.
	// +checklocks:mu
	failed error
}

// state returns the address that is set, and why nobody is served there.
func (b *bearerDoor) state() (address, failed string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.address == (api.Address{}) {
		return "", ""
	}
	if b.failed != nil {
		failed = b.failed.Error()
	}
	return b.address.String(), failed
}

// set changes the state and returns the server that was there.
func (b *bearerDoor) set(a api.Address, s *grpc.Server, failed error) *grpc.Server {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.server
	b.address, b.server, b.failed = a, s, failed
	return old
}

func (d *System) listenPath() string { return filepath.Join(d.paths.Tokens, "listen") }

// openDoor serves bearers where the operator has set it. A daemon that cannot
// does everything else.
func (d *System) openDoor() {
	raw, err := os.ReadFile(d.listenPath())
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	d.bearers.change.Lock()
	defer d.bearers.change.Unlock()
	var a api.Address
	if err == nil {
		a, err = api.ParseAddress(strings.TrimSpace(string(raw)))
	}
	if err == nil {
		_, err = d.serveBearers(a)
	}
	if err != nil {
		d.bearers.set(a, nil, err)
		d.log.Error("bearers of tokens are not served", "err", err)
	}
}

// serveBearers opens the door at an address and returns it, with the port that
// it has. It is called with change held and the door shut.
func (d *System) serveBearers(a api.Address) (api.Address, error) {
	l, err := listen(a)
	if err != nil {
		return a, err
	}
	if a.Network == "tcp" {
		a.Name = l.Addr().String()
	}
	opts := d.serverOptions(api.Door{Bearer: d.admitBearer, TokensOnly: true})
	server := grpc.NewServer(opts...)
	apiv1.RegisterControlServer(server, d)
	apiv1.RegisterDebugServer(server, d)
	apiv1.RegisterHealthServer(server, d)
	apiv1.RegisterKernelServer(server, &kernelService{d: d})
	apiv1.RegisterInterruptsServer(server, &interruptsService{d: d})
	apiv1.RegisterSchedulingServer(server, &schedulingService{d: d})
	apiv1.RegisterProcessorsServer(server, &processorsService{d: d})
	apiv1.RegisterVirtualMemoryServer(server, &vmService{d: d})
	d.bearers.set(a, server, nil)
	d.log.Info("serving bearers of tokens", "address", a)
	go func() {
		err := server.Serve(&limited{Listener: l, places: make(chan struct{}, maxBearers)})
		if err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			d.log.Error("bearers of tokens are no longer served", "err", err)
			d.bearers.mu.Lock()
			if d.bearers.server == server {
				d.bearers.failed = err
			}
			d.bearers.mu.Unlock()
		}
	}()
	return a, nil
}

// serverOptions are what a server of the daemon is built with: veils are around
// what remembers failures, that is around the guards, and they are around the
// handlers.
func (d *System) serverOptions(door api.Door) []grpc.ServerOption {
	opts := append(door.ServerOptions(), veils()...)
	opts = append(opts, d.failures()...)
	return append(opts, d.guards(door.TokensOnly)...)
}

// closeDoor stops to serve bearers, and ends the calls that last.
func (d *System) closeDoor() {
	d.bearers.change.Lock()
	defer d.bearers.change.Unlock()
	d.shutDoor()
}

// shutDoor is closeDoor with change held.
func (d *System) shutDoor() {
	if s := d.bearers.set(api.Address{}, nil, nil); s != nil {
		stopServer(s)
	}
}

// listen opens a socket for strangers.
func listen(a api.Address) (net.Listener, error) {
	failed := func(err error) error {
		code, fix := errdefs.HostIO, ""
		if errors.Is(err, unix.EADDRINUSE) {
			code, fix = errdefs.AlreadyExists, "choose another address, or end what listens there"
		}
		return errdefs.Wrap(err, code, "listen for bearers", errdefs.Resource("%s", a), errdefs.Fix("%s", fix))
	}
	if a.Network != "unix" {
		l, err := net.Listen(a.Network, a.Name)
		return l, failed(err)
	}
	if err := clearSocket(a.Name); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", a.Name)
	if err == nil {
		if err = os.Chmod(a.Name, 0o666); err != nil { // Tokens decide, not users.
			l.Close()
		}
	}
	if err != nil {
		return nil, failed(err)
	}
	return l, nil
}

// clearSocket makes room for a socket: it removes one that nobody listens at,
// and nothing else. In a directory where others can write, they could put a
// socket of their own in its place, and be shown tokens.
func clearSocket(path string) error {
	refuse := func(detail, fix string) error {
		return errdefs.New(errdefs.InvalidArgument, detail, errdefs.Op("listen for bearers"), errdefs.Resource("unix:%s", path), errdefs.Fix("%s", fix))
	}
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return errdefs.Wrap(err, errdefs.InvalidArgument, "listen for bearers", errdefs.Fix("name a path in a directory that exists"))
	}
	st, ok := dir.Sys().(*syscall.Stat_t)
	switch {
	case dir.Mode().Perm()&0o022 != 0:
		return refuse("others can write to the directory, and could put a socket of their own there", "choose a directory that only the daemon's user can write to")
	case !ok || st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return refuse("the directory is another user's", "choose a directory of the daemon's user")
	}
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "listen for bearers")
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return refuse("it exists, and is not a socket", "choose another path, or remove the file")
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
		return refuse("somebody listens there", "choose another path")
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return errdefs.Wrap(err, errdefs.HostIO, "listen for bearers")
	}
	return errdefs.Wrap(os.Remove(path), errdefs.HostIO, "remove a socket that was left behind")
}

// TokenListen implements the RPC.
func (d *System) TokenListen(ctx context.Context, req *apiv1.TokenListenRequest) (*apiv1.TokenListenResponse, error) {
	d.bearers.change.Lock()
	defer d.bearers.change.Unlock()
	by := actor(ctx)
	e := audit.Entry{Op: opTokenListen, Actor: by.Name, Target: req.GetAddress(), Correlation: by.Correlation}
	if req.GetAddress() == "off" {
		if err := os.Remove(d.listenPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, diskError(err, "remove", d.listenPath())
		}
		d.shutDoor()
		d.record(e)
		return &apiv1.TokenListenResponse{}, nil
	}
	a, err := api.ParseAddress(req.GetAddress())
	if err != nil {
		return nil, err
	}
	if set, failed := d.bearers.state(); set == a.String() && failed == "" {
		return &apiv1.TokenListenResponse{Address: set}, nil
	}
	if _, err := d.keyring(); err != nil { // Nobody could be served.
		return nil, err
	}
	d.bearers.mu.Lock()
	before := d.bearers.address
	d.bearers.mu.Unlock()
	d.shutDoor()
	a, err = d.serveBearers(a)
	if err == nil {
		if err = replaceFile(d.listenPath(), a.String()+"\n"); err != nil {
			d.shutDoor()
		}
	}
	if err != nil {
		if before != (api.Address{}) { // As it was.
			if _, again := d.serveBearers(before); again != nil {
				d.bearers.set(before, nil, again)
			}
		}
		return nil, err
	}
	e.Target = a.String()
	d.record(e)
	return &apiv1.TokenListenResponse{Address: a.String()}, nil
}

// maxBearers is how many connections of bearers there may be at once.
const maxBearers = 1024

// limited closes connections beyond so many at once.
type limited struct {
	net.Listener
	places chan struct{}
}

// Accept returns the next connection that there is a place for.
func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.places <- struct{}{}:
			return &placed{Conn: c, leave: sync.OnceFunc(func() { <-l.places })}, nil
		default:
			c.Close()
		}
	}
}

// placed is a connection that has a place.
type placed struct {
	net.Conn
	leave func()
}

// Close gives the place back.
func (p *placed) Close() error {
	defer p.leave()
	return p.Conn.Close()
}
