package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"aios.dev/aios/errdefs"
)

// The test binary, started with childEnv, is the process that the groups
// bound.
const childEnv = "AIOS_CGROUP_TEST_CHILD"

func TestMain(m *testing.M) {
	if mode := os.Getenv(childEnv); mode != "" {
		os.Exit(child(mode))
	}
	os.Exit(m.Run())
}

func child(mode string) int {
	switch mode {
	case "where":
		b, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			return 1
		}
		os.Stdout.Write(b)
	case "eat":
		// Half as much again as the limit of the test, every page touched.
		var keep [][]byte
		for range 96 {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			keep = append(keep, b)
		}
		fmt.Println("ate", len(keep))
	case "fork":
		// Bare forks: a Go runtime would need threads of its own meanwhile.
		var children []int
		refused := 0
		for range 40 {
			pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
			if errno == 0 && pid == 0 {
				for {
					syscall.RawSyscall(syscall.SYS_PAUSE, 0, 0, 0)
				}
			}
			switch errno {
			case 0:
				children = append(children, int(pid))
			case syscall.EAGAIN:
				refused++
			}
		}
		for _, pid := range children {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			_, _ = syscall.Wait4(pid, nil, 0, nil)
		}
		fmt.Println("refused", refused)
	case "spin":
		fmt.Println("spinning")
		for n := 0; ; n++ {
			_ = n
		}
	case "idle":
		return idler()
	case "sleep":
		fmt.Println("sleeping")
		time.Sleep(time.Minute)
	}
	return 0
}

// usable skips the test, or fails it where the environment demands a version,
// unless groups can be made here.
func usable(t *testing.T, need ...string) Info {
	t.Helper()
	i := Detect()
	err := i.Require()
	if err == nil {
		err = i.RequireControllers(need...)
	}
	if want := os.Getenv("AIOS_REQUIRE_CGROUP"); want != "" {
		if want != i.Version.String() || err != nil {
			t.Fatalf("cgroup %s is required, the host offers %s: %v", want, i.Version, err)
		}
	} else if err != nil {
		t.Skipf("cgroup %s: %v", i.Version, err)
	}
	return i
}

func testParent(t *testing.T) string { return fmt.Sprintf("aios-test-%d", os.Getpid()) }

// group makes a group that is removed, with what is in it, after the test.
func group(t *testing.T, name string, l Limits) *Group {
	t.Helper()
	g, err := Create(testParent(t), name, l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(g.Kill(), g.Delete()); err != nil {
			t.Error(err)
		}
		for _, d := range g.Paths() {
			if _, err := os.Stat(filepath.Dir(d)); err == nil {
				t.Errorf("%s is left behind", filepath.Dir(d))
			}
		}
	})
	return g
}

// run starts a child of the given mode in g and returns it with its first
// line of output.
func run(t *testing.T, g *Group, mode string, files ...*os.File) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{childEnv + "=" + mode}
	cmd.ExtraFiles = files
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, _ := bufio.NewReader(out).ReadString('\n')
	return cmd, strings.TrimSpace(line)
}

func TestChildIsBornInsideEveryHierarchy(t *testing.T) {
	i := usable(t)
	g := group(t, "born", Limits{})
	cmd, _ := run(t, g, "sleep")
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Count(string(b), g.String()), len(g.Paths()); got != want {
		t.Errorf("the child is in %d of %d hierarchies:\n%s", got, want, b)
	}
	own, _ := os.ReadFile("/proc/self/cgroup")
	if strings.Contains(string(own), g.String()) {
		t.Errorf("starting a child moved the parent too:\n%s", own)
	}
	t.Logf("cgroup %s, hybrid %v, controllers %v", i.Version, i.Hybrid, i.Controllers)
}

func TestMemoryLimitKills(t *testing.T) {
	usable(t, Memory)
	g := group(t, "memory", Limits{MemoryBytes: 64 << 20})
	cmd, line := run(t, g, "eat")
	err := cmd.Wait()
	ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !ws.Signaled() || ws.Signal() != syscall.SIGKILL {
		t.Fatalf("a child that took more than its memory ended with %v after %q", err, line)
	}
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if s.OOMKills < 1 || s.MemoryLimitBytes != 64<<20 {
		t.Errorf("stats do not tell of the kill: %+v", s)
	}
}

