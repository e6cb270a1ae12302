package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
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
	onOne(t, func(t *testing.T, in *install) {
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

// countCPUs has programs print how many CPUs there are, each in its own way. What
// a program needs that the host lacks is "-".
const countCPUs = `
nproc
getconf _NPROCESSORS_ONLN
grep -c ^processor /proc/cpuinfo
grep -c '^cpu[0-9]' /proc/stat
ls -d /sys/devices/system/cpu/cpu[0-9]* | wc -l
if command -v python3 >/dev/null; then python3 -c 'import os; print(os.cpu_count()); print(len(os.sched_getaffinity(0)))'; else echo -; echo -; fi
if command -v lscpu >/dev/null; then lscpu -p=CPU,CORE | grep -c '^[0-9]'; else echo -; fi
if command -v node >/dev/null; then node -p 'require("os").cpus().length'; else echo -; fi
if command -v java >/dev/null; then java -XshowSettings:system -version 2>&1 | sed -n 's/.*Effective CPU Count: //p'; else echo -; fi
/d/ncpu
`

// TestProgramsCountCPUs asks real programs how many CPUs there are, in agents with
// a quota and without.
func TestProgramsCountCPUs(t *testing.T) {
	_, allowed := allowedCPUs(t)
	onOne(t, func(t *testing.T, in *install) {
		dir := in.share(t, map[string][]byte{"ncpu.go": []byte("package main\n\nimport \"runtime\"\n\nfunc main() { println(runtime.NumCPU()) }\n")})
		build := exec.Command("go", "build", "-o", filepath.Join(dir, "ncpu"), filepath.Join(dir, "ncpu.go"))
		build.Env = append(build.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, c := range []struct {
			limit string
			want  int
		}{{"0.5", 1}, {"1", 1}, {"1.5", min(2, len(allowed))}, {"", len(allowed)}} {
			flags := []string{"--mount", dir + ":/d"}
			if c.limit != "" {
				flags = append(flags, "--limit", "cpu="+c.limit)
			}
			out := in.sh(t, "exec 2>&1;"+countCPUs, flags...)
			lines := strings.Split(strings.TrimSpace(out), "\n")
			for i, line := range lines {
				if line != "-" && line != strconv.Itoa(c.want) {
					t.Errorf("with cpu=%s, way %d to count CPUs gives %q, want %d", c.limit, i, line, c.want)
				}
			}
			if len(lines) != 11 {
				t.Errorf("with cpu=%s: %q", c.limit, out)
			}
		}
	})
}

// TestLoad has an agent spin, and one sleep: what uptime and top say in each is
// its own.
func TestLoad(t *testing.T) {
	onOne(t, func(t *testing.T, in *install) {
		in.spawn(t, "--name", "busy", "--", "sh", "-c", "while :; do :; done")
		in.spawn(t, "--name", "quiet", "--", "sleep", "1000")
		load := func(agent string) float64 {
			text, _, _ := strings.Cut(string(in.ok(t, "exec", agent, "--", "cat", "/proc/loadavg")), " ")
			avg, err := strconv.ParseFloat(text, 64)
			must(t, err)
			return avg
		}
		eventually(t, "the load grows", 30*time.Second, func() (bool, string) {
			got := load("busy")
			return got >= 0.1, fmt.Sprint(got)
		})
		if got := load("quiet"); got > 0.1 {
			t.Errorf("an agent that sleeps has a load of %v", got)
		}
		if out := string(in.ok(t, "exec", "busy", "--", "uptime")); !strings.Contains(out, "load average: 0.") || strings.Contains(out, "load average: 0.0") {
			t.Errorf("uptime: %s", out)
		}
	})
}
