package sentry

import (
	"os"
	"sync"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/pipefs"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/pkg/waiter"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/irq"
)

// console is the standard input and output of one process: pipes, or a
// terminal, whose other ends the kernel holds. What the process writes goes
// to the agent's log and to every attached stream; what the stream that holds
// the input sends goes to the process.
//
// Flow control: an output pipe is drained by one goroutine that exists only
// while there is something to read. It waits for the attached stream that
// came with the process, so a slow client slows the process, as a pipe would.
// Streams attached later are cut when they fall behind.
type console struct {
	s   *Kernel
	a   *Agent
	log *agentLog
	irq *irq.Source

	// Our end of standard input; nil when it is closed.
	in   *vfs.FileDescription // +checklocks:mu
	outs []*output            // our ends of standard output and error, or of the terminal
	tty  bool
	done chan struct{} // closed when the process has ended

	// typing is held for reading while something is typed at the terminal.
	typing sync.RWMutex

	mu      sync.Mutex
	streams []*attachment // +checklocks:mu
	// Whose input the process reads, or nil.
	writer *attachment // +checklocks:mu
	ended  bool        // +checklocks:mu
}

// output is one drained descriptor.
type output struct {
	c    *console
	fd   *vfs.FileDescription
	kind control.FrameType
	wait waiter.Entry
	once sync.Once
	work *irq.Work // drains
	// unregistered is set by hold, which nobody calls twice at once.
	unregistered bool

	mu       sync.Mutex
	draining bool // +checklocks:mu
	// Readiness came while draining.
	again bool // +checklocks:mu
	// It is being finished.
	eof bool // +checklocks:mu
	// Nothing may be read for the time being.
	held bool // +checklocks:mu
	// Bytes still to pass on once eof is set.
	left int // +checklocks:mu
	// Closed when draining stops, if somebody waits.
	idle chan struct{} // +checklocks:mu
}

// NotifyEvent implements waiter.EventListener. It is called with locks of the
// pipe held and only notes that there is work: it is the top half of an
// interrupt, and drain the bottom half.
func (o *output) NotifyEvent(waiter.EventMask) {
	o.c.irq.Raise(irq.Console)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.eof {
		return
	}
	if o.draining || o.held {
		o.again = true
		return
	}
	o.draining = true
	o.work.Schedule()
}

const (
	readSize = 32 << 10 // bytes read from a pipe at a time

	// lastBytes is how much is passed on after a process has ended: more
	// than any pipe holds. What others go on writing is not waited for.
	lastBytes = 2 << 20
)

var readBufs = sync.Pool{New: func() any { b := make([]byte, readSize); return &b }}

// drain passes on what can be read until nothing more can.
func (o *output) drain() {
	buf := readBufs.Get().(*[]byte)
	defer readBufs.Put(buf)
	ctx := o.c.s.k.SupervisorContext()
	for {
		n, _ := o.fd.Read(ctx, usermem.BytesIOSequence(*buf), vfs.ReadOptions{})
		if n > 0 {
			o.c.deliver(o.kind, (*buf)[:n])
		}
		if !o.more(int(n)) {
			return
		}
	}
}

// more reports whether drain, which has just read n bytes, is to go on.
func (o *output) more(n int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.eof {
		o.left -= n
		if n > 0 && o.left > 0 {
			return true
		}
	} else if (n > 0 || o.again) && !o.held {
		// A pipe without writers reads as nothing and a terminal without
		// replicas as EIO, but both may be opened again from inside while
		// the process lives: that is no end yet.
		o.again = false
		return true
	}
	o.draining = false
	if o.idle != nil {
		close(o.idle)
		o.idle = nil
	}
	return false
}

// finish passes on what is left, at most limit bytes, and closes; later calls
// do nothing.
func (o *output) finish(ctx context.Context, limit int) {
	o.once.Do(func() { o.finishOnce(ctx, limit) })
}