func TestPidsLimitRefusesFork(t *testing.T) {
	usable(t, Pids)
	g := group(t, "pids", Limits{PidsMax: 24})
	cmd, line := run(t, g, "fork")
	if err := cmd.Wait(); err != nil {
		t.Fatalf("the child died instead of being refused: %v", err)
	}
	var refused int
	if _, err := fmt.Sscanf(line, "refused %d", &refused); err != nil || refused == 0 {
		t.Fatalf("child says %q, want forks refused", line)
	}
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if s.PidsRefused < int64(refused) || s.PidsLimit != 24 {
		t.Errorf("%d forks were refused, stats say %+v", refused, s)
	}
}

func TestCPUQuotaThrottles(t *testing.T) {
	usable(t, CPU)
	g := group(t, "cpu", Limits{CPUMilli: 50, CPUWeight: 50})
	run(t, g, "spin")
	f, err := g.OpenUsage()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	before, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	used, err := ReadUsage(f)
	if err != nil {
		t.Fatal(err)
	}
	after, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	// A twentieth of a CPU for a second. The bound is wide because the sleep
	// is longer on a busy host, yet far below what an unbounded child takes.
	if used := after.CPU - before.CPU; used > 300*time.Millisecond || used == 0 {
		t.Errorf("a twentieth of a CPU used %v of a second", used)
	}
	if used < before.CPU || used > after.CPU || used == 0 {
		t.Errorf("it has used %v, between %v and %v", used, before.CPU, after.CPU)
	}
	if after.ThrottledPeriods == 0 {
		t.Errorf("nothing was throttled: %+v", after)
	}
}

func TestSetLimitsReachesALiveGroup(t *testing.T) {
	usable(t, Memory, Pids)
	g := group(t, "update", Limits{MemoryBytes: 256 << 20, PidsMax: 50})
	run(t, g, "sleep")
	for _, l := range []Limits{{MemoryBytes: 128 << 20, PidsMax: 40}, {MemoryBytes: 512 << 20}} {
		if err := g.SetLimits(l); err != nil {
			t.Fatal(err)
		}
		s, err := g.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if s.MemoryLimitBytes != l.MemoryBytes || s.PidsLimit != 40 {
			t.Errorf("after %+v the group says %+v", l, s)
		}
	}
}

