package sentry

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
)

// Arguments of probes.
const (
	anonymous  = "0 4096 3 0x22 -1 0"            // mmap
	loopback80 = "{0x0100007f50000002,0 16"      // 127.0.0.1:80
	anyPort    = "{0x0100007f00000002,0 16"      // 127.0.0.1:0
	unixSocket = "{0x6e2f706d742f0001,0x6f 9"    // /tmp/no: there is none
	newProcess = "{0,0,0,0,17,0,0,0 64"          // clone3
	newUserNS  = "{0x10000000,0,0,0,17,0,0,0 64" // clone3
	message    = "{0,0,0,0,0,0,0 0"              // sendmsg
)

// gateCase is a call that needs a group.
type gateCase struct {
	call, args string
	group      abi.Group
	// granted is what the call returns to whoever has the group: -errno, or
	// 0 for any success.
	granted int64
	// refused is what it returns otherwise, -errno of the group if it is 0.
	refused int64
}

// refusals returns the cases; first are descriptors and addresses that they
// need, made while everything is allowed.
func refusals(p *probe, other int64) []gateCase {
	inet := p.must("socket", "2 1 0")
	udp := p.must("socket", "2 2 0")
	listener := p.must("socket", "2 1 0")
	p.must("listen", fmt.Sprintf("%d 1", listener))
	memfd := p.must("memfd_create", `"x 0`)
	p.must("ftruncate", fmt.Sprintf("%d 4096", memfd))
	self := p.must("open", `"/bin/probe 0 0`)
	page := p.must("mmap", anonymous)
	shm := p.must("shmget", "0 4096 0700")
	at := func(format string, n ...any) string { return fmt.Sprintf(format, n...) }
	perm := -int64(unix.EPERM)
	return []gateCase{
		{"mmap", anonymous, abi.GroupMap, 0, 0},
		{"mmap", at("0 4096 5 2 %d 0", self), abi.GroupMap, 0, 0},
		{"mremap", at("%d 4096 8192 1", page), abi.GroupMap, 0, 0},
		{"shmget", "0 4096 0700", abi.GroupMap, 0, 0},
		{"shmat", at("%d 0 0", shm), abi.GroupMap, 0, 0},

		{"mmap", "0 4096 5 0x22 -1 0", abi.GroupMemExec, 0, 0},
		{"mmap", "0 4096 7 0x21 -1 0", abi.GroupMemExec, 0, 0},
		{"mmap", at("0 4096 7 2 %d 0", self), abi.GroupMemExec, 0, 0},
		{"mmap", at("0 4096 5 1 %d 0", memfd), abi.GroupMemExec, 0, 0},
		{"mprotect", at("%d 4096 5", page), abi.GroupMemExec, 0, 0},
		{"shmat", at("%d 0 0100000", shm), abi.GroupMemExec, 0, 0},
		{"memfd_create", `"y 0`, abi.GroupMemExec, 0, 0},
		{"execveat", at(`%d " 0 0 0x1000`, memfd), abi.GroupMemExec, -int64(unix.ENOEXEC), 0},
		{"execve", at(`"/proc/self/fd/%d 0 0`, memfd), abi.GroupMemExec, -int64(unix.ENOEXEC), 0},

		{"fork", "", abi.GroupSpawn, 0, 0},
		{"vfork", "", abi.GroupSpawn, 0, 0},
		{"clone", "17", abi.GroupSpawn, 0, 0},
		{"clone3", newProcess, abi.GroupSpawn, 0, 0},

		{"execve", `"/none 0 0`, abi.GroupExec, -int64(unix.ENOENT), 0},
		{"execveat", `-100 "/none 0 0 0`, abi.GroupExec, -int64(unix.ENOENT), 0},

		{"kill", at("%d 23", other), abi.GroupSignal, 0, 0},
		{"kill", "-1 23", abi.GroupSignal, 0, 0},
		{"tkill", at("%d 23", other), abi.GroupSignal, 0, 0},
		{"tgkill", at("%d %d 23", other, other), abi.GroupSignal, 0, 0},

		{"ptrace", at("0x4206 %d 0 0", other), abi.GroupDebug, perm, 0},
		{"process_vm_readv", at("%d 0 0 0 0 0", other), abi.GroupDebug, 0, 0},
		{"pidfd_getfd", "-1 0 0", abi.GroupDebug, -int64(unix.EBADF), 0},

		{"socket", "2 1 0", abi.GroupSocket, 0, 0},
		{"socket", "10 0x80002 0", abi.GroupSocket, 0, 0},
		{"socket", "16 3 0", abi.GroupSocket, 0, 0},
		{"connect", at("%d %s", inet, loopback80), abi.GroupConnect, -int64(unix.ECONNREFUSED), 0},
		{"sendto", at(`%d "x 1 0 %s`, udp, loopback80), abi.GroupConnect, 0, 0},
		{"sendmsg", at("%d %s", udp, message), abi.GroupConnect, -int64(unix.EDESTADDRREQ), 0},
		{"bind", at("%d %s", p.must("socket", "2 2 0"), anyPort), abi.GroupBind, 0, 0},
		{"listen", at("%d 1", listener), abi.GroupBind, 0, 0},
		{"accept4", at("%d 0 0 0", p.must("socket", "2 0x801 0")), abi.GroupBind, -int64(unix.EINVAL), 0},

		{"unshare", "0x20000", abi.GroupNamespace, perm, 0}, // No CAP_SYS_ADMIN.
		{"clone", "0x10000011", abi.GroupNamespace, 0, 0},
		{"clone3", newUserNS, abi.GroupNamespace, 0, 0},
		{"setns", "-1 0", abi.GroupNamespace, -int64(unix.EBADF), 0},

		{"mount", `"x "/tmp "tmpfs 0 0`, abi.GroupMount, perm, 0},
		{"umount2", `"/proc 0`, abi.GroupMount, perm, 0},
		{"keyctl", "0 -3 0", abi.GroupKeys, 0, 0},
		{"perf_event_open", "0 0 0 0 0", abi.GroupIntrospect, -int64(unix.ENODEV), 0},
		{"io_uring_setup", "1 0", abi.GroupAsync, -int64(unix.ENOSYS), 0},
	}
}

