package sentry

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/account"
	"aios.dev/aios/control"
)

// hogELF is a static executable that writes to one page after the other, and
// does nothing else.
func hogELF() []byte {
	const base, size = 0x400000, 16 << 30
	b := pauseELF()[:120]
	le := binary.LittleEndian
	le.PutUint32(b[64+4:], 7) // Readable, writable, executable.
	le.PutUint64(b[64+40:], size)
	code := []byte{
		0x48, 0xbf, 0, 0, 0, 0, 0, 0, 0, 0, // mov rdi, …
		0xc6, 0x07, 0x01, // mov byte [rdi], 1
		0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, // add rdi, 4096
		0xeb, 0xf4, // jmp to the write
	}
	le.PutUint64(code[2:], base+0x1000)
	b = append(b, code...)
	le.PutUint64(b[64+32:], uint64(len(b)))
	return b
}

func mountHog(t *testing.T) {
	t.Helper()
	if err := mountImage(t.TempDir(), "hog", func(root string) error {
		for _, dir := range []string{"/proc", "/sys", "/dev", "/tmp"} {
			if err := os.Mkdir(root+dir, 0o755); err != nil {
				return err
			}
		}
		return os.WriteFile(root+"/hog", hogELF(), 0o755)
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theKernel.Unmount(control.UnmountRequest{Key: "hog"}) })
}

// TestHogDiesNearItsLimit takes memory as fast as a CPU can. It dies soon, and
// does not get far beyond its limit; a neighbour does not notice.
func TestHogDiesNearItsLimit(t *testing.T) {
	mountHog(t)
	mf := theKernel.k.MemoryFile()
	neighbour := spawn(t, []string{"cat"}, withStdin, memory(64<<20))
	for _, limit := range []uint64{16 << 20, 100 << 20, 400 << 20} {
		before, err := mf.TotalUsage()
		if err != nil {
			t.Fatal(err)
		}
		s := spawn(t, []string{"/hog"}, memory(limit), func(r *control.SpawnRequest) { r.Root.Base = "hog" })
		a := limited(t, s)
		var most uint64
		var reached time.Time
		done := make(chan control.Exit)
		go func() { done <- s.wait() }()
		var exit control.Exit
		for running := true; running; {
			select {
			case exit = <-done:
				running = false
			case <-time.After(500 * time.Microsecond):
				total, _ := mf.TotalUsage()
				most = max(most, total-min(before, total))
				if most >= limit && reached.IsZero() {
					reached = time.Now()
				}
			}
		}
		if exit.Signal != 9 || !strings.Contains(exit.Reason, "memory limit of "+inUnits(limit)) {
			t.Errorf("%+v", exit)
		}
		var took time.Duration
		if !reached.IsZero() {
			took = time.Since(reached)
		}
		t.Logf("limit %s: counted %d KiB, seen %d KiB, %v from the limit to the end", inUnits(limit), a.snapshot().Memory.Peak>>10, most>>10, took)
		if most > limit+limit/4+64<<20 {
			t.Errorf("with a limit of %s it got %s", inUnits(limit), inUnits(most))
		}
		if took > 2*time.Second {
			t.Errorf("it lived on for %v", took)
		}
		if snap := a.snapshot(); snap.Memory.Peak < limit {
			t.Errorf("its account knows of %+v", snap.Memory)
		}
	}
	neighbour.send("still there\n")
	neighbour.expect("still there")
}

// TestPageInsByTheKernelCount: memory is taken by read(2) alone, all at once,
// as much of it as may be mapped at once.
func TestPageInsByTheKernelCount(t *testing.T) {
	s := spawn(t, sh("dd if=/dev/zero of=/dev/null bs=120M count=1; sleep 1000"), memory(64<<20))
	if exit := s.wait(); exit.Signal != 9 || !strings.Contains(exit.Reason, "memory limit") {
		t.Errorf("%+v", exit)
	}
	t.Logf("limit 64 MiB, counted %d KiB", limited(t, s).snapshot().Memory.Peak>>10)
}

