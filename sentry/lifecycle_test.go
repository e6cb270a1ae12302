package sentry

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

func TestExits(t *testing.T) {
	for script, want := range map[string]control.Exit{
		"exit 0":                         {},
		"exit 255":                       {Code: 255},
		"exec true":                      {},
		"exec false":                     {Code: 1},
		"kill -9 $$":                     {Signal: 9},
		"kill -TERM $$":                  {Signal: 15},
		"sh -c 'kill -SEGV $$'; exit $?": {Code: 128 + 11},
		"sleep 1000 & exit 4":            {Code: 4},
		"(sleep 1000 &) ; exit 5":        {Code: 5},
		"setsid sleep 1000& exit 6":      {Code: 6},
	} {
		if _, _, exit := spawn(t, sh(script)).output(); exit != want {
			t.Errorf("%q: %+v, want %+v", script, exit, want)
		}
	}
}

func TestSignals(t *testing.T) {
	for _, sig := range []int32{1, 2, 9, 10, 15} {
		s := spawn(t, []string{"sleep", "1000"})
		s.signal(sig)
		if exit := s.wait(); exit != (control.Exit{Signal: sig}) {
			t.Errorf("signal %d: %+v", sig, exit)
		}
	}
	s := spawn(t, sh("trap 'echo caught' USR1; echo ready; while :; do sleep 0.01; done"))
	s.expect("ready")
	s.signal(int32(unix.SIGUSR1))
	s.expect("caught")
	for _, bad := range []int32{0, -1, 65, 1 << 20} {
		_, err := theKernel.Signal(control.SignalRequest{ID: s.id, Signal: bad})
		wantCode(t, err, errdefs.InvalidArgument)
	}
	_, err := theKernel.Signal(control.SignalRequest{ID: s.id, ExecID: 7, Signal: 1})
	wantCode(t, err, errdefs.AgentNotRunning)
	_, err = theKernel.Signal(control.SignalRequest{ID: "a000000000000", Signal: 1})
	wantCode(t, err, errdefs.AgentNotFound)
}

func TestSignalToAll(t *testing.T) {
	s := spawn(t, sh("trap 'echo one' USR1; sh -c 'trap \"echo two\" USR1; echo ready; while :; do sleep 0.01; done' & while :; do sleep 0.01; done"))
	s.expect("ready")
	// The sleeps die of it, the shells say so.
	if _, err := theKernel.Signal(control.SignalRequest{ID: s.id, Signal: int32(unix.SIGUSR1), All: true}); err != nil {
		t.Fatal(err)
	}
	var got string
	for !strings.Contains(got, "one") || !strings.Contains(got, "two") {
		kind, p, err := s.stream.Read()
		if err != nil || kind == control.FrameExit {
			t.Fatalf("ended after %q", got)
		}
		got += string(p)
	}
}

// TestNothingSurvivesTheFirst checks that every process of an agent is gone,
// whatever it did to hide, when the end of the agent is reported.
func TestNothingSurvivesTheFirst(t *testing.T) {
	for _, end := range []string{"exit", "kill"} {
		s := spawn(t, sh(`for i in 1 2 3 4 5; do setsid sleep 1000 & sh -c 'trap "" TERM INT HUP; (sleep 1000 &); while :; do :; done' & done; echo ready; read x; exit 3`), withStdin)
		s.expect("ready")
		a, err := theKernel.agent(s.id)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool { return a.ns.pid().NumTasks() >= 16 })
		if end == "exit" {
			s.send("\n")
		} else {
			s.signal(9)
		}
		exit := s.wait()
		if n := a.ns.pid().NumTasks(); n != 0 {
			t.Errorf("%s: %d tasks are left", end, n)
		}
		if end == "exit" && exit.Code != 3 || end == "kill" && exit.Signal != 9 {
			t.Errorf("%s: %+v", end, exit)
		}
	}
}

