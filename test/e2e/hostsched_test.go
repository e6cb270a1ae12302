package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/host/cgroup"
)

// schedIdle is the number of SCHED_IDLE.
const schedIdle = "5"

// policies returns the host's policies of the threads of a process, and how many
// threads have each.
func policies(t testing.TB, pid int) map[string]int {
	t.Helper()
	out := map[string]int{}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	must(t, err)
	for _, thread := range threads {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/stat", pid, thread.Name()))
		if err != nil {
			continue // It has ended.
		}
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		out[f[38]]++ // "policy", counted from the state
	}
	return out
}

// TestQuotaIsByTheHost compares what the quota of the only agent of a domain was
// charged with what the host has counted for the domain.
func TestQuotaIsByTheHost(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		in.spawn(t, "--name", "bounded", "--cpu", "quota=0.3", "--", "sh", "-c", "while :; do :; done")
		boxes := strings.Join(strings.Fields(string(in.ok(t, "domain", "ls", "-o", "json"))), "")
		if !strings.Contains(boxes, `{"box":"cgroup","ok":true}`) {
			t.Skip("the host offers no cgroup")
		}
		kernel := in.process(t, "kernel", "default")
		type counts struct {
			Service   int64
			Corrected int64 `json:"quota_corrected"`
			Host      time.Duration
		}
		var first, last counts
		look := func() (v counts) {
			must(t, json.Unmarshal(in.ok(t, "sched", "bounded", "-o", "json"), &v))
			v.Host = groupCPU(t, kernel)
			return v
		}
		eventually(t, "the quota is corrected", patience, func() (bool, string) {
			first = look()
			return first.Corrected != 0, fmt.Sprintf("%+v", first)
		})
		eventually(t, "it is charged by the host", patience, func() (bool, string) {
			last = look()
			host, service, by := float64(last.Host-first.Host), float64(last.Service-first.Service), float64(last.Corrected-first.Corrected)
			// What was counted since the last period began is not charged yet; and
			// there is a bound on what is, which a busy host is beyond.
			near := service+by > 0.9*host-5e7 && service+by < 1.1*host+5e7
			far := by > 0.1*service && host > service+by || by < -0.1*service && host < service+by
			return host > 6e8 && (near || far), fmt.Sprintf("%+v, and then %+v", first, last)
		})
		if text := string(in.ok(t, "sched", "bounded")); !strings.Contains(text, "; the host counts ") {
			t.Errorf("it does not say what the host counts:\n%s", text)
		}
	})
}

// groupCPU is what the host has counted for the cgroup of a process.
func groupCPU(t testing.TB, pid int) time.Duration {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	must(t, err)
	for _, line := range strings.Fields(string(raw)) {
		f := strings.SplitN(line, ":", 3)
		for _, path := range []string{"cpuacct/" + f[2] + "/cpuacct.usage", "cpu,cpuacct/" + f[2] + "/cpuacct.usage", f[2] + "/cpu.stat"} {
			v1 := strings.HasPrefix(path, "cpu")
			if v1 && !slices.Contains(strings.Split(f[1], ","), "cpuacct") || !v1 && f[0] != "0" {
				continue
			}
			file, err := os.Open(filepath.Join("/sys/fs/cgroup", path))
			if err != nil {
				continue
			}
			defer file.Close()
			used, err := cgroup.ReadUsage(file)
			must(t, err)
			return used
		}
	}
	t.Fatalf("no host cgroup of %d tells its CPU time:\n%s", pid, raw)
	return 0
}

// TestTheKernelComesFirst looks at the host's policies of a domain's threads: where
// the domain has a share of the CPUs of its own, agents' code makes way for the
// kernel process, and is in the group below the domain's that gets what is left.
func TestTheKernelComesFirst(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		if in.platform != "systrap" {
			t.Skip("this platform's threads have the kernel's policy")
		}
		in.config(t, "version: 1\ndomains:\n  spare: off\n") // Its stubs are in a group of its own.
		in.spawn(t, "--", "sh", "-c", "while :; do :; done")
		boxes := strings.Join(strings.Fields(string(in.ok(t, "domain", "ls", "-o", "json"))), "")
		if !strings.Contains(boxes, `{"box":"cgroup","ok":true}`) {
			t.Skip("the host offers no cgroup")
		}
		kernel := in.process(t, "kernel", "default")
		// One thread has started the platform, and may have started others.
		if got := policies(t, kernel); got[schedIdle] == 0 || got["0"] <= got[schedIdle] {
			t.Errorf("threads of the kernel process by policy: %v", got)
		}
		stubs := 0
		for _, p := range in.processes() {
			if len(p.args) > 1 { // Not a stub.
				continue
			}
			stubs++
			if g := cpuGroup(t, p.pid); g != cpuGroup(t, kernel)+"/idle" {
				t.Errorf("%v is in the group %s, the kernel process in %s", p, g, cpuGroup(t, kernel))
			}
			if got := policies(t, p.pid); got[schedIdle] == 0 || len(got) != 1 {
				t.Errorf("%v: threads by policy: %v", p, got)
			}
		}
		if stubs == 0 {
			t.Errorf("no stub process among %v", in.processes())
		}
	})
}

// cpuGroup is the host cgroup by which a process has CPU time.
func cpuGroup(t testing.TB, pid int) (group string) {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	must(t, err)
	for _, line := range strings.Fields(string(raw)) {
		f := strings.SplitN(line, ":", 3)
		if slices.Contains(strings.Split(f[1], ","), "cpu") || f[0] == "0" && group == "" {
			group = f[2]
		}
	}
	return group
}
