package sentry

import (
	"time"

	"gvisor.dev/gvisor/pkg/waiter"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/irq"
)

// hold has nothing read from the process's outputs any more: what it has written
// stays where it is. What hold returns lets it be read again; with an error, too.
func (c *console) hold(late time.Time) (release func(), err error) {
	var held []*output
	release = func() {
		for _, o := range held {
			o.release()
		}
	}
	for _, o := range c.outs {
		held = append(held, o)
		if !o.hold(c.s, late) {
			return release, errdefs.New(errdefs.CheckpointRefused, "a client does not take the output of one of its processes", errdefs.Op("checkpoint"),
				errdefs.Resource("%s", c.a.id), errdefs.Fix("end the client, or have it read"))
		}
	}
	return release, nil
}

// hold reports false if what is read cannot be passed on until late.
func (o *output) hold(s *Kernel, late time.Time) bool {
	o.mu.Lock()
	o.held = true
	if o.eof {
		o.mu.Unlock()
		return true
	}
	if o.draining && o.work.Cancel() { // It has not begun.
		o.draining, o.again = false, true
	}
	for o.draining {
		o.mu.Unlock()
		if s.cfg.Clock.Now().After(late) {
			return false
		}
		nap(s.cfg.Clock, 100*time.Microsecond)
		o.mu.Lock()
	}
	o.mu.Unlock()
	// gVisor would save whom a pipe wakes.
	o.fd.EventUnregister(&o.wait)
	o.unregistered = true
	return true
}

// release is the end of hold.
func (o *output) release() {
	if o.unregistered {
		o.unregistered = false
		o.fd.EventRegister(&o.wait) // It could before.
	}
	o.mu.Lock()
	o.held = false
	o.mu.Unlock()
	o.NotifyEvent(waiter.ReadableEvents) // Perhaps for nothing.
}

// closed reports whether nobody reads the output any more.
func (o *output) closed() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.eof
}

// restoreConsole returns the console of a process that was restored.
func (s *Kernel) restoreConsole(a *Agent, p *savedProcess) (*console, error) {
	c := &console{s: s, a: a, log: a.log, irq: a.irq, tty: p.tty, in: p.in, done: make(chan struct{})}
	for i, fd := range p.outs {
		o := &output{c: c, fd: fd, kind: control.FrameType(p.kinds[i])}
		o.work = c.irq.NewThread(irq.Console, o.drain)
		o.wait.Init(o, waiter.ReadableEvents)
		c.outs = append(c.outs, o)
		if p.closed[i] {
			o.eof = true // +checklocksignore: nobody else knows it.
			o.once.Do(func() {})
			continue
		}
		if err := o.fd.EventRegister(&o.wait); err != nil {
			return nil, errdefs.Wrap(err, errdefs.Internal, "watch standard output")
		}
		o.NotifyEvent(waiter.ReadableEvents) // What was written and not yet read.
	}
	return c, nil
}
