package unprivileged

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// object is a piece of a runtime specification.
type object = map[string]any

// capabilities are those of root in Docker's containers.
var capabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// forbidden are the calls of the default seccomp profile's refusals that AIOS
// would otherwise like to make, and their kin.
var forbidden = []string{
	"unshare", "setns", "mount", "umount2", "pivot_root", "open_tree", "move_mount", "mount_setattr",
	"fsopen", "fsconfig", "fsmount", "fspick", "open_by_handle_at",
	"bpf", "perf_event_open", "keyctl", "add_key", "request_key", "userfaultfd",
}

// seccomp refuses the calls above, clone with a new namespace, and clone3, the
// flags of which a filter cannot see.
func seccomp() object {
	rules := []object{
		{"names": forbidden, "action": "SCMP_ACT_ERRNO", "errnoRet": int(unix.EPERM)},
		{"names": []string{"clone3"}, "action": "SCMP_ACT_ERRNO", "errnoRet": int(unix.ENOSYS)},
	}
	for _, flag := range []int{
		unix.CLONE_NEWNS, unix.CLONE_NEWCGROUP, unix.CLONE_NEWUTS, unix.CLONE_NEWIPC,
		unix.CLONE_NEWUSER, unix.CLONE_NEWPID, unix.CLONE_NEWNET,
	} {
		rules = append(rules, object{
			"names": []string{"clone"}, "action": "SCMP_ACT_ERRNO", "errnoRet": int(unix.EPERM),
			"args": []object{{"index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"}},
		})
	}
	return object{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}
}

// container is a place: as uid in a container that sees the host's programs
// for reading, and theRoot.
func container(t *testing.T, uid int) *place {
	t.Helper()
	if os.Getuid() != 0 {
		lacking(t, "making a container takes root")
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		lacking(t, "runc is not installed")
	}
	p := &place{home: newHome(t, uid), uid: uid}
	bundle := t.TempDir()
	writeBundle(t, bundle)
	state := filepath.Join(bundle, "state")
	id := "aios-" + filepath.Base(p.home)
	init := filepath.Join(bundle, "pid")
	run := exec.Command(runc, "--root", state, "run", "--detach", "--bundle", bundle, "--pid-file", init, id)
	log, err := os.Create(filepath.Join(bundle, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	run.Stdout, run.Stderr = log, log // A pipe would stay open as long as the container.
	if err := run.Run(); err != nil {
		said, _ := os.ReadFile(log.Name())
		t.Fatalf("runc run: %v\n%s", err, said)
	}
	t.Cleanup(func() {
		if out, err := exec.Command(runc, "--root", state, "delete", "--force", id).CombinedOutput(); err != nil {
			t.Errorf("runc delete: %v\n%s", err, out)
		}
	})
	raw, err := os.ReadFile(init)
	if err != nil {
		t.Fatal(err)
	}
	p.command = func(ctx context.Context, argv ...string) *exec.Cmd {
		args := []string{"--root", state, "exec", "--user", fmt.Sprintf("%d:%d", uid, uid), "--cwd", p.home}
		for _, e := range environment(p.home, uid) {
			args = append(args, "--env", e)
		}
		return exec.CommandContext(ctx, runc, append(append(args, id), argv...)...)
	}
	p.processes = func(t *testing.T) []string {
		return ours(t, filepath.Join("/proc", strings.TrimSpace(string(raw)), "root/proc"), -1)
	}
	return p
}

// writeBundle writes what runc makes the container of.
func writeBundle(t *testing.T, bundle string) {
	t.Helper()
	root := filepath.Join(bundle, "rootfs")
	mount := func(dst, kind, src string, options ...string) object {
		return object{"destination": dst, "type": kind, "source": src, "options": options}
	}
	mounts := []object{
		mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
		mount("/dev", "tmpfs", "tmpfs", "nosuid", "mode=755"),
		mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666"),
		mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev"),
		mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
		mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "ro"),
		mount("/tmp", "tmpfs", "tmpfs", "nosuid", "nodev", "mode=1777"),
		mount(theRoot, "bind", theRoot, "rbind", "rw"),
	}
	err := os.MkdirAll(root, 0o755)
	for _, dir := range []string{"/bin", "/etc", "/lib", "/lib64", "/sbin", "/usr"} {
		target, lerr := os.Readlink(dir)
		switch _, serr := os.Stat(dir); {
		case err != nil || serr != nil: // Failed, or the host has none.
		case lerr == nil:
			err = os.Symlink(target, filepath.Join(root, dir))
		default:
			mounts = append(mounts, mount(dir, "bind", dir, "rbind", "ro"))
		}
	}
	namespaces := []object{}
	for _, kind := range []string{"pid", "ipc", "uts", "mount", "network"} {
		namespaces = append(namespaces, object{"type": kind})
	}
	spec := object{
		"ociVersion": "1.0.2", "hostname": "few",
		"root":   object{"path": "rootfs", "readonly": true},
		"mounts": mounts,
		"process": object{
			"user": object{"uid": 0, "gid": 0}, "cwd": "/", "env": []string{"PATH=/usr/bin:/bin"},
			"args":         []string{"/bin/sh", "-c", "while :; do sleep " + strconv.Itoa(1<<20) + "; done"},
			"capabilities": object{"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
		},
		"linux": object{
			"namespaces": namespaces,
			"seccomp":    seccomp(),
			"maskedPaths": []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
				"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware"},
			"readonlyPaths": []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	raw, jerr := json.Marshal(spec)
	if err == nil {
		err = jerr
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(bundle, "config.json"), raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
