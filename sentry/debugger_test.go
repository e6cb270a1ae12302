package sentry

import (
	"debug/elf"
	"encoding/binary"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/kdb/gdbstub"
)

// debuggee is what testdata/debuggee.c became: an image, and where things are.
var debuggee = sync.OnceValues(func() (map[string]uint64, error) {
	dir, err := os.MkdirTemp("", "aios-debuggee")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	symbols := make(map[string]uint64)
	err = mountImage(dir, "debuggee", func(root string) error {
		for _, d := range []string{"bin", "proc", "sys", "dev", "tmp", "etc"} {
			if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
				return err
			}
		}
		program := filepath.Join(root, "bin/debuggee")
		if out, err := exec.Command("gcc", "-g", "-O1", "-static", "-pthread", "-fno-omit-frame-pointer", "-o", program, "testdata/debuggee.c").CombinedOutput(); err != nil {
			return errdefs.Newf(errdefs.Internal, "gcc: %v: %s", err, out)
		}
		f, err := elf.Open(program)
		if err != nil {
			return err
		}
		defer f.Close()
		all, err := f.Symbols()
		if err != nil {
			return err
		}
		for _, s := range all {
			symbols[s.Name] = s.Value
		}
		bb, err := os.ReadFile("/bin/busybox")
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(root, "bin/busybox"), bb, 0o755); err != nil {
			return err
		}
		for _, name := range []string{"true", "sh", "sleep", "kill"} {
			if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
				return err
			}
		}
		return nil
	})
	return symbols, err
})

// debugged is an agent that is being debugged.
type debugged struct {
	*spawned
	t       testing.TB
	c       *gdbstub.Client
	conn    net.Conn
	first   gdbstub.Stop
	symbols map[string]uint64
}

// spawnDebuggee starts the program and waits until it works.
func spawnDebuggee(t testing.TB, args ...string) (*spawned, map[string]uint64) {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		if os.Getenv("AIOS_REQUIRE_PROGRAMS") == "1" {
			t.Fatal("gcc is missing")
		}
		t.Skip("gcc is missing")
	}
	symbols, err := debuggee()
	if err != nil {
		t.Fatal(err)
	}
	s := spawn(t, append([]string{"/bin/debuggee"}, args...), func(r *control.SpawnRequest) { r.Root.Base = "debuggee" })
	if len(args) == 0 || args[0] != "exec" {
		s.expect("ready")
	}
	return s, symbols
}

