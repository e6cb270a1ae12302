package host

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"aios.dev/aios/host/box"
	"aios.dev/aios/host/cgroup"
)

func effectiveCaps() uint64 {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0
	}
	return uint64(data[1].Effective)<<32 | uint64(data[0].Effective)
}

func (e *examiner) has(c int) bool { return e.caps>>c&1 == 1 }

func (e *examiner) user() []Finding {
	if e.uid == 0 {
		return one(Finding{Name: "user", Status: OK, What: "root"})
	}
	return one(Finding{Name: "user", Status: Degraded, What: fmt.Sprintf("an ordinary user (%d)", e.uid),
		Effect: "AIOS runs with a state directory of its own; other users' agents and directories are out of its reach",
		Fix:    "run the daemon as root to share it between users"})
}

// containerMarks are files that container engines leave.
var containerMarks = []struct{ path, engine string }{
	{"/.dockerenv", "docker"},
	{"/run/.containerenv", "podman"},
	{"/run/systemd/container", "systemd-nspawn"},
	{"/var/run/secrets/kubernetes.io", "kubernetes"},
}

func (e *examiner) container() []Finding {
	found := e.env("container")
	for _, m := range containerMarks {
		if found == "" && e.exists(m.path) {
			found = m.engine
		}
	}
	if found == "" {
		for _, word := range []string{"docker", "kubepods", "containerd", "lxc", "libpod"} {
			if strings.Contains(e.read("/proc/1/cgroup"), word) {
				found = word
				break
			}
		}
	}
	if found == "" {
		return one(Finding{Name: "container", Status: OK, What: "not in a container, as far as can be seen"})
	}
	return one(Finding{Name: "container", Status: OK, What: "inside a container (" + found + ")"})
}

// wantedCaps are the capabilities of the daemon that make a difference.
var wantedCaps = []struct {
	cap    int
	name   string
	effect string
}{
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "namespaces of a domain depend on user namespaces"},
	{unix.CAP_SYS_CHROOT, "CAP_SYS_CHROOT", "without mount namespaces a kernel process keeps the host's root"},
	{unix.CAP_SETUID, "CAP_SETUID", "a kernel process keeps the daemon's user"},
	{unix.CAP_SETGID, "CAP_SETGID", "a kernel process keeps the daemon's groups"},
	{unix.CAP_CHOWN, "CAP_CHOWN", "files in images keep the daemon as their owner"},
	{unix.CAP_SYS_RESOURCE, "CAP_SYS_RESOURCE", "limits on open files and processes cannot be raised above what the host set, nor the kernel process be spared by the out-of-memory killer"},
}

func (e *examiner) capabilities() []Finding {
	var names, effects []string
	for _, c := range wantedCaps {
		if !e.has(c.cap) {
			names = append(names, c.name)
			effects = append(effects, c.effect)
		}
	}
	if len(names) == 0 {
		return one(Finding{Name: "capabilities", Status: OK, What: "all that AIOS can use"})
	}
	return one(Finding{Name: "capabilities", Status: Degraded, What: "without " + strings.Join(names, ", "),
		Effect: strings.Join(effects, "; "), Fix: "grant them to the daemon (container: --cap-add), if the rest of the report calls for it"})
}

func (e *examiner) cgroup() []Finding {
	return one(describeCgroup(cgroup.Detect()))
}

func describeCgroup(i cgroup.Info) Finding {
	f := Finding{Name: "cgroup", Status: OK, What: i.Version.String()}
	if i.Hybrid {
		f.What += " (v1 and v2 are mounted)"
	}
	if len(i.Controllers) > 0 {
		f.What += ": " + strings.Join(i.Controllers, ", ")
	}
	if i.Delegated {
		f.What += ", delegated below " + i.Base
	}
	err := i.Require()
	switch {
	case err != nil:
		f.Status = Degraded
		f.What += "; " + i.Reason
		f.Effect = "memory, processes and CPU time of a domain are bounded by AIOS only, not by the host"
		f.Fix = "run the daemon as root, in a container with /sys/fs/cgroup writable, or delegate a cgroup v2 group to its user (systemd: Delegate=yes)"
	case len(i.Missing) > 0:
		f.Status = Degraded
		f.What += "; " + i.Reason
		f.Effect = "the host does not bound the " + strings.Join(i.Missing, ", ") + " of a domain"
		f.Fix = "enable the controllers (kernel parameter cgroup_enable=, or cgroup.subtree_control above)"
	}
	return f
}

