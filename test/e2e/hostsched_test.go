package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
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

// TestTheKernelComesFirst looks at the host's policies of a domain's threads: where
// the domain has a share of the CPUs of its own, agents' code makes way for the
// kernel process.
func TestTheKernelComesFirst(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		if in.platform != "systrap" {
			t.Skip("this platform's threads have the kernel's policy")
		}
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
			if got := policies(t, p.pid); got[schedIdle] == 0 || len(got) != 1 {
				t.Errorf("%v: threads by policy: %v", p, got)
			}
		}
		if stubs == 0 {
			t.Errorf("no stub process among %v", in.processes())
		}
	})
}