func (o *output) finishOnce(ctx context.Context, limit int) {
	o.mu.Lock()
	o.eof, o.left = true, limit
	var idle chan struct{}
	if o.draining && !o.work.Cancel() { // It has begun.
		idle = make(chan struct{})
		o.idle = idle
	}
	o.draining = true // Nobody else starts to.
	o.mu.Unlock()
	if idle != nil {
		<-idle
	}
	o.fd.EventUnregister(&o.wait)
	if limit > 0 {
		o.drain() // What came since the last look.
	}
	o.fd.DecRef(ctx)
}

// newConsole makes the ends of a process's standard files and puts the
// process's into fds at 0, 1 and 2.
func (s *Kernel) newConsole(ctx context.Context, ns *namespaces, fds *kernel.FDTable, tty, stdin bool, a *Agent) (*console, error) {
	c := &console{s: s, a: a, log: a.log, irq: a.irq, tty: tty, done: make(chan struct{})}
	var err error
	if tty {
		err = c.openTerminal(ctx, ns, fds)
	} else {
		err = c.openPipes(ctx, ns, fds, stdin)
	}
	if err != nil {
		c.release(ctx)
		return nil, errdefs.Wrap(err, errdefs.Internal, "open standard files")
	}
	if err := c.watch(); err != nil {
		c.release(ctx)
		return nil, err
	}
	return c, nil
}

// watch has what is written be passed on.
func (c *console) watch() error {
	for _, o := range c.outs {
		o.work = c.irq.NewThread(irq.Console, o.drain)
		o.wait.Init(o, waiter.ReadableEvents)
		if err := o.fd.EventRegister(&o.wait); err != nil {
			return errdefs.Wrap(err, errdefs.Internal, "watch standard output")
		}
	}
	return nil
}

func (c *console) openPipes(ctx context.Context, ns *namespaces, fds *kernel.FDTable, stdin bool) error {
	if stdin {
		r, w, err := c.pipe(ctx)
		if err != nil {
			return err
		}
		c.in = w // +checklocksignore: nobody else knows c yet.
		if err := install(ctx, fds, r, 0); err != nil {
			return err
		}
	} else {
		root := ns.mnt.Root(ctx)
		null, err := c.s.k.VFS().OpenAt(ctx, c.s.creds, at(root, "/dev/null"), &vfs.OpenOptions{Flags: linux.O_RDONLY})
		root.DecRef(ctx)
		if err != nil {
			return err
		}
		if err := install(ctx, fds, null, 0); err != nil {
			return err
		}
	}
	for i, kind := range []control.FrameType{control.FrameStdout, control.FrameStderr} {
		r, w, err := c.pipe(ctx)
		if err != nil {
			return err
		}
		c.outs = append(c.outs, &output{c: c, fd: r, kind: kind})
		if err := install(ctx, fds, w, int32(i+1)); err != nil {
			return err
		}
	}
	return nil
}

// pipe returns a pipe whose ends do not block us; the process's end blocks.
func (c *console) pipe(ctx context.Context) (r, w *vfs.FileDescription, err error) {
	return pipefs.NewConnectedPipeFDs(ctx, c.s.k.PipeMount(), 0)
}

// install puts fd, whose reference it takes, at n.
func install(ctx context.Context, fds *kernel.FDTable, fd *vfs.FileDescription, n int32) error {
	defer fd.DecRef(ctx)
	old, err := fds.NewFDAt(ctx, n, fd, kernel.FDFlags{})
	if old != nil {
		old.DecRef(ctx)
	}
	return err
}

// deliver passes output to the log and to every stream.
func (c *console) deliver(kind control.FrameType, p []byte) {
	c.log.append(kind == control.FrameStderr, p)
	if w := c.a.warming; w != nil {
		w.wrote(p)
	}
	c.mu.Lock()
	streams := c.streams // Replaced, never changed in place.
	c.mu.Unlock()
	for _, a := range streams {
		a.send(kind, p)
	}
	if c.a.lesson.Load() != nil {
		c.a.endLesson()
	}
}

