package client

import (
	"context"

	"google.golang.org/grpc"

	apiv1 "aios.dev/aios/api/v1"
)

// Debugger is one debugging of an agent: a connection that speaks the protocol of
// gdb. The agent stands still from the first Write on, and goes on when the
// Debugger is closed or its process ends, however it does. Read and Write may be
// called by one goroutine each, and Close by any.
type Debugger struct {
	stream grpc.BidiStreamingClient[apiv1.GdbRequest, apiv1.GdbResponse]
	leave  context.CancelFunc
	rest   []byte // was received and not read
}

// Debug prepares to debug an agent, or with a pid one process of it. It fails if
// that is not allowed, or there is no such agent.
func (c *Client) Debug(ctx context.Context, agent string, pid int32) (*Debugger, error) {
	ctx, leave := context.WithCancel(ctx)
	stream, err := c.Gdb(ctx)
	if err == nil {
		_ = stream.Send(&apiv1.GdbRequest{Agent: agent, Pid: pid}) // It fails as Recv does.
		_, err = stream.Recv()
	}
	if err != nil {
		leave()
		return nil, err
	}
	return &Debugger{stream: stream, leave: leave}, nil
}

// Read implements io.Reader. It fails with io.EOF when the agent is not debugged
// any more, and otherwise with what went wrong.
func (d *Debugger) Read(p []byte) (int, error) {
	for len(d.rest) == 0 {
		m, err := d.stream.Recv()
		if err != nil {
			return 0, err
		}
		d.rest = m.GetData()
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

// Write implements io.Writer.
func (d *Debugger) Write(p []byte) (int, error) {
	if err := d.stream.Send(&apiv1.GdbRequest{Data: p}); err != nil {
		return 0, err // io.EOF; Read says why.
	}
	return len(p), nil
}

// CloseWrite says that nothing more is written: the agent goes on when what was is
// done, and Read fails.
func (d *Debugger) CloseWrite() error { return d.stream.CloseSend() }

// Close implements io.Closer.
func (d *Debugger) Close() error {
	d.leave()
	return nil
}
