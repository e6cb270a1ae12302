package sentry

import (
	"fmt"
	"strings"
	"testing"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

func as(user string) func(*control.SpawnRequest) {
	return func(r *control.SpawnRequest) { r.Process.User = user }
}

func TestWhoRuns(t *testing.T) {
	for user, want := range map[string]string{
		"":          "uid=0(root) gid=0",
		"root":      "uid=0(root) gid=0",
		"bob":       "uid=1000(bob) gid=1001(bobs) groups=2000(team)",
		"1000":      "uid=1000(bob) gid=1001(bobs) groups=2000(team)",
		"bob:team":  "uid=1000(bob) gid=2000(team)",
		"1000:7":    "uid=1000(bob) gid=7",
		"4242":      "uid=4242 gid=4242",
		"4242:2000": "uid=4242 gid=2000(team)",
	} {
		out, errout, exit := spawn(t, []string{"id"}, as(user)).output()
		if exit.Code != 0 || strings.TrimSpace(strings.ReplaceAll(out, "gid=0(root)", "gid=0")) != want &&
			!strings.HasPrefix(out, want+" groups=") {
			t.Errorf("user %q: %q %q, want %q", user, out, errout, want)
		}
	}
	for _, user := range []string{"nobody", ":0", "bob:nosuch", "4294967295", "-1", "bob:", ":", "#root", "broken"} {
		if _, err := trySpawn(t, []string{"id"}, as(user)); errdefs.CodeOf(err) != errdefs.InvalidArgument {
			t.Errorf("user %q: %v, want INVALID_ARGUMENT", user, err)
		}
	}
}

// TestCapabilities checks that root of an agent is not root of the kernel,
// and that another user has no capability at all.
func TestCapabilities(t *testing.T) {
	for _, c := range []linux.Capability{linux.CAP_SYS_ADMIN, linux.CAP_NET_ADMIN, linux.CAP_SYS_PTRACE, linux.CAP_SYS_RESOURCE, linux.CAP_SYS_BOOT} {
		if agentCapabilities&auth.CapabilitySetOf(c) != 0 {
			t.Errorf("agents are given capability %d", c)
		}
	}
	for user, want := range map[string]auth.CapabilitySet{"root": agentCapabilities, "bob": 0} {
		out, _, _ := spawn(t, []string{"sh", "-c", "grep -E '^Cap(Prm|Eff|Bnd)' /proc/self/status | tr -d '\\t'"}, as(user)).output()
		if w := fmt.Sprintf("CapPrm:%016x\nCapEff:%016x\nCapBnd:%016x\n", want, want, agentCapabilities); out != w {
			t.Errorf("%s has\n%swant\n%s", user, out, w)
		}
	}
	// What the missing capabilities are for is refused.
	for _, cmd := range []string{"mount -t tmpfs none /tmp", "hostname other", "chroot /nowhere"} {
		_, _, exit := spawn(t, []string{"sh", "-c", cmd}).output()
		if exit.Code == 0 {
			t.Errorf("%q succeeded", cmd)
		}
	}
	if out, _, exit := spawn(t, []string{"touch", "/etc/mine"}, as("bob")).output(); exit.Code == 0 {
		t.Errorf("an ordinary user writes /etc: %q", out)
	}
}
