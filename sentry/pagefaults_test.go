package sentry

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"aios.dev/aios/account"
	"aios.dev/aios/control"
	"aios.dev/aios/platform"
)

// memoryImage has busybox and programs that use memory.
var memoryImage = sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "aios-memory")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return mountImage(dir, "memory", func(root string) error {
		for _, d := range []string{"bin", "etc", "tmp", "proc", "sys", "dev"} {
			if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
				return err
			}
		}
		busybox, err := os.ReadFile("/bin/busybox")
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(root, "bin/busybox"), busybox, 0o755); err != nil {
			return err
		}
		for _, l := range strings.Fields("cat dd echo grep kill sed sh sleep") {
			if err := os.Symlink("busybox", filepath.Join(root, "bin", l)); err != nil {
				return err
			}
		}
		for _, name := range []string{"pager", "hog", "hoard", "swapper", "pressure"} {
			prog, err := compiled(dir, name)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(root, "bin", name), prog, 0o755); err != nil {
				return err
			}
		}
		return nil
	})
})

// inMemoryImage starts an agent that has the programs.
func inMemoryImage(t testing.TB, argv []string, opts ...func(*control.SpawnRequest)) *spawned {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("it needs gcc")
	}
	if err := memoryImage(); err != nil {
		t.Fatal(err)
	}
	return spawn(t, argv, append([]func(*control.SpawnRequest){func(r *control.SpawnRequest) { r.Root.Base = "memory" }}, opts...)...)
}

// TestPageFaults has a program take page faults of every kind whose number is
// known, and compares what is counted: outside, and where programs look.
func TestPageFaults(t *testing.T) {
	s := inMemoryImage(t, []string{"sleep", "1000"})
	a := limited(t, s)
	more := func(args string) account.FaultUse {
		t.Helper()
		before := a.snapshot().Memory.Kinds
		mustRun(t, s, "pager "+args)
		after := a.snapshot().Memory.Kinds
		return account.FaultUse{
			Minor: after.Minor - before.Minor, Major: after.Major - before.Major, COW: after.COW - before.COW,
			Protection: after.Protection - before.Protection, Unmapped: after.Unmapped - before.Unmapped,
		}
	}
	const n = 200
	// What a start costs differs from one to the next.
	const start = n / 3
	fresh := more(fmt.Sprintf("fresh:%d", n))
	if fresh.Minor < n || fresh.Minor > n+start || fresh.COW > start {
		t.Errorf("%d fresh areas: %+v", n, fresh)
	}
	copied := more(fmt.Sprintf("copy:%d", n))
	// The first process may find its pages again by page faults, too.
	if copied.COW < n || copied.COW > n+start || copied.Minor < 2*n || copied.Minor > 3*n+start {
		t.Errorf("%d areas that are copied: %+v", n, copied)
	}
	if got := more(fmt.Sprintf("refused:%d", n)); got.Protection != n || got.Unmapped != 0 {
		t.Errorf("refused: %+v", got)
	}
	if got := more(fmt.Sprintf("nothing:%d", n)); got.Unmapped != n || got.Protection != 0 {
		t.Errorf("nothing: %+v", got)
	}
	if snap := a.snapshot().Memory; snap.Faults < snap.Kinds.Minor+snap.Kinds.Protection+snap.Kinds.Unmapped {
		t.Errorf("more of some kinds than of all: %+v", snap)
	}

	var self, main [2]uint64
	var usage [2]uint64
	if _, err := fmt.Sscan(mustRun(t, s, fmt.Sprintf("pager fresh:%d say", n)), &usage[0], &usage[1], &self[0], &self[1], &main[0], &main[1]); err != nil {
		t.Fatal(err)
	}
	for what, got := range map[string]uint64{"getrusage": usage[0], "/proc/self/stat": self[0], "/proc/thread-self/stat": main[0]} {
		if got < n || got > n+start {
			t.Errorf("%s: %d page faults for %d fresh areas", what, got, n)
		}
	}
	was := a.snapshot().Memory.Kinds
	var vm, cg uint64
	if _, err := fmt.Sscan(mustRun(t, s, "sed -n 's/pgfault //p' /proc/vmstat /sys/fs/cgroup/memory.stat"), &vm, &cg); err != nil {
		t.Fatal(err)
	}
	if vm < was.Minor || cg < vm {
		t.Errorf("/proc/vmstat says %d, memory.stat %d; before there were %d", vm, cg, was.Minor)
	}
	if out := mustRun(t, s, "echo /proc/vm*"); out != "/proc/vmstat\n" {
		t.Errorf("listed: %q", out)
	}
}

func TestWithFaults(t *testing.T) {
	f := platform.FaultTotals{Minor: 12, Major: 3}
	for text, want := range map[string]string{
		"1 (a) S 0 1 1 0 0 0 0 0 0 0 7 8\n":    "1 (a) S 0 1 1 0 0 0 12 0 3 0 7 8\n",
		"1 (a) b) S 0 1 1 0 0 0 0 0 0 0 7 8\n": "1 (a) b) S 0 1 1 0 0 0 12 0 3 0 7 8\n",
		"1 (a 1 2 3 4 5 6 7 8 9 10 11 12":      "1 (a 1 2 3 4 5 6 7 8 9 10 11 12",
		"1 (a) S 0":                            "1 (a) S 0",
		"":                                     "",
	} {
		if got := string(withFaults([]byte(text), f)); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}
