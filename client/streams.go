package client

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/api"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/errdefs"
)

const (
	// brokenGrace is how long the stream may take to tell an owned process
	// that its output lost its reader, until SIGPIPE does.
	brokenGrace = 500 * time.Millisecond
	// signalTimeout bounds the delivery of one forwarded signal.
	signalTimeout = 5 * time.Second
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
	Detached string               // the process goes on; why the streams were cut
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
	detached string
	writeErr error
}

// Causes of leaving that are no errors.
var errDetachKeys = errors.New("detach keys")

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
			j.detached = m.Detached
			return nil
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

// write passes output on. When w breaks it is replaced: an owned process is
// then told, another is left.
func (j *join) write(ctx context.Context, w *io.Writer, p []byte, fd uint32) {
	_, err := (*w).Write(p)
	if err == nil {
		return
	}
	*w = io.Discard
	if !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.EIO) { // EIO: a terminal that hung up.
		j.writeErr = errdefs.Wrap(err, errdefs.HostIO, "write "+[...]string{1: "standard output", 2: "standard error"}[fd])
	}
	if !j.Own {
		j.leave(leftBySignal{unix.SIGPIPE})
		return
	}
	go func() {
		defer j.rescue()
		told := make(chan struct{})
		go func() {
			defer j.rescue()
			// A failed send means that the stream is over.
			_ = j.send(&apiv1.AttachRequest{Msg: &apiv1.AttachRequest_OutputClosed{OutputClosed: fd}})
			close(told)
		}()
		late, timer := after(brokenGrace)
		defer timer.Stop()
		select {
		case <-told:
		case <-ctx.Done():
		case <-late: // The stream is full of input that the process does not read.
			j.forward(ctx, unix.SIGPIPE)
		}
	}()
}

// pumpInput sends Stdin until it ends. Send waits while the process does not
// read, and so does this.
func (j *join) pumpInput(ctx context.Context) {
	var keys *detachKeys
	if j.info.GetTty() && j.Terminal != nil {
		keys = new(detachKeys)
	}
	in := j.Stdin
	if j.Terminal != nil {
		in = foreground{j.Terminal, in, ctx}
	}
	buf := make([]byte, api.ChunkSize-1) // One byte may be held back by keys.
	for {
		n, err := in.Read(buf)
		data := buf[:n]
		detach := false
		if keys != nil {
			data, detach = keys.scan(data)
		}
		if len(data) > 0 && j.send(&apiv1.AttachRequest{Msg: &apiv1.AttachRequest_Stdin{Stdin: data}}) != nil {
			return
		}
		if detach {
			j.leave(errDetachKeys)
			return
		}
		if err != nil {
			// The process sees the end of its input, whatever ended ours. A
			// failed send means that the stream is over.
			_ = j.send(&apiv1.AttachRequest{Msg: &apiv1.AttachRequest_StdinClosed{StdinClosed: true}})
			return
		}
	}
}

// forward sends a signal to the joined process. It is a call of its own,
// because the stream may be full of input that nobody reads.
func (j *join) forward(ctx context.Context, sig syscall.Signal) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), signalTimeout)
	defer cancel()
	// The process may have ended; the stream tells.
	_, _ = j.client.Signal(ctx, &apiv1.SignalRequest{Agent: j.info.GetId(), ExecId: j.info.GetExecId(), Signal: int32(sig)})
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
		o.Exit, o.Detached = j.exit, j.detached
		return o, j.writeErr
	}
	var sig leftBySignal
	switch {
	case errors.Is(cause, errDetachKeys):
		o.Detached = cause.Error()
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
	id := j.info.GetId()
	return errdefs.New(errdefs.DaemonUnreachable, "the connection to the daemon broke; the agent goes on running",
		errdefs.Op("attach to agent"), errdefs.Resource("%s", id),
		errdefs.Fix("`aiosctl attach %s` joins it again, `aiosctl logs %s` shows what it wrote in the meantime", id, id))
}
