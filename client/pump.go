package client

import (
	"context"
	"errors"
	"io"
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
