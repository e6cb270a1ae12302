package client

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/errdefs"
)

// Streams are the local ends that Client.Join ties to a process.
type Streams struct {
	// Stdin is what the process reads; nil leaves its input alone.
	Stdin io.Reader
	// Stdout and Stderr receive what it writes.
	Stdout, Stderr io.Writer
	// Terminal, when not nil, is the terminal behind Stdin. It is put into
	// raw mode while a process with a terminal of its own is joined, gives
	// that one its size, and takes the keys ctrl-p ctrl-q to detach.
	Terminal *os.File
	// ForwardSignals passes SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGALRM and
	// SIGUSR1/2 on to the process. Signals that were ignored when the
	// program started stay ignored.
	ForwardSignals bool
	// OnStart, when not nil, is called once the process runs, before the
	// terminal changes its mode.
	OnStart func(*apiv1.AttachStarted)
	// Own says that Stdout and Stderr stand for the process's own: when one
	// breaks, the process's next write to it fails as on a pipe without a
	// reader. Without it, a broken output only cuts the streams.
	Own bool
}

// Outcome is how a Join ended without an error. One of Exit, Detached and
// Signal is set.
type Outcome struct {
	Started  *apiv1.AttachStarted // nil when it ended before the process started
	Exit     *apiv1.Exit          // the process ended
	Detached bool                 // the user pressed the detach keys; the process goes on
	Signal   syscall.Signal       // the signal that made this side leave
}

// Status is the exit status of a command that ends with this outcome.
func (o Outcome) Status() int {
	switch {
	case o.Exit != nil:
		return ExitStatus(o.Exit)
	case o.Signal != 0:
		return 128 + int(o.Signal)
	}
	return 0
}

// ExitStatus maps an end to an exit status as shells do: the program's own, or
// 128 plus the number of the signal.
func ExitStatus(e *apiv1.Exit) int {
	if e.GetSignal() != 0 {
		return 128 + int(e.GetSignal())
	}
	return int(e.GetCode())
}

// Join opens an attach stream with first, which holds a spawn, exec or target
// message, and carries the streams until the process ends, the user detaches
// or ctx is done. The goroutine that reads Stdin may outlive the call by one
// Read.
func (c *Client) Join(ctx context.Context, first *apiv1.AttachRequest, s Streams) (Outcome, error) {
	j := &join{Streams: s, client: c.ControlClient, started: make(chan struct{})}
	ctx, j.leave = context.WithCancelCause(ctx)
	defer j.leave(nil)
	defer j.watchSignals(ctx)()
	defer j.tty.restore()
	defer j.rescue()

	stream, err := c.Attach(ctx)
	if err != nil {
		return Outcome{}, j.explain(err)
	}
	j.stream = stream
	if err := j.send(first); err != nil && err != io.EOF {
		return Outcome{}, j.explain(err)
	} // io.EOF: the stream has failed already, and Recv knows why.

	ended := make(chan error, 1)
	go func() {
		defer j.rescue()
		ended <- j.receive(ctx)
	}()
	select {
	case err = <-ended:
	case <-ctx.Done():
		// Do not wait for receive: it may be stuck writing to Stdout. But an
		// end that has come in the meantime counts.
		select {
		case err = <-ended:
		default:
			err = ctx.Err()
		}
	}
	return j.conclude(context.Cause(ctx), err)
}

// Exec starts a process in a running agent without joining its streams and
// returns once it runs.
func (c *Client) Exec(ctx context.Context, req *apiv1.ExecRequest) (*apiv1.AttachStarted, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Attach(ctx)
	if err != nil {
		return nil, err
	}
	req.Detach = true
	if err := stream.Send(&apiv1.AttachRequest{Msg: &apiv1.AttachRequest_Exec{Exec: req}}); err != nil && err != io.EOF {
		return nil, err
	}
	resp, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	if resp.GetStarted() == nil {
		return nil, errdefs.Newf(errdefs.Protocol, "the daemon answered an exec with %T", resp.GetMsg())
	}
	return resp.GetStarted(), nil
}

