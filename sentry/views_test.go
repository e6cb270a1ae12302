package sentry

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/account"
	"aios.dev/aios/control"
	"aios.dev/aios/sentry/smp"
)

// limited gives an agent limits as soon as it runs.
func limited(t *testing.T, s *spawned) *Agent {
	t.Helper()
	a, err := theKernel.agent(s.id)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestViews looks at the machine from inside two agents of which one has
// limits, in turns, since they share the files.
func TestViews(t *testing.T) {
	const limit = 96 << 20
	all := theKernel.cfg.CPUs
	small := spawn(t, []string{"sleep", "1000"}, memory(limit), tasks(17))
	large := spawn(t, []string{"sleep", "1000"})
	setQuota(limited(t, small), 700)
	list := "0"
	if all > 1 {
		list = fmt.Sprintf("0-%d", all-1)
	}
	domain := strings.Fields(mustRun(t, large, "head -1 /proc/meminfo"))[1]
	for _, step := range []struct{ script, small, large string }{
		{"nproc", "1\n", fmt.Sprintln(all)},
		{"cat /sys/devices/system/cpu/online /sys/devices/system/cpu/possible /sys/devices/system/cpu/present", "0\n0\n0\n", strings.Repeat(list+"\n", 3)},
		{"cd /sys/devices/system/cpu && ls -d cpu[0-9]* | wc -l", "1\n", fmt.Sprintln(all)},
		{"grep -c ^processor /proc/cpuinfo; grep -c '^cpu[0-9]' /proc/stat", "1\n1\n", fmt.Sprintf("%d\n%d\n", all, all)},
		{"cat /sys/devices/system/cpu/cpu0/topology/package_cpus", "1\n", cpuHex(smp.First(all), smp.First(all)) + "\n"},
		{"head -1 /proc/meminfo | tr -s ' '", fmt.Sprintf("MemTotal: %d kB\n", limit>>10), "MemTotal: " + domain + " kB\n"},
		{"free | grep Mem: | tr -s ' ' | cut -d' ' -f2", fmt.Sprintln(limit >> 10), domain + "\n"},
		{"cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpu.max", fmt.Sprintf("%d\n17\n70000 100000\n", limit), "max\nmax\nmax 100000\n"},
		{"grep -c '0.1.1$' /proc/cgroups", "5\n", "5\n"},
		{"cat /sys/fs/cgroup/cpuset.cpus.effective", "0\n", list + "\n"},
		{"cat /sys/fs/cgroup/cgroup.controllers /proc/self/cgroup", "cpuset cpu memory pids\n0::/\n", "cpuset cpu memory pids\n0::/\n"},
		{"stat -f -c %t /sys/fs/cgroup; grep -c ' /sys/fs/cgroup cgroup2 ' /proc/mounts", "63677270\n1\n", "63677270\n1\n"},
		{"cat /sys/fs/cgroup/pids.current; head -1 /sys/fs/cgroup/cgroup.procs", "3\n1\n", "3\n1\n"},
		{"head -1 /sys/fs/cgroup/cpu.stat | cut -d' ' -f1", "usage_usec\n", "usage_usec\n"},
	} {
		for range 2 {
			if got := mustRun(t, small, step.script); got != step.small {
				t.Errorf("with limits: %q says %q, want %q", step.script, got, step.small)
			}
			if got := mustRun(t, large, step.script); got != step.large {
				t.Errorf("without: %q says %q, want %q", step.script, got, step.large)
			}
		}
	}
	// Limits change, and what is open shows it.
	a := limited(t, small)
	a.setMemoryLimit(48 << 20)
	setQuota(a, account.Unlimited)
	a.setTaskLimit(account.Unlimited)
	if got := mustRun(t, small, "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpu.max; nproc"); got != fmt.Sprintf("%d\nmax\nmax 100000\n%d\n", 48<<20, all) {
		t.Errorf("after a change: %q", got)
	}
}

// mustRun returns what a script prints in s's agent.
func mustRun(t *testing.T, s *spawned, script string) string {
	t.Helper()
	out, errout, exit := s.execIn(sh(script)).output()
	if errout != "" || exit.Signal != 0 {
		t.Errorf("%q: stderr %q exit %+v", script, errout, exit)
	}
	return out
}

// TestViewsAreForReading tries to change them.
func TestViewsAreForReading(t *testing.T) {
	s := spawn(t, []string{"sleep", "1000"}, memory(64<<20))
	for _, script := range []string{
		"echo max > /sys/fs/cgroup/memory.max", "mkdir /sys/fs/cgroup/x", "rm /sys/fs/cgroup/cpu.max",
		"mv /sys/fs/cgroup/cpu.max /sys/fs/cgroup/y", "touch /sys/devices/system/cpu/cpu9", "echo 1 > /proc/meminfo",
	} {
		if _, _, exit := s.execIn(sh(script)).output(); exit.Code == 0 {
			t.Errorf("%q succeeded", script)
		}
	}
	if got := mustRun(t, s, "cat /sys/fs/cgroup/memory.max"); got != fmt.Sprintln(64<<20) {
		t.Errorf("the limit reads %q", got)
	}
}

// TestAffinityStaysInside asks for CPUs that the agent does not see.
func TestAffinityStaysInside(t *testing.T) {
	if theKernel.cfg.CPUs < 2 {
		t.Skip("needs two CPUs")
	}
	s := spawn(t, []string{"sleep", "1000"})
	setQuota(limited(t, s), 1000)
	if got := mustRun(t, s, "taskset 3 nproc"); got != "1\n" {
		t.Errorf("with both CPUs asked for: %q", got)
	}
	if _, _, exit := s.execIn(sh("taskset 2 nproc")).output(); exit.Code == 0 {
		t.Error("an agent may run on a CPU that it does not see")
	}
}

func TestCPUHex(t *testing.T) {
	for _, tc := range []struct {
		all, cpus smp.Set
		want      string
	}{
		{smp.First(1), smp.First(1), "1"}, {smp.First(2), smp.First(2), "3"}, {smp.First(4), smp.Of(3), "8"}, {smp.First(8), smp.Of(1), "02"},
		{smp.First(32), smp.First(32), "ffffffff"}, {smp.First(33), smp.First(33), "1,ffffffff"}, {smp.First(40), smp.Of(32), "01,00000000"},
		{smp.First(64), smp.Of(5), "00000000,00000020"}, {smp.Of(1, 6), smp.Of(1, 6), "42"},
	} {
		if got := cpuHex(tc.all, tc.cpus); got != tc.want {
			t.Errorf("%+v: %q", tc, got)
		}
	}
}

// TestCPUTimeIsUserAndSystemTime: of a program that computes and calls the kernel both
// become more.
func TestCPUTimeIsUserAndSystemTime(t *testing.T) {
	a := limited(t, spawn(t, sh("while :; do : </dev/null; done")))
	eventually(t, func() bool {
		u := a.cpuUse()
		return u.User > 20*time.Millisecond && u.System > 20*time.Millisecond
	})
}

// TestAccount compares an agent's account with what it did.
func TestAccount(t *testing.T) {
	s := spawn(t, sh("dd if=/dev/zero of=/tmp/x bs=64K count=32 2>/dev/null; x=0; while [ $x -lt 3000 ]; do x=$((x+1)); done; echo done; exec sleep 1000"), tasks(9), memory(128<<20))
	s.expect("done")
	get := func() account.Snapshot {
		snap, err := theKernel.Account(control.AgentRequest{ID: s.id})
		if err != nil {
			t.Fatal(err)
		}
		return snap
	}
	snap := get()
	if snap.CPU.UserNS+snap.CPU.SystemNS == 0 || snap.CPU.QuotaMilli != nil || snap.CPU.CPUs != uint64(theKernel.cfg.CPUs) {
		t.Errorf("CPU %+v", snap.CPU)
	}
	if snap.Memory.Now < 2<<20 || snap.Memory.Peak < snap.Memory.Now || snap.Memory.Limit != 128<<20 || snap.Memory.Faults == 0 {
		t.Errorf("memory %+v", snap.Memory)
	}
	if snap.IO.WriteBytes < 2<<20 || snap.IO.ReadBytes < 2<<20 || snap.IO.WriteOps < 32 || snap.IO.WriteBytes > 3<<20 {
		t.Errorf("I/O %+v", snap.IO)
	}
	if snap.Tasks.Now != 1 || snap.Tasks.Limit != 9 || snap.Files.Now < 3 || snap.Files.Limit == 0 {
		t.Errorf("tasks %+v files %+v", snap.Tasks, snap.Files)
	}
	if snap.Disk.Now < 2<<20 {
		t.Errorf("disk %+v", snap.Disk)
	}
	s.signal(9)
	s.wait()
	after := get()
	if after.CPU.UserNS < snap.CPU.UserNS || after.Memory.Now != 0 || after.Memory.Peak < snap.Memory.Peak || after.Tasks.Now != 0 || after.Disk.Now != 0 {
		t.Errorf("after its end: %+v", after)
	}
}

// TestWeightIsSeen reads what an agent was given.
func TestWeightIsSeen(t *testing.T) {
	s := spawn(t, []string{"sleep", "1000"}, instead("cpu:self,weight=250,cpu=0.5,period=20ms"))
	if got := mustRun(t, s, "cat /sys/fs/cgroup/cpu.weight /sys/fs/cgroup/cpu.max"); got != "250\n10000 20000\n" {
		t.Errorf("%q", got)
	}
}

// setQuota gives an agent a quota as a grant would.
func setQuota(a *Agent, milli uint64) {
	a.authMu.Lock()
	defer a.authMu.Unlock()
	a.cpuGranted = milli
	a.requota()
}
