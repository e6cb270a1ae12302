package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// The configuration file may name programs of the host, for alerts and for
// hooks. How they are run is here: without a shell, bounded, with nothing of the
// daemon's environment.

const (
	// programOutput is how much of what a program writes is kept.
	programOutput = 8 << 10
	// programPath is where programs find others.
	programPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// program is one run of a program.
type program struct {
	command []string
	env     []string // besides PATH
	stdin   []byte
	timeout time.Duration
}

// programEnd is how a program ended.
type programEnd struct {
	status string        // for people
	code   int           // its exit status; -1 if it did not exit by itself
	output string        // the beginning of what it wrote
	reason string        // the last line that it wrote to standard error
	took   time.Duration // until it ended
}

// run runs a program to its end, that of its time, or that of ctx. It fails if
// the program does not exit with 0; the end says how it did.
func (p program) run(ctx context.Context, clock ktime.Clock) (programEnd, error) {
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.command[0], p.command[1:]...)
	cmd.Dir = "/"
	cmd.Env = append([]string{"PATH=" + programPath}, p.env...)
	cmd.Stdin = bytes.NewReader(p.stdin)
	out, last := &clipped{room: programOutput}, &lastLine{}
	cmd.Stdout, cmd.Stderr = out, tee{out, last}
	// A process group of its own, which ends as a whole; and with the daemon, if
	// that is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	began := clock.Now()
	runtime.LockOSThread() // The end of this thread would count as that of the daemon.
	err := cmd.Run()
	runtime.UnlockOSThread()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // What it left behind; there may be nothing.
	}
	end := programEnd{status: "not started", code: -1, output: out.String(), reason: last.String(), took: clock.Since(began)}
	if cmd.ProcessState != nil {
		end.status, end.code = cmd.ProcessState.String(), cmd.ProcessState.ExitCode()
	}
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay) && end.code == 0: // What it left behind held its output.
		return end, nil
	case caller.Err() != nil:
		return end, errdefs.Wrap(caller.Err(), errdefs.Cancelled, "run "+p.command[0])
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		return end, errdefs.New(errdefs.Timeout, fmt.Sprintf("%s did not end within %v, and was killed", p.command[0], p.timeout),
			errdefs.Fix("give it more time with timeout, or less to do"))
	}
	return end, errdefs.New(errdefs.HostIO, p.command[0]+": "+err.Error(), errdefs.Fix("the daemon's log has what it wrote"))
}

// clipped keeps the beginning of what is written.
type clipped struct {
	mu   sync.Mutex
	text []byte // +checklocks:mu
	room int    // +checklocks:mu
	more int    // +checklocks:mu
}

// Write implements io.Writer.
func (c *clipped) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(p), c.room)
	c.text = append(c.text, p[:n]...)
	c.room -= n
	c.more += len(p) - n
	return len(p), nil
}

// String returns what was kept.
func (c *clipped) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := string(bytes.TrimRight(bytes.ToValidUTF8(c.text, []byte("\uFFFD")), "\n"))
	if c.more > 0 {
		text += fmt.Sprintf("… and %d bytes more", c.more)
	}
	return text
}

// maxLine is how much of a last line is kept.
const maxLine = 512

// lastLine keeps the last line with something in it of what is written.
type lastLine struct {
	mu   sync.Mutex
	line []byte // +checklocks:mu
	// The line has ended: what comes is of the next.
	ended bool // +checklocks:mu
}

// Write implements io.Writer.
func (l *lastLine) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := p; len(rest) > 0; {
		text, after, whole := bytes.Cut(rest, []byte("\n"))
		rest = after
		if l.ended && len(bytes.TrimSpace(text)) > 0 {
			l.line, l.ended = l.line[:0], false
		}
		if !l.ended {
			l.line = append(l.line, text[:min(len(text), maxLine-len(l.line))]...)
			l.ended = whole && len(bytes.TrimSpace(l.line)) > 0
		}
	}
	return len(p), nil
}

// String returns the line.
func (l *lastLine) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.TrimSpace(strings.ToValidUTF8(string(l.line), "\uFFFD"))
}

// tee writes to both.
type tee struct {
	a *clipped
	b *lastLine
}

// Write implements io.Writer.
func (t tee) Write(p []byte) (int, error) {
	t.a.Write(p)
	return t.b.Write(p)
}
