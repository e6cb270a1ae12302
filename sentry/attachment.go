package sentry

import (
	"os"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"

	"aios.dev/aios/control"
	"aios.dev/aios/sentry/irq"
)

// attachment is one stream joined to a console.
type attachment struct {
	c      *console
	stream *control.Stream
	file   *os.File
	first  bool
	once   sync.Once
}

// patience is how long a stream that was attached later may hold up the
// process before it is cut.
const patience = 2 * time.Second

// send passes output to the client.
func (a *attachment) send(kind control.FrameType, p []byte) {
	if !a.first {
		a.file.SetWriteDeadline(a.c.s.cfg.Clock.Now().Add(patience))
	}
	if err := a.stream.Write(kind, p); err != nil {
		a.cut()
	}
}

// end says how the process ended and closes the stream.
func (a *attachment) end(exit control.Exit) {
	a.file.SetWriteDeadline(a.c.s.cfg.Clock.Now().Add(patience))
	a.stream.Write(control.FrameExit, control.EncodeExit(exit))
	a.cut()
}

// cut closes the stream; the process goes on.
func (a *attachment) cut() {
	a.once.Do(func() {
		a.stream.Close()
		a.c.remove(a)
	})
}

// receive takes the client's input until the stream ends.
func (a *attachment) receive() {
	defer a.cut()
	for {
		kind, p, err := a.stream.Read()
		if err != nil {
			return
		}
		a.c.irq.Raise(irq.Console)
		switch kind {
		case control.FrameStdin:
			if !a.write(p) {
				a.control(control.FrameStdinClose, nil)
			}
		default:
			a.control(kind, p)
		}
	}
}

// control does what a frame that is no input asks for.
func (a *attachment) control(kind control.FrameType, p []byte) {
	a.c.s.still.RLock()
	defer a.c.s.still.RUnlock()
	switch kind {
	case control.FrameStdinClose:
		a.c.closeInput(a)
	case control.FrameOutClose:
		if len(p) == 1 && a.first {
			a.c.closeOutput(control.FrameType(p[0]))
		}
	case control.FrameResize:
		if rows, cols, err := control.DecodeResize(p); err == nil && a.c.tty {
			a.c.resize(rows, cols)
		}
	}
}

// write gives p to the process, waiting while its input is full. It reports
// false when nobody will ever read it.
func (a *attachment) write(p []byte) bool {
	in := a.c.input(a)
	if in == nil {
		return true // Input of a client that may not send any is dropped.
	}
	ctx := a.c.s.k.SupervisorContext()
	defer in.DecRef(ctx)
	var wait *waiter.Entry
	var ready chan struct{}
	for len(p) > 0 {
		a.c.s.still.RLock()
		a.c.typing.RLock()
		n, err := in.Write(ctx, usermem.BytesIOSequence(p), vfs.WriteOptions{})
		a.c.typing.RUnlock()
		a.c.s.still.RUnlock()
		p = p[n:]
		if err == nil || len(p) == 0 {
			continue
		}
		if !linuxerr.Equals(linuxerr.ErrWouldBlock, err) {
			return false
		}
		if wait == nil {
			e, ch := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
			if in.EventRegister(&e) != nil {
				return false
			}
			defer in.EventUnregister(&e)
			wait, ready = &e, ch
			continue // It may have become writable since.
		}
		select {
		case <-ready:
		case <-a.c.done:
			return true
		}
	}
	return true
}
