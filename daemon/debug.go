package daemon

import (
	"context"
	"os"

	"google.golang.org/grpc"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// gdbPiece is how much of gdb's protocol one message carries.
const gdbPiece = 64 << 10

// Gdb implements the RPC. The daemon carries bytes between the client and the
// kernel process, which understands them; when either end of the kernel's stream
// is closed, by whomever, the agent goes on.
func (d *System) Gdb(rpc grpc.BidiStreamingServer[apiv1.GdbRequest, apiv1.GdbResponse]) error {
	first, err := rpc.Recv()
	if err != nil {
		return err
	}
	r, dom, err := d.findRunning(first.GetAgent())
	if err != nil {
		return err
	}
	if first.GetPid() < 0 {
		return errdefs.Newf(errdefs.InvalidArgument, "no process has the number %d", first.GetPid()).With(errdefs.Op("debug"))
	}
	if err := rpc.Send(&apiv1.GdbResponse{}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(rpc.Context())
	defer cancel()
	said := make(chan []byte)
	go func() {
		defer close(said) // The client has left, or says nothing more.
		for {
			m, err := rpc.Recv()
			if err != nil {
				return
			}
			select {
			case said <- m.GetData():
			case <-ctx.Done():
				return
			}
		}
	}()
	// Until the client says something, nothing happens to the agent.
	select {
	case <-r.done:
		if _, err := r.running(); err != nil {
			return err
		}
		return errdefs.New(errdefs.AgentNotRunning, "the agent has ended", errdefs.Resource("%s", r.label()))
	case <-ctx.Done():
		return ctx.Err()
	case data, ok := <-said:
		if !ok {
			return nil
		}
		return d.debug(ctx, rpc, r, dom, first.GetPid(), data, said)
	}
}

// debug stops an agent and carries what is said, data first, until either side
// leaves.
func (d *System) debug(ctx context.Context, rpc grpc.BidiStreamingServer[apiv1.GdbRequest, apiv1.GdbResponse],
	r *record, dom *domain, pid int32, data []byte, said <-chan []byte) error {
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer ours.Close()
	defer context.AfterFunc(ctx, func() { ours.Close() })()
	err = dom.call(ctx, control.MethodDebug, control.DebugRequest{ID: r.id, PID: pid, Actor: actor(ctx)}, nil, theirs)
	theirs.Close()
	if err != nil {
		return err
	}
	go tellGdb(ours, data, said)
	buf := make([]byte, gdbPiece)
	for {
		n, err := ours.Read(buf)
		if err != nil { // The agent goes on, or has ended.
			return ctx.Err()
		}
		if err := rpc.Send(&apiv1.GdbResponse{Data: buf[:n]}); err != nil {
			return err
		}
	}
}

// tellGdb passes on what a client says until it has left, and then has the kernel
// process know.
func tellGdb(to *os.File, data []byte, said <-chan []byte) {
	defer to.Close()
	for ok := true; ok; data, ok = <-said {
		if _, err := to.Write(data); err != nil {
			return
		}
	}
}
