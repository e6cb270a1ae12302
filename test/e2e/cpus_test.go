package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cpusLine is what `cpus -o json` says.
type cpusLine struct {
	CPUs []struct {
		CPU, Core, LLC, Package, Node, Capacity int
		Online                                  bool
	}
	Allowed string
	Domains []domainCPUs
}

type domainCPUs struct{ Domain, CPUs, Allowed string }

func (in *install) cpus(t testing.TB) (c cpusLine) {
	t.Helper()
	must(t, json.Unmarshal(in.ok(t, "cpus", "-o", "json"), &c))
	return c
}

// allowedCPUs returns the CPUs that this process may use, as Linux writes them,
// and one after the other.
func allowedCPUs(t testing.TB) (text string, cpus []int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	must(t, err)
	_, text, _ = strings.Cut(string(b), "Cpus_allowed_list:")
	text, _, _ = strings.Cut(text, "\n")
	var mask unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &mask))
	for cpu := range 1024 {
		if mask.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return strings.TrimSpace(text), cpus
}

// cpuMask is a set of CPUs.
func cpuMask(cpus ...int) *unix.CPUSet {
	var mask unix.CPUSet
	for _, cpu := range cpus {
		mask.Set(cpu)
	}
	return &mask
}

// onCPU has f run, and whatever it starts, on one CPU of the host.
func onCPU(t testing.TB, cpu int, f func()) {
	t.Helper()
	runtime.LockOSThread()
	var before unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &before))
	must(t, unix.SchedSetaffinity(0, cpuMask(cpu)))
	defer func() {
		must(t, unix.SchedSetaffinity(0, &before))
		runtime.UnlockOSThread()
	}()
	f()
}

// TestCPUs compares what is shown of CPUs with what the host says, and has a
// domain start with one of them only.
func TestCPUs(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		text, allowed := allowedCPUs(t)
		in.spawn(t, "--", "sleep", "1000")
		got := in.cpus(t)
		online := 0
		for _, c := range got.CPUs {
			if c.Online {
				online++
			}
			if c.Capacity < 1 || c.Capacity > 1024 {
				t.Errorf("%+v", c)
			}
		}
		if cpuinfo, err := os.ReadFile("/proc/cpuinfo"); err == nil && strings.Count(string(cpuinfo), "processor\t:") != online {
			t.Errorf("%d CPUs are online, the host says %s", online, cpuinfo)
		}
		if got.Allowed != text || len(got.Domains) != 1 || got.Domains[0] != (domainCPUs{"default", text, text}) {
			t.Errorf("%v are allowed, and it says %+v", allowed, got)
		}
		if out := string(in.ok(t, "cpus")); !strings.Contains(out, "package ") || !strings.Contains(out, "core 0: CPU") || !strings.Contains(out, "DOMAIN") {
			t.Errorf("as text: %s", out)
		}
		if out := string(in.ok(t, "doctor")); !strings.Contains(out, " CPUs ") || !strings.Contains(out, "NUMA node") {
			t.Errorf("doctor: %s", out)
		}

		if len(allowed) == 1 {
			t.Skip("this host has one CPU")
		}
		in.ok(t, "daemon", "stop", "--domains")
		last := allowed[len(allowed)-1]
		onCPU(t, last, func() { in.ok(t, "daemon", "start") })
		if out := in.sh(t, "nproc; cat /sys/devices/system/cpu/online"); out != "1\n0\n" {
			t.Errorf("on CPU %d an agent counts %q", last, out)
		}
		in.spawn(t, "--", "sleep", "1000")
		one := strconv.Itoa(last)
		if got := in.cpus(t); got.Allowed != one || len(got.Domains) != 1 || got.Domains[0] != (domainCPUs{"default", one, one}) {
			t.Errorf("with CPU %s: %+v", one, got)
		}
	})
}

// setAffinity has every thread of a process use these CPUs only.
func setAffinity(t testing.TB, pid int, cpus []int) {
	t.Helper()
	mask := cpuMask(cpus...)
	// A thread that is being made has the mask of one that was there.
	for range 2 {
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		must(t, err)
		for _, thread := range threads {
			tid, err := strconv.Atoi(thread.Name())
			must(t, err)
			if err := unix.SchedSetaffinity(tid, mask); err != nil && err != syscall.ESRCH {
				t.Fatal(err)
			}
		}
	}
}

