package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

// escapeControl are commands and ioctls of an agent that has
//
//	/f   to read                       /s   to read, sealed
//	/q   everything, 64 KiB            /l   to read, for an hour
//	/b   to read, with the badge 7
//
// and may inspect the agent neighbour. theirs is the ID of a capability of
// another agent, given its giver's.
var escapeControl = []attempt{
	{name: "revoke a forged handle", code: `ctl("revoke 4242")`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl revoke handle 4242"},
	{name: "the largest handle", code: `ctl("revoke 18446744073709551615")`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl revoke handle 18446744073709551615"},
	{name: "inspect a forged handle", code: `ctl("inspect 4242")`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl inspect handle 4242"},
	{name: "attenuate a forged handle", code: `ctl("attenuate 4242 rights=read")`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl attenuate handle 4242"},
	{name: "delegate a forged handle", code: `ctl("delegate 4242 to=self")`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl delegate handle 4242"},
	{name: "move a forged handle", code: `ctl("move 4242 to=self")`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl move handle 4242"},
	{name: "seal a forged handle", code: `ctl("seal 4242")`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl seal handle 4242"},
	{name: "renew a forged handle", code: `ctl("renew 4242 lease=1h")`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl renew handle 4242"},
	{name: "signal with a forged handle", code: `ctl("signal 4242 KILL agent=neighbour")`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl signal handle 4242"},
	{name: "pause with a forged handle", code: `ctl("pause 4242 agent=neighbour")`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl pause handle 4242"},
	{name: "revoke what is another's", code: `ctl("revoke " + theirs)`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl revoke $THEIRS"},
	{name: "revoke what came of it", code: `ctl("revoke-children " + theirs)`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl revoke-children $THEIRS"},
	{name: "renew what is another's", code: `ctl("renew %s lease=1h" % theirs)`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl renew $THEIRS"},
	{name: "an ID that does not exist", code: `ctl("revoke c000000000000")`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl revoke c000000000000"},
	{name: "seal by an ID", code: `ctl("seal " + theirs)`, want: "EINVAL INVALID_ARGUMENT", why: "the command makes no sense"},
	{name: "a negative handle", code: `ctl("revoke -1")`, want: "EINVAL INVALID_ARGUMENT", why: "the command makes no sense"},
	{name: "a handle that is too large", code: `ctl("revoke 18446744073709551616")`, want: "EINVAL INVALID_ARGUMENT", why: "the command makes no sense"},
	{name: "two commands", code: `ctl("list\nrevoke 1")`, want: "EINVAL INVALID_ARGUMENT", why: "the command makes no sense"},
	{name: "a command without end", code: `ctl("explain " + "x" * 100000)`, want: "E2BIG", why: "the command makes no sense"},

	{name: "more rights for oneself", code: `ctl("delegate %s to=self rights=rw at=/tmp/f" % handle(f))`, want: "EPERM RIGHTS_EXCEED", trail: "ctl delegate handle…"},
	{name: "more rights in place", code: `ctl("attenuate %s rights=all" % handle(f))`, want: "EPERM RIGHTS_EXCEED", trail: "ctl attenuate handle…"},
	{name: "a directory beside", code: `ctl("delegate %s to=self object=%s/outside at=/tmp/f" % (handle(f), host))`, want: "EPERM RIGHTS_EXCEED", trail: "ctl delegate handle…"},
	{name: "a directory whose name goes on", code: `ctl("delegate %s to=self object=%s/foutside at=/tmp/f" % (handle(f), host))`, want: "EPERM RIGHTS_EXCEED", trail: "ctl delegate handle…"},
	{name: "the root of the host", code: `ctl("delegate %s to=self object=/ at=/tmp/f" % handle(f))`, want: "EPERM RIGHTS_EXCEED", trail: "ctl delegate handle…"},
	{name: "a directory through ..", code: `ctl("delegate %s to=self object=%s/f/../outside at=/tmp/f" % (handle(f), host))`, want: "EINVAL CAPABILITY_INVALID", trail: "ctl delegate handle…"},
	{name: "a directory through a symlink", code: `ctl("delegate %s to=self object=%s/f/link at=/tmp/f" % (handle(f), host))`, want: "EINVAL INVALID_ARGUMENT", why: "what is granted is the root for its links, where that one names nothing"},
	{name: "more memory", code: `ctl("attenuate %s bytes=1T" % handle("mem:"))`, want: "EPERM RIGHTS_EXCEED", trail: "ctl attenuate handle…"},
	{name: "memory from nowhere", code: `ctl("delegate %s to=self bytes=1T" % handle("mem:"))`, want: "EPERM RIGHTS_EXCEED", trail: "ctl delegate handle…"},
	{name: "the same memory twice", code: `
ctl("delegate %s to=self bytes=600M" % (h := handle("mem:"))); ctl("delegate %s to=neighbour bytes=600M" % h)`, want: "EDQUOT BUDGET_EXHAUSTED", trail: "ctl delegate handle…"},
	{name: "processes from nowhere", code: `ctl("delegate %s to=neighbour count=100000" % handle("proc:"))`, want: "EPERM RIGHTS_EXCEED", trail: "ctl delegate handle…"},
	{name: "debugging that one may not do", code: `ctl("delegate %s to=self rights=debug" % handle("proc:"))`, want: "EPERM RIGHTS_EXCEED", trail: "ctl delegate handle…"},
	{name: "a quota from nowhere", code: `ctl("delegate %s to=self quota=1M at=/tmp/q" % handle(q))`, want: "EPERM RIGHTS_EXCEED", trail: "ctl delegate handle…"},
	{name: "what is sealed", code: `ctl("delegate %s to=self at=/tmp/s" % handle(s))`, want: "EPERM CAPABILITY_SEALED", trail: "ctl delegate handle…"},
	{name: "move what is sealed", code: `ctl("move %s to=neighbour" % handle(s))`, want: "EPERM CAPABILITY_SEALED", trail: "ctl move handle…"},
	{name: "renew one's own", code: `ctl("renew %s lease=10h" % handle(l))`, want: "EPERM CAPABILITY_DENIED", trail: "ctl renew handle…"},
	{name: "a longer lease in place", code: `ctl("attenuate %s lease=10h" % handle(l))`, want: "EPERM RIGHTS_EXCEED", trail: "ctl attenuate handle…"},
	{name: "renew beyond what it came from", code: `
child_ = ctl("delegate %s to=neighbour lease=1m rights=read" % handle(l)).split()[2]
ctl("renew %s lease=10h" % child_)`, want: "EPERM RIGHTS_EXCEED", trail: "ctl renew…"},
	{name: "another badge", code: `ctl("attenuate %s badge=8" % handle(b))`, want: "EPERM RIGHTS_EXCEED", trail: "ctl attenuate handle…"},
	{name: "another badge for oneself", code: `ctl("delegate %s to=self badge=8 at=/tmp/b" % handle(b))`, want: "EPERM RIGHTS_EXCEED", trail: "ctl delegate handle…"},
	{name: "a handle that was revoked", code: `
h = ctl("delegate %s to=self at=/tmp/revoked" % handle(f)).split()[1]; ctl("revoke " + h)
ctl("delegate %s to=self at=/tmp/again" % h)`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl delegate handle…"},
	{name: "a handle whose origin was revoked", code: `
h = ctl("delegate %s to=self at=/tmp/first" % handle(f)).split()[1]
c = ctl("delegate %s to=self at=/tmp/second" % h).split()[1]; ctl("revoke " + h)
ctl("inspect " + c)`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl inspect handle…"},
	{name: "a handle that was moved", code: `
h = ctl("delegate %s to=self at=/tmp/moved" % handle(f)).split()[1]; ctl("move %s to=self at=/tmp/there" % h)
ctl("attenuate %s rights=read" % h)`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl attenuate handle…"},
	{name: "derive without end", code: `
h = handle(f)
while True: h = ctl("delegate %s to=self at=/tmp/deep" % h).split()[1]`, want: "ELOOP CAPABILITY_DEPTH_REACHED", trail: "ctl delegate handle…"},
	{name: "write what was handed on", code: `
h = ctl("delegate %s to=self quota=48K at=/tmp/q" % handle(q)).split()[1]; fd = os.open("/q/x", os.O_WRONLY | os.O_CREAT)
for _ in range(8): assert os.write(fd, b"x" * 8192) == 8192`, want: "EDQUOT", trail: "write $DIR/q/x"},

	{name: "signal without the right", code: `ctl("signal %s KILL" % handle("agent:"))`, want: "EPERM CAPABILITY_DENIED", trail: "ctl signal handle…"},
	{name: "pause without the right", code: `ctl("pause %s" % handle("agent:"))`, want: "EPERM CAPABILITY_DENIED", trail: "ctl pause handle…"},
	{name: "inspect another one", code: `ctl("inspect %s agent=rich" % handle("agent:"))`, want: "EPERM CAPABILITY_DENIED", trail: "ctl inspect handle…"},
	{name: "the right to signal", code: `ctl("delegate %s to=self rights=signal" % handle("agent:"))`, want: "EPERM RIGHTS_EXCEED", trail: "ctl delegate handle…"},
	{name: "the right to all agents", code: `ctl("delegate %s to=self object=*" % handle("agent:"))`, want: "EPERM RIGHTS_EXCEED", trail: "ctl delegate handle…"},
	{name: "pause with a capability to files", code: `ctl("pause %s agent=neighbour" % handle(f))`, want: "EINVAL CAPABILITY_INVALID", trail: "ctl pause handle…"},

	{name: "write to what is to be read", code: `os.open("/aios/self/caps", os.O_RDWR)`, want: "EACCES", trail: "ctl open /aios/self/caps"},
	{name: "change the mode of a file of the kernel", code: `os.chmod("/aios/self/caps", 0o777)`, want: "EPERM", why: "the kernel's files do not change"},
	{name: "remove a file of the kernel", code: `os.unlink("/aios/ctl")`, want: "EPERM", why: "the kernel's files do not change"},
	{name: "a command by sendfile", code: `os.sendfile(os.open("/aios/ctl", os.O_RDWR), os.open("/bin/sh", os.O_RDONLY), 0, 10)`, want: "EINVAL", why: "commands are written"},
	{name: "a command at an offset", code: `os.pwrite(os.open("/aios/ctl", os.O_RDWR), b"list", 1 << 40)`, want: "ESPIPE", why: "commands are written"},

	{name: "device: inspect a forged handle", code: `device("AIOS_IOC_INSPECT", struct.pack("<Q", 4242))`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl AIOS_IOC_INSPECT handle 4242"},
	{name: "device: delegate a forged handle", code: `device("AIOS_IOC_DELEGATE", change(4242, to=b"neighbour"))`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl AIOS_IOC_DELEGATE handle 4242"},
	{name: "device: attenuate a forged handle", code: `device("AIOS_IOC_ATTENUATE", change(2**64 - 1))`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl AIOS_IOC_ATTENUATE handle 18446744073709551615"},
	{name: "device: seal a forged handle", code: `device("AIOS_IOC_SEAL", ref(4242))`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl AIOS_IOC_SEAL handle 4242"},
	{name: "device: renew a forged handle", code: `device("AIOS_IOC_RENEW", ref(4242, lease=10**9))`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl AIOS_IOC_RENEW handle 4242"},
	{name: "device: revoke a forged handle", code: `device("AIOS_IOC_REVOKE", ref(4242))`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl AIOS_IOC_REVOKE handle 4242"},
	{name: "device: revoke what is another's", code: `device("AIOS_IOC_REVOKE", ref(id=theirs.encode()))`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl AIOS_IOC_REVOKE $THEIRS"},
	{name: "device: renew what is another's", code: `device("AIOS_IOC_RENEW", ref(id=theirs.encode(), lease=2**63 - 1))`, want: "EBADF CAPABILITY_NOT_FOUND", trail: "ctl AIOS_IOC_RENEW $THEIRS"},
	{name: "device: more rights", code: `device("AIOS_IOC_DELEGATE", change(handle(f), set=2, rights=31, to=b"neighbour"))`, want: "EPERM RIGHTS_EXCEED", trail: "ctl AIOS_IOC_DELEGATE handle…"},
	{name: "device: every bit of rights", code: `device("AIOS_IOC_ATTENUATE", change(handle(f), set=2, rights=2**32 - 1))`, want: "EPERM RIGHTS_EXCEED", trail: "ctl AIOS_IOC_ATTENUATE handle…"},
	{name: "device: more of every limit", code: `device("AIOS_IOC_ATTENUATE", change(handle("mem:"), set=4, limits=(2**64 - 1, 0, 0, 0, 0, 0)))`, want: "EPERM RIGHTS_EXCEED", trail: "ctl AIOS_IOC_ATTENUATE handle…"},
	{name: "device: a directory beside", code: `device("AIOS_IOC_DELEGATE", change(handle(f), set=1, object=(host + "/outside").encode(), to=b"neighbour"))`, want: "EPERM RIGHTS_EXCEED", trail: "ctl AIOS_IOC_DELEGATE handle…"},
	{name: "device: another badge", code: `device("AIOS_IOC_ATTENUATE", change(handle(b), set=1024, badge=8))`, want: "EPERM RIGHTS_EXCEED", trail: "ctl AIOS_IOC_ATTENUATE handle…"},
	{name: "device: what is sealed", code: `device("AIOS_IOC_DELEGATE", change(handle(s), to=b"neighbour"))`, want: "EPERM CAPABILITY_SEALED", trail: "ctl AIOS_IOC_DELEGATE handle…"},
	{name: "device: a longer lease", code: `device("AIOS_IOC_ATTENUATE", change(handle(l), set=512, lease=2**63 - 1))`, want: "EPERM RIGHTS_EXCEED", trail: "ctl AIOS_IOC_ATTENUATE handle…"},
	{name: "device: a lease before now", code: `device("AIOS_IOC_ATTENUATE", change(handle(l), set=512, lease=2**63))`, want: "EINVAL INVALID_ARGUMENT", why: "the call makes no sense"},
	{name: "device: bits that mean nothing", code: `device("AIOS_IOC_DELEGATE", change(handle(f), set=2**31, to=b"neighbour"))`, want: "EINVAL INVALID_ARGUMENT", why: "the call makes no sense"},
	{name: "device: a text without end", code: `device("AIOS_IOC_DELEGATE", change(handle(f), to=b"x" * 128))`, want: "EINVAL INVALID_ARGUMENT", why: "the call makes no sense"},
	{name: "device: memory that is not there", code: `call("ioctl", os.open("/dev/aios", os.O_RDWR), GIVEN["ioctls"]["AIOS_IOC_REVOKE"][0], 2**47 - 8)`, want: "EFAULT", why: "the call makes no sense"},
	{name: "device: memory of the kernel", code: `call("ioctl", os.open("/dev/aios", os.O_RDWR), GIVEN["ioctls"]["AIOS_IOC_LIST"][0], -4096)`, want: "EFAULT", why: "the call makes no sense"},
	{name: "device: memory that cannot be written", code: `
m = mapped(8192, 1, 0x22)
call("ioctl", os.open("/dev/aios", os.O_RDWR), GIVEN["ioctls"]["AIOS_IOC_LIST"][0], m)`, want: "EFAULT", why: "the call makes no sense"},
	{name: "device: a request of another size", code: `call("ioctl", os.open("/dev/aios", os.O_RDWR), 0xc0084107, addr(a := buf(b"", 64)))`, want: "ENOTTY", why: "there is no such request"},
	{name: "device: a request of a terminal", code: `call("ioctl", os.open("/dev/aios", os.O_RDWR), 0x5412, addr(a := buf(b"x")))`, want: "ENOTTY", why: "there is no such request"},
	{name: "device: a request to another file", code: `control(os.open("/aios/ctl", os.O_RDWR), "AIOS_IOC_REVOKE", ref(1))`, want: "ENOTTY", why: "there is no such request"},
	{name: "device: a request to a pipe", code: `control(os.pipe()[0], "AIOS_IOC_LIST", b"")`, want: "ENOTTY", why: "there is no such request"},
}

func runEscapeControl(t *testing.T, e *escape) {
	names := make(map[string]string)
	var flags []string
	for name, grant := range map[string]string{"f": ":ro", "q": ":rw,quota=64K", "s": ":ro,sealed", "l": ":ro,lease=1h", "b": ":ro,badge=7"} {
		dir := e.share(t, name, map[string]string{"file": "in it"})
		names[name] = "fs:" + dir + ":"
		flags = append(flags, "--grant", "fs:"+dir+grant+",at=/"+name)
	}
	must(t, os.Symlink("../outside", filepath.Join(e.dir, "f", "link")))
	e.share(t, "foutside", map[string]string{"canary": e.secret})
	rich := e.hostile(t, "rich", nil, "--grant", "fs:"+e.share(t, "r", nil)+":rw,at=/r")
	e.names["$THEIRS"] = e.in.capOf(t, "rich", "fs:").ID
	names["theirs"] = e.names["$THEIRS"]
	h := e.hostile(t, "forger", names, append(flags, "--grant", "agent:neighbour:inspect", "--grant", "mem:self,bytes=1G", "--grant", "proc:self:spawn+exec,count=64")...)
	before := rich.do(t, "caps", `caps()`)
	h.try(t, e.theme.rows)
	if after := rich.do(t, "caps", `caps()`); after != before {
		t.Errorf("another agent's capabilities were %s, and are %s", before, after)
	}
}