// debug attaches to an agent.
func debugIt(t testing.TB, s *spawned, symbols map[string]uint64, pid int32) *debugged {
	t.Helper()
	d, err := tryDebug(t, s, symbols, pid)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func tryDebug(t testing.TB, s *spawned, symbols map[string]uint64, pid int32) (*debugged, error) {
	t.Helper()
	ours, theirs := socketpair(t)
	if _, err := theKernel.Debug(control.DebugRequest{ID: s.id, PID: pid, Actor: control.Actor{Name: "test"}}, []*os.File{theirs}); err != nil {
		ours.Close()
		return nil, err
	}
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	d := &debugged{spawned: s, t: t, conn: conn, symbols: symbols}
	if d.c, d.first, err = gdbstub.Dial(conn); err != nil {
		t.Fatal(err)
	}
	return d, nil
}

// within20 has a hang be a failure with all stacks.
func within20(t testing.TB, what string) (stop func()) {
	t.Helper()
	timer := time.AfterFunc(20*time.Second, func() {
		panic("it hangs: " + what + "\n" + strings.Join(goroutines(), "\n\n"))
	})
	return func() { timer.Stop() }
}

func (d *debugged) addr(symbol string) uint64 {
	d.t.Helper()
	a := d.symbols[symbol]
	if a == 0 {
		d.t.Fatalf("no symbol %s", symbol)
	}
	return a
}

func (d *debugged) leader() gdbstub.Thread {
	d.t.Helper()
	for _, th := range d.c.Threads {
		if th.TID == 1 {
			return th
		}
	}
	d.t.Fatalf("no first thread among %v", d.c.Threads)
	return gdbstub.Thread{}
}

func (d *debugged) word(symbol string) uint32 {
	d.t.Helper()
	b, err := d.c.ReadMemory(d.c.Threads[0], d.addr(symbol), 4)
	if err != nil || len(b) != 4 {
		d.t.Fatalf("read %s: %d bytes, %v", symbol, len(b), err)
	}
	return binary.LittleEndian.Uint32(b)
}

func (d *debugged) setWord(symbol string, n uint32) {
	d.t.Helper()
	if err := d.c.WriteMemory(d.c.Threads[0], d.addr(symbol), binary.LittleEndian.AppendUint32(nil, n)); err != nil {
		d.t.Fatal(err)
	}
}

func (d *debugged) register(th gdbstub.Thread, name string) uint64 {
	d.t.Helper()
	regs, err := d.c.Registers(th)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, r := range regs {
		if r.Name == name {
			return binary.LittleEndian.Uint64(append(r.Value, make([]byte, 8)...))
		}
	}
	d.t.Fatalf("no register %s", name)
	return 0
}

func (d *debugged) breakAt(symbol string) {
	d.t.Helper()
	if err := d.c.SetBreakpoint(d.c.Threads[0], d.addr(symbol)); err != nil {
		d.t.Fatal(err)
	}
}

func (d *debugged) cont() gdbstub.Stop {
	d.t.Helper()
	defer within20(d.t, "continue")()
	stop, err := d.c.Continue()
	if err != nil {
		d.t.Fatal(err)
	}
	return stop
}

func (d *debugged) step(th gdbstub.Thread) gdbstub.Stop {
	d.t.Helper()
	defer within20(d.t, "step")()
	stop, err := d.c.Step(th)
	if err != nil {
		d.t.Fatal(err)
	}
	return stop
}

// finish has the program end, and checks that it ended well.
func (d *debugged) finish() {
	d.t.Helper()
	d.setWord("stop", 1)
	d.free()
	d.ended()
}

// ended checks that the program ends well.
func (d *debugged) ended() {
	d.t.Helper()
	defer within20(d.t, "the end")()
	if out, _, exit := d.output(); exit.Code != 0 || exit.Signal != 0 || !strings.HasSuffix(out, "right\n") {
		d.t.Errorf("it ended with %+v and %q", exit, out)
	}
}

// free ends the debugging by closing the connection, and waits until the kernel
// has noticed.
func (d *debugged) free() {
	d.t.Helper()
	d.conn.Close()
	waitFree(d.t, d.id)
}

func waitFree(t testing.TB, id string) {
	t.Helper()
	a, err := theKernel.agent(id)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return a.debugger.Load() == nil })
}

func TestDebugBreakpoints(t *testing.T) {
	s, symbols := spawnDebuggee(t)
	d := debugIt(t, s, symbols, 1)
	if n := len(d.c.Threads); n != 3 || d.first.Signal != int32(linux.SIGTRAP) {
		t.Fatalf("%d threads, %+v", n, d.first)
	}
	d.breakAt("work")
	last := uint32(0)
	for i := range 60 {
		stop := d.cont()
		if !stop.Breakpoint || stop.Signal != int32(linux.SIGTRAP) || stop.Thread.TID != 1 {
			t.Fatalf("hit %d: %+v", i, stop)
		}
		if ip := d.register(stop.Thread, "rip"); ip != d.addr("work") {
			t.Fatalf("hit %d: rip %#x, want %#x", i, ip, d.addr("work"))
		}
		now := d.word("counter")
		if i > 0 && now != last+1 {
			t.Fatalf("hit %d: the counter went from %d to %d", i, last, now)
		}
		last = now
	}
	if b, err := d.c.ReadMemory(d.leader(), d.addr("work"), 1); err != nil || b[0] == trapInstruction {
		t.Errorf("the breakpoint shows: % x, %v", b, err)
	}
	if err := d.c.ClearBreakpoint(d.leader(), d.addr("work")); err != nil {
		t.Error(err)
	}
	calls := d.word("calls")
	if err := d.c.Detach(); err != nil {
		t.Error(err)
	}
	waitFree(t, s.id)
	// Another debugger finds it at work.
	d = debugIt(t, s, symbols, 0)
	if now := d.word("calls"); now == calls && d.word("counter") == last {
		time.Sleep(50 * time.Millisecond)
	}
	d.finish()
}

