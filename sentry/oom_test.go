package sentry

import (
	"strings"
	"testing"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	eventv1 "aios.dev/aios/event/v1"
)

func onOOM(rule string) func(*control.SpawnRequest) {
	return func(r *control.SpawnRequest) { r.OnOOM = rule }
}

// TestHogs has a program take memory in every way there is. It is ended within a
// bound of its limit, or refused; its neighbour and the kernel live on.
func TestHogs(t *testing.T) {
	const (
		limit = 64 << 20
		// How far it may be over the limit when it is counted for the last time, as
		// docs/memory.md has it.
		margin = 16 << 20
	)
	neighbour := inMemoryImage(t, []string{"cat"}, withStdin)
	for _, how := range strings.Fields(`touch malloc threads forks copies sparse read pread readv preadv getrandom populate populate-at-once lock brk
		shm upper memfd fallocate sendfile shared pipes stream-pairs datagram-pairs tcp udp tasks`) {
		t.Run(how, func(t *testing.T) {
			most := uint64(limit + margin)
			if how == "udp" { // Buffers that are not full count as if they were.
				most += margin
			}
			// On a host that is busy nobody may look for a while.
			var peak uint64
			for range 3 {
				if peak = hog(t, how, limit); peak <= most {
					break
				}
				t.Logf("it had %d KiB of %d", peak>>10, limit>>10)
			}
			if peak > most {
				t.Errorf("it had %d KiB of %d, three times", peak>>10, limit>>10)
			}
			t.Logf("%s: %d KiB more than the limit", how, (int64(peak)-limit)>>10)
			neighbour.send("there\n")
			neighbour.expect("there")
		})
	}
}

// hog runs a program that takes memory in that way, and returns the most that it had.
func hog(t *testing.T, how string, limit uint64) uint64 {
	s := inMemoryImage(t, []string{"hog", how}, memory(limit), tasks(400))
	a := limited(t, s)
	refused := make(chan string, 1)
	if how == "populate" || how == "populate-at-once" || how == "lock" || how == "tasks" || how == "fallocate" {
		go func() {
			for {
				kind, p, err := s.stream.Read()
				if err != nil || kind == control.FrameExit {
					return
				}
				if strings.Contains(string(p), "\n") {
					refused <- string(p)
					return
				}
			}
		}()
	}
	ended := make(chan control.Exit, 1)
	go func() { ended <- s.wait() }()
	select {
	case exit := <-ended:
		if exit.Signal != 9 || !strings.Contains(exit.Reason, "memory limit of 64 MiB") {
			t.Errorf("%+v", exit)
		}
	case text := <-refused:
		if !strings.Contains(text, "Cannot allocate memory") && !strings.Contains(text, "temporarily unavailable") && !strings.Contains(text, "No space") {
			t.Errorf("refused with %q", text)
		}
	case <-time.After(30 * time.Second):
		t.Errorf("nothing was done about %d KiB; goes on", a.snapshot().Memory.Now>>10)
	}
	return a.snapshot().Memory.Peak
}

// TestKillProcess: the process with the most memory ends, and the rest goes on.
func TestKillProcess(t *testing.T) {
	s := inMemoryImage(t, sh(`sleep 1000 & hog touch; echo "ended $?"; hog read; echo "ended $?"; cat /sys/fs/cgroup/memory.events; cat`),
		withStdin, memory(64<<20), onOOM("kill-process"))
	oom := eventsOf[*eventv1.MemoryOOM](t, s, "memory.oom")
	out := s.expect("oom_group_kill 0\n")
	if strings.Count(out, "ended 137") != 2 || !strings.Contains(out, "oom 2\noom_kill 2\n") {
		t.Errorf("%q", out)
	}
	for range 2 {
		e := oom()
		if e.Scope != "process" || e.Action != "kill-process" || e.Policy != "kill-process" || e.Victim.GetName() != "hog" || len(e.Pids) != 1 ||
			e.Pids[0] != e.Victim.GetPid() || e.Limit != 64<<20 || e.Used <= e.Limit || e.ProcessCount != 3 || len(e.Processes) != 3 ||
			e.Processes[0].Name != "hog" || e.Processes[0].Score <= e.Processes[1].Score || e.Processes[0].Resident < 32<<20 {
			t.Errorf("%+v", e)
		}
	}
	s.send("alive\n")
	s.expect("alive")
	if got := mustRun(t, s, "cat /sys/fs/cgroup/memory.oom.group; sed -n 's/oom_kill //p' /proc/vmstat"); got != "0\n2\n" {
		t.Errorf("inside: %q", got)
	}
	theDaemon.recorded(t, s.id, func(r control.AuditRecord) bool {
		return r.Op == opOOM && r.Target == "kill-process" && strings.Contains(r.Reason, "(hog) ended")
	})
}

