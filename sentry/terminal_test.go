package sentry

import (
	"fmt"
	"strings"
	"testing"

	"aios.dev/aios/control"
)

func size(rows, cols uint16) func(*control.SpawnRequest) {
	return func(r *control.SpawnRequest) { r.Process.Rows, r.Process.Cols = rows, cols }
}

func TestTerminal(t *testing.T) {
	s := spawn(t, sh("tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; echo controlling > /dev/tty; echo err >&2; exit 3"), withTTY, size(33, 111))
	out, errout, exit := s.output()
	if out != "/dev/pts/0\r\n33 111\r\nall\r\ncontrolling\r\nerr\r\n" || errout != "" || exit.Code != 3 {
		t.Errorf("stdout %q stderr %q exit %+v", out, errout, exit)
	}
}

func TestTerminalOfAnOrdinaryUser(t *testing.T) {
	out, _, exit := spawn(t, sh("tty; echo hi > /dev/tty; stat -c %u /dev/pts/0"), withTTY, as("bob")).output()
	if !strings.HasPrefix(out, "/dev/pts/0\r\nhi\r\n") || exit.Code != 0 {
		t.Errorf("stdout %q exit %+v", out, exit)
	}
}

func TestResize(t *testing.T) {
	s := spawn(t, sh("trap 'stty size' WINCH; echo ready; while :; do sleep 0.01; done"), withTTY, size(24, 80))
	s.expect("ready")
	for _, to := range []struct {
		rows, cols uint16
		want       string
	}{{40, 100, "40 100"}, {2, 3, "2 3"}, {300, 500, "300 500"}} {
		if err := s.stream.Write(control.FrameResize, control.EncodeResize(to.rows, to.cols)); err != nil {
			t.Fatal(err)
		}
		s.expect(to.want)
	}
}

// inForeground waits until the shell runs that command, or none.
func inForeground(t *testing.T, s *spawned, command string) {
	t.Helper()
	eventually(t, func() bool {
		ps := inspect(t, s.id).Processes
		if command == "" {
			return len(ps) == 1
		}
		return len(ps) == 2 && fmt.Sprint(ps[1].Argv) == command && ps[1].State == "S"
	})
}

// TestJobControl talks to an interactive shell: ^C ends the foreground job
// alone, ^Z stops it, ^D ends the shell.
func TestJobControl(t *testing.T) {
	s := spawn(t, []string{"sh", "-i"}, withTTY)
	s.send("stty -echo; echo re''ady\n")
	s.expect("ready")
	s.send("sleep 1000\n")
	inForeground(t, s, "[sleep 1000]")
	s.send("\x03")
	inForeground(t, s, "")
	s.send("echo af''ter $?\n")
	s.expect("after 130")
	s.send("sleep 1001\n")
	inForeground(t, s, "[sleep 1001]")
	s.send("\x1a")
	s.expect("Stopped")
	s.send("kill %1; fg; echo en''ded $?\n")
	s.expect("ended 143")
	s.send("exit 5\n")
	if _, _, exit := s.output(); exit.Code != 5 {
		t.Errorf("%+v", exit)
	}

	s = spawn(t, []string{"cat"}, withTTY)
	s.send("line\n")
	s.expect("line\r\nline\r\n")
	s.send("\x04")
	if _, _, exit := s.output(); exit.Code != 0 {
		t.Errorf("%+v", exit)
	}
}

func TestStdinCloseOnATerminal(t *testing.T) {
	s := spawn(t, []string{"cat"}, withTTY)
	if err := s.stream.Write(control.FrameStdinClose, nil); err != nil {
		t.Fatal(err)
	}
	if _, _, exit := s.output(); exit.Code != 0 {
		t.Errorf("%+v", exit)
	}
}

// TestTerminalsOfOneAgent runs several at once; each is its own.
func TestTerminalsOfOneAgent(t *testing.T) {
	s := spawn(t, []string{"sh", "-i"}, withTTY)
	tty := func(p *control.Process) { p.TTY, p.Stdin, p.Rows, p.Cols = true, true, 10, 20 }
	x := s.execIn(sh("tty; stty size; read x; echo got $x"), tty)
	x.expect("/dev/pts/1\r\n10 20\r\n")
	y := s.execIn(sh("tty; sleep 1000"), tty)
	y.expect("/dev/pts/2\r\n")
	y.send("\x03") // Of this terminal only.
	if exit := y.wait(); exit.Signal != 2 && exit.Code != 130 {
		t.Errorf("%+v", exit)
	}
	x.send("words\n")
	x.expect("got words")
	if exit := x.wait(); exit.Code != 0 {
		t.Errorf("%+v", exit)
	}
	s.send("exit 0\n")
	s.output()
}

// TestTerminalOutlivesClients checks that a terminal can be left and joined
// again.
func TestTerminalOutlivesClients(t *testing.T) {
	s := spawn(t, []string{"sh", "-i"}, withTTY)
	s.send("stty -echo; x=kept; echo re''ady\n")
	s.expect("ready")
	s.stream.Close()
	var again *spawned
	eventually(t, func() (ok bool) {
		var err error
		again, err = s.attach(true)
		return err == nil
	})
	again.send("echo $x; exit 2\n")
	if out, _, exit := again.output(); !strings.Contains(out, "kept") || exit.Code != 2 {
		t.Errorf("stdout %q exit %+v", out, exit)
	}
}
