package daemon

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/lifecycle"
)

// attachment is one client joined to one process: what the client sends goes
// to the kernel process as frames, what comes back goes to the client.
type attachment struct {
	d      *System
	rpc    grpc.BidiStreamingServer[apiv1.AttachRequest, apiv1.AttachResponse]
	stream *control.Stream
	rec    *record
	execID int32
}

// Attach implements the RPC.
func (d *System) Attach(rpc grpc.BidiStreamingServer[apiv1.AttachRequest, apiv1.AttachResponse]) error {
	first, err := rpc.Recv()
	if err != nil {
		return err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	a := &attachment{d: d, rpc: rpc, stream: control.NewStream(ours)}
	defer a.stream.Close()
	defer context.AfterFunc(rpc.Context(), func() { a.stream.Close() })()
	started, err := a.begin(first, theirs)
	if err != nil {
		return err
	}
	if err := rpc.Send(&apiv1.AttachResponse{Msg: &apiv1.AttachResponse_Started{Started: started}}); err != nil {
		return err
	}
	if e := first.GetExec(); e.GetDetach() {
		return nil
	}
	go a.input()
	return a.output()
}

// socketPair returns two ends that both do not block; ours waits in the
// runtime's poller.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, errdefs.Wrap(err, errdefs.HostIO, "make a stream")
	}
	return os.NewFile(uintptr(fds[0]), "stream"), os.NewFile(uintptr(fds[1]), "stream"), nil
}

// begin does what the first message asks for. It owns theirs.
func (a *attachment) begin(first *apiv1.AttachRequest, theirs *os.File) (*apiv1.AttachStarted, error) {
	ctx := a.rpc.Context()
	started := &apiv1.AttachStarted{}
	switch m := first.GetMsg().(type) {
	case *apiv1.AttachRequest_Spawn:
		r, warnings, err := a.d.spawn(ctx, m.Spawn, theirs)
		if err != nil {
			return nil, err
		}
		a.rec = r
		started.Warnings, started.Tty = warnings, m.Spawn.GetProcess().GetTty()
	case *apiv1.AttachRequest_Exec:
		if m.Exec.GetDetach() {
			theirs.Close()
			theirs = nil
		} else {
			defer theirs.Close()
		}
		if err := a.exec(m.Exec, theirs); err != nil {
			return nil, err
		}
		started.Tty = m.Exec.GetProcess().GetTty()
	case *apiv1.AttachRequest_Target:
		defer theirs.Close()
		r, dom, err := a.d.findRunning(m.Target.GetAgent())
		if err != nil {
			return nil, err
		}
		stdin := m.Target.GetStdin()
		if stdin && !takesInput(r.spec().GetProcess()) {
			stdin = false
			started.Warnings = []string{"the agent was started without -i and takes no input"}
		}
		var reply control.AttachReply
		if err := dom.call(ctx, control.MethodAttach, control.AttachRequest{ID: r.id, Stdin: stdin}, &reply, theirs); err != nil {
			return nil, err
		}
		a.rec = r
		started.Tty = reply.TTY
	default:
		theirs.Close()
		return nil, errdefs.New(errdefs.InvalidArgument, "the first message of an attachment is spawn, exec or target")
	}
	if a.execID == 0 {
		a.rec.hear()
	}
	started.Id, started.ExecId, started.Domain = a.rec.id, a.execID, a.rec.domName
	return started, nil
}

// takesInput reports whether clients can join the input of a process: a
// terminal always has one.
func takesInput(p *apiv1.Process) bool { return p.GetStdin() || p.GetTty() }

// exec starts a further process; theirs may be nil.
func (a *attachment) exec(req *apiv1.ExecRequest, theirs *os.File) error {
	r, dom, err := a.d.findRunning(req.GetAgent())
	if err != nil {
		return err
	}
	if len(req.GetProcess().GetArgv()) == 0 {
		return errdefs.New(errdefs.InvalidArgument, "no program given", errdefs.Op("exec"), errdefs.Fix("append -- PROGRAM [ARGUMENT...]"))
	}
	if err := checkProcess(req.GetProcess()); err != nil {
		return err
	}
	img, err := a.d.configOf(r)
	if err != nil {
		return err
	}
	img.Entrypoint = nil // It wraps the agent's first process only.
	p, err := process(req.GetProcess(), img, r.spec().GetTimeZone())
	if err != nil {
		return err
	}
	call, err := a.d.askHooks(a.rpc.Context(), lifecycle.Exec, r, func(op *lifecycle.Operation) { op.Program = p.Argv })
	if err != nil {
		return err
	}
	var files []*os.File
	if theirs != nil {
		files = append(files, theirs)
	}
	var reply control.ExecReply
	err = dom.call(a.rpc.Context(), control.MethodExec, control.ExecRequest{ID: r.id, Process: p, Attach: theirs != nil}, &reply, files...)
	call.Done(err)
	if err != nil {
		return errdefs.Wrap(err, errdefs.Internal, "exec in agent", errdefs.Resource("%s", r.label()))
	}
	r.execOf(reply.ExecID)
	a.rec, a.execID = r, reply.ExecID
	return nil
}

