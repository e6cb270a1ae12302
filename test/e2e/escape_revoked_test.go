package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// escapeRevoked is what an agent keeps from the time when it was allowed: of
// /g, which is revoked, after which the canary is in every file of it. The
// agent may also mount and make namespaces.
var escapeRevoked = []attempt{
	{name: "a kept descriptor", before: `fd = os.open("/g/f", os.O_RDWR)`, code: `os.read(fd, 64)`, want: "EACCES", trail: "read $DIR/g/f"},
	{name: "a kept descriptor, at an offset", before: `fd = os.open("/g/f", os.O_RDWR)`, code: `os.pread(fd, 64, 0)`, want: "EACCES", trail: "read $DIR/g/f"},
	{name: "a kept descriptor, in parts", before: `fd = os.open("/g/f", os.O_RDWR)`, code: `os.preadv(fd, [bytearray(8), bytearray(8)], 0, os.RWF_HIPRI)`, want: "EACCES", trail: "read $DIR/g/f"},
	{name: "write", before: `fd = os.open("/g/f", os.O_RDWR)`, code: `os.write(fd, b"x")`, want: "EACCES", trail: "write $DIR/g/f"},
	{name: "append", before: `fd = os.open("/g/f", os.O_WRONLY | os.O_APPEND)`, code: `os.pwritev(fd, [b"x"], 0)`, want: "EACCES", trail: "write $DIR/g/f"},
	{name: "a duplicate", before: `fd = os.dup2(os.open("/g/f", os.O_RDONLY), 200)`, code: `os.read(200, 64)`, want: "EACCES", trail: "read $DIR/g/f"},
	{name: "a duplicate made afterwards", before: `fd = os.open("/g/f", os.O_RDONLY)`, code: `os.read(fcntl.fcntl(fd, fcntl.F_DUPFD, 100), 64)`, want: "EACCES", trail: "read $DIR/g/f"},
	{name: "inherited by a child", before: `fd = os.open("/g/f", os.O_RDONLY); h = Held(lambda: os.read(fd, 64), lambda: None)`, code: `h.go()`, want: "EACCES", trail: "read $DIR/g/f"},
	{name: "inherited across exec", before: `
import subprocess
fd = os.open("/g/f", os.O_RDONLY); r, w = os.pipe(); os.set_inheritable(r, True)
p = subprocess.Popen(["sh", "-c", "read x; cat /proc/self/fd/%d" % fd], stdin=r, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[fd])`,
		code: `os.write(w, b"\n"); out, _ = p.communicate(); (out, p.returncode)`, want: "(b'', 1)", errno: "EACCES", trail: "open $DIR/g/f"},
	{name: "on its way through a socket", before: `a, b = socket.socketpair(); socket.send_fds(a, [b"x"], [os.open("/g/f", os.O_RDONLY)])`, code: `os.read(socket.recv_fds(b, 1, 1)[1][0], 64)`, want: "EACCES", trail: "read $DIR/g/f"},
	{name: "passed on afterwards", before: `fd = os.open("/g/f", os.O_RDONLY)`, code: `os.read(passed(fd), 64)`, want: "EACCES", trail: "read $DIR/g/f"},
	{name: "open it again", before: `fd = os.open("/g/f", os.O_RDONLY)`, code: `reads("/proc/self/fd/%d" % fd)`, want: "EACCES", trail: "open $DIR/g/f"},
	{name: "open a path descriptor", before: `fd = os.open("/g/f", os.O_PATH)`, code: `reads("/proc/self/fd/%d" % fd)`, want: "EACCES", trail: "open $DIR/g/f"},
	{name: "open through another process", before: `fd = os.open("/g/f", os.O_RDONLY); pid = sleeper()`, code: `reads("/proc/%d/fd/%d" % (pid, fd))`, want: "EACCES", trail: "open $DIR/g/f"},
	{name: "through the root of another process", before: `h = Held(lambda: reads("/f"), lambda: os.chroot("/g"))`, code: `h.go()`, want: "EACCES", trail: "open $DIR/g/f"},
	{name: "relative to a directory", before: `d = os.open("/g/sub", os.O_RDONLY)`, code: `os.open("f", os.O_RDONLY, dir_fd=d)`, want: "EACCES", trail: "open $DIR/g/sub/f"},
	{name: "relative to a path descriptor", before: `d = os.open("/g/sub", os.O_PATH)`, code: `os.open("../f", os.O_RDONLY, dir_fd=d)`, want: "EACCES", trail: "open $DIR/g/sub…"},
	{name: "openat2 relative to a directory", before: `d = os.open("/g/sub", os.O_PATH)`, code: `call("openat2", d, "f", addr(how := buf(struct.pack("<QQQ", 0, 0, 8))), 24)`, want: "EACCES", trail: "open $DIR/g/sub/f"},
	{name: "from the working directory", before: `h = Held(lambda: reads("f"), lambda: os.chdir("/g/sub"))`, code: `h.go()`, want: "EACCES", trail: "open $DIR/g/sub/f"},
	{name: "above the working directory", before: `h = Held(lambda: reads("../../outside/canary"), lambda: os.chdir("/g/sub"))`, code: `h.go()`, want: "EACCES", trail: "open $DIR/g/sub…"},
	{name: "change to a directory", before: `d = os.open("/g/sub", os.O_RDONLY)`, code: `os.fchdir(d)`, want: "EACCES", trail: "lookup $DIR/g/sub"},
	{name: "list a directory", before: `d = os.open("/g/sub", os.O_RDONLY)`, code: `call("getdents64", d, addr(b := buf(b"", 4096)), 4096)`, want: "EACCES", trail: "readdir $DIR/g/sub"},
	{name: "the path of the grant", before: `1`, code: `reads("/g/f")`, want: "ENOENT", why: "nothing is mounted there any more"},
	{name: "look at it", before: `fd = os.open("/g/f", os.O_RDONLY)`, code: `os.fstat(fd)`, want: "EACCES", trail: "stat $DIR/g/f"},
	{name: "look at it by its directory", before: `d = os.open("/g/sub", os.O_PATH)`, code: `os.stat("f", dir_fd=d)`, want: "EACCES", trail: "stat $DIR/g/sub/f"},
	{name: "seek", before: `fd = os.open("/g/f", os.O_RDONLY)`, code: `os.lseek(fd, 0, 2)`, want: "EACCES", trail: "seek $DIR/g/f"},
	{name: "truncate", before: `fd = os.open("/g/f", os.O_RDWR)`, code: `os.ftruncate(fd, 0)`, want: "EACCES", trail: "setattr $DIR/g/f"},
	{name: "change the mode", before: `fd = os.open("/g/f", os.O_RDWR)`, code: `os.fchmod(fd, 0)`, want: "EACCES", trail: "setattr $DIR/g/f"},
	{name: "allocate", before: `fd = os.open("/g/f", os.O_RDWR)`, code: `os.posix_fallocate(fd, 0, 1 << 20)`, want: "EACCES", trail: "fallocate $DIR/g/f"},
	{name: "sync", before: `fd = os.open("/g/f", os.O_RDWR)`, code: `os.fsync(fd)`, want: "EACCES", trail: "sync $DIR/g/f"},
	{name: "an attribute", before: `fd = os.open("/g/f", os.O_RDWR)`, code: `os.getxattr(fd, "user.x")`, want: "EACCES", trail: "getxattr $DIR/g/f"},
	{name: "an ioctl", before: `fd = os.open("/g/f", os.O_RDWR)`, code: `fcntl.ioctl(fd, 0x541b, bytearray(4))`, want: "EACCES", trail: "ioctl $DIR/g/f"},
	{name: "lock", before: `fd = os.open("/g/f", os.O_RDWR)`, code: `fcntl.flock(fd, fcntl.LOCK_EX)`, want: "EACCES", trail: "lock $DIR/g/f"},
	{name: "remove", before: `d = os.open("/g", os.O_RDONLY)`, code: `os.unlink("f", dir_fd=d)`, want: "EACCES", trail: "unlink $DIR/g/f"},
	{name: "make a directory", before: `d = os.open("/g", os.O_RDONLY)`, code: `os.mkdir("new", dir_fd=d)`, want: "EACCES", trail: "mkdir $DIR/g/new"},
	{name: "rename", before: `d = os.open("/g", os.O_RDONLY)`, code: `os.rename("f", "g", src_dir_fd=d, dst_dir_fd=d)`, want: "EACCES", trail: "lookup $DIR/g/f"},

	{name: "send to a pipe", before: `fd = os.open("/g/f", os.O_RDONLY); r, w = os.pipe()`, code: `os.sendfile(w, fd, 0, 64)`, want: "EACCES", trail: "stat $DIR/g/f"},
	{name: "splice to a pipe", before: `fd = os.open("/g/f", os.O_RDONLY); r, w = os.pipe()`, code: `os.splice(fd, w, 64)`, want: "EACCES", trail: "read $DIR/g/f"},
	{name: "copy to a file of one's own", before: `fd = os.open("/g/f", os.O_RDONLY); o = os.open("/tmp/copy", os.O_RDWR | os.O_CREAT)`, code: `os.copy_file_range(fd, o, 64)`, want: "EACCES", trail: "stat $DIR/g/f"},
	{name: "splice from a pipe", before: `fd = os.open("/g/f", os.O_RDWR); r, w = os.pipe(); os.write(w, b"x")`, code: `os.splice(r, fd, 1)`, want: "EACCES", trail: "write $DIR/g/f"},
	{name: "a transfer under way", before: `
fd = os.open("/g/big", os.O_RDONLY); r, w = os.pipe(); got = bytearray()
def move():
    while os.sendfile(w, fd, None, 1 << 20): pass
moving = Later(move)`, code: `
def drain():
    while part := os.read(r, 65536): got.extend(part)
drained = Later(drain); moving.ended() + (" and read" if b"secret" in got else "")`, want: "EACCES", trail: "read $DIR/g/big"},
	{name: "read in the background", before: `
fd = os.open("/g/f", os.O_RDONLY); ctx = buf(b"", 8); data = buf(b"", 64)
call("io_setup", 4, addr(ctx)); ctx = struct.unpack("<Q", ctx.raw[:8])[0]
cb = buf(struct.pack("<QIiHhIQQqQII", 0, 0, 0, 0, 0, fd, addr(data), 64, 0, 0, 0, 0))`, code: `
list_ = buf(struct.pack("<Q", addr(cb))); events = buf(b"", 32)
call("io_submit", ctx, 1, addr(list_)); call("io_getevents", ctx, 1, 1, addr(events), 0)
raise OSError(-struct.unpack("<QQqq", events.raw[:32])[2], data.raw)`, want: "EACCES", trail: "read $DIR/g/f"},

	{name: "a mapping", before: `m = mmap.mmap(os.open("/g/f", os.O_RDWR), 4096); m[0]`, code: `child(lambda: m[:64])`, want: "SIGBUS", trail: "fault $DIR/g/f", errno: "EACCES"},
	{name: "a mapping of a child", before: `m = mmap.mmap(os.open("/g/f", os.O_RDWR), 4096); m[0]; h = Held(lambda: m[:64], lambda: None)`, code: `h.go()`, want: "SIGBUS", trail: "fault $DIR/g/f", errno: "EACCES"},
	{name: "write to a mapping", before: `m = mmap.mmap(os.open("/g/f", os.O_RDWR), 4096); m[0] = m[0]`, code: `child(lambda: m.__setitem__(0, 1))`, want: "SIGBUS", trail: "fault $DIR/g/f", errno: "EACCES"},
	{name: "a private copy", before: `m = mmap.mmap(os.open("/g/f", os.O_RDWR), 4096, mmap.MAP_PRIVATE); m[0] = 1`, code: `child(lambda: m[:64])`, want: "SIGBUS", trail: "fault $DIR/g/f", errno: "EACCES"},
	{name: "a mapping of a closed file", before: `fd = os.open("/g/f", os.O_RDONLY); m = mapped(4096, 1, 1, fd); os.close(fd)`, code: `child(lambda: ctypes.string_at(m, 64))`, want: "SIGBUS", trail: "fault $DIR/g/f", errno: "EACCES"},
	{name: "a mapping that is moved", before: `m = mapped(4096, 1, 1, os.open("/g/f", os.O_RDONLY))`, code: `child(lambda: ctypes.string_at(call("mremap", m, 4096, 8192, 1), 64))`, want: "SIGBUS", trail: "fault $DIR/g/f", errno: "EACCES"},
	{name: "send a mapping", before: `m = mapped(4096, 1, 1, os.open("/g/f", os.O_RDONLY)); r, w = os.pipe()`, code: `call("write", w, m, 64)`, want: "EFAULT", trail: "fault $DIR/g/f", errno: "EACCES"},
	{name: "receive into a mapping", before: `m = mapped(4096, 3, 1, os.open("/g/f", os.O_RDWR)); r, w = os.pipe(); os.write(w, b"x" * 64)`, code: `call("read", r, m, 64)`, want: "EFAULT", trail: "fault $DIR/g/f", errno: "EACCES"},
	{name: "a mapping through /proc/self/mem", before: `m = mapped(4096, 1, 1, os.open("/g/f", os.O_RDONLY)); fd = os.open("/proc/self/mem", os.O_RDONLY)`, code: `os.pread(fd, 64, m)`, want: "EIO", trail: "fault $DIR/g/f", errno: "EACCES"},
	{name: "map it again", before: `fd = os.open("/g/f", os.O_RDONLY)`, code: `mapped(4096, 1, 1, fd)`, want: "EACCES", trail: "mmap $DIR/g/f"},
	{name: "a running program", before: `
import subprocess
p = subprocess.Popen(["/g/sh", "-c", "echo; while :; do :; done"], stdout=subprocess.PIPE); p.stdout.read(1)`, code: `signal.Signals(-p.wait(20)).name`, want: "SIGBUS", trail: "fault $DIR/g/sh", errno: "EACCES"},
	{name: "execute a descriptor", before: `fd = os.open("/g/prog", os.O_RDONLY)`, code: `child(lambda: call("execveat", fd, "", 0, 0, 0x1000))`, want: "EACCES", trail: "open $DIR/g/prog"},
	{name: "execute a path descriptor", before: `fd = os.open("/g/prog", os.O_PATH)`, code: `child(lambda: os.execv("/proc/self/fd/%d" % fd, ["x"]))`, want: "EACCES", trail: "open $DIR/g/prog"},
	{name: "execute from a directory", before: `d = os.open("/g", os.O_PATH)`, code: `child(lambda: call("execveat", d, "prog", 0, 0, 0))`, want: "EACCES", trail: "open $DIR/g/prog"},

	{name: "blocked for a lock", before: `
fcntl.flock(os.open("/g/f", os.O_RDWR), fcntl.LOCK_EX); fd = os.open("/g/f", os.O_RDWR)
blocked = Later(lambda: fcntl.flock(fd, fcntl.LOCK_EX))`, code: `blocked.ended()`, want: "EACCES", trail: "lock $DIR/g/f"},
	{name: "blocked for a record lock", before: `

def hold():
    global kept
    kept = os.open("/g/sub/f", os.O_RDWR); fcntl.lockf(kept, fcntl.LOCK_EX)
h = Held(lambda: 0, hold); fd = os.open("/g/sub/f", os.O_RDWR)
blocked = Later(lambda: fcntl.lockf(fd, fcntl.LOCK_EX))`, code: `blocked.ended()`, want: "EACCES", trail: "lock $DIR/g/sub/f"},
	{name: "blocked in opening a pipe", before: `os.mkfifo("/g/closed"); blocked = Later(lambda: os.open("/g/closed", os.O_RDONLY))`, code: `blocked.ended()`, want: "EACCES", trail: "open $DIR/g/closed"},
	{name: "blocked in reading a pipe", before: `os.mkfifo("/g/p"); fd = os.open("/g/p", os.O_RDWR); blocked = Later(lambda: os.read(fd, 64))`, code: `blocked.ended()`, want: "EACCES", trail: "read $DIR/g/p"},
	{name: "blocked in polling a pipe", before: `
os.mkfifo("/g/polled"); fd = os.open("/g/polled", os.O_RDWR); e = select.epoll(); e.register(fd, select.EPOLLIN)
blocked = Later(lambda: e.poll())`, code: `blocked.ended() != "still blocked" and os.read(fd, 64)`, want: "EACCES", trail: "read $DIR/g/polled"},
	{name: "a connection", before: `
s = socket.socket(socket.AF_UNIX); s.bind("/g/s"); s.listen(); c = socket.socket(socket.AF_UNIX); c.connect("/g/s"); c.send(b"x")`, code: `c.send(b"x")`, want: "EACCES", trail: "send or receive $DIR/g…"},
	{name: "connect again", before: `
s = socket.socket(socket.AF_UNIX); s.bind("/g/again"); s.listen(); fd = os.open("/g/again", os.O_PATH)`, code: `socket.socket(socket.AF_UNIX).connect("/proc/self/fd/%d" % fd)`, want: "EACCES", trail: "connect $DIR/g/again"},
	{name: "a watch", before: `i = call("inotify_init1", 0o4000); call("inotify_add_watch", i, "/g", 0x400)`, code: `struct.unpack("<iI", os.read(i, 4096)[-16:][:8])[1] == 0x8000`, want: "True", why: "the watch has ended, which is told and not refused"},
	{name: "watch again", before: `i = call("inotify_init1", 0); fd = os.open("/g/sub", os.O_PATH)`, code: `call("inotify_add_watch", i, "/proc/self/fd/%d" % fd, 0xfff)`, want: "EACCES", trail: "lookup $DIR/g/sub"},

	{name: "mounted elsewhere", before: `
def elsewhere():
    enter(); os.mkdir("/tmp/keep"); call("mount", "/g", "/tmp/keep", 0, 4096, 0)
h = Held(lambda: reads("/tmp/keep/f"), elsewhere)`, code: `h.go()`, want: "EACCES", trail: "open $DIR/g/f"},
	{name: "in a namespace of one's own", before: `h = Held(lambda: reads("/g/f"), enter)`, code: `h.go()`, want: "EACCES", trail: "open $DIR/g/f"},
	{name: "mount it elsewhere afterwards", before: `
fd = os.open("/g", os.O_PATH)
def elsewhere():
    os.mkdir("/tmp/later"); call("mount", "/proc/self/fd/%d" % fd, "/tmp/later", 0, 4096, 0); return reads("/tmp/later/f")
h = Held(elsewhere, enter)`, code: `h.go()`, want: "EACCES", trail: "stat $DIR/g"},
}

