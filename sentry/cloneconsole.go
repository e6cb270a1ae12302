package sentry

import (
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/kernel/pipe"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/errdefs"
)

func unixDup(fd int) (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) }

// console makes the standard files of a process of the copy. What the original has
// written and nobody has read yet is the original's alone; what is to be read from
// its input, the copy reads too. The first process of a copy of a template that is
// to have no input finds the end of it.
func (c *copying) console(old *console, id int32) (*console, error) {
	if old.tty {
		return c.terminalOf(old)
	}
	old.mu.Lock()
	in := old.in
	if in != nil {
		in.IncRef()
	}
	old.mu.Unlock()
	if in != nil {
		defer in.DecRef(c.ctx)
	}
	fds := c.s.k.NewFDTable()
	defer fds.DecRef(c.ctx)
	con, err := c.s.newConsole(c.ctx, c.dst.ns, fds, false, in != nil, c.dst)
	if err != nil {
		return nil, err
	}
	get := func(n int32) *vfs.FileDescription {
		f, _ := fds.Get(n)
		return f
	}
	if in != nil {
		impl := in.Impl().(*pipe.VFSPipeFD)
		c.files.pipes[impl.Pipe()] = &pipeEnds{r: get(0)}
		if err := c.files.fillPipe(con.in, impl); err != nil { // +checklocksignore: nobody else knows con.
			con.release(c.ctx)
			return nil, err
		}
	}
	if c.fresh != nil && id == 0 && !c.fresh.Process.Stdin && con.in != nil { // +checklocksignore: as above.
		con.in.DecRef(c.ctx) // +checklocksignore: as above.
		con.in = nil         // +checklocksignore: as above.
	}
	for i, o := range old.outs {
		c.files.pipes[o.pipe()] = &pipeEnds{w: get(int32(i + 1))}
	}
	return con, nil
}

// terminalOf makes the console of a process that has a terminal. Nobody is at it.
func (c *copying) terminalOf(old *console) (*console, error) {
	x := c.files.terminals[old.outs[0].fd]
	if x == nil {
		return nil, errdefs.New(errdefs.Internal, "a terminal is not known", errdefs.Op("clone"))
	}
	x.own.IncRef()
	con := &console{s: c.s, a: c.dst, log: c.dst.log, irq: c.dst.irq, tty: true, done: make(chan struct{}), in: x.own}
	con.outs = []*output{{c: con, fd: x.own, kind: old.outs[0].kind}}
	if err := con.watch(); err != nil {
		con.release(c.ctx)
		return nil, err
	}
	return con, nil
}

// passOn has what the copy writes to a console that it has not go where the other
// goes.
func (c *copying) passOn(old, to *console) {
	if old.tty {
		return
	}
	for i, o := range old.outs {
		if own := c.files.pipes[to.outs[min(i, len(to.outs)-1)].pipe()]; own != nil {
			own.w.IncRef()
			c.files.pipes[o.pipe()] = &pipeEnds{w: own.w}
		}
	}
}

// pipe is what the program writes to.
func (o *output) pipe() *pipe.Pipe { return o.fd.Impl().(*pipe.VFSPipeFD).Pipe() }