// namespaces asks the box itself, and looks for the reason where it was
// refused.
func (e *examiner) namespaces() []Finding {
	reports := box.Probe()
	user := Finding{Name: "user namespaces", Status: OK, What: "granted"}
	rest := Finding{Name: "namespaces", Status: OK}
	var got, refused []string
	for _, r := range reports {
		switch {
		case r.Box == box.UserNamespace && !r.OK:
			user.Status, user.What, user.Effect = Degraded, "refused: "+r.Reason, r.Effect
			user.Fix = e.userNamespaceFix()
		case r.Box == box.UserNamespace:
		case r.OK:
			got = append(got, strings.TrimSuffix(r.Box, " namespace"))
		default:
			refused = append(refused, strings.TrimSuffix(r.Box, " namespace"))
			rest.Effect = "a kernel process shares with the host what it has no namespace for; seccomp bounds what it can do there"
		}
	}
	rest.What = "granted: " + orNone(got)
	if len(refused) > 0 {
		rest.Status = Degraded
		rest.What += "; refused: " + strings.Join(refused, ", ")
		rest.Fix = "allow user namespaces, or run the daemon with CAP_SYS_ADMIN"
	}
	return []Finding{user, rest}
}

func (e *examiner) userNamespaceFix() string {
	switch {
	case !e.exists("/proc/self/ns/user"):
		return "use a kernel with CONFIG_USER_NS"
	case e.number("/proc/sys/user/max_user_namespaces", 1) == 0:
		return "sysctl user.max_user_namespaces=15000"
	case e.uid != 0 && e.number("/proc/sys/kernel/unprivileged_userns_clone", 1) == 0:
		return "sysctl kernel.unprivileged_userns_clone=1"
	case e.uid != 0 && e.number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 0) == 1:
		return "give aiosd an AppArmor profile with 'userns,', or sysctl kernel.apparmor_restrict_unprivileged_userns=0"
	}
	return "in a container, use a seccomp profile that allows unshare and clone with namespaces"
}

func (e *examiner) seccomp() []Finding {
	f := Finding{Name: "seccomp", Status: OK}
	actions := strings.Fields(e.read("/proc/sys/kernel/seccomp/actions_avail"))
	f.What = "filters: " + orNone(actions)
	if len(actions) == 0 {
		f.Status = Missing
		f.What = "the kernel has no seccomp filters"
		f.Effect = "a kernel process reaches every system call of the host; systrap does not run"
		f.Fix = "use a kernel with CONFIG_SECCOMP_FILTER, 4.14 or later"
		return one(f)
	}
	if !slices.Contains(actions, "kill_process") {
		f.Status = Degraded
		f.Effect = "a call outside of the filter stops the kernel process by a signal that it could catch"
		f.Fix = "use Linux 4.14 or later"
	}
	for _, line := range strings.Split(e.read("/proc/self/status"), "\n") {
		if v, ok := strings.CutPrefix(line, "Seccomp:"); ok && strings.TrimSpace(v) == "2" {
			f.What += "; this process is under a filter already"
		}
	}
	return one(f)
}

func (e *examiner) ptrace() []Finding {
	f := Finding{Name: "ptrace", Status: OK}
	scope := e.number("/proc/sys/kernel/yama/ptrace_scope", 0)
	switch {
	case scope <= 1:
		f.What = fmt.Sprintf("of one's own children (yama scope %d)", scope)
	case scope == 2 && e.has(unix.CAP_SYS_PTRACE):
		f.Status, f.What = Degraded, "with CAP_SYS_PTRACE only (yama scope 2)"
		f.Effect = "a kernel process keeps CAP_SYS_PTRACE, within its user namespace where it has one"
		f.Fix = "sysctl kernel.yama.ptrace_scope=1"
	default:
		f.Status, f.What = Missing, fmt.Sprintf("not permitted (yama scope %d)", scope)
		f.Effect = "the systrap and ptrace platforms do not run; kvm needs no ptrace"
		f.Fix = "sysctl kernel.yama.ptrace_scope=1 (scope 3 lasts until the next boot)"
	}
	return one(f)
}

func orNone(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}
