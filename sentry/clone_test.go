package sentry

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// clone makes copies of s's agent.
func (s *spawned) clone(n int, opts ...func(*control.CloneRequest)) []*spawned {
	s.t.Helper()
	out, err := s.tryClone(n, opts...)
	if err != nil {
		s.t.Fatalf("clone: %v", err)
	}
	return out
}

func (s *spawned) tryClone(n int, opts ...func(*control.CloneRequest)) ([]*spawned, error) {
	s.t.Helper()
	req := control.CloneRequest{ID: s.id}
	var files []*os.File
	var out []*spawned
	for range n {
		c := &spawned{t: s.t, id: string(abi.NewAgentID()), log: filepath.Join(s.t.TempDir(), "log")}
		f, err := os.Create(c.log)
		if err != nil {
			s.t.Fatal(err)
		}
		files = append(files, f)
		out = append(out, c)
		req.Copies = append(req.Copies, control.CloneCopy{ID: c.id, Hostname: "copy"})
	}
	for _, o := range opts {
		o(&req)
	}
	reply, err := theKernel.Clone(req, files)
	if err != nil {
		return nil, err
	}
	s.t.Logf("pause %v, ready %v", reply.Pause, reply.Ready)
	for _, c := range out {
		s.t.Cleanup(func() {
			theKernel.Signal(control.SignalRequest{ID: c.id, Signal: 9})
			exits.wait(s.t, c.id, 0)
			theKernel.Forget(control.AgentRequest{ID: c.id})
		})
	}
	return out, nil
}

// logged returns what an agent has written, without the frames of the log.
func (s *spawned) logged() string {
	s.t.Helper()
	out, _ := readLog(s.t, s.log)
	return out
}

func TestCloneOfALoop(t *testing.T) {
	s := spawn(t, sh("i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo $i; usleep 1000; done; hostname; echo $$; exit 7"))
	s.expect("50\n")
	for _, c := range s.clone(2) {
		if e := c.wait(); e.Code != 7 {
			t.Errorf("the copy ended with %+v", e)
		}
		if got := c.logged(); !strings.HasSuffix(got, "199\n200\ncopy\n1\n") {
			t.Errorf("the copy wrote %q", got)
		}
	}
	if _, _, e := s.output(); e.Code != 7 {
		t.Errorf("the original ended with %+v", e)
	}
}

// Whatever the original is made to do, the copy does not follow, and the reverse.
func TestCopiesShareNothing(t *testing.T) {
	s := spawn(t, sh(`echo one > /tmp/f; exec 3< /tmp/f; echo two > /root-file; mkdir -p /d/e; ln /root-file /d/e/link; ln /root-file /a-link; rm -f /gone; stat -c '%d %i' /root-file /d/e/link /tmp/f /tmp /bin/busybox > /inodes;  ln -s x /d/sym
		echo ready; until [ -e /go ]; do usleep 2000; done; read line <&3; echo "$line $(cat /root-file) $(cat /d/e/link) $(readlink /d/sym) $(cat /own 2>/dev/null)"; stat -c '%d %i' /root-file /d/e/link /tmp/f /tmp /bin/busybox | cmp - /inodes && echo same`))
	s.expect("ready\n")
	c := s.clone(1)[0]
	d := c.clone(1)[0]
	for _, x := range []struct {
		who  *spawned
		word string
	}{{s, "original"}, {c, "copy"}, {d, "copy"}} {
		x.who.execIn(sh("echo " + x.word + " > /own; echo " + x.word + " > /root-file; touch /go")).wait()
	}
	for _, x := range []*spawned{c, d} {
		if e := x.wait(); e.Code != 0 {
			t.Errorf("the copy ended with %+v", e)
		}
		if got := x.logged(); got != "one copy copy x copy\nsame\n" {
			t.Errorf("the copy wrote %q", got)
		}
	}
	if out, _, _ := s.output(); out != "one original original x original\nsame\n" {
		t.Errorf("the original wrote %q", out)
	}
}