// TestTooMuchAtOnce asks for more than there can be, and is told so.
func TestTooMuchAtOnce(t *testing.T) {
	s := spawn(t, sh("dd if=/dev/zero of=/dev/null bs=1000M count=1 || echo refused; sleep 1000"), memory(200<<20))
	s.expect("refused")
	news := theLimits.of(s.id)
	if len(news) != 1 || news[0].Resource != account.Memory || news[0].Level != account.Hard {
		t.Errorf("%+v", news)
	}
	if snap := limited(t, s).snapshot(); snap.Memory.Refused == 0 || snap.Memory.Peak > 50<<20 {
		t.Errorf("%+v", snap.Memory)
	}
	if got := mustRun(t, s, "sed -n 's/max //p' /sys/fs/cgroup/memory.events"); got == "0\n" {
		t.Errorf("memory.events: %q", got)
	}
}

// TestMemoryLimitChanges raises and lowers a limit.
func TestMemoryLimitChanges(t *testing.T) {
	s := spawn(t, []string{"cat"}, withStdin, memory(32<<20))
	a := limited(t, s)
	a.setMemoryLimit(256 << 20)
	hold := func(name string, mib int) {
		mustRun(t, s, fmt.Sprintf("dd if=/dev/zero of=/dev/shm/%s bs=1M count=%d 2>/dev/null", name, mib))
	}
	hold("x", 64)
	a.setMemoryLimit(account.Unlimited)
	hold("y", 64)
	s.send("alive\n")
	s.expect("alive")
	a.setMemoryLimit(100 << 20)
	if exit := s.wait(); exit.Signal != 9 || !strings.Contains(exit.Reason, "memory limit of 100 MiB") {
		t.Errorf("%+v", exit)
	}
}

// TestCPUQuota holds an agent to half a CPU. How long it then takes is no measure:
// on a busy host all takes longer.
func TestCPUQuota(t *testing.T) {
	s := spawn(t, []string{"sleep", "1000"})
	a := limited(t, s)
	setQuota(a, 500)
	before, start := a.snapshot().CPU, time.Now()
	mustRun(t, s, "x=0; while [ $x -lt 300000 ]; do x=$((x+1)); done")
	took, after := time.Since(start), a.snapshot().CPU
	used := time.Duration(after.UserNS + after.SystemNS - before.UserNS - before.SystemNS)
	t.Logf("in %v it used %v", took, used)
	// What a period is short of its quota no other gets; at the edges there
	// are two more.
	if most := took/2 + 2*50*time.Millisecond; used > most || used < 50*time.Millisecond {
		t.Errorf("in %v it used %v of CPU, %v are half", took, used, most)
	}
	if after.Throttled == before.Throttled || after.ThrottledNS == before.ThrottledNS {
		t.Errorf("%+v", after)
	}
	setQuota(a, account.Unlimited)
}

// TestStoppedAgentCanBeKilled gives an agent no CPU at all.
func TestStoppedAgentCanBeKilled(t *testing.T) {
	s := spawn(t, sh("while :; do :; done"))
	a := limited(t, s)
	setQuota(a, 0)
	time.Sleep(20 * time.Millisecond)
	before := a.snapshot().CPU.UserNS
	time.Sleep(100 * time.Millisecond)
	if after := a.snapshot().CPU.UserNS; after != before {
		t.Errorf("it used %d ns", after-before)
	}
	s.pause()
	s.resume()
	start := time.Now()
	s.signal(9)
	s.wait()
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("its end took %v", took)
	}
}

