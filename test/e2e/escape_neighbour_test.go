package e2e

import (
	"strings"
	"testing"
)

// escapeNeighbour is what an agent tries with another one of its domain, the
// victim. Both have all rights over their own processes, a network and the
// directory /meet; in that the victim hands out open files, as a careless
// service would: the root directory, /aios/ctl, /aios/self/caps, /dev/aios, a
// file of /v to read, itself as a process, and its memory.
var escapeNeighbour = []attempt{
	{name: "processes that can be named", code: `
def alive(p):
    try: os.kill(p, 0)
    except OSError: return False
    return True
[p for p in range(1, 2000) if alive(p)] == sorted(int(p) for p in os.listdir("/proc") if p.isdigit())`, want: "True", why: "others have no numbers here"},
	{name: "a process that is another's", code: `call("pidfd_open", int(victim), 0)`, want: "ESRCH", why: "others have no numbers here"},
	{name: "trace a process that is another's", code: `call("ptrace", 16, int(victim), 0, 0)`, want: "ESRCH", why: "others have no numbers here"},
	{name: "the root of another", code: `os.listdir("/proc/%s/root" % victim)`, want: "ENOENT", why: "others have no numbers here"},
	{name: "an abstract socket of another", code: `socket.socket(socket.AF_UNIX).connect("\0victim")`, want: "ECONNREFUSED", why: "each agent has its own names"},
	{name: "a port of another", code: `socket.create_connection(("127.0.0.1", 4000))`, want: "ECONNREFUSED", why: "each agent has its own network"},
	{name: "shared memory of another", code: `call("shmget", 0x1234, 4096, 0)`, want: "ENOENT", why: "each agent has its own names"},
	{name: "a semaphore of another", code: `call("semget", 0x1234, 1, 0)`, want: "ENOENT", why: "each agent has its own names"},
	{name: "a message queue of another", code: `call("msgget", 0x1234, 0)`, want: "ENOENT", why: "each agent has its own names"},
	{name: "files of another in /tmp", code: `reads("/tmp/victim")`, want: "ENOENT", why: "each agent has its own files"},
	{name: "files of another in /dev/shm", code: `reads("/dev/shm/victim")`, want: "ENOENT", why: "each agent has its own files"},

	{name: "commands in another's name", code: `os.write(given[1], b"revoke 1")`, want: "EPERM", trail: "ctl use /aios/ctl"},
	{name: "answers to another", code: `os.read(given[1], 4096)`, want: "EPERM", trail: "ctl use /aios/ctl"},
	{name: "commands in another's name, in parts", code: `os.writev(given[1], [b"li", b"st"])`, want: "EPERM", trail: "ctl use /aios/ctl"},
	{name: "the capabilities of another", code: `os.pread(given[2], 4096, 0)`, want: "EPERM", trail: "ctl use /aios/self/caps"},
	{name: "the capabilities of another, by sendfile", code: `os.sendfile(os.pipe()[1], given[2], 0, 4096)`, want: "EPERM", trail: "ctl use /aios/self/caps"},
	{name: "the capabilities of another, opened again", code: `os.open("/proc/self/fd/%d" % given[2], os.O_RDONLY) and capid("fs:") in reads("/proc/self/fd/%d" % given[2]).decode()`, want: "False", why: "what is opened again shows whoever opens it"},
	{name: "an ioctl in another's name", code: `control(given[3], "AIOS_IOC_LIST", b"")`, want: "EPERM", trail: "ctl use /dev/aios"},
	{name: "revoke in another's name", code: `control(given[3], "AIOS_IOC_REVOKE", ref(1))`, want: "EPERM", trail: "ctl use /dev/aios"},
	{name: "delegate in another's name", code: `control(given[3], "AIOS_IOC_DELEGATE", change(1, to=b"attacker"))`, want: "EPERM", trail: "ctl use /dev/aios"},
	{name: "give an open file of the kernel to a child", code: `child(lambda: os.write(given[1], b"list"))`, want: "EPERM", trail: "ctl use /aios/ctl"},
	{name: "commands through another's root", code: `name = b"attacker\n"; os.read(os.open("aios/self/name", os.O_RDONLY, dir_fd=given[0]), 64) == name`, want: "True", why: "what is opened speaks for whoever opens it"},
	{name: "memory through another's root", code: `os.open("proc/1/mem", os.O_RDONLY, dir_fd=given[0])`, want: "EPERM", trail: "open /proc/PID/mem of another agent"},
	{name: "memory of another's thread", code: `os.open("proc/1/task/1/mem", os.O_RDWR, dir_fd=given[0])`, want: "EPERM", trail: "open /proc/PID/mem of another agent"},
	{name: "memory that another has opened", code: `os.read(given[6], 8)`, want: "EPERM", trail: "read /proc/PID/mem of another agent"},
	{name: "write to memory that another has opened", code: `os.pwrite(given[6], b"x", 1 << 40)`, want: "EPERM", trail: "write /proc/PID/mem of another agent"},
	{name: "write through another's root", code: `os.open("ro/f", os.O_WRONLY, dir_fd=given[0])`, want: "EROFS", trail: "open $DIR/v/f"},
	{name: "write through another's descriptor", code: `writes("/proc/self/fd/%d" % given[4], os.O_RDWR)`, want: "EROFS", trail: "open $DIR/v/f"},
	{name: "above another's grant", code: `os.open("../../../../outside/canary", os.O_RDONLY, dir_fd=os.open("v", os.O_PATH, dir_fd=given[0]))`, want: "ENOENT", why: "what is above is the other's own root"},
	{name: "signal through a descriptor of another", code: `call("pidfd_send_signal", given[5], 9, 0, 0)`, want: "EPERM", trail: "pidfd_send_signal a process of another agent"},
	{name: "signal through a directory of /proc", code: `call("pidfd_send_signal", os.open("proc/1", os.O_RDONLY, dir_fd=given[0]), 9, 0, 0)`, want: "EBADF", why: "such directories are no descriptors of processes"},
	{name: "whether a process of another is there", code: `call("pidfd_send_signal", given[5], 0, 0, 0)`, want: "EPERM", trail: "pidfd_send_signal a process of another agent"},
	{name: "a descriptor of another", code: `call("pidfd_getfd", given[5], 0, 0)`, want: "EPERM", trail: "pidfd_getfd a process of another agent"},
	{name: "the namespaces of another", code: `call("setns", given[5], 0x20000)`, want: "EPERM", trail: "setns"},

	{name: "a program in another's path", code: `ctl("delegate %s to=victim at=/usr/local/bin" % handle(evil))`, want: "EPERM CAPABILITY_DENIED", trail: "ctl delegate handle…"},
	{name: "settings of another", code: `ctl("delegate %s to=victim at=/etc" % handle(evil))`, want: "EPERM CAPABILITY_DENIED", trail: "ctl delegate handle…"},
	{name: "over a grant of another", code: `ctl("move %s to=victim at=/v" % handle(evil))`, want: "EPERM CAPABILITY_DENIED", trail: "ctl move handle…"},
	{name: "in a third one's name", code: `ctl("delegate %s to=victim at=/granted/rich/x" % handle(evil))`, want: "EPERM CAPABILITY_DENIED", trail: "ctl delegate handle…"},
	{name: "above the place for what is given", code: `ctl("delegate %s to=victim at=/granted/attacker/../../etc" % handle(evil))`, want: "EINVAL CAPABILITY_INVALID", trail: "ctl delegate handle…"},
	{name: "the place for what is given itself", code: `ctl("delegate %s to=victim at=/granted/attacker" % handle(evil))`, want: "EPERM CAPABILITY_DENIED", trail: "ctl delegate handle…"},
	{name: "a program in another's path, by the device", code: `device("AIOS_IOC_DELEGATE", change(handle(evil), set=256, to=b"victim", at=b"/usr/local/bin"))`, want: "EPERM CAPABILITY_DENIED", trail: "ctl AIOS_IOC_DELEGATE handle…"},
	{name: "a program in the path of one far away", code: `ctl("delegate %s to=far at=/usr/local/bin" % handle(evil))`, want: "EPERM CAPABILITY_DENIED", trail: "ctl delegate handle…"},
	{name: "a directory behind a link, for one far away", code: `os.symlink("../outside", "/evil/link"); ctl("delegate %s to=far object=%s/evil/link" % (handle(evil), host))`, want: "EACCES PERMISSION_DENIED", trail: "ctl delegate handle…"},
	{name: "a directory below a link, for one far away", code: `os.symlink("/", "/evil/root"); ctl("delegate %s to=far object=%s/evil/root%s/outside" % (handle(evil), host, host))`, want: "EACCES PERMISSION_DENIED", trail: "ctl delegate handle…"},
	{name: "to one that there is not", code: `ctl("delegate %s to=nobody" % handle(evil))`, want: "ESRCH AGENT_NOT_FOUND", why: "there is no such agent"},

	{name: "revoke what the lent comes from", code: `ctl("revoke " + parent)`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl revoke $PARENT"},
	{name: "renew what was lent", code: `ctl("renew %s lease=10h" % handle(lent))`, want: "EPERM CAPABILITY_DENIED", trail: "ctl renew handle…"},
	{name: "more of what was lent", code: `ctl("attenuate %s rights=rw" % handle(lent))`, want: "EPERM RIGHTS_EXCEED", trail: "ctl attenuate handle…"},
	{name: "pass what was lent on", code: `ctl("delegate %s to=far" % handle(lent))`, want: "EPERM CAPABILITY_SEALED", trail: "ctl delegate handle…"},
	{name: "write to what was lent", code: `writes(at + "/f")`, want: "EROFS", trail: "open $DIR/v/f"},
	{name: "what was lent and taken back", code: `os.read(kept, 64)`, want: "EACCES", trail: "read $DIR/v/f"},
	{name: "the handle of what was taken back", code: `ctl("inspect " + kept_handle)`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl inspect handle…"},
	{name: "signal the victim", code: `ctl("signal %s KILL agent=victim" % handle("agent:"))`, want: "EPERM CAPABILITY_DENIED", trail: "ctl signal handle…"},
	{name: "pause the victim", code: `ctl("pause %s agent=victim" % handle("agent:"))`, want: "EPERM CAPABILITY_DENIED", trail: "ctl pause handle…"},
	{name: "resume itself by another's right", code: `ctl("resume %s agent=attacker" % handle("agent:"))`, want: "EPERM CAPABILITY_DENIED", trail: "ctl resume handle…"},
}

func runEscapeNeighbour(t *testing.T, e *escape) {
	meet, v, evil := e.share(t, "meet", nil), e.share(t, "v", map[string]string{"f": "the victim's"}), e.share(t, "evil", map[string]string{"id": "#!/bin/sh\n"})
	common := []string{"--grant", "net:loopback", "--grant", "proc:self", "--grant", "fs:" + meet + ":rw,at=/meet"}
	victim := e.hostile(t, "victim", nil, append(common, "--grant", "fs:"+v+":rw,at=/v")...)
	for _, code := range []string{
		`s = socket.socket(socket.AF_UNIX); s.bind("\0victim"); s.listen()`,
		`p = socket.create_server(("127.0.0.1", 4000))`,
		`call("shmget", 0x1234, 4096, 0o1666); call("semget", 0x1234, 1, 0o1666); call("msgget", 0x1234, 0o1666)`,
		`os.makedirs("/dev/shm", exist_ok=True); [open(d + "/victim", "w").close() for d in ("/tmp", "/dev/shm")]`,
		`[sleeper() for _ in range(20)]; last = sleeper()`,
		`ro = ctl("delegate %s to=self rights=read at=/ro" % handle("fs:` + v + `"))`,
		`listens("/meet/s", [os.open("/", os.O_RDONLY), os.open("/aios/ctl", os.O_RDWR), os.open("/aios/self/caps", os.O_RDONLY),
			os.open("/dev/aios", os.O_RDWR), os.open("/ro/f", os.O_RDONLY), call("pidfd_open", os.getpid(), 0), os.open("/proc/self/mem", os.O_RDWR)])`,
	} {
		if got := victim.do(t, "victim", code+"\n0"); got != "0" {
			t.Fatalf("%s: %s", code, got)
		}
	}
	e.in.spawn(t, "--isolated", "--name", "far", "--", "sleep", "1000")
	defer e.in.ok(t, "rm", "-f", "far")
	grant := "fs:" + v + ":"
	names := map[string]string{"evil": "fs:" + evil + ":", "lent": grant, "victim": victim.do(t, "victim", "last"), "parent": e.in.capOf(t, "victim", grant).ID}
	e.names["$PARENT"] = names["parent"]
	h := e.hostile(t, "attacker", names, append(common, "--grant", "fs:"+evil+":rw,at=/evil", "--grant", "agent:victim:inspect")...)
	lent := strings.Fields(victim.do(t, "lend", `ctl("delegate %s to=attacker rights=read lease=1h sealed" % handle("`+grant+`"))`))
	if len(lent) < 4 || lent[0] != "ok" {
		t.Fatalf("nothing was lent: %q", lent)
	}
	if got := h.do(t, "start", `given = fetch("/meet/s", 7); at = "/granted/victim`+v+`"; kept_handle = handle(lent); kept = os.open(at + "/f", os.O_RDONLY); len(given)`); got != "7" {
		t.Fatalf("what the victim hands out: %s", got)
	}
	for _, a := range e.theme.rows {
		if a.name == "what was lent and taken back" {
			if got := victim.do(t, "lend", `ctl("revoke `+lent[2]+`")`); got != "ok revoked=1\n" {
				t.Errorf("the victim takes back: %s", got)
			}
		}
		h.attack(t, a)
	}
	if got := victim.do(t, "victim", `(os.path.exists("/usr/local/bin/id"), reads("/v/f"), len(os.listdir("/etc")) > 1)`); got != `(False, b"the victim's", True)` {
		t.Errorf("the victim sees %s", got)
	}
	if r := e.in.run(t, "exec", "far", "--", "sh", "-c", "test ! -e /usr/local/bin/id && find /granted /evil /tmp -name canary 2>/dev/null; test ! -e /usr/local/bin/id"); r.status != 0 || len(r.stdout) > 0 {
		t.Errorf("the agent far away sees another's program, or the canary: %s", r)
	}
}