// TestOOMScore: who is to end first, and who never, may be said.
func TestOOMScore(t *testing.T) {
	// The first has more memory, the second wants to go first.
	s := inMemoryImage(t, sh(`echo -1000 >/proc/self/oom_score_adj; pager fresh:20 wait & first=$!
		(echo 900 >/proc/self/oom_score_adj; exec sleep 1000) & second=$!
		sleep 0.5; cat /proc/$first/oom_score /proc/$second/oom_score; echo scores
		dd if=/dev/zero of=/dev/shm/x bs=1M count=200
		wait $second; echo "second $?"; kill -0 $first && echo first lives; cat`),
		withStdin, memory(64<<20), onOOM("kill-process"))
	oom := eventsOf[*eventv1.MemoryOOM](t, s, "memory.oom")
	if out := s.expect("scores\n"); !strings.HasPrefix(out, "0\n") {
		t.Errorf("scores: %q", out)
	}
	if e := oom(); e.Victim.GetName() != "sleep" || e.Processes[0].Adjustment != 900 {
		t.Errorf("%+v", e)
	}
}

// TestFreeze: the agent stands still until somebody has given it more, or ended it.
func TestFreezeForMemory(t *testing.T) {
	s := inMemoryImage(t, sh("hog touch & cat"), withStdin, memory(64<<20), onOOM("freeze"))
	a := limited(t, s)
	oom := eventsOf[*eventv1.MemoryOOM](t, s, "memory.oom")
	if e := oom(); e.Action != "freeze" || e.Scope != "agent" || e.Processes[0].GetName() != "hog" {
		t.Errorf("%+v", e)
	}
	eventually(t, a.isPaused)
	used := a.snapshot().Memory.Now
	time.Sleep(2 * watchThorough)
	if now := a.snapshot().Memory.Now; now > used+1<<20 || !a.isPaused() {
		t.Errorf("it had %d and has %d bytes", used, now)
	}
	a.setMemoryLimit(used + 64<<20)
	s.resume()
	if e := oom(); e.Action != "freeze" || e.Used < used+64<<20 {
		t.Errorf("%+v", e)
	}
	eventually(t, a.isPaused)
	if a.killed.Load() != nil {
		t.Error("it was killed")
	}
	// With another policy it ends.
	if err := a.setOOM("kill-process"); err != nil {
		t.Fatal(err)
	}
	s.resume()
	if e := oom(); e.Action != "kill-process" {
		t.Errorf("%+v", e)
	}
	s.send("alive\n")
	s.expect("alive")
	if err := a.setOOM("deny"); err == nil {
		t.Error("memory that runs out cannot be denied")
	}
}

// TestExecutableMemoryViolates: what an agent's owner wants done about memory that it
// makes executable without the right to is done about that, and about nothing else.
func TestExecutableMemoryViolates(t *testing.T) {
	s := inMemoryImage(t, sh("read x; pager code; echo refused $?; read x; pager code; echo refused $?"), withStdin,
		func(r *control.SpawnRequest) { r.OnViolation = []string{"wx=deny,1/1h:kill-agent", "mem=kill-domain"} })
	limited(t, s).setMask(abi.MaskAll() &^ abi.GroupMemExec.Bit())
	s.send("\n")
	s.expect("refused 10\n")
	s.send("\n")
	if exit := s.wait(); exit.Signal != 9 || !strings.Contains(exit.Reason, "violation of wx mmap") {
		t.Errorf("%+v", exit)
	}
}

// TestOOMLadder: after so many processes the agent ends.
func TestOOMLadder(t *testing.T) {
	s := inMemoryImage(t, sh("while :; do hog touch; done"), memory(64<<20), onOOM("kill-process,2/1h:kill-agent"))
	oom := eventsOf[*eventv1.MemoryOOM](t, s, "memory.oom")
	for _, want := range []string{"kill-process", "kill-process", "kill-agent"} {
		if e := oom(); e.Action != want || e.Policy != "kill-process,2/1h0m0s:kill-agent" {
			t.Errorf("%+v", e)
		}
	}
	if exit := s.wait(); exit.Signal != 9 || !strings.Contains(exit.Reason, "memory limit") {
		t.Errorf("%+v", exit)
	}
}

// TestOOMWaits: while a process that was chosen ends, however long that takes, and
// while what it had is given back, nobody else is if the rest is within the limit.
func TestOOMWaits(t *testing.T) {
	const limit = 64 << 20
	s := inMemoryImage(t, sh("sleep 1000 & cat"), withStdin, memory(limit), onOOM("kill-process"))
	a := limited(t, s)
	var victim oomProcess
	eventually(t, func() bool {
		for _, p := range a.candidates(limit) {
			if p.task.Name() == "sleep" {
				victim = p
			}
		}
		return victim.mm != nil && victim.mm.ResidentSetSize() > 64<<10
	})
	after := func(victims []oomProcess, returning, used uint64) uint64 {
		m := &a.account.memory
		m.mu.Lock()
		defer m.mu.Unlock()
		before := a.oom.times.Load()
		a.oom.victims, a.oom.chosen = victims, theKernel.cfg.Clock.Now().Add(-10*oomPatience)
		a.oom.first, a.oom.began = limit+1, limit+1
		m.returning.Store(returning)
		a.outOfMemory(used, limit)
		return a.oom.times.Load() - before
	}
	if after([]oomProcess{victim}, 0, limit+32<<10) != 0 {
		t.Error("something was done although the process that was chosen has more than what is too much")
	}
	if after(nil, 2<<20, limit+1<<20) != 0 {
		t.Error("something was done although it is given back")
	}
	s.send("alive\n")
	s.expect("alive")
	if after(nil, 1<<20, limit+2<<20) != 1 {
		t.Error("nothing was done although more than that is too much")
	}
}
