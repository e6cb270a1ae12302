package sentry

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/control"
)

func tasks(n uint32) func(*control.SpawnRequest) {
	return instead(fmt.Sprintf("proc:self,count=%d", n))
}

func memory(n uint64) func(*control.SpawnRequest) {
	return instead(fmt.Sprintf("mem:self,bytes=%d", n))
}

// TestForkBombIsBounded fills one agent with processes; it is refused more,
// and its neighbours, which have the same limit, still fork.
func TestForkBombIsBounded(t *testing.T) {
	bomb := spawn(t, sh("(while :; do sleep 1000 & done); exec sleep 1000"), tasks(40))
	eventually(t, func() bool { return inspect(t, bomb.id).Tasks >= 39 })
	for range 3 {
		start := time.Now()
		out, errout, exit := spawn(t, sh("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0 & done; wait; echo fine"), tasks(40)).output()
		if out != "fine\n" || exit.Code != 0 {
			t.Errorf("a neighbour of a fork bomb: stdout %q stderr %q exit %+v", out, errout, exit)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("a neighbour of a fork bomb took %v", took)
		}
	}
	if n := inspect(t, bomb.id).Tasks; n > 40 {
		t.Errorf("the agent has %d tasks, its limit is 40", n)
	}
}

func TestForkBeyondTheLimit(t *testing.T) {
	_, errout, exit := spawn(t, sh("for i in 1 2 3 4 5 6; do sleep 1000 & done"), tasks(4)).output()
	if exit.Code == 0 || !strings.Contains(errout, "can't fork") {
		t.Fatalf("stderr %q exit %+v", errout, exit)
	}
}

// TestMemoryLimit lets agents take memory in ways that show in a process's
// resident set and in ways that do not.
func TestMemoryLimit(t *testing.T) {
	const limit = 64 << 20
	neighbour := spawn(t, []string{"cat"}, withStdin, memory(limit))
	for name, script := range map[string]string{
		"heap":            "x=0123456789abcdef; while :; do x=$x$x; done",
		"/dev/shm":        "dd if=/dev/zero of=/dev/shm/hog bs=1M count=1000; sleep 1000",
		"writable layer":  "dd if=/dev/zero of=/tmp/hog bs=1M count=1000; sleep 1000",
		"by a child":      "sh -c 'x=0123456789abcdef; while :; do x=$x$x; done' & sleep 1000",
		"many small ones": "for i in 1 2 3 4 5 6 7 8 9; do dd if=/dev/zero of=/dev/null bs=20M count=1000000 & done; sleep 1000",
	} {
		s := spawn(t, sh(script), memory(limit))
		exit := s.wait()
		if exit.Signal != 9 || !strings.Contains(exit.Reason, "memory limit") {
			t.Errorf("%s: %+v", name, exit)
		}
	}
	neighbour.send("still there\n")
	neighbour.expect("still there")
	out, _, exit := spawn(t, sh("dd if=/dev/zero of=/dev/null bs=16M count=20; echo fine"), memory(limit)).output()
	if out != "fine\n" || exit.Reason != "" {
		t.Errorf("below the limit: %q %+v", out, exit)
	}
}

func TestDiskLimit(t *testing.T) {
	_, errout, exit := spawn(t, sh("dd if=/dev/zero of=/tmp/hog bs=1M count=100"), func(r *control.SpawnRequest) { r.DiskBytes = 8 << 20 }).output()
	if exit.Code == 0 || !strings.Contains(errout, "No space left") {
		t.Errorf("stderr %q exit %+v", errout, exit)
	}
}