func TestCloneStaysStopped(t *testing.T) {
	s := spawn(t, sh("echo ready; sleep 0.2; echo done"))
	s.expect("ready\n")
	c := s.clone(1, func(r *control.CloneRequest) { r.Pause = true })[0]
	if out, _, e := s.output(); out != "done\n" || e.Code != 0 {
		t.Errorf("the original wrote %q and ended with %+v", out, e)
	}
	if st := inspect(t, c.id); st.State != string(abi.StatePaused) {
		t.Errorf("the copy is %s", st.State)
	}
	c.resume()
	if e := c.wait(); e.Code != 0 || c.logged() != "done\n" {
		t.Errorf("the copy wrote %q and ended with %+v", c.logged(), e)
	}
}

// Who is caught as it starts a program starts it in the copy.
func TestCloneOfWhoStartsPrograms(t *testing.T) {
	s := spawn(t, sh(`echo ready; until [ -e /go ]; do (exec /bin/busybox true) || echo "$?"; done; echo end`))
	s.expect("ready\n")
	for range 40 {
		c := s.clone(1)[0]
		c.execIn(sh("touch /go")).wait()
		if e := c.wait(); e.Code != 0 || c.logged() != "end\n" {
			t.Errorf("the copy wrote %q and ended with %+v", c.logged(), e)
		}
	}
}

// What is in pipes, who waits for whom, and who has ended, is as in the original.
func TestCloneOfAPipeline(t *testing.T) {
	s := spawn(t, sh(`(i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i; usleep 700; done) | while read x; do echo "<$x>"; done | (sleep 0.1; sort | wc -l) ; echo end`))
	eventually(t, func() bool { return len(inspect(t, s.id).Processes) >= 4 })
	c := s.clone(1)[0]
	if e := c.wait(); e.Code != 0 || c.logged() != "300\nend\n" {
		t.Errorf("the copy wrote %q and ended with %+v", c.logged(), e)
	}
	if out, _, e := s.output(); out != "300\nend\n" || e.Code != 0 {
		t.Errorf("the original wrote %q and ended with %+v", out, e)
	}
}

func TestCloneOfStoppedAndEnded(t *testing.T) {
	s := spawn(t, sh(`sleep 1000 & p=$!; until grep -q "T (stopped)" /proc/$p/status; do kill -STOP $p; usleep 5000; done; sh -c 'exit 3' & q=$!; usleep 20000; echo ready; until [ -e /go ]; do usleep 2000; done
		wait $q; echo $?; grep State /proc/$p/status; kill -9 $p; kill -CONT $p; wait $p; echo $?`))
	s.expect("ready\n")
	c := s.clone(1)[0]
	want := "3\nState:\tT (stopped)\n137\n"
	s.execIn(sh("touch /go")).wait()
	c.execIn(sh("touch /go")).wait()
	if e := c.wait(); e.Code != 0 || c.logged() != want {
		t.Errorf("the copy wrote %q and ended with %+v", c.logged(), e)
	}
	if out, _, _ := s.output(); out != want {
		t.Errorf("the original wrote %q", out)
	}
}

// A copy's budget is taken from the original's, which ends the making of copies.
func TestCloneBomb(t *testing.T) {
	s := spawn(t, sh("echo ready; sleep 100"), granted("mem:self:map+exec,bytes=256M", "proc:self:spawn+exec+signal,count=32", "cpu:self", "io:self"))
	s.expect("ready\n")
	var all []*spawned
	for n := 0; ; n++ {
		c, err := s.tryClone(1)
		if err != nil {
			wantCode(t, err, errdefs.BudgetExhausted)
			break
		}
		if all = append(all, c...); n > 100 {
			t.Fatal("there is no end to it")
		}
	}
	sum := uint64(0)
	for _, x := range append(all, s) {
		a := theKernel.findAgent(x.id)
		sum += a.taskLimit()
	}
	if sum > 32 {
		t.Errorf("together they may have %d tasks of 32", sum)
	}
}