// TestIORates bounds bytes and calls.
func TestIORates(t *testing.T) {
	s := spawn(t, []string{"sleep", "1000"})
	a := limited(t, s)
	copyMiB := func() time.Duration {
		start := time.Now()
		mustRun(t, s, "dd if=/dev/zero of=/dev/null bs=64K count=16 2>/dev/null")
		return time.Since(start)
	}
	a.setIOLimits(4<<20, account.Unlimited) // Two MiB at four a second, less the burst.
	if took := copyMiB(); took < 300*time.Millisecond {
		t.Errorf("by bytes it took %v", took)
	}
	a.setIOLimits(account.Unlimited, 100) // At least 32 calls, less 10.
	if took := copyMiB(); took < 150*time.Millisecond {
		t.Errorf("by calls it took %v", took)
	}
	if snap := a.snapshot(); snap.IO.DelayedNS == 0 || snap.IO.OpsPerSec != 100 || snap.IO.BytesPerSec != 0 {
		t.Errorf("%+v", snap.IO)
	}
	// One that waits for its turn can be killed.
	a.setIOLimits(1, account.Unlimited)
	x := s.execIn(sh("dd if=/dev/zero of=/dev/null bs=64K count=16"))
	eventually(t, func() bool { return a.account.bytes.Owed() > time.Minute })
	x.signal(9)
	if exit := x.wait(); exit.Signal != 9 {
		t.Errorf("%+v", exit)
	}
}

// TestLimitsAreTold: whoever owns the agent hears of a limit before it bites.
func TestLimitsAreTold(t *testing.T) {
	s := spawn(t, sh("sleep 1000 & sleep 1000 & sleep 1000 & wait"), tasks(4))
	a := limited(t, s)
	eventually(t, func() bool { return a.snapshot().Tasks.Now == 4 })
	news := theLimits.of(s.id)
	if len(news) == 0 || news[0].Resource != account.Tasks || news[0].Level != account.Soft || news[0].Limit != 4 {
		t.Errorf("%+v", news)
	}
	a.setMemoryLimit(100 << 20)
	mustRun(t, s, "dd if=/dev/zero of=/dev/shm/x bs=1M count=92 2>/dev/null")
	eventually(t, func() bool {
		a.snapshot()
		news = theLimits.of(s.id)
		last := news[len(news)-1]
		return last.Resource == account.Memory && last.Level == account.Soft && last.Used >= 90<<20
	})
}

// theLimits collects what Config.OnLimit is told.
var theLimits limitBook

type limitBook struct {
	mu  sync.Mutex
	got map[string][]account.Crossing
}

func (b *limitBook) note(agent string, c account.Crossing) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.got == nil {
		b.got = map[string][]account.Crossing{}
	}
	b.got[agent] = append(b.got[agent], c)
}

func (b *limitBook) of(agent string) []account.Crossing {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]account.Crossing{}, b.got[agent]...)
}

// TestIOTakenBack checks that an agent without io:self is refused, and not
// made to wait.
func TestIOTakenBack(t *testing.T) {
	s := spawn(t, sh("while :; do sleep 0.01; done"), withStdin)
	for _, c := range theKernel.space.List(s.id) {
		if c.Object().Class == abi.ClassIO {
			if _, err := theKernel.CapRevoke(control.RevokeRequest{Cap: c.ID()}); err != nil {
				t.Fatal(err)
			}
		}
	}
	x := s.execIn(sh("echo hello"))
	if out, _, exit := x.output(); out != "" || exit.Code == 0 {
		t.Errorf("wrote %q, exit %+v", out, exit)
	}
	theDaemon.recorded(t, s.id, func(r control.AuditRecord) bool { return r.Op == opDenied && r.Spec == "io:self" && r.Errno == "EPERM" })
}

// TestAccountOfTheDying looks at an agent all the while its processes come and go:
// one that ends has no table of files any more. They run no other program, which the
// race detector would see.
func TestAccountOfTheDying(t *testing.T) {
	s := spawn(t, sh("while :; do (:); done"))
	a := limited(t, s)
	for end := time.Now().Add(max(time.Second, soak(t)/100)); time.Now().Before(end); {
		a.snapshot()
	}
	if snap := a.snapshot(); snap.Files.Peak == 0 || snap.Files.Now > 1000 {
		t.Errorf("%+v", snap.Files)
	}
}