// escapeNarrowed is the same of /n, which is made a grant to read.
var escapeNarrowed = []attempt{
	{name: "narrowed: write", before: `fd = os.open("/n/f", os.O_RDWR)`, code: `os.write(fd, b"x")`, want: "EROFS", trail: "write $DIR/n/f"},
	{name: "narrowed: truncate", before: `fd = os.open("/n/f", os.O_RDWR)`, code: `os.ftruncate(fd, 0)`, want: "EROFS", trail: "setattr $DIR/n/f"},
	{name: "narrowed: open again", before: `fd = os.open("/n/f", os.O_RDWR)`, code: `writes("/proc/self/fd/%d" % fd)`, want: "EROFS", trail: "open $DIR/n/f"},
	{name: "narrowed: map to write", before: `fd = os.open("/n/f", os.O_RDWR)`, code: `mapped(4096, 3, 1, fd)`, want: "EROFS", trail: "mmap $DIR/n/f"},
	{name: "narrowed: write to a mapping", before: `m = mmap.mmap(os.open("/n/f", os.O_RDWR), 4096); m[0] = m[0]`, code: `child(lambda: m.__setitem__(0, 1))`, want: "SIGBUS", trail: "fault $DIR/n/f", errno: "EACCES"},
	{name: "narrowed: make a file", before: `d = os.open("/n", os.O_RDONLY)`, code: `os.open("new", os.O_WRONLY | os.O_CREAT, dir_fd=d)`, want: "EROFS", trail: "open $DIR/n/new"},
	{name: "narrowed: execute", before: `fd = os.open("/n/prog", os.O_RDONLY)`, code: `child(lambda: call("execveat", fd, "", 0, 0, 0x1000))`, want: "EACCES", trail: "open $DIR/n/prog"},
	// /o is made a grant of a directory below.
	{name: "a part: what was open", before: `fd = os.open("/o/f", os.O_RDONLY)`, code: `os.read(fd, 64)`, want: "EACCES", trail: "read $DIR/o/f"},
	{name: "a part: what is above", before: `d = os.open("/o/sub", os.O_RDONLY)`, code: `os.open("../f", os.O_RDONLY, dir_fd=d)`, want: "EACCES", trail: "open $DIR/o…"},
	{name: "a part: the whole path", before: `1`, code: `reads("/o/f")`, want: "ENOENT", why: "only the part is mounted, where it was before"},
	// The lease of /l ends.
	{name: "expired: read", before: `fd = os.open("/l/f", os.O_RDONLY)`, code: `os.read(fd, 64)`, want: "EACCES", trail: "read $DIR/l/f"},
	{name: "expired: a mapping", before: `m = mmap.mmap(os.open("/l/f", os.O_RDWR), 4096); m[0]`, code: `child(lambda: m[:64])`, want: "SIGBUS", trail: "fault $DIR/l/f", errno: "EACCES"},
	{name: "expired: a lock", before: `
fcntl.flock(os.open("/l/f", os.O_RDWR), fcntl.LOCK_EX); fd = os.open("/l/f", os.O_RDWR)
blocked = Later(lambda: fcntl.flock(fd, fcntl.LOCK_EX))`, code: `blocked.ended()`, want: "EACCES", trail: "lock $DIR/l/f"},
	{name: "expired: the working directory", before: `h = Held(lambda: reads("f"), lambda: os.chdir("/l"))`, code: `h.go()`, want: "EACCES", trail: "open $DIR/l/f"},
}