// A copy outlives its original with what it may do, and whoever gave that to the
// original takes it from the copy.
func TestCopyOutlivesItsOriginal(t *testing.T) {
	s := spawn(t, sh("echo ready; until [ -e /go ]; do usleep 2000; done"), granted("mem:self:map+exec,bytes=256M", "proc:self:spawn+exec+signal,count=32", "cpu:self", "io:self"))
	s.expect("ready\n")
	given := theKernel.space.List(s.id)
	c := s.clone(1)[0]
	s.execIn(sh("touch /go")).wait()
	s.output()
	if n := len(theKernel.space.List(c.id)); n != len(given) {
		t.Errorf("the copy has %d capabilities of %d", n, len(given))
	}
	if out, _, _ := c.execIn(sh("echo alive")).output(); out != "alive\n" {
		t.Errorf("the copy says %q", out)
	}
	for _, g := range given {
		if _, err := theKernel.space.Revoke(g, true, theKernel.actor(control.Actor{}), "a test"); err != nil {
			t.Error(err)
		}
	}
	if n := len(theKernel.space.List(c.id)); n != 0 {
		t.Errorf("the copy still has %d capabilities", n)
	}
}

// Copies of an agent that is paused run, and it stays paused.
func TestCloneOfThePaused(t *testing.T) {
	s := spawn(t, sh("echo ready; sleep 0.1; echo done"))
	s.expect("ready\n")
	s.pause()
	for _, c := range s.clone(2) {
		if e := c.wait(); e.Code != 0 || c.logged() != "done\n" {
			t.Errorf("the copy wrote %q and ended with %+v", c.logged(), e)
		}
	}
	if st := inspect(t, s.id); st.State != string(abi.StatePaused) {
		t.Errorf("the original is %s", st.State)
	}
	s.resume()
	if out, _, e := s.output(); out != "done\n" || e.Code != 0 {
		t.Errorf("the original wrote %q and ended with %+v", out, e)
	}
}

// A copy has a terminal of its own, with its size, the half of a line that was typed,
// the group in the foreground and what is stopped; nobody is at it until somebody
// attaches.
func TestCloneOfATerminal(t *testing.T) {
	s := spawn(t, []string{"sh", "-i"}, withTTY, size(33, 111))
	s.send("stty -echo; echo re''ady\n")
	s.expect("ready")
	s.send("sleep 1001\n")
	inForeground(t, s, "[sleep 1001]")
	s.send("\x1a")
	s.expect("Stopped")
	s.send("cat\n")
	eventually(t, func() bool { return len(inspect(t, s.id).Processes) == 3 })
	s.send("first\nsec")
	s.expect("first")
	c := s.clone(1)[0]
	d := c.clone(1)[0]
	for i, x := range []*spawned{s, c.mustAttach(true), d.mustAttach(true)} {
		x.send(fmt.Sprintf("ond %d\n", i))
		x.expect(fmt.Sprintf("second %d\r\n", i))
		if err := x.stream.Write(control.FrameResize, control.EncodeResize(uint16(40+i), 120)); err != nil {
			t.Fatal(err)
		}
		x.send("\x03")
		eventually(t, func() bool { return len(inspect(t, x.id).Processes) == 2 })
		x.send("stty size; tty; kill %1; fg; echo en''ded $?\n")
		x.expect(fmt.Sprintf("%d 120\r\n/dev/pts/0\r\n", 40+i))
		x.expect("ended 143")
		x.send("exit 7\n")
	}
	for _, x := range []*spawned{s, c, d} {
		if e := x.wait(); e.Code != 7 {
			t.Errorf("it ended with %+v", e)
		}
	}
	if got := c.logged(); !strings.Contains(got, "second 1\r\n") || strings.Contains(got, "ready") {
		t.Errorf("the copy's log has %q", got)
	}
}

// What cannot be carried over is refused, and the original goes on.
func TestCloneRefused(t *testing.T) {
	s := spawn(t, sh("echo ready; exec sh -i"), withTTY, granted("mem:self:map+exec,bytes=256M", "proc:self:spawn+exec+signal,count=32", "cpu:self", "io:self"))
	s.expect("ready")
	_, err := s.tryClone(40)
	wantCode(t, err, errdefs.BudgetExhausted)
	s.send("echo still $((40+2))\n")
	s.expect("still 42")
	if n := len(theKernel.liveAgents()); n == 0 {
		t.Error("nobody is left")
	}
	theKernel.Signal(control.SignalRequest{ID: s.id, Signal: 9})
	s.wait()
	_, err = s.tryClone(1)
	wantCode(t, err, errdefs.AgentNotRunning)
}
