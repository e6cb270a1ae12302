package host

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"aios.dev/aios/host/cgroup"
)

// fake is a host that consists of the given files.
func fake(t *testing.T, files map[string]string) *examiner {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &examiner{root: root, env: func(string) string { return "" }}
}

// check wants a status, words in what was found, and that a finding which is
// not ok says what it means and how to mend it.
func check(t *testing.T, f Finding, want Status, words string) {
	t.Helper()
	if f.Status != want || !strings.Contains(f.What, words) {
		t.Errorf("%s: want %s and %q, got %+v", f.Name, want, words, f)
	}
	if f.Status != OK && (f.Effect == "" || f.Fix == "") {
		t.Errorf("%s: no effect or fix: %+v", f.Name, f)
	}
}

func TestThisHostIsExaminedWhole(t *testing.T) {
	f := Examine(t.Context(), filepath.Join(t.TempDir(), "not", "yet", "made"))
	seen := map[string]bool{}
	for _, g := range f.Findings {
		if seen[g.Name] || g.Name == "" || g.What == "" {
			t.Errorf("finding %+v", g)
		}
		seen[g.Name] = true
		check(t, g, g.Status, "")
		t.Logf("%-16s %-9s %s", g.Name, g.Status, g.What)
	}
	for _, name := range []string{"kernel", "user", "container", "capabilities", "cgroup", "user namespaces", "namespaces",
		"seccomp", "ptrace", "/dev/kvm", "CPUs", "open files", "processes", "memory", "memfd", "huge pages", "state directory"} {
		if _, ok := f.Find(name); !ok {
			t.Errorf("nothing is said about %s", name)
		}
	}
	if g, ok := f.Find("no such thing"); ok {
		t.Errorf("found %+v", g)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if f := Examine(ctx, "/"); len(f.Findings) != 0 {
		t.Error("an examination that nobody waits for goes on")
	}
}

func TestWarningIsOneLineAndOnlyWhenDue(t *testing.T) {
	if w := (Facts{Findings: []Finding{{Name: "a", Status: OK}}}).Warning(); w != "" {
		t.Errorf("a good host is warned about: %q", w)
	}
	w := Facts{Findings: []Finding{{Name: "cgroup", Status: Degraded}, {Name: "fine", Status: OK}, {Name: "memfd", Status: Missing}}}.Warning()
	if !strings.Contains(w, "missing: memfd") || !strings.Contains(w, "degraded: cgroup") || strings.Contains(w, "fine") || strings.Contains(w, "\n") {
		t.Errorf("got %q", w)
	}
}

func TestKernelVersions(t *testing.T) {
	for release, want := range map[string]Status{
		"6.18.44-fc": OK, "5.12.0": OK, "5.10.0-1-amd64": Degraded, "4.14": Degraded, "4.9.0": Missing, "strange": OK,
	} {
		check(t, describeKernel("Linux", release, "x86_64"), want, release)
	}
}

func TestContainersAreRecognised(t *testing.T) {
	check(t, fake(t, nil).container()[0], OK, "not in a container")
	check(t, fake(t, map[string]string{".dockerenv": ""}).container()[0], OK, "docker")
	check(t, fake(t, map[string]string{"proc/1/cgroup": "0::/kubepods/pod1\n"}).container()[0], OK, "kubepods")
	e := fake(t, nil)
	e.env = func(string) string { return "podman" }
	check(t, e.container()[0], OK, "podman")
}

func TestPrivileges(t *testing.T) {
	e := fake(t, nil)
	check(t, e.user()[0], OK, "root")
	check(t, e.capabilities()[0], Degraded, "CAP_SYS_ADMIN")
	e.caps, e.uid = math.MaxUint64&^(1<<unix.CAP_SYS_RESOURCE), 1000
	check(t, e.user()[0], Degraded, "1000")
	if f := e.capabilities()[0]; f.What != "without CAP_SYS_RESOURCE" {
		t.Errorf("got %+v", f)
	}
	e.caps = math.MaxUint64
	check(t, e.capabilities()[0], OK, "")
}

func TestReasonsForRefusedUserNamespaces(t *testing.T) {
	for _, tc := range []struct {
		files map[string]string
		uid   int
		want  string
	}{
		{nil, 0, "CONFIG_USER_NS"},
		{map[string]string{"proc/sys/user/max_user_namespaces": "0"}, 0, "user.max_user_namespaces="},
		{map[string]string{"proc/sys/kernel/unprivileged_userns_clone": "0"}, 1000, "unprivileged_userns_clone=1"},
		{map[string]string{"proc/sys/kernel/unprivileged_userns_clone": "0"}, 0, "seccomp profile"},
		{map[string]string{"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"}, 1000, "AppArmor"},
		{map[string]string{"proc/sys/user/max_user_namespaces": "100"}, 0, "seccomp profile"},
	} {
		if tc.files != nil {
			tc.files["proc/self/ns/user"] = ""
		}
		e := fake(t, tc.files)
		e.uid = tc.uid
		if got := e.userNamespaceFix(); !strings.Contains(got, tc.want) {
			t.Errorf("%+v: %q", tc, got)
		}
	}
}

func TestSeccompAndPtrace(t *testing.T) {
	check(t, fake(t, nil).seccomp()[0], Missing, "no seccomp")
	const avail = "proc/sys/kernel/seccomp/actions_avail"
	check(t, fake(t, map[string]string{avail: "kill_thread trap errno allow"}).seccomp()[0], Degraded, "trap")
	check(t, fake(t, map[string]string{avail: "kill_process allow", "proc/self/status": "Name:\tx\nSeccomp:\t2\n"}).seccomp()[0], OK, "under a filter")

	const scope = "proc/sys/kernel/yama/ptrace_scope"
	check(t, fake(t, nil).ptrace()[0], OK, "scope 0")
	check(t, fake(t, map[string]string{scope: "1\n"}).ptrace()[0], OK, "scope 1")
	check(t, fake(t, map[string]string{scope: "2\n"}).ptrace()[0], Missing, "scope 2")
	e := fake(t, map[string]string{scope: "2\n"})
	e.caps = 1 << unix.CAP_SYS_PTRACE
	check(t, e.ptrace()[0], Degraded, "scope 2")
	check(t, fake(t, map[string]string{scope: "3\n"}).ptrace()[0], Missing, "scope 3")
}

func TestCgroups(t *testing.T) {
	check(t, describeCgroup(cgroup.Info{Version: cgroup.V2, Writable: true, Controllers: []string{"memory", "pids", "cpu"}}), OK, "v2: memory, pids, cpu")
	check(t, describeCgroup(cgroup.Info{Version: cgroup.V1, Hybrid: true, Writable: true, Controllers: []string{"memory"},
		Missing: []string{"cpu"}, Reason: "no cpu"}), Degraded, "no cpu")
	check(t, describeCgroup(cgroup.Info{Reason: "none mounted"}), Degraded, "none mounted")
}

func TestMachineLimits(t *testing.T) {
	check(t, fake(t, nil).kvm()[0], OK, "not there")
	check(t, fake(t, map[string]string{"dev/kvm": ""}).kvm()[0], OK, "there")

	e := fake(t, map[string]string{"proc/sys/fs/nr_open": "1048576", "proc/sys/kernel/pid_max": "32768", "proc/sys/kernel/threads-max": "100000"})
	check(t, e.describeOpenFiles(1024, 4096), Degraded, "raisable to 4096")
	check(t, e.describeOpenFiles(1024, 1<<20), OK, "raisable to 1048576")
	check(t, e.describeProcesses(unix.RLIM_INFINITY), OK, "unlimited")
	e.uid = 1000
	check(t, e.describeProcesses(512), Degraded, "512")
	e.caps = 1 << unix.CAP_SYS_RESOURCE
	check(t, e.describeOpenFiles(1024, 4096), OK, "1048576")
	check(t, fake(t, map[string]string{"proc/sys/kernel/pid_max": "1000"}).describeProcesses(unix.RLIM_INFINITY), Degraded, "1000")

	check(t, fake(t, nil).memory()[0], Degraded, "unknown")
}

func TestMemoryAndDisk(t *testing.T) {
	const plenty = "MemTotal: 8388608 kB\nMemFree: junk\nMemAvailable: 4194304 kB\n"
	check(t, fake(t, map[string]string{"proc/meminfo": plenty}).memory()[0], OK, "8 GiB, 4 GiB available")
	check(t, fake(t, map[string]string{"proc/meminfo": plenty, "proc/sys/vm/overcommit_memory": "2"}).memory()[0], Degraded, "no overcommit")
	check(t, fake(t, map[string]string{"proc/meminfo": "MemTotal: 1000000 kB\nMemAvailable: 1000 kB\n"}).memory()[0], Degraded, "1000 KiB available")
	check(t, fake(t, map[string]string{"proc/sys/vm/memfd_noexec": "2"}).memfd()[0], Missing, "memfd_noexec")
	check(t, fake(t, nil).memfd()[0], OK, "there")
	check(t, fake(t, map[string]string{"sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never"}).hugePages()[0], OK, "madvise")

	check(t, describeDisk("/s", 5<<30, false), OK, "/s, 5 GiB free")
	check(t, describeDisk("/s", 500<<20, false), Degraded, "500 MiB")
	check(t, describeDisk("/s", 1<<20, false), Missing, "1 MiB")
	check(t, describeDisk("/s", 5<<30, true), Missing, "read-only")
	e := fake(t, nil)
	e.stateDir = "/proc/nothing/below"
	if f := e.disk()[0]; f.What == "" {
		t.Errorf("got %+v", f)
	}
}