// TestRefusals takes one group after the other from an agent that runs, and
// gives it back: the errno is the documented one, each refusal is told with
// what was missing, and nothing else is affected.
func TestRefusals(t *testing.T) {
	denied.watch()
	p := newProbe(t)
	second := &probe{p.execIn([]string{"/bin/probe"}, func(c *control.Process) { c.Stdin = true }), p.agent}
	cases := refusals(p, second.must("getpid", ""))

	for _, c := range cases {
		if got := p.call(c.call, c.args); got != c.granted && (c.granted != 0 || got < 0) {
			t.Errorf("%s %s with %s: %d, want %d", c.call, c.args, c.group, got, c.granted)
		}
	}
	want := map[string]uint64{}
	key := func(call string, g abi.Group) string { return call + " " + g.Info().Needs.String() }
	for _, c := range cases {
		p.without(c.group)
		refused := c.refused
		if refused == 0 {
			refused = -int64(c.group.Info().Errno)
		}
		if got := p.call(c.call, c.args); got != refused {
			t.Errorf("%s %s without %s: %d, want %d", c.call, c.args, c.group, got, refused)
		}
		want[key(c.call, c.group)]++
	}
	eventually(t, func() bool { return len(denied.of(p.id)) >= len(want) })
	got := map[string]uint64{}
	for _, d := range denied.of(p.id) {
		got[d.Operation+" "+d.Capability] += d.Count
	}
	for k, n := range want {
		if got[k] != n {
			t.Errorf("%s: %d denials, want %d", k, got[k], n)
		}
		delete(got, k)
	}
	if len(got) > 0 {
		t.Errorf("denied without a reason: %v", got)
	}
}

// TestExceptions makes calls that need nothing, from an agent that has
// nothing.
func TestExceptions(t *testing.T) {
	denied.watch()
	p := newProbe(t)
	inet := p.must("socket", "2 1 0")
	unixes := p.must("socket", "1 1 0")
	page := p.must("mmap", anonymous)
	brk := p.must("brk", "0")
	p.agent.setMask(0)
	for _, c := range []struct {
		call, args string
		want       int64 // -errno, or 0 for any success
	}{
		{"getpid", "", 0},
		{"kill", "p 0", 0},
		{"kill", "p 23", 0},
		{"tkill", "p 23", 0},
		{"tgkill", "p p 23", 0},
		{"kill", "-1 0", -int64(unix.ESRCH)},
		{"process_vm_readv", "p 0 0 0 0 0", 0},
		{"mprotect", fmt.Sprintf("%d 4096 1", page), 0},
		{"munmap", fmt.Sprintf("%d 4096", page), 0},
		{"brk", "0", 0},
		{"socket", "1 1 0", 0},
		{"socketpair", "1 1 0 {0", 0},
		{"connect", fmt.Sprintf("%d %s", unixes, unixSocket), -int64(unix.ENOENT)},
		{"listen", fmt.Sprintf("%d 1", unixes), -int64(unix.EINVAL)},
		{"connect", "999 " + loopback80, -int64(unix.EBADF)},
		{"sendto", fmt.Sprintf(`%d "x 1 0x4000 0 0`, inet), -int64(unix.EPIPE)}, // A stream.
		{"unshare", "0x200", 0},
		{"mknod", `"/tmp/fifo 0010644 0`, 0},
		{"mknod", `"/tmp/file 0100644 0`, 0},
		{"open", `"/tmp/new 0102 0644`, 0},
		{"inotify_init1", "0", 0},
		{"io_setup", "1 {0", 0},
		{"chroot", `"/`, 0},
		{"vmsplice", "0 0 0 0", -int64(unix.ENOSYS)},
	} {
		if got := p.call(c.call, c.args); got != c.want && (c.want != 0 || got < 0) {
			t.Errorf("%s %s: %d, want %d", c.call, c.args, got, c.want)
		}
	}
	if got := p.call("brk", fmt.Sprintf("%d", brk+1<<20)); got != brk {
		t.Errorf("the break moved from %#x to %#x", brk, got)
	}
	eventually(t, func() bool { return denied.count(p.id, "brk", "mem:self:map") == 1 })
	if all := denied.of(p.id); len(all) != 1 {
		t.Errorf("denied: %+v", all)
	}
}