func TestExec(t *testing.T) {
	s := spawn(t, []string{"sleep", "1000"})
	x := s.execIn(sh("echo $0 of $PPID; hostname; cat; exit 9"), func(p *control.Process) { p.Stdin = true })
	x.send("input")
	if err := x.stream.Write(control.FrameStdinClose, nil); err != nil {
		t.Fatal(err)
	}
	out, _, exit := x.output()
	if out != "sh of 0\nbox\ninput" || exit.Code != 9 {
		t.Errorf("stdout %q exit %+v", out, exit)
	}
	if e := x.wait(); e.Code != 9 {
		t.Errorf("reported %+v", e)
	}
	// It is the same agent: files and processes are shared.
	s.execIn(sh("echo data > /tmp/shared")).output()
	if out, _, _ := s.execIn(sh("cat /tmp/shared; ps")).output(); !strings.HasPrefix(out, "data\n") || !strings.Contains(out, "sleep 1000") {
		t.Errorf("a second process sees %q", out)
	}
	y := s.execIn([]string{"sleep", "1000"})
	y.signal(9)
	if e := y.wait(); e.Signal != 9 {
		t.Errorf("killed: %+v", e)
	}
	if st := inspect(t, s.id); st.State != string(abi.StateRunning) || len(st.Processes) != 1 {
		t.Errorf("after the further processes have ended: %+v", st)
	}
	// Whoever else runs in the agent ends with its first process.
	z := s.execIn([]string{"sleep", "1000"})
	s.signal(15)
	if e := z.wait(); e.Signal != 9 {
		t.Errorf("the further process of an agent that ended: %+v", e)
	}
	s.wait()
	_, err := s.tryExec([]string{"true"})
	wantCode(t, err, errdefs.AgentNotRunning)
}

func TestExecErrors(t *testing.T) {
	s := spawn(t, []string{"sleep", "1000"})
	for name, want := range map[string]errdefs.Code{
		"nosuch": errdefs.ProgramNotFound, "/bin/data": errdefs.ProgramNotRunable, "": errdefs.ProgramNotFound,
	} {
		_, err := s.tryExec([]string{name})
		wantCode(t, err, want)
	}
	_, err := s.tryExec(nil)
	wantCode(t, err, errdefs.InvalidArgument)
	_, err = s.tryExec([]string{"true"}, func(p *control.Process) { p.Cwd = "/nosuch" })
	wantCode(t, err, errdefs.InvalidArgument)
	_, err = s.tryExec([]string{"true"}, func(p *control.Process) { p.User = "nosuch" })
	wantCode(t, err, errdefs.InvalidArgument)
	if out, _, exit := s.execIn(sh("pwd; echo $HOME"), func(p *control.Process) { p.Cwd = "/etc"; p.User = "bob" }).output(); out != "/etc\n/home/bob\n" || exit.Code != 0 {
		t.Errorf("stdout %q, %+v", out, exit)
	}
}

func TestInspect(t *testing.T) {
	long := strings.Repeat("x", 10000)
	s := spawn(t, []string{"sh", "-c", "sleep 1001 & (sh -c 'exit 0' & exec sleep 1002) & echo ready; exec sleep 1003", "name", "an argument", "", long})
	s.expect("ready")
	var st control.AgentStatus
	eventually(t, func() bool {
		st = inspect(t, s.id)
		return len(st.Processes) == 4 && st.Processes[3].State == "Z" && len(st.Processes[0].Argv) == 2 && st.Processes[0].State == "S"
	})
	if st.ID != s.id || st.State != string(abi.StateRunning) || st.Tasks != 4 || st.MemoryBytes == 0 || st.Exit != nil {
		t.Errorf("%+v", st)
	}
	first := st.Processes[0]
	if first.PID != 1 || first.PPID != 0 || first.Threads != 1 || first.State != "S" || fmt.Sprint(first.Argv) != "[sleep 1003]" {
		t.Errorf("first process: %+v", first)
	}
	child := st.Processes[1]
	if child.PID != 2 || child.PPID != 1 || fmt.Sprint(child.Argv) != "[sleep 1001]" {
		t.Errorf("child: %+v", child)
	}
	if z := st.Processes[3]; z.PPID != 3 || z.Argv != nil {
		t.Errorf("zombie: %+v", z)
	}
	_, err := theKernel.Inspect(control.AgentRequest{ID: "a000000000000"})
	wantCode(t, err, errdefs.AgentNotFound)
}

func TestCommandLineIsBoundedAndTheAgentsOwn(t *testing.T) {
	args := []string{"sleep", "1000"}
	s := spawn(t, args)
	x := s.execIn(append(sh("echo ready; read x"), "zero", "", "two words", strings.Repeat("y", 2*maxCommandLine)), func(p *control.Process) { p.Stdin = true })
	x.expect("ready")
	st := inspect(t, s.id)
	got := st.Processes[1].Argv
	if len(got) != 7 || got[3] != "zero" || got[4] != "" || got[5] != "two words" || strings.Trim(got[6], "y") != "" {
		t.Fatalf("command line %q", got)
	}
	if n := len(strings.Join(got, " ")); n != maxCommandLine {
		t.Errorf("the command line shows %d bytes, want %d", n, maxCommandLine)
	}
}