// escapeLost is what is kept from rights to calls that are revoked.
var escapeLost = []attempt{
	{name: "lost: connect a socket", before: `s = socket.socket()`, code: `s.connect(("127.0.0.1", 80))`, want: "EACCES", trail: "connect AF_INET"},
	{name: "lost: send a datagram", before: `s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)`, code: `s.sendto(b"x", ("127.0.0.1", 80))`, want: "EACCES", trail: "sendto AF_INET"},
	{name: "lost: accept", before: `s = socket.create_server(("127.0.0.1", 0))`, code: `s.accept()`, want: "EACCES", trail: "accept4 AF_INET"},
	{name: "lost: bind", before: `s = socket.socket()`, code: `s.bind(("127.0.0.1", 0))`, want: "EACCES", trail: "bind AF_INET"},
	{name: "lost: a connection", before: `
s = socket.create_server(("127.0.0.1", 0)); c = socket.create_connection(s.getsockname()); a, _ = s.accept()`, code: `
try:
    while True: c.send(b"x")
except ConnectionError:
    got = "ended"
got`, want: "ended", why: "the network ends the connection"},
	{name: "lost: a mount that was prepared", before: `h = Held(lambda: call("mount", "none", "/mnt", "tmpfs", 0, 0), enter)`, code: `h.go()`, want: "EPERM", trail: "mount"},
	{name: "lost: a namespace that was opened", before: `fd = os.open("/proc/self/ns/uts", os.O_RDONLY)`, code: `call("setns", fd, 0)`, want: "EPERM", trail: "setns"},
	{name: "lost: a process that is traced", before: `p = sleeper(); call("ptrace", 16, p, 0, 0); os.waitpid(p, 0)`, code: `call("ptrace", 1, p, addr(b"x" if 0 else buf(b"x")), addr(out := buf(b"", 8)))`, want: "EPERM", trail: "ptrace"},
	{name: "lost: the open memory of a process", before: `p = sleeper(); fd = os.open("/proc/%d/mem" % p, os.O_RDONLY)`, code: `os.pread(fd, 8, addr(buf(b"x")))`, want: "EPERM", trail: "read /proc/PID/mem"},
	{name: "lost: a file of memory", before: `fd = call("memfd_create", "x", 0); os.ftruncate(fd, 4096)`, code: `mapped(4096, 5, 2, fd)`, want: "EACCES", trail: "mmap a file of memory"},
	{name: "lost: a program in memory", before: `fd = call("memfd_create", "x", 0); os.write(fd, open("/bin/true", "rb").read())`, code: `child(lambda: call("execveat", fd, "", 0, 0, 0x1000))`, want: "EACCES", trail: "execveat…"},
	{name: "lost: a program in memory, by its path", before: `fd = call("memfd_create", "x", 0); os.write(fd, open("/bin/true", "rb").read())`, code: `child(lambda: os.execv("/proc/self/fd/%d" % fd, ["x"]))`, want: "EACCES", trail: "execve a file of memory"},
	{name: "lost: an interpreter in memory", before: `
fd = call("memfd_create", "x", 0); os.write(fd, open("/bin/true", "rb").read())
open("/tmp/script", "w").write("#!/proc/self/fd/%d\n" % fd); os.chmod("/tmp/script", 0o755)`, code: `child(lambda: os.execv("/tmp/script", ["x"]))`, want: "EACCES", trail: "open a file of memory through /proc"},
	{name: "lost: a loader in memory", before: `
loader = os.open("/lib64/ld-linux-x86-64.so.2", os.O_RDONLY)
fd = call("memfd_create", "x", 0); os.dup2(fd, 9); os.sendfile(9, loader, 0, 1 << 24)
true = open("/bin/true", "rb").read(); name = b"/proc/self/fd/9"; own = b"/lib64/ld-linux-x86-64.so.2"; assert own in true
open("/tmp/true", "wb").write(true.replace(own, name.ljust(len(own), b"\0"))); os.chmod("/tmp/true", 0o755)`, code: `child(lambda: os.execv("/tmp/true", ["x"]))`, want: "EACCES", trail: "open a file of memory through /proc"},
	{name: "lost: write to memory, execute it elsewhere", before: `fd = call("memfd_create", "x", 0); os.ftruncate(fd, 4096); m = mapped(4096, 1, 1, fd)`, code: `call("mprotect", m, 4096, 5)`, want: "EACCES", trail: "mprotect"},
	{name: "lost: another process", before: `1`, code: `sleeper()`, want: "EAGAIN", trail: "clone"},
	{name: "lost: another program", before: `1`, code: `os.execv("/bin/true", ["true"])`, want: "EACCES", trail: "execve /bin/true"},
	{name: "lost: a thread", before: `1`, code: `call("clone", 0x10f00, 0, 0, 0, 0)`, want: "EAGAIN", trail: "clone"},
}