// TestDebugSteps steps through everything that a thread does, system calls among
// it, and beside others that run.
func TestDebugSteps(t *testing.T) {
	s, symbols := spawnDebuggee(t)
	d := debugIt(t, s, symbols, 1)
	d.breakAt("plain_call")
	caller := d.cont().Thread
	d.breakAt("work")
	main := d.cont().Thread
	if main.TID == caller.TID {
		main = d.cont().Thread
	}
	before, calls := d.word("counter"), d.word("calls")
	for _, th := range []gdbstub.Thread{main, caller} {
		seen := make(map[uint64]bool)
		for i := range 600 {
			from, inCall := d.register(th, "rip"), int64(d.register(th, "orig_rax")) >= 0
			stop := d.step(th)
			if stop.Exited || stop.Signal != int32(linux.SIGTRAP) || stop.Thread.TID != th.TID {
				t.Fatalf("step %d of thread %d: %+v", i, th.TID, stop)
			}
			ip := d.register(th, "rip")
			if ip >= 0x60000 && ip < 0x70000 || ip > 0x7fffffffffff {
				t.Fatalf("step %d of thread %d from %#x: rip %#x is in the platform", i, th.TID, from, ip)
			}
			if ip == from && !inCall { // A call that was interrupted is made again.
				b, _ := d.c.ReadMemory(th, ip, 4)
				t.Fatalf("step %d of thread %d: still at %#x, % x", i, th.TID, ip, b)
			}
			seen[ip] = true
			if flags := d.register(th, "eflags"); flags&0x100 != 0 {
				t.Fatalf("step %d of thread %d: eflags %#x", i, th.TID, flags)
			}
		}
		if len(seen) < 30 {
			t.Errorf("thread %d was at %d places in 600 steps", th.TID, len(seen))
		}
	}
	if d.word("counter") == before || d.word("calls") == calls {
		t.Errorf("after 600 steps each the counter is %d, was %d; calls %d, were %d", d.word("counter"), before, d.word("calls"), calls)
	}
	d.finish()
}

// TestDebugChildren has breakpoints where children of the program come by.
func TestDebugChildren(t *testing.T) {
	for _, how := range []string{"fork", "vfork", "spawn"} {
		t.Run(how, func(t *testing.T) {
			s, symbols := spawnDebuggee(t, how)
			d := debugIt(t, s, symbols, 1)
			d.breakAt("work")
			last := uint32(0)
			for i := range 10 {
				stop := d.cont()
				for stop.Signal == int32(linux.SIGCHLD) { // That came while it was blocked.
					stop = d.cont()
				}
				if !stop.Breakpoint || stop.Thread.PID != 1 {
					t.Fatalf("hit %d: %+v", i, stop)
				}
				now := d.word("counter")
				if i > 0 && now != last+1 {
					t.Fatalf("hit %d: the counter went from %d to %d", i, last, now)
				}
				last = now
			}
			if n := d.word("children"); n < 8 {
				t.Errorf("%d children ended well", n)
			}
			d.finish()
		})
	}
}