// attachStream is the part of the generated stream that join uses.
type attachStream interface {
	Send(*apiv1.AttachRequest) error
	Recv() (*apiv1.AttachResponse, error)
}

// join is the state of one Join.
type join struct {
	Streams
	client apiv1.ControlClient
	stream attachStream
	sendMu sync.Mutex              // one Send at a time
	leave  context.CancelCauseFunc // ends the stream; the cause is the outcome
	tty    rawTerminal

	// Set by receive before started is closed.
	info    *apiv1.AttachStarted
	started chan struct{}

	// Written by receive, read after it returned.
	exit     *apiv1.Exit
	writeErr error
}

// Causes of leaving that are no errors.
var errDetachKeys = errdefs.New(errdefs.Cancelled, "detach keys")

type leftBySignal struct{ syscall.Signal }

func (l leftBySignal) Error() string { return l.Signal.String() }

func (j *join) send(m *apiv1.AttachRequest) error {
	j.sendMu.Lock()
	defer j.sendMu.Unlock()
	return j.stream.Send(m)
}

// receive handles what the daemon sends until the stream ends.
func (j *join) receive(ctx context.Context) error {
	for {
		m, err := j.stream.Recv()
		if err != nil {
			return err
		}
		switch m := m.GetMsg().(type) {
		case *apiv1.AttachResponse_Started:
			if j.info != nil {
				return errdefs.New(errdefs.Protocol, "the daemon said twice that the process started")
			}
			if err := j.begin(ctx, m.Started); err != nil {
				return err
			}
		case *apiv1.AttachResponse_Stdout:
			j.write(ctx, &j.Stdout, m.Stdout, 1)
		case *apiv1.AttachResponse_Stderr:
			j.write(ctx, &j.Stderr, m.Stderr, 2)
		case *apiv1.AttachResponse_Exit:
			j.exit = m.Exit
			return nil
		case *apiv1.AttachResponse_Detached:
			return j.goesOn(errdefs.WrongState, m.Detached)
		}
	}
}

// begin reacts to the start of the process: raw mode, size, input.
func (j *join) begin(ctx context.Context, info *apiv1.AttachStarted) error {
	if j.OnStart != nil {
		j.OnStart(info)
	}
	if info.GetTty() && j.Terminal != nil {
		if err := j.tty.raw(j.Terminal); err != nil {
			return err
		}
	}
	j.info = info
	close(j.started)
	if j.Stdin != nil {
		go func() {
			defer j.rescue()
			j.pumpInput(ctx)
		}()
	}
	return nil
}

// conclude makes the outcome of cause, why this side left, and err, why the
// stream ended.
func (j *join) conclude(cause, err error) (Outcome, error) {
	var o Outcome
	select {
	case <-j.started:
		o.Started = j.info
	default:
	}
	if err == nil { // receive has returned, so its results may be read.
		o.Exit = j.exit
		return o, j.writeErr
	}
	var sig leftBySignal
	switch {
	case errors.Is(cause, errDetachKeys):
		o.Detached = true
		return o, nil
	case errors.As(cause, &sig):
		o.Signal = sig.Signal
		return o, nil
	}
	return o, j.explain(err)
}

// explain says what a broken stream means for the process.
func (j *join) explain(err error) error {
	select {
	case <-j.started:
	default:
		if err == io.EOF {
			return errdefs.New(errdefs.Protocol, "the daemon ended the stream before the process started")
		}
		return err
	}
	code := errdefs.CodeOf(err)
	if err != io.EOF && code != errdefs.DaemonUnreachable {
		return err
	}
	return j.goesOn(errdefs.DaemonUnreachable, "the connection to the daemon broke")
}

// goesOn is the error of streams that were cut while the process runs.
func (j *join) goesOn(code errdefs.Code, why string) error {
	id := j.info.GetId()
	return errdefs.New(code, why+"; the agent goes on running", errdefs.Op("attach to agent"), errdefs.Resource("%s", id),
		errdefs.Fix("`aiosctl attach %s` joins it again, `aiosctl logs %s` shows what it wrote in the meantime", id, id))
}
