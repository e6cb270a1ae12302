package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// shell starts an interactive bash as an agent on a terminal and waits for
// its prompt.
func (in *install) shell(t *testing.T, flags ...string) *terminal {
	t.Helper()
	need(t, "bash")
	args := append(in.runArgs("-t", "-e", "PS1=ready> ", "-e", "HISTFILE="), flags...)
	term := in.onTerminal(t, append(args, "--", "bash", "--norc", "-i")...)
	term.expect("ready> ")
	return term
}

// runsInside waits until a program of that name runs in the agent.
func (in *install) runsInside(t *testing.T, agent, program string) {
	t.Helper()
	eventually(t, program+" runs", 20*time.Second, func() (bool, string) {
		list := in.inspect(t, agent).ProcessList
		for _, p := range list {
			if p.Name == program {
				return true, ""
			}
		}
		return false, fmt.Sprint(list)
	})
}

func TestJobControl(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		term := in.shell(t, "--name", "sh")
		term.press("sleep 1000\r")
		in.runsInside(t, "sh", "sleep")
		term.press("\x03")
		term.expect("ready> ")
		term.press("echo st=$?\r")
		term.expect("st=130")
		term.expect("ready> ")

		term.press("sleep 1000\r")
		in.runsInside(t, "sh", "sleep")
		term.press("\x1a")
		term.expect("Stopped")
		term.expect("ready> ")
		term.press("jobs; echo still=here\r")
		term.expect("Stopped")
		term.expect("\r\nstill=here")
		term.expect("ready> ")
		term.press("bg; jobs -r; echo running\r")
		term.expect("Running")
		term.expect("\r\nrunning")
		term.expect("ready> ")
		term.press("fg\r")
		term.expect("sleep 1000")
		// bash says so before it gives the terminal away; what is typed before
		// that is bash's own.
		for tries := 0; ; tries++ {
			term.press("\x03")
			if _, ok := term.screen.within(time.Second, "ready> "); ok {
				break
			}
			if tries == 30 {
				t.Fatal("Ctrl-C does not end the job that was brought to the foreground")
			}
		}
		term.press("echo st=$?\r")
		term.expect("st=130")
		term.expect("ready> ")
		term.press("exit 5\r")
		if st := term.wait(); st != 5 {
			t.Errorf("status %d", st)
		}
		if strings.Contains(term.screen.String(), "job control") {
			t.Errorf("bash complains about job control")
		}
	})
}

func TestTerminalIsOne(t *testing.T) {
	const script = `
import os, signal, sys, termios
print("isatty", os.isatty(0), os.isatty(1), os.isatty(2), os.ttyname(0), os.environ["TERM"])
print("leads", os.getsid(0) == os.getpid(), os.tcgetpgrp(0) == os.getpgrp())
def size(*_): print("size", *os.get_terminal_size(0), flush=True)
signal.signal(signal.SIGWINCH, size)
size()
while True:
    line = sys.stdin.readline()
    if not line: break
    print("read", repr(line), flush=True)
print("end", flush=True)
sys.exit(6)`
	onOne(t, func(t *testing.T, in *install) {
		term := openTerminal(t, 33, 77)
		before := term.mode()
		term.run(in, in.runArgs("-t", "--", "python3", "-c", script)...)
		term.expect("isatty True True True /dev/pts/0 xterm-256color\r\n")
		term.expect("leads True True\r\n")
		term.expect("size 77 33\r\n")
		if term.mode().Lflag&unix.ECHO != 0 {
			t.Error("the outer terminal echoes while the inner one does, too")
		}
		// Python runs no handler for a signal that comes just before it waits.
		time.Sleep(500 * time.Millisecond)
		term.resize(40, 100)
		term.expect("size 100 40\r\n")
		// Typed once, echoed once, read once, edited by the inner terminal.
		term.press("helloo\x7f\r")
		if between := term.expect("read 'hello\\n'\r\n"); strings.Count(between, "hello") != 1 {
			t.Errorf("the echo is %q", between)
		}
		term.press("\x04")
		term.expect("end\r\n")
		if st := term.wait(); st != 6 {
			t.Errorf("status %d", st)
		}
		if after := term.mode(); after != before {
			t.Errorf("the terminal's mode was %+v and is %+v", before, after)
		}
	})
}