// TestDebugSignals has signals of all kinds stop the program, and pass.
func TestDebugSignals(t *testing.T) {
	t.Run("handled", func(t *testing.T) {
		s, symbols := spawnDebuggee(t, "raise")
		d := debugIt(t, s, symbols, 1)
		for i := range 10 {
			stop := d.cont() // It passes the signal on.
			if stop.Signal != int32(linux.SIGUSR1) {
				t.Fatalf("stop %d: %+v", i, stop)
			}
			if n := d.word("handled"); n < uint32(i) {
				t.Errorf("stop %d: %d were handled", i, n)
			}
		}
		d.finish()
	})
	t.Run("from outside", func(t *testing.T) {
		s, symbols := spawnDebuggee(t)
		d := debugIt(t, s, symbols, 1)
		s.signal(int32(linux.SIGUSR1)) // While it stands still.
		if stop := d.cont(); stop.Signal != int32(linux.SIGUSR1) {
			t.Fatalf("%+v", stop)
		}
		// On a busy host another thread gets the next signal before the first has
		// handled its own.
		handled := d.word("handled")
		for passed := uint32(1); ; passed++ {
			time.AfterFunc(50*time.Millisecond, func() { s.signal(int32(linux.SIGUSR1)) })
			if stop := d.cont(); stop.Signal != int32(linux.SIGUSR1) {
				t.Fatalf("%+v", stop)
			}
			n := d.word("handled")
			if n == handled+passed {
				break
			}
			if n > handled+passed || passed == 20 {
				t.Fatalf("%d signals were passed on, %d handled", passed, n-handled)
			}
		}
		d.finish() // It is delivered when the debugger leaves.
	})
	for how, sig := range map[string]linux.Signal{"segv": linux.SIGSEGV, "abort": linux.SIGABRT, "int3": linux.SIGTRAP} {
		t.Run(how, func(t *testing.T) {
			s, symbols := spawnDebuggee(t, how)
			d := debugIt(t, s, symbols, 1)
			d.setWord("go", 1)
			stop := d.cont()
			if stop.Signal != int32(sig) || stop.Thread.TID != 1 {
				t.Fatalf("%+v", stop)
			}
			if how == "int3" {
				d.finish()
				return
			}
			stop = d.cont()
			if !stop.Exited || stop.Signal != int32(sig) {
				t.Fatalf("%+v", stop)
			}
			if e := s.wait(); e.Signal != int32(sig) {
				t.Errorf("the agent ended with %+v", e)
			}
		})
	}
}

// TestDebugInterrupt stops a program that nothing stops.
func TestDebugInterrupt(t *testing.T) {
	s, symbols := spawnDebuggee(t)
	d := debugIt(t, s, symbols, 1)
	ran := 0
	eventually(t, func() bool { // The host may have no time for it at first.
		spins := d.word("spins")
		time.AfterFunc(20*time.Millisecond, func() { d.c.Interrupt() })
		if stop := d.cont(); stop.Signal != int32(linux.SIGINT) || stop.Exited {
			t.Fatalf("%+v", stop)
		}
		if d.word("spins") != spins {
			ran++
		}
		return ran == 3
	})
	d.finish()
}

// TestDebugVanish has debuggers vanish at any moment.
func TestDebugVanish(t *testing.T) {
	s, symbols := spawnDebuggee(t, "fork")
	var d *debugged
	for i := range 30 {
		d = debugIt(t, s, symbols, 1)
		d.breakAt("work")
		d.breakAt("plain_call")
		go d.c.Continue()
		time.Sleep(time.Duration(i) * 300 * time.Microsecond)
		d.free()
	}
	d = debugIt(t, s, symbols, 1)
	before := d.word("counter")
	d.free()
	eventually(t, func() bool {
		d = debugIt(t, s, symbols, 1)
		now := d.word("counter")
		if now == before {
			d.free()
		}
		return now != before
	})
	d.finish()
}

func TestDebugExec(t *testing.T) {
	s, symbols := spawnDebuggee(t, "exec")
	eventually(t, func() bool { return len(inspect(t, s.id).Processes) == 1 })
	d := debugIt(t, s, symbols, 1)
	d.breakAt("work") // Gone with the memory it is in.
	d.setWord("stop", 1)
	done := make(chan gdbstub.Stop)
	go func() {
		stop, _ := d.c.Continue()
		done <- stop
	}()
	s.expect("ready")
	d.c.Interrupt()
	if stop := <-done; stop.Signal != int32(linux.SIGINT) {
		t.Fatalf("%+v", stop)
	}
	d.finish()
}

