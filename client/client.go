// Package client is how a program speaks to the AIOS daemon: it finds the
// socket, starts a daemon when none runs, and joins local streams to processes
// in agents.
//
// Dial returns a Client, which is the generated api/v1 client with every
// error translated to *errdefs.Error; Client.Join carries the streams of one
// process. A Client may be used by many goroutines.
//
// Locks: a join has two, each a leaf: one keeps messages of the attach stream
// whole, the other guards the terminal's mode. The package must not import the
// kernel's side of AIOS (sentry, platform, images): clients start in
// milliseconds.
package client

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"aios.dev/aios/api"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/config"
	"aios.dev/aios/errdefs"
)

// Client speaks to one daemon.
type Client struct {
	apiv1.ControlClient
	apiv1.DebugClient
	apiv1.EventsClient
	apiv1.HealthClient
	apiv1.ConfigurationClient
	apiv1.SinksClient
	apiv1.HooksClient
	apiv1.ClockClient
	apiv1.AlertsClient
	apiv1.KernelClient
	apiv1.InterruptsClient
	apiv1.SchedulingClient
	apiv1.ProcessorsClient
	apiv1.FabricClient
	apiv1.TemplatesClient
	apiv1.MemoryClient
	apiv1.VirtualMemoryClient
	conn *grpc.ClientConn
}

// Options says how to reach a daemon.
type Options struct {
	Paths config.Paths
	// Address is where another daemon serves bearers of tokens, or, without a
	// Token, the socket of one; "" is the socket of Paths. No daemon is started
	// for it.
	Address string
	// Token is shown with every call, which then does what the token allows. It
	// starts no daemon.
	Token string
	// NoStart makes Dial fail with DaemonUnreachable instead of starting a
	// daemon when none runs.
	NoStart bool
	// Daemon is the aiosd binary to start; "" searches for it as FindDaemon
	// describes.
	Daemon string

	startTimeout time.Duration // 0: the constant of that name
}

// Dial connects to the daemon, and starts one first when none runs.
func Dial(ctx context.Context, o Options) (*Client, error) {
	if o.Address != "" {
		return dialAddress(ctx, o)
	}
	opts := api.DialOptions()
	if o.Token != "" {
		opts = append(opts, api.WithToken(o.Token))
	}
	conn, err := connect(ctx, o.Paths.Socket)
	if err != nil {
		if !absent(err) {
			return nil, unreachable(err, o.Paths.Socket)
		}
		if o.NoStart || o.Token != "" {
			return nil, errdefs.New(errdefs.DaemonUnreachable, "no daemon runs", errdefs.Op("connect to daemon"),
				errdefs.Resource("at %s", o.Paths.Socket), errdefs.Fix("start one with `aiosctl daemon start`"))
		}
		if conn, err = start(ctx, o); err != nil {
			return nil, err
		}
	}
	return over(conn, api.Address{Network: "unix", Name: o.Paths.Socket}, opts)
}

// dialAddress connects to a daemon that somebody else runs.
func dialAddress(ctx context.Context, o Options) (*Client, error) {
	a, err := api.ParseAddress(o.Address)
	if err != nil {
		return nil, err
	}
	opts := api.DialOptions()
	if o.Token != "" {
		opts = api.TokenDialOptions(o.Token)
	} else if a.Network != "unix" {
		return nil, errdefs.New(errdefs.TokenInvalid, "there is no token, and a daemon serves only bearers of one over TCP", errdefs.Op("connect to daemon"),
			errdefs.Resource("at %s", a), errdefs.Fix("show a token: --token-file FILE or AIOS_TOKEN"))
	}
	conn, err := connectTo(ctx, a)
	if err != nil {
		return nil, errdefs.New(errdefs.DaemonUnreachable, "", errdefs.Op("connect to daemon"), errdefs.Resource("at %s", a), errdefs.Cause(err),
			errdefs.Fix("the daemon's operator says with `aiosctl token key` where bearers of tokens are served"))
	}
	return over(conn, a, opts)
}

// over builds a Client whose first connection is conn; should it break, later
// calls dial the address again.
func over(conn net.Conn, a api.Address, opts []grpc.DialOption) (*Client, error) {
	first := make(chan net.Conn, 1)
	first <- conn
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		select {
		case c := <-first:
			return c, nil
		default:
			return connectTo(ctx, a)
		}
	}
	cc, err := grpc.NewClient("passthrough:///aios", append(opts, grpc.WithContextDialer(dial))...)
	if err != nil {
		conn.Close()
		return nil, errdefs.Wrap(err, errdefs.Internal, "connect to daemon")
	}
	// The daemon gives a connection that says nothing little time.
	cc.Connect()
	return &Client{
		ControlClient: apiv1.NewControlClient(cc), DebugClient: apiv1.NewDebugClient(cc), EventsClient: apiv1.NewEventsClient(cc), HealthClient: apiv1.NewHealthClient(cc),
		ConfigurationClient: apiv1.NewConfigurationClient(cc), SinksClient: apiv1.NewSinksClient(cc), HooksClient: apiv1.NewHooksClient(cc), ClockClient: apiv1.NewClockClient(cc), AlertsClient: apiv1.NewAlertsClient(cc),
		KernelClient: apiv1.NewKernelClient(cc), InterruptsClient: apiv1.NewInterruptsClient(cc), SchedulingClient: apiv1.NewSchedulingClient(cc), ProcessorsClient: apiv1.NewProcessorsClient(cc),
		FabricClient: apiv1.NewFabricClient(cc), TemplatesClient: apiv1.NewTemplatesClient(cc),
		MemoryClient: apiv1.NewMemoryClient(cc), VirtualMemoryClient: apiv1.NewVirtualMemoryClient(cc),
		conn: cc,
	}, nil
}

// Close ends the connection and every call on it.
func (c *Client) Close() error { return c.conn.Close() }

func connect(ctx context.Context, path string) (net.Conn, error) {
	return connectTo(ctx, api.Address{Network: "unix", Name: path})
}

func connectTo(ctx context.Context, a api.Address) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, a.Network, a.Name)
}

// absent reports whether err of a connect means that nobody listens.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

func unreachable(err error, path string) error {
	e := errdefs.New(errdefs.DaemonUnreachable, "", errdefs.Op("connect to daemon"), errdefs.Resource("at %s", path), errdefs.Cause(err))
	switch {
	case errors.Is(err, fs.ErrPermission):
		return e.With(errdefs.Fix("the daemon serves root and the user that runs it: become that user, or name a state directory of your own with --state-dir or %s", config.StateDirEnv)).
			With(func(e *errdefs.Error) { e.Code = errdefs.Denied })
	case errors.Is(err, syscall.ENOTDIR):
		return e.With(errdefs.Fix("name a directory with --state-dir or %s", config.StateDirEnv))
	case errors.Is(err, context.Canceled):
		return e.With(func(e *errdefs.Error) { e.Code = errdefs.Cancelled })
	}
	return e
}
