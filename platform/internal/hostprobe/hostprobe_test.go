package hostprobe

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTraceChildLeavesNothing checks that no process and no descriptor stays,
// whatever the answer is.
func TestTraceChildLeavesNothing(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(entries)
	}
	first := TraceChild()
	before := count()
	for range 5 {
		if err := TraceChild(); (err == nil) != (first == nil) {
			t.Errorf("answered %v, then %v", first, err)
		}
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG|unix.WALL, nil); err != unix.ECHILD {
		t.Errorf("a child is left: wait4 says %d, %v", pid, err)
	}
}

// TestRseqLeavesNothing checks that the probe takes back what it registered:
// a second registration on the same thread would be refused.
func TestRseqLeavesNothing(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	first := Rseq()
	for range 3 {
		if again := Rseq(); again != first {
			t.Errorf("answered %v, then %v", first, again)
		}
	}
}

func TestSeccompAgreesWithProc(t *testing.T) {
	actions, err := os.ReadFile("/proc/sys/kernel/seccomp/actions_avail")
	if err != nil {
		t.Skip(err)
	}
	if err := Seccomp(); err != nil {
		t.Errorf("%v, but the host offers %s", err, actions)
	}
}
