package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/config"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

const (
	// startTimeout is how long a new daemon may take until it accepts.
	startTimeout = 10 * time.Second
	// pollFirst and pollMax bound the pause between two looks at the socket
	// of a daemon that is starting. A look is one connect call, a few
	// microseconds.
	pollFirst = 500 * time.Microsecond
	pollMax   = 5 * time.Millisecond
	// lostGrace is how long a daemon that holds the lock may take to answer
	// until another start is tried.
	lostGrace = 500 * time.Millisecond
	// logTail is how much of a failed daemon's log an error shows.
	logTail = 2 << 10
	// DaemonEnv names the environment variable that overrides FindDaemon.
	DaemonEnv = "AIOSD"
)

// FindDaemon returns the aiosd binary: $AIOSD, else the file beside the
// running program, else the first on PATH.
func FindDaemon() (string, error) {
	if p := os.Getenv(DaemonEnv); p != "" {
		abs, err := filepath.Abs(p)
		if err == nil {
			err = executable(abs)
		}
		return abs, errdefs.Wrap(err, errdefs.DaemonUnreachable, "find aiosd", errdefs.Fix("correct or unset %s", DaemonEnv))
	}
	if self, err := os.Executable(); err == nil {
		if p := filepath.Join(filepath.Dir(self), "aiosd"); executable(p) == nil {
			return p, nil
		}
	}
	p, err := exec.LookPath("aiosd")
	if err == nil {
		p, err = filepath.Abs(p)
	}
	return p, errdefs.Wrap(err, errdefs.DaemonUnreachable, "find aiosd",
		errdefs.Fix("install aiosd beside aiosctl or on PATH, or name it with %s", DaemonEnv))
}

func executable(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() || fi.Mode().Perm()&0o111 == 0 {
		return errdefs.Newf(errdefs.DaemonUnreachable, "%s is not an executable file", path)
	}
	return nil
}

// start runs a daemon in a session of its own, with no descriptor but its log,
// and returns the first
// connection that it, or another that won the race for the lock, accepts.
func start(ctx context.Context, o Options) (net.Conn, error) {
	bin := o.Daemon
	if bin == "" {
		var err error
		if bin, err = FindDaemon(); err != nil {
			return nil, err
		}
	}
	if err := o.Paths.Prepare(); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(o.Paths.LogFile, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "open the daemon's log")
	}
	defer log.Close()
	before, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "open the daemon's log")
	}

	args := []string{"serve"}
	if o.Paths.Explicit {
		args = append(args, "--state-dir", o.Paths.StateDir)
	}
	if o.Paths.ConfigNamed {
		args = append(args, "--config", o.Paths.Config)
	}
	// What this process inherited, such as a script's lock on descriptor 9, must
	// not live as long as the daemon. Kernels before 5.11 cannot do this.
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	began, limit := ktime.Real.Now(), o.startTimeout
	if limit == 0 {
		limit = startTimeout
	}
	for lost := false; ; {
		cmd := exec.Command(bin, args...)
		cmd.Dir = "/"
		cmd.Stdout, cmd.Stderr = log, log // Standard input is /dev/null.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return nil, errdefs.Wrap(err, errdefs.DaemonUnreachable, "start daemon",
				errdefs.Fix("check that %s runs: `%s version`", bin, bin))
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		conn, err := await(ctx, o.Paths.Socket, ended, began, limit)
		lost = lost || errors.Is(err, errLost)
		switch {
		case err == nil:
			return conn, nil
		case errors.Is(err, errLost) && ktime.Real.Since(began) < limit:
			continue
		case errors.Is(err, errLost), errors.Is(err, errSilent):
			return nil, notAnswering(o.Paths, limit, lost, tail(log, before))
		case errdefs.CodeOf(err) == errdefs.Internal:
			return nil, failed(o.Paths, err, tail(log, before))
		}
		return nil, err
	}
}

var (
	// errLost: the process found the lock taken and nobody answers; its
	// holder may be a daemon that is just ending.
	errLost = errdefs.New(errdefs.DaemonUnreachable, "another daemon holds the lock")
	// errSilent: the process runs and does not accept connections.
	errSilent = errdefs.New(errdefs.DaemonUnreachable, "the daemon does not answer")
)

// await polls the socket until somebody accepts, the started process fails or
// limit has passed since began. A process that ends with status 0 has
// found another daemon at work, which then is the one that will answer, unless
// it is about to end: after lostGrace await gives up with errLost.
func await(ctx context.Context, socket string, ended <-chan error, began time.Time, limit time.Duration) (net.Conn, error) {
	var lost time.Time
	for wait := pollFirst; ; wait = min(wait*5/4, pollMax) {
		conn, err := connect(ctx, socket)
		switch {
		case err == nil:
			return conn, nil
		case !absent(err):
			return nil, unreachable(err, socket)
		case !lost.IsZero() && ktime.Real.Since(lost) > lostGrace:
			return nil, errLost
		case ktime.Real.Since(began) > limit:
			return nil, errSilent
		}
		passed, timer := after(wait)
		select {
		case <-passed:
		case <-ctx.Done():
			return nil, unreachable(ctx.Err(), socket)
		case err := <-ended:
			if err != nil {
				return nil, err
			}
			lost, ended = ktime.Real.Now(), nil
		}
		timer.Stop()
	}
}

// after returns a channel that is closed once d has passed.
func after(d time.Duration) (<-chan struct{}, ktime.Timer) {
	c := make(chan struct{})
	return c, ktime.Real.AfterFunc(d, func() { close(c) })
}

// Stopped reports whether no daemon runs on the state directory: one that does
// not answer any more may still be writing down what it knows.
func Stopped(p config.Paths) bool {
	lock, err := os.Open(p.LockFile)
	if err != nil {
		return true
	}
	defer lock.Close()
	return unix.Flock(int(lock.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil
}

func failed(p config.Paths, err error, said string) error {
	detail := "it ended at once: " + err.Error()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		detail = err.Error()
	}
	return errdefs.New(errdefs.DaemonUnreachable, detail+said, errdefs.Op("start daemon"), errdefs.Fix("see %s", p.LogFile))
}

func notAnswering(p config.Paths, limit time.Duration, lost bool, said string) error {
	detail := fmt.Sprintf("it does not answer on %s after %v", p.Socket, limit)
	fix := fmt.Sprintf("see %s", p.LogFile)
	if lost {
		detail = fmt.Sprintf("another daemon holds %s but does not answer on %s", p.LockFile, p.Socket)
		if pid, err := os.ReadFile(p.LockFile); err == nil && len(bytes.TrimSpace(pid)) > 0 {
			fix = fmt.Sprintf("end it with `kill %s` (agents go on running), then try again", bytes.TrimSpace(pid))
		}
	}
	return errdefs.New(errdefs.DaemonUnreachable, detail+said, errdefs.Op("start daemon"), errdefs.Fix("%s", fix))
}

// tail returns what was written to log after offset, at most logTail bytes of
// it, indented on lines of its own; or "" when nothing was.
func tail(log *os.File, offset int64) string {
	end, err := log.Seek(0, io.SeekEnd)
	if err != nil || end <= offset {
		return ""
	}
	offset = max(offset, end-logTail)
	b := make([]byte, end-offset)
	n, _ := log.ReadAt(b, offset)
	text := strings.TrimSpace(strings.ToValidUTF8(string(b[:n]), "?"))
	if text == "" {
		return ""
	}
	return "; its log ends with:\n    " + strings.ReplaceAll(text, "\n", "\n    ")
}