// cpuset makes a group of the host's CPUs, moves a process there, and returns what
// changes the CPUs of it. It returns nil where the host has no such groups.
func cpuset(t *testing.T, pid int, cpus string) (set func(cpus string)) {
	t.Helper()
	const root = "/sys/fs/cgroup/cpuset"
	own, err := os.ReadFile("/proc/self/cgroup")
	must(t, err)
	_, parent, found := strings.Cut(string(own), ":cpuset:")
	parent, _, _ = strings.Cut(parent, "\n")
	if parent = filepath.Join(root, parent); !found {
		return nil
	}
	if _, err := os.Stat(parent); err != nil {
		parent = root
	}
	dir, err := os.MkdirTemp(parent, "e2e-cpus-")
	if err != nil {
		t.Logf("no group of CPUs: %v", err)
		return nil
	}
	t.Cleanup(func() {
		eventually(t, "the group is gone", patience, func() (bool, string) {
			procs, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			for p := range strings.FieldsSeq(string(procs)) {
				os.WriteFile(filepath.Join(parent, "cgroup.procs"), []byte(p), 0) // Unless it has ended.
			}
			err := os.Remove(dir)
			return err == nil, fmt.Sprint(err)
		})
	})
	write := func(name, text string) { must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0)) }
	mems, err := os.ReadFile(filepath.Join(parent, "cpuset.mems"))
	must(t, err)
	write("cpuset.mems", string(mems))
	write("cpuset.cpus", cpus)
	write("cgroup.procs", strconv.Itoa(pid))
	return func(cpus string) { write("cpuset.cpus", cpus) }
}

// TestCPUsChange narrows the CPUs of a kernel process to one and widens them
// again, by its affinity and by its cpuset, while an agent runs.
func TestCPUsChange(t *testing.T) {
	text, allowed := allowedCPUs(t)
	if len(allowed) == 1 {
		t.Skip("this host has one CPU")
	}
	onEach(t, func(t *testing.T, in *install) {
		in.spawn(t, "--name", "web", "--", "sleep", "1000")
		pid := in.process(t, "kernel", "default")
		last := allowed[len(allowed)-1]
		one := strconv.Itoa(last)
		changes := 0
		becomes := func(what, cpus string, n int) {
			t.Helper()
			changes++
			eventually(t, what, 10*time.Second, func() (bool, string) {
				got := in.cpus(t)
				return got.Domains[0] == domainCPUs{"default", text, cpus}, fmt.Sprintf("%+v", got.Domains)
			})
			// Also a program that was there before looks at it anew.
			want := strings.Repeat(fmt.Sprintln(n), 3)
			if out := string(in.ok(t, "exec", "web", "--", "sh", "-c", "nproc; getconf _NPROCESSORS_ONLN; grep -c '^cpu[0-9]' /proc/stat")); out != want {
				t.Errorf("%s: an agent counts %q, want %q", what, out, want)
			}
			eventually(t, "it is told", 10*time.Second, func() (bool, string) {
				past := in.past(t, "cpu.changed")
				if len(past) < changes {
					return false, fmt.Sprint(past)
				}
				e := past[len(past)-1].Data
				return len(past) == changes && e["allowed"] == cpus && fmt.Sprint(e["usable"], e["cpus"]) == fmt.Sprint(n, len(allowed)), fmt.Sprint(e)
			})
		}
		setAffinity(t, pid, []int{last})
		becomes("its affinity is narrowed", one, 1)
		setAffinity(t, pid, allowed)
		becomes("its affinity is widened", text, len(allowed))
		if set := cpuset(t, pid, text); set != nil {
			set(one)
			becomes("its cpuset is narrowed", one, 1)
			set(text)
			becomes("its cpuset is widened", text, len(allowed))
		}
		if got := in.cpus(t).Domains[0]; got.Allowed != text {
			t.Errorf("in the end: %+v", got)
		}
	})
}
