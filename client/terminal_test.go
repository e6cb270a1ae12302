package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/config"
)

// ptyChildEnv makes this test binary join a process on the server whose state
// directory it names, with its own standard streams.
const ptyChildEnv = "AIOS_TEST_JOIN"

// exitError is the status of a child whose Join failed.
const exitError = 99

func ptyChild() int {
	p, err := config.Resolve(os.Getenv(ptyChildEnv))
	if err != nil {
		return exitError
	}
	ctx := context.Background()
	if os.Getenv("AIOS_TEST_BACKGROUND") != "" {
		// Play the shell: the join runs in a process group that is not in the
		// foreground.
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "AIOS_TEST_BACKGROUND=")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			return exitError
		}
		var status unix.WaitStatus
		if _, err := unix.Wait4(cmd.Process.Pid, &status, unix.WUNTRACED, nil); err != nil {
			return exitError
		}
		if status.Stopped() {
			unix.Kill(cmd.Process.Pid, unix.SIGKILL)
			return exitError - 1
		}
		return status.ExitStatus()
	}
	c, err := Dial(ctx, Options{Paths: p, NoStart: true})
	if err != nil {
		return exitError
	}
	s := Streams{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Terminal: os.Stdin, ForwardSignals: true}
	if os.Getenv("AIOS_TEST_PANIC") != "" {
		s.Stdout = panics{}
	}
	o, err := c.Join(ctx, spawn("sh"), s)
	if err != nil {
		return exitError
	}
	return o.Status()
}

type panics struct{}

func (panics) Write([]byte) (int, error) { panic("as the test wants") }

// pty is a pseudo-terminal.
type pty struct{ master, slave *os.File }

func openPTY(t *testing.T) pty {
	t.Helper()
	m, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	n, err := unix.IoctlGetInt(int(m.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(m.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return pty{m, s}
}

func (p pty) mode(t *testing.T) unix.Termios {
	t.Helper()
	m, err := unix.IoctlGetTermios(int(p.slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *m
}

func (p pty) resize(t *testing.T, rows, cols uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(p.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
		t.Fatal(err)
	}
}

// screen collects what is written to a terminal.
type screen struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// join starts a child on the pty that joins the process of f.
func (p pty) join(t *testing.T, f *scripted, env ...string) (*exec.Cmd, *screen) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(append(os.Environ(), ptyChildEnv+"="+f.paths.StateDir), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.slave, p.slave, p.slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	s := new(screen)
	go io.Copy(s, p.master)
	return cmd, s
}

func status(cmd *exec.Cmd) int {
	cmd.Wait() // The status is what is asked for.
	return cmd.ProcessState.ExitCode()
}

func TestTheTerminalIsRestoredOnEveryWayOut(t *testing.T) {
	for _, tc := range []struct {
		name string
		env  string
		// act makes the join end, once the terminal is raw.
		act  func(t *testing.T, p pty, cmd *exec.Cmd, f *scripted, s serverStream) error
		want int
	}{
		{"exit", "", func(_ *testing.T, _ pty, _ *exec.Cmd, _ *scripted, s serverStream) error {
			return s.Send(exit(5, 0))
		}, 5},
		{"detach keys", "", func(t *testing.T, p pty, _ *exec.Cmd, _ *scripted, s serverStream) error {
			io.WriteString(p.master, "\x10\x11")
			<-s.Context().Done()
			return nil
		}, 0},
		{"SIGTERM", "", func(t *testing.T, _ pty, cmd *exec.Cmd, f *scripted, s serverStream) error {
			cmd.Process.Signal(unix.SIGTERM)
			if r := <-f.signals; r.Signal != int32(unix.SIGTERM) {
				t.Errorf("the process got %v", r)
			}
			<-s.Context().Done()
			return nil
		}, 128 + 15},
		{"failure", "", func(*testing.T, pty, *exec.Cmd, *scripted, serverStream) error {
			return io.ErrUnexpectedEOF
		}, exitError},
		{"daemon gone", "", func(_ *testing.T, _ pty, _ *exec.Cmd, f *scripted, s serverStream) error {
			go f.grpc.Stop()
			<-s.Context().Done()
			return nil
		}, exitError},
		{"panic", "AIOS_TEST_PANIC=1", func(_ *testing.T, _ pty, _ *exec.Cmd, _ *scripted, s serverStream) error {
			s.Send(output("boom"))
			<-s.Context().Done()
			return nil
		}, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := openPTY(t)
			before := p.mode(t)
			var (
				f   *scripted
				cmd *exec.Cmd
				ok  = make(chan struct{})
				raw = make(chan unix.Termios, 1)
			)
			f = serve(t, func(s serverStream) error {
				<-ok // cmd is set.
				defer close(raw)
				if err := begin(s, true); err != nil {
					return err
				}
				if m, err := s.Recv(); err != nil || m.GetResize() == nil {
					return fmt.Errorf("%v, %v instead of the size", m, err)
				} // The terminal is raw before the size is sent.
				raw <- p.mode(t)
				return tc.act(t, p, cmd, f, s)
			})
			p.resize(t, 33, 77)
			cmd, s := p.join(t, f, tc.env)
			close(ok)
			if got := status(cmd); got != tc.want {
				t.Errorf("status %d, want %d; the terminal says %q", got, tc.want, s.String())
			}
			if mode := <-raw; mode.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 {
				t.Errorf("the terminal is not raw but %+v", mode)
			}
			if after := p.mode(t); after != before {
				t.Errorf("mode %+v became %+v", before, after)
			}
		})
	}
}

func TestKeysAndSizeReachTheProcess(t *testing.T) {
	p := openPTY(t)
	p.resize(t, 33, 77)
	f := serve(t, func(s serverStream) error {
		if err := begin(s, true); err != nil {
			return err
		}
		m, err := s.Recv()
		if w := m.GetResize(); err != nil || w.GetRows() != 33 || w.GetCols() != 77 {
			return fmt.Errorf("first size %v, %v", m, err)
		}
		p.resize(t, 40, 100)
		m, err = s.Recv()
		if w := m.GetResize(); err != nil || w.GetRows() != 40 || w.GetCols() != 100 {
			return fmt.Errorf("second size %v, %v", m, err)
		}
		const keys = "ls\r\x03\x04\x1a"
		io.WriteString(p.master, keys)
		for got := ""; got != keys; {
			m, err := s.Recv()
			if err != nil || m.GetStdin() == nil || !strings.HasPrefix(keys, got+string(m.GetStdin())) {
				return fmt.Errorf("after %q came %v, %v", got, m, err)
			}
			got += string(m.GetStdin())
		}
		return s.Send(exit(7, 0))
	})
	cmd, s := p.join(t, f)
	if got := status(cmd); got != 7 {
		t.Errorf("status %d; the terminal says %q", got, s.String())
	}
}

func TestABackgroundJobIsNotStopped(t *testing.T) {
	p := openPTY(t)
	f := serve(t, func(s serverStream) error {
		if err := begin(s, false); err != nil {
			return err
		}
		io.WriteString(p.master, "not for you\n")
		time.Sleep(3 * foregroundPoll)
		s.Send(output("working"))
		return s.Send(exit(6, 0))
	})
	cmd, s := p.join(t, f, "AIOS_TEST_BACKGROUND=1")
	if got := status(cmd); got != 6 {
		t.Errorf("status %d; the terminal says %q", got, s.String())
	}
	// What was typed is still there for the foreground.
	buf := make([]byte, 64)
	if n, err := p.slave.Read(buf); err != nil || string(buf[:n]) != "not for you\n" {
		t.Errorf("left to read: %q, %v", buf[:n], err)
	}
}
