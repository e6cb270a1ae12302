package sentry

import (
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

func TestAttachedStreamsGetOutput(t *testing.T) {
	s := spawn(t, sh("read x; echo got $x; read y; echo err >&2; exit 3"), withStdin)
	second := s.mustAttach(false)
	third := s.mustAttach(false)
	s.send("hello\n")
	for _, x := range []*spawned{s, second, third} {
		x.expect("got hello\n")
	}
	third.stream.Close() // One that leaves changes nothing.
	s.send("\n")
	for _, x := range []*spawned{s, second} {
		if out, errout, exit := x.output(); out != "" || errout != "err\n" || exit.Code != 3 {
			t.Errorf("stdout %q stderr %q exit %+v", out, errout, exit)
		}
		if _, _, err := x.stream.Read(); err != io.EOF {
			t.Errorf("after the exit: %v", err)
		}
	}
	_, err := s.attach(false)
	wantCode(t, err, errdefs.AgentNotRunning)
}

func TestInputIsExclusive(t *testing.T) {
	s := spawn(t, []string{"cat"}, withStdin)
	_, err := s.attach(true)
	wantCode(t, err, errdefs.WrongState)
	watcher := s.mustAttach(false)
	watcher.send("ignored\n")
	s.send("mine\n")
	if got := watcher.expect("mine\n"); got != "mine\n" {
		t.Errorf("cat wrote %q", got)
	}

	none := spawn(t, []string{"sleep", "1000"})
	_, err = none.attach(true)
	wantCode(t, err, errdefs.WrongState)
}

// TestInputPassesOn checks that a process which was started without a client
// takes input from one client after the other, and that only end-of-file from
// a client ends it.
func TestInputPassesOn(t *testing.T) {
	s := spawn(t, []string{"cat"}, withStdin, detached)
	var x *spawned
	join := func() { // Until the kernel has noticed that the last one left.
		eventually(t, func() (ok bool) {
			var err error
			x, err = s.attach(true)
			return err == nil
		})
	}
	for _, word := range []string{"one", "two", "three"} {
		join()
		x.send(word + "\n")
		x.expect(word)
		x.stream.Close()
	}
	join()
	if err := x.stream.Write(control.FrameStdinClose, nil); err != nil {
		t.Fatal(err)
	}
	if _, _, exit := x.output(); exit.Code != 0 {
		t.Errorf("%+v", exit)
	}
}

// TestInputEndsWithTheFirstClient is what a pipe does whose writer goes away.
func TestInputEndsWithTheFirstClient(t *testing.T) {
	s := spawn(t, sh("cat > /dev/null; exit 4"), withStdin)
	s.send("something\n")
	s.stream.Close()
	if exit := s.wait(); exit.Code != 4 {
		t.Errorf("%+v", exit)
	}
}

func TestInputBeyondThePipe(t *testing.T) {
	s := spawn(t, sh("sleep 0.2; wc -c"), withStdin)
	go func() {
		for range 40 {
			s.stream.Write(control.FrameStdin, make([]byte, 50_000))
		}
		s.stream.Write(control.FrameStdinClose, nil)
	}()
	if out, _, exit := s.output(); strings.TrimSpace(out) != "2000000" || exit.Code != 0 {
		t.Errorf("stdout %q exit %+v", out, exit)
	}
}

// TestInputThatNobodyReads checks that a process which closes its input, or
// ends, is not harmed by more of it.
func TestInputThatNobodyReads(t *testing.T) {
	s := spawn(t, sh("exec <&-; echo closed; sleep 0.2; exit 6"), withStdin)
	s.expect("closed")
	go func() {
		for s.stream.Write(control.FrameStdin, make([]byte, 50_000)) == nil {
		}
	}()
	if _, _, exit := s.output(); exit.Code != 6 {
		t.Errorf("%+v", exit)
	}
}

// TestBackPressure checks that a process waits for its first client, and that
// nothing is lost meanwhile.
func TestBackPressure(t *testing.T) {
	s := spawn(t, sh("seq 1 300000; echo done > /tmp/done; exit 7"))
	time.Sleep(300 * time.Millisecond)
	if out, _, _ := s.execIn(sh("test -e /tmp/done && echo done")).output(); out != "" {
		t.Error("the process did not wait for its client")
	}
	out, _, exit := s.output()
	if exit.Code != 7 || strings.Count(out, "\n") != 300_000 || !strings.HasSuffix(out, "299999\n300000\n") {
		t.Errorf("%d bytes, %+v", len(out), exit)
	}
}

// TestSlowWatcherIsCut checks that a client which joined later and does not
// read loses its stream, and the process goes on.
func TestSlowWatcherIsCut(t *testing.T) {
	s := spawn(t, sh("read x; seq 1 200000; exit 8"), withStdin)
	slow := s.mustAttach(false)
	start := time.Now()
	s.send("\n")
	out, _, exit := s.output()
	if exit.Code != 8 || strings.Count(out, "\n") != 200_000 {
		t.Errorf("%d bytes, %+v", len(out), exit)
	}
	if took := time.Since(start); took > 4*patience {
		t.Errorf("a client that does not read held the process up for %v", took)
	}
	for {
		kind, p, err := slow.stream.Read()
		if err != nil {
			break // Cut.
		}
		if kind == control.FrameExit {
			t.Errorf("a stream with lost output ends as if it were whole: %q", p)
		}
	}
}

// TestClosedOutput checks that a program learns that nobody reads what it
// writes, even if it writes all the time.
func TestClosedOutput(t *testing.T) {
	s := spawn(t, sh("yes; echo status $? >&2"))
	s.expect("y\n")
	if err := s.stream.Write(control.FrameOutClose, []byte{byte(control.FrameStdout)}); err != nil {
		t.Fatal(err)
	}
	if _, errout, exit := s.output(); !strings.Contains(errout, "status 141") || exit.Code != 0 {
		t.Errorf("stderr %q exit %+v", errout, exit)
	}
}

// TestExitOfAProcessWhoseChildrenWrite checks that a process which has ended
// is not held back by others that go on writing to its output.
func TestExitOfAProcessWhoseChildrenWrite(t *testing.T) {
	s := spawn(t, []string{"sleep", "1000"})
	x := s.execIn(sh("yes & echo started; exit 5"))
	done := make(chan control.Exit)
	go func() {
		_, _, exit := x.output()
		done <- exit
	}()
	select {
	case exit := <-done:
		if exit.Code != 5 {
			t.Errorf("%+v", exit)
		}
	case <-time.After(time.Minute):
		t.Fatal("the exit did not come")
	}
}

// TestClientsThatVanish checks that a process survives clients that leave in
// the middle, and that the log has everything.
func TestClientsThatVanish(t *testing.T) {
	s := spawn(t, sh("read x; seq 1 1000; exit 9"), withStdin, detached)
	for range 5 {
		s.mustAttach(false).stream.Close()
	}
	x := s.mustAttach(true)
	x.send("go\n")
	x.expect("1\n")
	x.stream.Close()
	if exit := s.wait(); exit.Code != 9 {
		t.Errorf("%+v", exit)
	}
	out, _ := readLog(t, s.log)
	if strings.Count(out, "\n") != 1000 {
		t.Errorf("the log has %d lines", strings.Count(out, "\n"))
	}
}

func TestGarbageFrames(t *testing.T) {
	s := spawn(t, sh("cat; exit 2"), withStdin)
	for _, f := range []struct {
		kind control.FrameType
		p    string
	}{{control.FrameResize, "x"}, {control.FrameResize, "abcd"}, {control.FrameOutClose, ""}, {control.FrameOutClose, "zz"}, {control.FrameOutClose, "z"}, {control.FrameExit, "{}"}, {0, ""}, {255, "junk"}} {
		if err := s.stream.Write(f.kind, []byte(f.p)); err != nil {
			t.Fatal(err)
		}
	}
	s.send("fine\n")
	s.expect("fine\n")
	// A frame that is too long ends the stream, and with it the input.
	if _, err := s.file.Write([]byte{'i', 0xff, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	if exit := s.wait(); exit.Code != 2 {
		t.Errorf("%+v", exit)
	}
}

// readLog returns what the log holds.
func readLog(t testing.TB, path string) (stdout, stderr string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out, errout strings.Builder
	for {
		rec, _, err := control.ReadLogRecord(f)
		if err == io.EOF {
			return out.String(), errout.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		if since := time.Since(rec.Time); since < 0 || since > time.Minute {
			t.Errorf("a record is stamped %v", rec.Time)
		}
		if rec.Stderr {
			errout.Write(rec.Data)
		} else {
			out.Write(rec.Data)
		}
	}
}
