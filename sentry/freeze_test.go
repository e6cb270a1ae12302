package sentry

import (
	"strings"
	"sync"
	"testing"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

const busy = "echo ready; while :; do i=$((i+1)); echo $i; done > /tmp/count"

func TestPauseStopsEverything(t *testing.T) {
	s := spawn(t, sh("for n in 1 2 3; do sh -c 'while :; do echo x >> /tmp/out; done' & done; while [ ! -s /tmp/out ]; do :; done; echo ready; wait"))
	s.expect("ready")
	a, err := theKernel.agent(s.id)
	if err != nil {
		t.Fatal(err)
	}
	size := func() int { return len(theKernel.readFile(a.ctx, a.ns, "/tmp/out")) }
	for range 5 {
		s.pause()
		if st := inspect(t, s.id); st.State != string(abi.StatePaused) {
			t.Errorf("state %s", st.State)
		}
		before := size()
		time.Sleep(30 * time.Millisecond)
		if after := size(); after != before && before < maxUserFile {
			t.Errorf("a paused agent wrote %d bytes", after-before)
		}
		_, err := theKernel.Pause(control.AgentRequest{ID: s.id})
		wantCode(t, err, errdefs.WrongState)
		_, err = s.tryExec([]string{"true"})
		wantCode(t, err, errdefs.WrongState)
		s.resume()
		eventually(t, func() bool { n := size(); return n > before || n >= maxUserFile })
		_, err = theKernel.Resume(control.AgentRequest{ID: s.id})
		wantCode(t, err, errdefs.WrongState)
		if before > maxUserFile/2 {
			break
		}
	}
}

// TestPauseCatchesForks pauses agents that fork all the time.
func TestPauseCatchesForks(t *testing.T) {
	s := spawn(t, sh("echo ready; while :; do (true) & wait; done"))
	s.expect("ready")
	a, err := theKernel.agent(s.id)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		s.pause()
		before := a.ns.pid().Tasks()
		time.Sleep(2 * time.Millisecond)
		if after := a.ns.pid().Tasks(); len(after) > len(before) {
			t.Errorf("a paused agent grew from %d to %d tasks", len(before), len(after))
		}
		s.resume()
	}
}

func TestSignalsOfThePaused(t *testing.T) {
	s := spawn(t, sh(busy))
	s.expect("ready")
	x := s.execIn([]string{"sleep", "1000"})
	s.pause()
	// A signal waits, a kill of one process does not, and the others stay.
	s.signal(15)
	x.signal(9)
	if e := x.wait(); e.Signal != 9 {
		t.Errorf("killed while paused: %+v", e)
	}
	time.Sleep(20 * time.Millisecond)
	if st := inspect(t, s.id); st.State != string(abi.StatePaused) {
		t.Errorf("state %s", st.State)
	}
	s.resume()
	if e := s.wait(); e.Signal != 15 {
		t.Errorf("after resume: %+v", e)
	}

	s = spawn(t, sh(busy))
	s.expect("ready")
	s.pause()
	s.signal(9)
	if e := s.wait(); e.Signal != 9 {
		t.Errorf("killed while paused: %+v", e)
	}

	s = spawn(t, sh(busy))
	s.expect("ready")
	s.pause()
	if _, err := theKernel.Signal(control.SignalRequest{ID: s.id, Signal: 9, All: true}); err != nil {
		t.Error(err)
	}
	s.wait()
}

// TestPauseAgainstKill races the two: whatever the order, the agent ends.
func TestPauseAgainstKill(t *testing.T) {
	for range 30 {
		s := spawn(t, sh("while :; do (true) & done"), tasks(50))
		var wg sync.WaitGroup
		for _, f := range []func(){
			func() { theKernel.Pause(control.AgentRequest{ID: s.id}) },
			func() { theKernel.Signal(control.SignalRequest{ID: s.id, Signal: 9}) },
			func() { theKernel.Pause(control.AgentRequest{ID: s.id}) },
		} {
			wg.Go(f)
		}
		wg.Wait()
		if e := s.wait(); e.Signal != 9 && e.Code == 0 {
			t.Fatalf("%+v", e)
		}
	}
}

// TestStreamsOfThePaused checks that output written before a pause
// arrives, and that input given meanwhile is read after it.
func TestStreamsOfThePaused(t *testing.T) {
	s := spawn(t, []string{"cat"}, withStdin)
	s.send("one\n")
	s.expect("one\n")
	s.pause()
	s.send("two\n")
	got := make(chan string)
	go func() {
		_, p, _ := s.stream.Read()
		got <- string(p)
	}()
	select {
	case p := <-got:
		t.Errorf("a paused cat answered %q", p)
	case <-time.After(50 * time.Millisecond):
	}
	s.resume()
	if p := <-got; strings.TrimSpace(p) != "two" {
		t.Errorf("after resume: %q", p)
	}
}