func TestKillTakesEverythingAndDeleteLeavesNothing(t *testing.T) {
	usable(t)
	g, err := Create(testParent(t), "kill", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var cmds []*exec.Cmd
	for range 3 {
		cmd, _ := run(t, g, "sleep")
		cmds = append(cmds, cmd)
	}
	if err := g.Delete(); !errors.Is(err, errdefs.WrongState) {
		t.Errorf("deleting a group with processes: %v", err)
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range cmds {
		if err := cmd.Wait(); err == nil {
			t.Error("a process survived Kill")
		}
	}
	if err := g.Delete(); err != nil {
		t.Fatal(err)
	}
	for _, d := range g.Paths() {
		for _, d := range []string{d, filepath.Dir(d)} {
			if _, err := os.Stat(d); err == nil {
				t.Errorf("%s is left behind", d)
			}
		}
	}
	if err := errors.Join(g.Kill(), g.Delete()); err != nil {
		t.Errorf("killing and deleting what is gone: %v", err)
	}
}

func TestSiblingsKeepTheParent(t *testing.T) {
	usable(t)
	a := group(t, "a", Limits{})
	b, err := Create(testParent(t), "b", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(testParent(t), "a"); err != nil {
		t.Errorf("a vanished with its sibling: %v", err)
	}
	if _, err := Load(testParent(t), "b"); !errors.Is(err, errdefs.NotFound) {
		t.Errorf("loading a deleted group: %v", err)
	}
	if _, err := Create(testParent(t), a.Name(), Limits{}); !errors.Is(err, errdefs.AlreadyExists) {
		t.Errorf("creating a group twice: %v", err)
	}
}

func TestSweepRemovesOnlyTheDead(t *testing.T) {
	usable(t)
	alive := group(t, "alive", Limits{})
	dead, err := Create(testParent(t), "dead", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	survivor, _ := run(t, alive, "sleep")
	victim, _ := run(t, dead, "sleep")
	removed, err := Sweep(testParent(t), func(name string) bool { return name == "alive" })
	if err != nil {
		t.Fatal(err)
	}
	if len(removed) != 1 || removed[0] != "dead" {
		t.Errorf("removed %q, want dead alone", removed)
	}
	if err := victim.Wait(); err == nil {
		t.Error("the dead group's process lives")
	}
	if err := survivor.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the live group's process is gone: %v", err)
	}
	// The parent goes with the last of them, and when it was left alone.
	parent := testParent(t) + "-left"
	left, err := Create(parent, "x", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := Sweep(parent, func(string) bool { return false }); err != nil {
			t.Error(err)
		}
		for _, dir := range left.Paths() {
			if _, err := os.Stat(filepath.Dir(dir)); err == nil {
				t.Errorf("%s is left", filepath.Dir(dir))
			}
		}
		for _, dir := range left.Paths() {
			if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
				t.Error(err)
			}
		}
	}
	for _, dir := range left.Paths() {
		os.Remove(filepath.Dir(dir))
	}
	if removed, err := Sweep("aios-never-made", func(string) bool { return false }); err != nil || len(removed) != 0 {
		t.Errorf("sweeping a parent that never was: %q, %v", removed, err)
	}
}

func TestConcurrentCreateAndDelete(t *testing.T) {
	usable(t)
	errs := make(chan error)
	for w := range 4 {
		go func() {
			for n := range 10 {
				g, err := Create(testParent(t), fmt.Sprintf("w%d-%d", w, n), Limits{PidsMax: 10})
				if err == nil {
					err = g.Delete()
				}
				if err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func BenchmarkCreateStartDelete(b *testing.B) {
	if err := Detect().Require(); err != nil {
		b.Skip(err)
	}
	for b.Loop() {
		g, err := Create(fmt.Sprintf("aios-bench-%d", os.Getpid()), "x", Limits{MemoryBytes: 64 << 20, PidsMax: 100, CPUMilli: 500})
		if err != nil {
			b.Fatal(err)
		}
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{childEnv + "=where"}
		if err := errors.Join(g.Start(cmd), cmd.Wait(), g.Kill(), g.Delete()); err != nil {
			b.Fatal(err)
		}
	}
}

// What is in a group stays bounded under another name.
func TestRename(t *testing.T) {
	usable(t, Pids)
	g, err := Create(testParent(t), "before", Limits{PidsMax: 24})
	if err != nil {
		t.Fatal(err)
	}
	cmd, _ := run(t, g, "sleep")
	other := group(t, "other", Limits{})
	if _, err := g.Rename("other", Limits{PidsMax: 24}); errdefs.CodeOf(err) != errdefs.AlreadyExists {
		t.Errorf("renamed to one that exists: %v", err)
	}
	if _, err := g.Rename("../x", Limits{}); errdefs.CodeOf(err) != errdefs.InvalidArgument {
		t.Errorf("renamed to no name: %v", err)
	}
	to, err := g.Rename("after", Limits{PidsMax: 24})
	if err != nil {
		errors.Join(g.Kill(), g.Delete())
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(to.Kill(), to.Delete()); err != nil {
			t.Error(err)
		}
	}()
	if pids, err := to.Processes(); err != nil || len(pids) != 1 || pids[0] != cmd.Process.Pid {
		t.Errorf("in it are %v, %v", pids, err)
	}
	if s, err := to.Stats(); err != nil || s.PidsLimit != 24 || s.Pids < 1 {
		t.Errorf("%+v, %v", s, err)
	}
	if g.exists() || !other.exists() {
		t.Error("the old name is still there, or another group is not")
	}
}
