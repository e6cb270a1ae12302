package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// spare returns the kernel process that is kept ready, 0 if there is none.
func (in *install) spare() int {
	for _, p := range in.processes() {
		if len(p.args) > 2 && p.args[1] == "kernel" && strings.HasPrefix(p.args[2], "(spare)") {
			return p.pid
		}
	}
	return 0
}

// TestSpare: the next domain begins with the kernel process that is kept ready, and
// without it if that has died; none outlives the daemon. It has the platform that is
// taken if none is named.
func TestSpare(t *testing.T) {
	if platforms()[0] != "systrap" {
		t.Skip("agents are to run on " + platforms()[0])
	}
	t.Parallel()
	in := newInstall(t, "systrap")
	ready := func() (pid int) {
		t.Helper()
		eventually(t, "a kernel process is kept ready", patience, func() (bool, string) {
			pid = in.spare()
			return pid != 0, fmt.Sprint(in.processes())
		})
		return pid
	}
	in.spawn(t, "--", "sleep", "1000")
	first := ready()
	// It is taken as soon as it says that it is ready, which takes it a while.
	eventually(t, "it becomes a domain", patience, func() (bool, string) {
		domain := fmt.Sprintf("d%d", len(in.domains(t)))
		if got := string(in.ok(t, "run", "--domain", domain, "--", "hostname")); strings.TrimSpace(got) == "" {
			t.Fatalf("%q", got)
		}
		in.spawn(t, "--domain", domain, "--", "sleep", "1000")
		return in.process(t, "kernel", domain) == first, fmt.Sprint(in.processes())
	})
	kill9(t, ready())
	in.spawn(t, "--domain", "after", "--", "sleep", "1000")
	ready()
	kill9(t, in.process(t, "serve"))
	eventually(t, "the one that is kept ready ends with the daemon", patience, func() (bool, string) {
		return in.spare() == 0, fmt.Sprint(in.processes())
	})
	if got := string(in.ok(t, "exec", in.spawn(t, "--domain", "after", "--", "sleep", "1000"), "--", "echo", "well")); got != "well\n" {
		t.Errorf("%q", got)
	}
}