func runEscapeRevoked(t *testing.T, e *escape) {
	program, err := os.ReadFile("/bin/true")
	must(t, err)
	shell, err := os.ReadFile("/bin/sh")
	must(t, err)
	var flags []string
	for _, name := range []string{"g", "n", "o", "l"} {
		files := map[string]string{"f": "old " + strings.Repeat("x", 4096), "prog": string(program), "sh": string(shell), "big": strings.Repeat("old", 1<<20)}
		dir := e.share(t, name, files)
		e.share(t, name+"/sub", map[string]string{"f": "old"})
		flags = append(flags, "--grant", "fs:"+dir+":rw,at=/"+name)
	}
	for _, g := range []string{"sys:mount", "sys:namespace", "net:loopback", "proc:self,count=256", "mem:self,bytes=1G"} {
		flags = append(flags, "--grant", g)
	}
	h := e.hostile(t, "holder", nil, flags...)
	revoke := func(grant string) {
		e.in.ok(t, "cap", "revoke", e.in.capOf(t, "holder", grant).ID)
	}
	h.prepare(t, escapeRevoked)
	revoke("fs:" + e.dir + "/g:")
	e.plant(t, "g")
	h.try(t, escapeRevoked)

	h.prepare(t, escapeNarrowed)
	e.in.ok(t, "cap", "attenuate", "--rights", "read", e.in.capOf(t, "holder", "fs:"+e.dir+"/n:").ID)
	e.in.ok(t, "cap", "attenuate", "--object", e.dir+"/o/sub", e.in.capOf(t, "holder", "fs:"+e.dir+"/o:").ID)
	e.in.ok(t, "cap", "attenuate", "--lease", "1ms", e.in.capOf(t, "holder", "fs:"+e.dir+"/l:").ID)
	time.Sleep(50 * time.Millisecond)
	e.plant(t, "o")
	e.plant(t, "l")
	h.try(t, escapeNarrowed)

	h.prepare(t, escapeLost)
	for _, grant := range []string{"net:", "sys:mount", "sys:namespace"} {
		revoke(grant)
	}
	e.in.ok(t, "cap", "attenuate", "--rights", "map", e.in.capOf(t, "holder", "mem:").ID)
	e.in.ok(t, "cap", "attenuate", "--rights", "spawn+exec", e.in.capOf(t, "holder", "proc:").ID)
	for _, a := range escapeLost {
		if a.name == "lost: another process" {
			revoke("proc:")
		}
		h.attack(t, a)
	}
}

// prepare does what attempts do while it is allowed.
func (h *hostile) prepare(t *testing.T, rows []attempt) {
	t.Helper()
	for _, a := range rows {
		if got := h.do(t, a.name, a.before+"\n0"); got != "0" {
			t.Errorf("%s: before: %s", a.name, got)
		}
	}
}

// plant puts the secret into what an agent cannot read any more.
func (e *escape) plant(t *testing.T, name string) {
	t.Helper()
	for _, f := range []string{"f", "big", "sub/f"} {
		must(t, os.WriteFile(filepath.Join(e.dir, name, f), []byte(strings.Repeat(e.secret+"\n", 200)), 0o755))
	}
}