func TestTerminalIsRestored(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		for name, end := range map[string]func(term *terminal){
			"the agent is killed":   func(*terminal) { in.ok(t, "kill", "victim") },
			"the client gets TERM":  func(term *terminal) { must(t, term.cmd.Process.Signal(syscall.SIGTERM)) },
			"the daemon is killed":  func(*terminal) { kill9(t, in.process(t, "serve")) },
			"the domain is killed":  func(*terminal) { kill9(t, in.process(t, "kernel", "default")) },
			"the program breaks it": func(term *terminal) { term.press("q") },
		} {
			term := openTerminal(t, 24, 80)
			before := term.mode()
			term.run(in, in.runArgs("-t", "--name", "victim", "--", "sh", "-c", "stty raw -echo; echo ready; head -c 1; echo gone")...)
			term.expect("ready")
			end(term)
			term.wait()
			if after := term.mode(); after != before {
				t.Errorf("%s: the terminal's mode was %+v and is %+v", name, before, after)
			}
			in.run(t, "rm", "-f", "victim")
		}
	})
}

func TestWithoutTerminal(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		term := in.onTerminal(t, in.runArgs("--", "python3", "-c", "import os; print([os.isatty(i) for i in range(3)]); print(input())")...)
		term.expect("[False, False, False]\r\n")
		before := term.mode()
		term.press("typed\r")
		term.expect("typed\r\n") // The outer terminal's echo.
		term.expect("typed\r\n")
		if st := term.wait(); st != 0 || before.Lflag&unix.ECHO == 0 {
			t.Errorf("status %d, mode %+v", st, before)
		}
		// Ctrl-C reaches the program as a signal.
		term = in.onTerminal(t, in.runArgs("--", "sh", "-c", "echo ready; exec sleep 1000")...)
		term.expect("ready\r\n")
		term.press("\x03")
		if st := term.wait(); st != 130 {
			t.Errorf("status %d after Ctrl-C", st)
		}
	})
}

func TestDetachAndAttach(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		term := in.shell(t, "--name", "sh")
		term.press("x=kept\r")
		term.expect("ready> ")
		term.press("\x10\x11") // ctrl-p ctrl-q
		if st := term.wait(); st != 0 {
			t.Errorf("status %d after detaching", st)
		}
		if a := in.inspect(t, "sh"); a.State != "running" {
			t.Fatalf("%+v", a)
		}
		again := in.onTerminal(t, "attach", "sh")
		again.press("\recho $x-$((6*7))\r")
		again.expect("kept-42")
		again.expect("ready> ")
		again.press("stty size\r")
		again.expect("33 77")
		again.press("exit 3\r")
		if st := again.wait(); st != 3 {
			t.Errorf("status %d", st)
		}
	})
}

func TestExecOnTerminal(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		in.spawn(t, "--name", "host", "--", "sleep", "1000")
		term := in.onTerminal(t, "exec", "-t", "-e", "PS1=ready> ", "host", "--", "bash", "--norc", "-i")
		term.expect("ready> ")
		term.press("tty; stty size\r")
		term.expect("/dev/pts/")
		term.expect("33 77")
		term.expect("ready> ")
		term.press("tail -f /dev/null\r") // The agent itself is a sleep.
		in.runsInside(t, "host", "tail")
		term.press("\x03")
		term.expect("ready> ")
		term.press("exit 8\r")
		if st := term.wait(); st != 8 {
			t.Errorf("status %d", st)
		}
		if a := in.inspect(t, "host"); a.State != "running" || len(a.ProcessList) != 1 {
			t.Errorf("after the exec: %+v", a)
		}
	})
}
