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
	if had := a.account.memory.kernel.measure(a); had < 64<<10+3*taskBytes {
		t.Errorf("for its tasks, its files and 64 KiB in a pipe: %d bytes", had)
	}
	// A pipe that is locked while somebody reads what asks for the same.
	if out := mustRun(t, s, "cat /proc/self/oom_score | grep -c .; cat /sys/fs/cgroup/memory.current | grep -c ."); out != "1\n1\n" {
		t.Errorf("%q", out)
	}
}
