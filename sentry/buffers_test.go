package sentry

import (
	"testing"
)

// TestBuffersCount: what waits in pipes and sockets is part of what an agent has,
// and is so no more when it is read.
func TestBuffersCount(t *testing.T) {
	s := inMemoryImage(t, sh("dd if=/dev/zero bs=64K count=1 2>/dev/null | sleep 1000 & cat"), withStdin)
	a := limited(t, s)
	eventually(t, func() bool { bytes, files := a.buffered(); return bytes == 64<<10 && files >= 4 })
	if bytes, files := a.buffered(); bytes != 64<<10 || files < 4 {
		t.Errorf("%d bytes in %d descriptors", bytes, files)
	}
	// For its three tasks, when all have begun, its files, and the pipe.
	eventually(t, func() bool { return a.account.memory.kernel.measure(a) >= 64<<10+3*taskBytes })
	// A pipe that is locked while somebody reads what asks for the same.
	if out := mustRun(t, s, "cat /proc/self/oom_score | grep -c .; cat /sys/fs/cgroup/memory.current | grep -c ."); out != "1\n1\n" {
		t.Errorf("%q", out)
	}
}
