package e2e

import (
	"encoding/json"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

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
