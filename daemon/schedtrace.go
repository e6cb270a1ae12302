package daemon

import (
	"context"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/sched"
)

const (
	opTrace = "sched.trace"
	// traceLimit is how many entries are kept unless another number is asked for.
	traceLimit = 1 << 20
	// tracePiece is how much of a trace one message carries.
	tracePiece = 4096
)

// SchedTrace implements the RPC.
func (s *schedulingService) SchedTrace(rpc grpc.BidiStreamingServer[apiv1.SchedTraceRequest, apiv1.SchedTraceResponse]) error {
	d, ctx := s.d, rpc.Context()
	req, err := rpc.Recv()
	if err != nil {
		return err
	}
	ask := control.SchedTraceRequest{For: time.Duration(req.GetForNano()), Limit: int(min(req.GetLimit(), 1<<31-1))}
	if ask.Limit == 0 {
		ask.Limit = traceLimit
	}
	dom, err := d.aboutDomainOr(ctx, orElse(req.GetAgent(), defaultDomain), &ask.ID)
	if err != nil {
		return err
	}
	by := actor(ctx)
	d.record(audit.Entry{Op: opTrace, Domain: dom.name, Actor: by.Name, Agent: ask.ID, Reason: "for " + ask.For.String(), Correlation: by.Correlation})
	stop, stopped := context.WithCancel(ctx)
	defer stopped()
	go func() {
		for { // Until the RPC ends, or nothing more is said.
			if more, err := rpc.Recv(); err != nil || more.GetStop() {
				if err == nil {
					stopped()
				}
				return
			}
		}
	}()
	t, err := d.trace(ctx, stop, dom, ask)
	if err != nil {
		return err
	}
	err = rpc.Send(&apiv1.SchedTraceResponse{Head: &apiv1.SchedTraceHead{
		Domain: dom.name, BeginNano: t.Begin, EndNano: t.End, Cpus: uint32(t.CPUs), Switches: t.Switches, Dropped: t.Dropped,
	}})
	names := d.namesIn(dom)
	err = inPieces(err, t.Groups, rpc.Send, func(id string) *apiv1.SchedTraceGroup {
		return &apiv1.SchedTraceGroup{Agent: id, Name: names[id]}
	}, func(m *apiv1.SchedTraceResponse, g []*apiv1.SchedTraceGroup) { m.Groups = g })
	err = inPieces(err, t.Tasks, rpc.Send, func(t sched.TracedTask) *apiv1.SchedTraceTask {
		return &apiv1.SchedTraceTask{Group: t.Group, Pid: t.PID, Tid: t.TID, Name: t.Name}
	}, func(m *apiv1.SchedTraceResponse, g []*apiv1.SchedTraceTask) { m.Tasks = g })
	return inPieces(err, t.Entries, rpc.Send, func(e sched.TraceEntry) *apiv1.SchedTraceEntry {
		return &apiv1.SchedTraceEntry{
			Kind: apiv1.SchedTraceEntry_Kind(e.Kind), AtNano: e.At, TookNano: e.Took, Who: e.Who, Waiting: e.Waiting, Cpu: int32(e.CPU), Before: e.Before,
		}
	}, func(m *apiv1.SchedTraceResponse, g []*apiv1.SchedTraceEntry) { m.Entries = g })
}

// inPieces sends all of something, unless something went wrong before.
func inPieces[T, M any](err error, all []T, send func(*apiv1.SchedTraceResponse) error, to func(T) M, fill func(*apiv1.SchedTraceResponse, []M)) error {
	for piece := range slices.Chunk(all, tracePiece) {
		if err != nil {
			return err
		}
		out, m := make([]M, len(piece)), new(apiv1.SchedTraceResponse)
		for i, v := range piece {
			out[i] = to(v)
		}
		fill(m, out)
		err = send(m)
	}
	return err
}

// trace has a kernel process trace its scheduler, until stop at most.
func (d *System) trace(ctx, stop context.Context, dom *domain, ask control.SchedTraceRequest) (*sched.Trace, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	defer context.AfterFunc(ctx, func() { ours.Close() })() // The kernel process stops then.
	defer context.AfterFunc(stop, func() { endOfInput(ours) })()
	ended := make(chan error, 1)
	go func() {
		err := dom.call(ctx, control.MethodSchedTrace, ask, nil, theirs)
		theirs.Close() // Now the stream ends with what the kernel process has written.
		ended <- err
	}()
	t, err := control.ReadSchedTrace(ours)
	ours.Close()
	if failed := <-ended; failed != nil {
		return nil, failed
	}
	return t, err
}

// endOfInput has who reads from the other end of a socket come to the end. It
// fails if that is gone.
func endOfInput(f *os.File) {
	if c, err := f.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
	}
}

// aboutDomainOr finds the domain that is named, or the one that has the agent that
// is, and the agent's ID. A bearer of a token has no domains.
func (d *System) aboutDomainOr(ctx context.Context, name string, id *string) (*domain, error) {
	if bearerFrom(ctx) == nil {
		if dom, err := d.runningDomain(opTrace, name); err == nil {
			return dom, nil
		}
	}
	r, dom, err := d.findRunning(name)
	if err != nil {
		if errdefs.CodeOf(err) == errdefs.AgentNotFound && bearerFrom(ctx) == nil {
			return nil, errdefs.New(errdefs.AgentNotFound, "neither an agent nor a domain that runs has this name", errdefs.Op("trace the scheduler"),
				errdefs.Resource("%.80q", name), errdefs.Fix("`aiosctl ps -a` lists the agents, `aiosctl domain ls` the domains"))
		}
		return nil, err
	}
	*id = r.id
	return dom, nil
}