// TestDebugKilled kills programs that stand still.
func TestDebugKilled(t *testing.T) {
	t.Run("from outside", func(t *testing.T) {
		s, symbols := spawnDebuggee(t)
		debugIt(t, s, symbols, 1)
		defer within20(t, "the kill")()
		s.signal(9)
		if e := s.wait(); e.Signal != 9 {
			t.Errorf("it ended with %+v", e)
		}
	})
	t.Run("by the debugger", func(t *testing.T) {
		s, symbols := spawnDebuggee(t)
		d := debugIt(t, s, symbols, 1)
		defer within20(t, "the kill")()
		d.conn.Write([]byte("$vKill;1#6e"))
		if e := s.wait(); e.Signal != 9 {
			t.Errorf("it ended with %+v", e)
		}
	})
	second := func(t *testing.T) (s, x *spawned, d *debugged) {
		_, symbols := spawnDebuggee(t)
		s = spawn(t, []string{"/bin/sleep", "1000"}, func(r *control.SpawnRequest) { r.Root.Base = "debuggee" })
		x = s.execIn([]string{"/bin/debuggee"})
		x.expect("ready")
		ps := inspect(t, s.id).Processes
		pid := ps[len(ps)-1].PID
		d = debugIt(t, s, symbols, pid)
		d.breakAt("work")
		if stop := d.cont(); stop.Thread.PID != pid {
			t.Fatalf("%+v", stop)
		}
		return s, x, d
	}
	t.Run("by a neighbour", func(t *testing.T) {
		s, x, d := second(t)
		defer within20(t, "the kill")()
		if e := s.execIn([]string{"kill", "-9", decimal(d.c.Threads[0].PID)}).wait(); e.Code != 0 {
			t.Fatalf("kill: %+v", e)
		}
		if e := x.wait(); e.Signal != 9 {
			t.Errorf("it ended with %+v", e)
		}
		if stop := d.cont(); !stop.Exited || stop.Signal != 9 {
			t.Errorf("the debugger is told %+v", stop)
		}
	})
	t.Run("with its agent", func(t *testing.T) {
		s, x, _ := second(t)
		defer within20(t, "the kill")()
		began := time.Now()
		s.signal(9)
		x.wait()
		s.wait()
		if d := time.Since(began); d > emptyTimeout {
			t.Errorf("it took %v", d)
		}
	})
}

// TestDebugWatchdog has an agent not feed its watchdog while it is debugged, and
// afterwards.
func TestDebugWatchdog(t *testing.T) {
	t.Parallel()
	const timeout = time.Second
	s := spawn(t, sh("exec sleep 1000"), withWatchdog(timeout, ""))
	d := debugIt(t, s, nil, 0)
	time.Sleep(timeout * 3 / 2)
	if st := inspect(t, s.id); st.Exit != nil {
		t.Fatalf("at a breakpoint: %+v", st.Exit)
	}
	d.free()
	if exit := s.wait(); exit.Signal != int32(linux.SIGKILL) || !strings.Contains(exit.Reason, "watchdog not fed") {
		t.Errorf("afterwards: %+v", exit)
	}
}

// TestDebugRefusals refuses what cannot be.
func TestDebugRefusals(t *testing.T) {
	s, symbols := spawnDebuggee(t)
	d := debugIt(t, s, symbols, 0)
	_, err := tryDebug(t, s, symbols, 1)
	wantCode(t, err, errdefs.WrongState)
	if err := d.c.SetBreakpoint(d.leader(), 16); err == nil {
		t.Error("a breakpoint in nothing")
	}
	if err := d.c.WriteMemory(d.leader(), 1<<47-8, make([]byte, 16)); err == nil {
		t.Error("beyond the end of memory")
	}
	d.free()
	_, err = tryDebug(t, s, symbols, 77)
	wantCode(t, err, errdefs.NotFound)
	d = debugIt(t, s, symbols, 1)
	d.finish()
	_, err = tryDebug(t, s, symbols, 1)
	wantCode(t, err, errdefs.AgentNotRunning)
}
