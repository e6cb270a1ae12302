package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal with a command on it, as a terminal emulator
// would have.
type terminal struct {
	t      *testing.T
	master *os.File
	slave  *os.File // kept open: the mode outlives the command
	screen *transcript
	cmd    *exec.Cmd
	ended  chan struct{}
	status int // after ended is closed
}

// openTerminal makes a pseudo-terminal of a size.
func openTerminal(t *testing.T, rows, cols uint16) *terminal {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	must(t, err)
	must(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	must(t, err)
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	term := &terminal{t: t, master: os.NewFile(uintptr(fd), "ptmx"), slave: slave, screen: newTranscript()}
	term.resize(rows, cols)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the screen: %q", term.screen)
		}
		slave.Close()
		term.master.Close()
	})
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := term.master.Read(buf)
			term.screen.Write(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	return term
}

// onTerminal starts aiosctl on a new pseudo-terminal of 33 by 77.
func (in *install) onTerminal(t *testing.T, args ...string) *terminal {
	t.Helper()
	term := openTerminal(t, 33, 77)
	term.run(in, args...)
	return term
}

// run starts aiosctl in a session of its own on the terminal.
func (term *terminal) run(in *install, args ...string) {
	term.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	cmd := in.command(ctx, args...)
	cmd.Env = append(cmd.Env, "TERM=xterm-256color")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = term.slave, term.slave, term.slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	term.cmd, term.ended = cmd, make(chan struct{})
	must(term.t, cmd.Start())
	ended := term.ended
	go func() {
		cmd.Wait()
		term.status = statusOf(cmd.ProcessState)
		close(ended)
	}()
	term.t.Cleanup(func() {
		cancel()
		<-ended
	})
}

// press sends keys.
func (term *terminal) press(keys string) {
	term.t.Helper()
	_, err := term.master.WriteString(keys)
	must(term.t, err)
}

func (term *terminal) expect(text string) string {
	term.t.Helper()
	return term.screen.expect(term.t, text)
}

func (term *terminal) resize(rows, cols uint16) {
	term.t.Helper()
	must(term.t, unix.IoctlSetWinsize(int(term.slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}))
}

// mode returns the terminal's mode.
func (term *terminal) mode() unix.Termios {
	term.t.Helper()
	m, err := unix.IoctlGetTermios(int(term.slave.Fd()), unix.TCGETS)
	must(term.t, err)
	return *m
}

// wait returns the command's status.
func (term *terminal) wait() int {
	term.t.Helper()
	select {
	case <-term.ended:
	case <-time.After(patience):
		term.t.Fatalf("the command on the terminal did not end within %v", patience)
	}
	return term.status
}