// TestNeverGranted makes calls that no agent may make, from one that has
// everything.
func TestNeverGranted(t *testing.T) {
	denied.watch()
	p := newProbe(t)
	cases := []struct {
		call, args string
		want       unix.Errno
	}{
		{"reboot", "0 0 0 0", unix.EPERM},
		{"init_module", "0 0 0", unix.EPERM},
		{"swapon", "0 0", unix.EPERM},
		{"iopl", "3", unix.EPERM},
		{"adjtimex", "0", unix.EPERM},
		{"mknod", `"/tmp/null 0020666 0x103`, unix.EPERM},
		{"mknodat", `-100 "/tmp/disk 0060666 0x800`, unix.EPERM},
		{"socket", "2 3 1", unix.EPERM},
		{"socket", "17 3 0", unix.EPERM},
	}
	for _, c := range cases {
		if got := p.call(c.call, c.args); got != -int64(c.want) {
			t.Errorf("%s %s: %d, want %d", c.call, c.args, got, -int64(c.want))
		}
	}
	for _, c := range cases { // They are told of once a second.
		eventually(t, func() bool { return denied.count(p.id, c.call, "") > 0 })
	}
	// A family that the kernel lacks is not a matter of rights.
	if got := p.call("socket", "38 5 0"); got != -int64(unix.EAFNOSUPPORT) {
		t.Errorf("socket of AF_ALG: %d", got)
	}
}

// TestRevokedWhileItWaits takes the right to accept from an agent that is
// waiting in accept.
func TestRevokedWhileItWaits(t *testing.T) {
	p := newProbe(t)
	fd := p.must("socket", "2 1 0")
	p.must("listen", fmt.Sprintf("%d 1", fd))
	p.begin("accept", fmt.Sprintf("%d 0 0", fd))
	time.Sleep(50 * time.Millisecond) // It waits, or will find the right gone.
	p.without(abi.GroupBind)
	p.agent.interruptTasks()
	if got := p.end(); got != -int64(unix.EACCES) {
		t.Errorf("accept: %d, want %d", got, -int64(unix.EACCES))
	}
}

// TestUnknownAgentHasNothing asks about a task whose agent is forgotten.
func TestUnknownAgentHasNothing(t *testing.T) {
	p := newProbe(t)
	task := p.agent.ns.pid().Tasks()[0]
	before := theKernel.maskOf(task)
	if before == abi.MaskNone() {
		t.Fatalf("%#x: it has nothing", before)
	}
	theKernel.forgetAgent(p.agent)
	if got := theKernel.maskOf(task); got != abi.MaskNone() {
		t.Errorf("forgotten: %#x, want %#x", got, abi.MaskNone())
	}
	theKernel.byID.Store(p.agent.id, p.agent)
	if got := theKernel.maskOf(task); got != before {
		t.Errorf("known again: %#x, want %#x", got, before)
	}
}

// TestDenialNamesWhatItWasAbout checks the words that reach the audit trail.
func TestDenialNamesWhatItWasAbout(t *testing.T) {
	denied.watch()
	p := newProbe(t)
	p.agent.setMask(0)
	p.call("execve", `"/bin/secret 0 0`)
	p.call("kill", "77 9")
	p.call("socket", "10 1 0")
	p.call("mmap", "0 4096 4 0x22 -1 0")
	want := []string{"/bin/secret", "process 77", "AF_INET6", "anonymous executable memory"}
	eventually(t, func() bool { return len(denied.of(p.id)) >= len(want) })
	var got []string
	for _, d := range denied.of(p.id) {
		got = append(got, d.Object)
	}
	for _, w := range want {
		if !strings.Contains(strings.Join(got, "\n"), w) {
			t.Errorf("no %q in %q", w, got)
		}
	}
}
