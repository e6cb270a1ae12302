package client

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/errdefs"
)

// TerminalSize returns the size of the terminal f; ok is false when f is none.
func TerminalSize(f *os.File) (rows, cols uint32, ok bool) {
	w, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0, false
	}
	return uint32(w.Row), uint32(w.Col), true
}

// rawTerminal puts a terminal into raw mode and back. The zero value is ready.
// restore is final: no raw has an effect after it.
type rawTerminal struct {
	mu     sync.Mutex
	f      *os.File    // guarded by mu; nil while not raw
	before *term.State // guarded by mu; the mode to return to
	done   bool        // guarded by mu
}

func (t *rawTerminal) raw(f *os.File) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done {
		return nil
	}
	before, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "put the terminal into raw mode")
	}
	if t.f == nil { // Entering again, after a stop, keeps the first mode.
		t.f, t.before = f, before
	}
	return nil
}

// again re-enters raw mode after the program was stopped and continued: the
// shell has set its own mode in between.
func (t *rawTerminal) again() {
	t.mu.Lock()
	f := t.f
	t.mu.Unlock()
	if f != nil {
		_ = t.raw(f) // A terminal that is gone ends the input, which is noticed there.
	}
}

func (t *rawTerminal) restore() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done = true
	if t.f != nil {
		_ = term.Restore(int(t.f.Fd()), t.before) // Nothing is left to restore when it hung up.
		t.f = nil
	}
}

// rescue is deferred by every goroutine of a join, so that a panic leaves the
// terminal usable and its own report readable.
func (j *join) rescue() {
	if r := recover(); r != nil {
		j.tty.restore()
		panic(r)
	}
}

// resize tells the process the terminal's size.
func (j *join) resize() {
	rows, cols, ok := TerminalSize(j.Terminal)
	if ok {
		// A failed send means that the stream is over.
		_ = j.send(&apiv1.AttachRequest{Msg: &apiv1.AttachRequest_Resize{Resize: &apiv1.WindowSize{Rows: rows, Cols: cols}}})
	}
}

// The keys that detach from a process with a terminal: ctrl-p ctrl-q.
const (
	detachFirst  = 'P' & 0x1f
	detachSecond = 'Q' & 0x1f
)

// detachKeys looks for the detach keys in typed input. The first key is held
// back until the next is known.
type detachKeys struct{ held bool }

// scan returns what to pass on of p, and whether the keys were pressed; what
// follows them is dropped. The result may share memory with p.
func (d *detachKeys) scan(p []byte) ([]byte, bool) {
	if !d.held {
		i := 0
		for i < len(p) && p[i] != detachFirst {
			i++
		}
		if i == len(p) {
			return p, false
		}
	}
	out := make([]byte, 0, len(p)+1)
	for _, c := range p {
		switch {
		case d.held && c == detachSecond:
			return out, true
		case d.held && c == detachFirst:
			out = append(out, detachFirst) // The held one; this one is held now.
		case c == detachFirst:
			d.held = true
		case d.held:
			d.held = false
			out = append(out, detachFirst, c)
		default:
			out = append(out, c)
		}
	}
	return out, false
}

// foregroundPoll is how often a background job looks whether it may read its
// terminal.
const foregroundPoll = 200 * time.Millisecond

// foreground reads a terminal as a program does that reads only when it must:
// while the job is in the background it waits, instead of being stopped by
// SIGTTIN (which watchSignals ignores, so that the read fails with EIO).
type foreground struct {
	tty *os.File
	in  io.Reader
	ctx context.Context
}

func (f foreground) Read(p []byte) (int, error) {
	for {
		for !f.inForeground() {
			passed, timer := after(foregroundPoll)
			select {
			case <-passed:
			case <-f.ctx.Done():
				timer.Stop()
				return 0, f.ctx.Err()
			}
		}
		n, err := f.in.Read(p)
		if n == 0 && errors.Is(err, unix.EIO) && !f.inForeground() {
			continue
		}
		return n, err
	}
}

// inForeground also reports true when the terminal cannot tell, so that the
// read does.
func (f foreground) inForeground() bool {
	pgrp, err := unix.IoctlGetInt(int(f.tty.Fd()), unix.TIOCGPGRP)
	return err != nil || pgrp == unix.Getpgrp()
}