// drain passes on what the process has written before it ended, and closes.
func (c *console) drain(ctx context.Context) {
	for _, o := range c.outs {
		o.finish(ctx, lastBytes)
	}
}

// end tells every stream how the process ended.
func (c *console) end(ctx context.Context, exit control.Exit) {
	c.mu.Lock()
	c.ended = true
	close(c.done)
	streams, in := c.streams, c.in
	c.streams, c.in, c.writer = nil, nil, nil
	c.mu.Unlock()
	if in != nil && !c.tty {
		in.DecRef(ctx)
	}
	for _, a := range streams {
		a.end(exit)
	}
}

// release drops what newConsole opened, when the process never started.
func (c *console) release(ctx context.Context) {
	if in := c.in; in != nil && !c.tty { // +checklocksignore: nobody else knows c.
		in.DecRef(ctx)
	}
	for _, o := range c.outs {
		o.fd.EventUnregister(&o.wait)
		o.fd.DecRef(ctx)
	}
}

// takeInput gives a the process's input if nobody has it.
func (c *console) takeInput(a *attachment) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended:
		return errdefs.New(errdefs.AgentNotRunning, "the process has ended")
	case c.in == nil:
		return errdefs.New(errdefs.WrongState, "the process has no standard input, or it was closed",
			errdefs.Fix("only watch, with --no-stdin"))
	case c.writer != nil:
		return errdefs.New(errdefs.WrongState, "another client is attached to the standard input",
			errdefs.Fix("only watch, with --no-stdin"))
	}
	c.writer = a
	return nil
}

// attach adds a stream. When first is set the process waits for it, and its
// end is the end of the process's input.
func (c *console) attach(f *os.File, stdin, first bool) error {
	a := &attachment{c: c, stream: control.NewStream(f), file: f, first: first}
	if stdin {
		if err := c.takeInput(a); err != nil {
			f.Close()
			return err
		}
	}
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		f.Close()
		return errdefs.New(errdefs.AgentNotRunning, "the process has ended")
	}
	c.streams = append(append([]*attachment(nil), c.streams...), a)
	c.mu.Unlock()
	go a.receive()
	return nil
}

// closeOutput makes the process's next write to that output fail, as a pipe
// does whose reader has gone. A terminal has no such thing.
func (c *console) closeOutput(kind control.FrameType) {
	if c.tty {
		return
	}
	for _, o := range c.outs {
		if o.kind == kind {
			o.finish(c.s.k.SupervisorContext(), 0)
		}
	}
}

// remove forgets a stream that has ended.
func (c *console) remove(a *attachment) {
	c.mu.Lock()
	var rest []*attachment
	for _, o := range c.streams {
		if o != a {
			rest = append(rest, o)
		}
	}
	c.streams = rest
	var in *vfs.FileDescription
	if c.writer == a {
		c.writer = nil
		if a.first && !c.tty {
			in, c.in = c.in, nil
		}
	}
	c.mu.Unlock()
	if in != nil {
		in.DecRef(c.s.k.SupervisorContext())
	}
}

// input returns our end of the process's input while a may write it.
func (c *console) input(a *attachment) *vfs.FileDescription {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writer != a || c.in == nil {
		return nil
	}
	c.in.IncRef()
	return c.in
}

// closeInput ends the process's input: end of file for a pipe, the character
// that means it for a terminal.
func (c *console) closeInput(a *attachment) {
	ctx := c.s.k.SupervisorContext()
	if c.tty {
		if in := c.input(a); in != nil {
			in.Write(ctx, usermem.BytesIOSequence([]byte{4 /* ^D */}), vfs.WriteOptions{})
			in.DecRef(ctx)
		}
		return
	}
	c.mu.Lock()
	var in *vfs.FileDescription
	if c.writer == a {
		in, c.in = c.in, nil
	}
	c.mu.Unlock()
	if in != nil {
		in.DecRef(ctx)
	}
}