// input passes on what the client sends until it stops.
func (a *attachment) input() {
	for {
		m, err := a.rpc.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) { // The client is gone, not merely done sending.
				a.stream.Close()
			}
			return
		}
		switch m := m.GetMsg().(type) {
		case *apiv1.AttachRequest_Stdin:
			err = a.stream.Write(control.FrameStdin, m.Stdin)
		case *apiv1.AttachRequest_StdinClosed:
			err = a.stream.Write(control.FrameStdinClose, nil)
		case *apiv1.AttachRequest_OutputClosed:
			kind := control.FrameStdout
			if m.OutputClosed == 2 {
				kind = control.FrameStderr
			}
			err = a.stream.Write(control.FrameOutClose, []byte{byte(kind)})
		case *apiv1.AttachRequest_Resize:
			err = a.stream.Write(control.FrameResize, control.EncodeResize(uint16(m.Resize.GetRows()), uint16(m.Resize.GetCols())))
		case *apiv1.AttachRequest_Signal:
			a.signal(m.Signal)
		}
		if err != nil {
			return // The process has ended; output says so.
		}
	}
}

// signal passes a signal on. One that hooks refuse is told by them; the client
// goes on.
func (a *attachment) signal(sig int32) {
	dom, err := a.rec.running()
	if err != nil {
		return
	}
	var call *hookCall
	if a.execID == 0 && ends(sig) {
		if call, err = a.d.askBeforeKill(a.rpc.Context(), a.rec.id, sig, false); err != nil {
			return
		}
	}
	call.Done(dom.call(a.rpc.Context(), control.MethodSignal, control.SignalRequest{ID: a.rec.id, ExecID: a.execID, Signal: sig}, nil))
}

// output passes on what the process writes until it ends.
func (a *attachment) output() error {
	for {
		kind, p, err := a.stream.Read()
		if err != nil {
			return a.cut()
		}
		resp := &apiv1.AttachResponse{}
		switch kind {
		case control.FrameStdout:
			resp.Msg = &apiv1.AttachResponse_Stdout{Stdout: p}
		case control.FrameStderr:
			resp.Msg = &apiv1.AttachResponse_Stderr{Stderr: p}
		case control.FrameDetached:
			resp.Msg = &apiv1.AttachResponse_Detached{Detached: string(p)}
			return a.rpc.Send(resp)
		case control.FrameExit:
			exit, err := control.DecodeExit(p)
			if err != nil {
				return err
			}
			if a.execID == 0 {
				a.awaitSettled()
			}
			resp.Msg = &apiv1.AttachResponse_Exit{Exit: toExit(exit)}
			return a.rpc.Send(resp)
		default:
			continue
		}
		if err := a.rpc.Send(resp); err != nil {
			return err
		}
	}
}

// awaitSettled lets the record catch up with the stream, so that a client that
// has seen the end of an agent can use its name again, or look how it ended.
func (a *attachment) awaitSettled() {
	ctx, cancel := context.WithTimeout(a.rpc.Context(), exitWait)
	defer cancel()
	select {
	case <-a.rec.settled:
	case <-ctx.Done():
	}
}

// cut tells the client why the stream ended before the process did.
func (a *attachment) cut() error {
	// When the kernel process died, its connection says so any moment.
	select {
	case <-a.rec.done:
		a.rec.mu.Lock()
		state, exit := a.rec.state, a.rec.exit
		a.rec.mu.Unlock()
		if state == abi.StateLost {
			return errdefs.New(errdefs.DomainDied, exit.GetReason(), errdefs.Resource("%s", a.rec.label()))
		}
		return a.rpc.Send(&apiv1.AttachResponse{Msg: &apiv1.AttachResponse_Exit{Exit: exit}})
	case <-a.rpc.Context().Done():
		return a.rpc.Context().Err()
	case <-after(a.d.clock, exitWait):
		return a.rpc.Send(&apiv1.AttachResponse{Msg: &apiv1.AttachResponse_Detached{Detached: "the client did not take the output in time"}})
	}
}
