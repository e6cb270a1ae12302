package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
)

// idler is what a child does in mode "idle": on one CPU, one thread computes from
// within the idle group that is open as descriptor 3, and another from without, until
// both have been told to stop. It says how long each computed, of the round in which the
// first got least: a host that stands still for long charges it to whoever runs. Then it
// sleeps.
func idler() int {
	runtime.GOMAXPROCS(4) // Or on a host of one CPU they would take turns by themselves.
	var cpus unix.CPUSet
	if unix.SchedGetaffinity(0, &cpus) != nil {
		return 1
	}
	cpu := 0
	for !cpus.IsSet(cpu) {
		cpu++
	}
	cpus.Zero()
	cpus.Set(cpu)
	file := os.NewFile(3, "idle")
	best := [2]time.Duration{1, 1}
	for range 5 {
		var used [2]time.Duration // by who is idle, and who is not
		var ready, done sync.WaitGroup
		var end time.Time // of both, however late they begin
		begin := make(chan struct{})
		for i := range used {
			ready.Add(1)
			done.Go(func() {
				runtime.LockOSThread() // For good: nobody else gets the thread.
				err := unix.SchedSetaffinity(0, &cpus)
				if i == 0 {
					err = errors.Join(err, EnterIdle(file))
				}
				if err != nil {
					fmt.Println(err)
					os.Exit(1)
				}
				ready.Done()
				<-begin
				before := threadTime()
				for time.Now().Before(end) {
				}
				used[i] = threadTime() - before
			})
		}
		ready.Wait()
		end = time.Now().Add(400 * time.Millisecond)
		close(begin)
		done.Wait()
		if used[0]*best[1] < best[0]*used[1] {
			best = used
		}
	}
	entered := make(chan error)
	go func() { // Somebody stays there.
		runtime.LockOSThread()
		entered <- EnterIdle(file)
		select {}
	}()
	if err := <-entered; err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(best[0].Microseconds(), best[1].Microseconds())
	time.Sleep(time.Minute)
	return 0
}

// threadTime is the CPU time of the calling thread.
func threadTime() time.Duration {
	var r unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_THREAD, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// Threads in the idle group get what others of the group leave; they are bounded with
// them, listed with them, renamed and killed with them.
func TestIdle(t *testing.T) {
	usable(t, CPU, Pids)
	g, err := Create(testParent(t), "busy", Limits{PidsMax: 100})
	if err != nil {
		t.Fatal(err)
	}
	gone := func(g *Group) {
		if err := errors.Join(g.Kill(), g.Delete()); err != nil {
			t.Error(err)
		}
		if g.exists() {
			t.Errorf("%s is still there", g)
		}
	}
	f, err := g.OpenIdle()
	if err != nil {
		gone(g)
		t.Fatal(err)
	}
	defer f.Close()
	again, err := g.OpenIdle()
	if err != nil {
		t.Errorf("opened a second time: %v", err)
	} else {
		again.Close()
	}
	cmd, line := run(t, g, "idle", f)
	var idle, other int64
	if _, err := fmt.Sscan(line, &idle, &other); err != nil {
		t.Errorf("the child says %q", line)
	}
	if idle > other/5 {
		t.Errorf("in the idle group %d us, outside of it %d us", idle, other)
	}
	if n := idleThreads(t, g); n < 1 {
		t.Errorf("%d threads in the idle group", n)
	}
	if pids, err := g.Processes(); err != nil || len(pids) != 1 || pids[0] != cmd.Process.Pid {
		t.Errorf("in it are %v, %v", pids, err)
	}
	to, err := g.Rename("named", Limits{PidsMax: 100})
	if err != nil {
		gone(g)
		t.Fatal(err)
	}
	if n := idleThreads(t, to); n < 1 {
		t.Errorf("%d threads in the idle group that was renamed", n)
	}
	if g.exists() {
		t.Error("the old name is still there")
	}
	gone(to)
}

// Who is not in the group does not get into its idle one.
func TestIdleRefused(t *testing.T) {
	usable(t, CPU)
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := EnterIdle(f); errdefs.CodeOf(err) != errdefs.HostIO {
		t.Errorf("by a file that takes no threads: %v", err)
	}
}

// idleThreads counts who is in the idle group.
func idleThreads(t *testing.T, g *Group) (n int) {
	t.Helper()
	for _, d := range g.Paths() {
		for _, name := range []string{"tasks", "cgroup.threads"} {
			raw, err := os.ReadFile(filepath.Join(d, idleGroup, name))
			for _, tid := range strings.Fields(string(raw)) {
				if _, err := strconv.Atoi(tid); err == nil {
					n++
				}
			}
			if err == nil {
				least, _ := os.ReadFile(filepath.Join(d, idleGroup, "cpu.idle"))
				if s := strings.TrimSpace(string(least)); s != "1" && s != "" {
					t.Errorf("cpu.idle of %s is %s", d, s)
				}
			}
		}
	}
	return n
}
