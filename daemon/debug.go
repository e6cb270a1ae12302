package daemon

import (
	"context"
	"encoding/json"
	"os"
	"strings"

	"google.golang.org/grpc"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
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
		return errdefs.Wrap(ctx.Err(), errdefs.Cancelled, "debug")
	case data, ok := <-said:
		if !ok {
			return nil
		}
		return d.debug(ctx, rpc, r, dom, first.GetPid(), data, said)
	}
}

// Look implements the RPC.
func (d *System) Look(ctx context.Context, req *apiv1.LookRequest) (*apiv1.LookResponse, error) {
	ask := control.LookRequest{PID: req.GetPid(), Views: req.GetViews()}
	dom, err := d.lookedAt(ctx, req, &ask)
	if err != nil {
		return nil, err
	}
	if len(ask.Views) == 0 {
		return nil, errdefs.New(errdefs.InvalidArgument, "nothing is asked for", errdefs.Op("debug"))
	}
	var got control.Look
	if err := dom.call(ctx, control.MethodLook, ask, &got); err != nil {
		return nil, err
	}
	got.Names = make(map[string]string)
	for _, r := range d.records() {
		if r.name != "" && r.domName == dom.name && (ask.ID == "" || ask.ID == r.id) && !r.final() {
			got.Names[r.id] = r.name
		}
	}
	by := actor(ctx)
	d.record(audit.Entry{Op: opLook, Domain: dom.name, Actor: by.Name, Agent: ask.ID, Target: strings.Join(ask.Views, " "), Correlation: by.Correlation})
	raw, err := json.Marshal(got)
	return &apiv1.LookResponse{Look: string(raw)}, errdefs.Wrap(err, errdefs.Internal, "debug")
}

// opLook is a look at agents in the audit trail.
const opLook = "debug.look"

// lookedAt finds the domain and the agent, if it is one, that a request names.
func (d *System) lookedAt(ctx context.Context, req *apiv1.LookRequest, ask *control.LookRequest) (*domain, error) {
	if bearerFrom(ctx) == nil {
		if dom, err := d.runningDomain("debug", req.GetAgent()); err == nil {
			if req.GetPid() != 0 {
				return nil, errdefs.New(errdefs.InvalidArgument, "it is a domain, and processes are numbered by agents", errdefs.Op("debug"),
					errdefs.Resource("%s", req.GetAgent()), errdefs.Fix("name an agent"))
			}
			return dom, nil
		}
	}
	r, dom, err := d.findRunning(req.GetAgent())
	if errdefs.CodeOf(err) == errdefs.AgentNotFound && bearerFrom(ctx) == nil {
		return nil, errdefs.New(errdefs.AgentNotFound, "neither an agent nor a domain that runs has this name", errdefs.Op("debug"),
			errdefs.Resource("%.80q", req.GetAgent()), errdefs.Fix("`aiosctl ps -a` lists the agents, `aiosctl domain ls` the domains"))
	}
	if err != nil {
		return nil, err
	}
	ask.ID = r.id
	return dom, nil
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
			return errdefs.Wrap(ctx.Err(), errdefs.Cancelled, "debug")
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