func TestListAndForget(t *testing.T) {
	s := spawn(t, []string{"sleep", "1000"}, detached)
	find := func() *control.AgentStatus {
		l, err := theKernel.List(struct{}{})
		if err != nil {
			t.Fatal(err)
		}
		for _, st := range l.Agents {
			if st.ID == s.id {
				return &st
			}
		}
		return nil
	}
	if st := find(); st == nil || st.State != string(abi.StateRunning) || st.Tasks != 1 {
		t.Errorf("listed as %+v", st)
	}
	_, err := theKernel.Forget(control.AgentRequest{ID: s.id})
	wantCode(t, err, errdefs.AgentRunning)
	s.signal(9)
	s.wait()
	if st := find(); st == nil || st.State != string(abi.StateExited) || st.Exit == nil || st.Exit.Signal != 9 || time.Since(st.Ended) > time.Minute {
		t.Errorf("listed as %+v after its end", st)
	}
	for _, err := range []error{
		second(theKernel.Signal(control.SignalRequest{ID: s.id, Signal: 9})),
		second(theKernel.Pause(control.AgentRequest{ID: s.id})),
		second(theKernel.Resume(control.AgentRequest{ID: s.id})),
		second(s.attach(false)),
	} {
		wantCode(t, err, errdefs.AgentNotRunning)
	}
	if _, err := theKernel.Forget(control.AgentRequest{ID: s.id}); err != nil {
		t.Error(err)
	}
	if st := find(); st != nil {
		t.Errorf("listed as %+v after Forget", st)
	}
	_, err = theKernel.Forget(control.AgentRequest{ID: s.id})
	wantCode(t, err, errdefs.AgentNotFound)
}

func second[T any](_ T, err error) error { return err }

func TestIDs(t *testing.T) {
	s := spawn(t, []string{"sleep", "1000"})
	_, err := trySpawn(t, []string{"true"}, func(r *control.SpawnRequest) { r.ID = s.id })
	wantCode(t, err, errdefs.AlreadyExists)
	_, err = trySpawn(t, []string{"true"}, func(r *control.SpawnRequest) { r.ID = "../../etc" })
	wantCode(t, err, errdefs.InvalidArgument)
	if inspect(t, s.id).State != string(abi.StateRunning) {
		t.Error("a refused spawn harmed the agent that has the ID")
	}
}

// TestOrphansAreCollected starts an agent whose first process never waits.
func TestOrphansAreCollected(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		// The grandchild ends after its parent.
		"inherited": "(sleep 0.1 & exec true) & exec sleep 1000",
		// The grandchild is a zombie for longer than the grace when its
		// parent ends.
		"zombie first": "(sh -c 'exit 0' & exec sleep 1.5) & exec sleep 1000",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := spawn(t, sh(script))
			// What the first process started itself is its own to collect.
			eventually(t, func() bool {
				st := inspect(t, s.id)
				return len(st.Processes) == 2 && st.Processes[1].State == "Z" && st.Processes[1].PID == 2
			})
			time.Sleep(orphanGrace + 200*time.Millisecond)
			if st := inspect(t, s.id); len(st.Processes) != 2 {
				t.Errorf("%+v", st.Processes)
			}
		})
	}
}

func TestStoppedAgentsAreReportedFirst(t *testing.T) {
	var agents []*Agent
	for range 4 {
		s := spawn(t, sh("while :; do date; sleep 1; done"))
		a, err := theKernel.agent(s.id)
		if err != nil {
			t.Fatal(err)
		}
		agents = append(agents, a)
	}
	killAll(agents, "a test")
	for _, a := range agents {
		// The process may exit as soon as killAll returns.
		exits.mu.Lock()
		exit, ok := exits.got[a.id][0]
		exits.mu.Unlock()
		if !ok {
			t.Fatalf("the end of %s was not reported", a.id)
		}
		if exit.Signal != 9 || exit.Reason != "a test" {
			t.Errorf("ended with %+v", exit)
		}
	}
}

// TestSameIDAgain starts an agent anew as soon as its end is known and it can be
// forgotten, as a restart does: nothing of the one before is in the way.
func TestSameIDAgain(t *testing.T) {
	id := string(abi.NewAgentID())
	for n := range 60 {
		log, err := os.Create(filepath.Join(t.TempDir(), "log"))
		if err != nil {
			t.Fatal(err)
		}
		if err := theKernel.Spawn(control.SpawnRequest{
			ID: id, Hostname: "box", Root: control.Root{Base: "busybox"}, Grants: grants(everyGrant...),
			Process: control.Process{Argv: []string{"true"}, Env: []string{"PATH=/bin"}},
		}, []*os.File{log}); err != nil {
			t.Fatalf("the agent was not started for the %dth time: %v", n+1, err)
		}
		for {
			_, err := theKernel.Forget(control.AgentRequest{ID: id})
			if err == nil {
				break
			}
			if errdefs.CodeOf(err) != errdefs.AgentRunning {
				t.Fatal(err)
			}
			runtime.Gosched()
		}
	}
}
