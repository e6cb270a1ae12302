package e2e

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// escapeFiles are ways around a grant of files, of an agent that has
//
//	/ro    to read and execute        /add   to read, write and create
//	/read  to read                    /drop  to read and delete
//	/rw    everything, 64 KiB and 8 files more than there are
//
// and all that every agent has, its own root included.
var escapeFiles = []attempt{
	{name: "write to what is to be read", code: `writes("/ro/f")`, want: "EROFS", trail: "open $DIR/ro/f"},
	{name: "read and write", code: `writes("/ro/f", os.O_RDWR)`, want: "EROFS", trail: "open $DIR/ro/f"},
	{name: "append", code: `writes("/ro/f", os.O_WRONLY | os.O_APPEND)`, want: "EROFS", trail: "open $DIR/ro/f"},
	{name: "truncate while reading", code: `os.open("/ro/f", os.O_RDONLY | os.O_TRUNC)`, want: "EROFS", trail: "open $DIR/ro/f"},
	{name: "every flag", code: `call("open", "/ro/f", 0x7fffffff & ~0o30200300, 0o7777)`, want: "EROFS", trail: "open $DIR/ro/f"},
	{name: "through a symlink of one's own", code: `os.symlink("/ro/f", "/tmp/l"); writes("/tmp/l")`, want: "EROFS", trail: "open $DIR/ro/f"},
	{name: "through a chain of symlinks", code: `
os.symlink("/proc/self/root/tmp/b", "/tmp/a"); os.symlink("../rw/../proc/1/root/ro/./f", "/tmp/b")
writes("/tmp/a")`, want: "EROFS", trail: "open $DIR/ro/f"},
	{name: "through a symlink in another grant", code: `os.symlink("../ro/f", "/rw/l"); writes("/rw/l")`, want: "EROFS", trail: "open $DIR/ro/f"},
	{name: "through ..", code: `writes("/rw/../usr/../ro/../ro/f")`, want: "EROFS", trail: "open $DIR/ro/f"},
	{name: "through /proc/self/root", code: `writes("/proc/self/root/ro/f")`, want: "EROFS", trail: "open $DIR/ro/f"},
	{name: "through the root of another process", code: `writes("/proc/%d/root/ro/f" % sleeper())`, want: "EROFS", trail: "open $DIR/ro/f"},
	{name: "through the working directory", code: `os.chdir("/ro"); writes("/proc/self/cwd/f")`, want: "EROFS", trail: "open $DIR/ro/f"},
	{name: "open a descriptor again", code: `writes("/proc/self/fd/%d" % os.open("/ro/f", os.O_RDONLY), os.O_RDWR)`, want: "EROFS", trail: "open $DIR/ro/f"},
	{name: "open a path descriptor again", code: `writes("/proc/self/fd/%d" % os.open("/ro/f", os.O_PATH))`, want: "EROFS", trail: "open $DIR/ro/f"},
	{name: "open the descriptor of a thread again", code: `
fd = os.open("/ro/f", os.O_RDONLY)
writes("/proc/thread-self/fd/%d" % fd)`, want: "EROFS", trail: "open $DIR/ro/f"},
	{name: "relative to a descriptor", code: `os.open("f", os.O_WRONLY, dir_fd=os.open("/ro", os.O_RDONLY))`, want: "EROFS", trail: "open $DIR/ro/f"},
	{name: "openat2 in a root of one's own", code: `
call("openat2", os.open("/ro", os.O_PATH), "/../../f", addr(how := buf(struct.pack("<QQQ", 2, 0, 0x10))), 24)`, want: "EROFS", trail: "open $DIR/ro/f"},
	{name: "after chroot", code: `
def go():
    os.chroot("/ro"); return writes("/f")
child(go)`, want: "EROFS", trail: "open $DIR/ro/f"},
	{name: "as another user", code: `
def go():
    os.setgid(1000); os.setuid(1000); return writes("/ro/f")
child(go)`, want: "EROFS", trail: "open $DIR/ro/f"},
	{name: "make a file", code: `os.open("/ro/new", os.O_WRONLY | os.O_CREAT, 0o666)`, want: "EROFS", trail: "open $DIR/ro/new"},
	{name: "make a directory", code: `os.mkdir("/ro/new")`, want: "EROFS", trail: "mkdir $DIR/ro/new"},
	{name: "make a symlink", code: `os.symlink("/", "/ro/new")`, want: "EROFS", trail: "symlink $DIR/ro/new"},
	{name: "make a hard link", code: `os.link("/ro/f", "/ro/new")`, want: "EROFS", trail: "link $DIR/ro/new"},
	{name: "make a pipe", code: `os.mkfifo("/ro/new")`, want: "EROFS", trail: "mknod $DIR/ro/new"},
	{name: "bind a socket", code: `socket.socket(socket.AF_UNIX).bind("/ro/new")`, want: "EROFS", trail: "mknod $DIR/ro/new"},
	{name: "remove a file", code: `os.unlink("/ro/f")`, want: "EROFS", trail: "unlink $DIR/ro/f"},
	{name: "remove a directory", code: `os.rmdir("/ro/sub")`, want: "EROFS", trail: "rmdir $DIR/ro/sub"},
	{name: "rename", code: `os.rename("/ro/f", "/ro/g")`, want: "EROFS", trail: "rename $DIR/ro/f"},
	{name: "exchange", code: `call("renameat2", -100, "/ro/f", -100, "/ro/prog", 2)`, want: "EROFS", trail: "rename $DIR/ro/f"},
	{name: "change the mode", code: `os.chmod("/ro/f", 0o777)`, want: "EROFS", trail: "setattr $DIR/ro/f"},
	{name: "change the mode of a descriptor", code: `os.fchmod(os.open("/ro/f", os.O_RDONLY), 0o777)`, want: "EROFS", trail: "setattr $DIR/ro/f"},
	{name: "change the owner", code: `os.chown("/ro/f", 1000, 1000)`, want: "EROFS", trail: "setattr $DIR/ro/f"},
	{name: "change the times", code: `os.utime("/ro/f", (1, 1))`, want: "EROFS", trail: "setattr $DIR/ro/f"},
	{name: "truncate", code: `os.truncate("/ro/f", 0)`, want: "EROFS", trail: "setattr $DIR/ro/f"},
	{name: "set an attribute", code: `os.setxattr("/ro/f", "user.x", b"1")`, want: "EROFS", trail: "setxattr $DIR/ro/f"},
	{name: "allocate through a descriptor to read", code: `call("fallocate", os.open("/ro/f", os.O_RDONLY), 0, 0, 1 << 20)`, want: "EBADF", why: "the descriptor is not open for writing"},

	{name: "execute what is to be read", code: `child(lambda: os.execv("/read/prog", ["x"]))`, want: "EACCES", trail: "open $DIR/read/prog"},
	{name: "execute a descriptor", code: `
fd = os.open("/read/prog", os.O_RDONLY)
child(lambda: call("execveat", fd, "", 0, 0, 0x1000))`, want: "EACCES", trail: "open $DIR/read/prog"},
	{name: "execute through /proc", code: `
fd = os.open("/read/prog", os.O_PATH)
child(lambda: os.execv("/proc/self/fd/%d" % fd, ["x"]))`, want: "EACCES", trail: "open $DIR/read/prog"},
	{name: "execute as an interpreter", code: `
open("/tmp/script", "w").write("#!/read/prog\n"); os.chmod("/tmp/script", 0o755)
child(lambda: os.execv("/tmp/script", ["x"]))`, want: "EACCES", trail: "open $DIR/read/prog"},
	{name: "execute with the loader", code: `
import subprocess
subprocess.run(["/lib64/ld-linux-x86-64.so.2", "/read/prog"], stderr=subprocess.DEVNULL).returncode`, want: "127", errno: "EACCES", trail: "mmap $DIR/read/prog"},
	{name: "map executable", code: `mapped(4096, 5, 2, os.open("/read/prog", os.O_RDONLY))`, want: "EACCES", trail: "mmap $DIR/read/prog"},
	{name: "make what is mapped executable", code: `call("mprotect", mapped(4096, 1, 2, os.open("/read/prog", os.O_RDONLY)), 4096, 5)`, want: "EACCES", trail: "mprotect files that may not be executed"},
	{name: "make what is mapped shared writable", code: `call("mprotect", mapped(4096, 1, 1, os.open("/ro/f", os.O_RDONLY)), 4096, 3)`, want: "EACCES", why: "the descriptor is not open for writing"},

	{name: "delete without the right", code: `os.unlink("/add/f")`, want: "EACCES", trail: "unlink $DIR/add/f"},
	{name: "rename without the right", code: `os.rename("/add/f", "/add/g")`, want: "EACCES", trail: "rename $DIR/add/f"},
	{name: "rename over another file", code: `open("/add/mine", "w").close(); os.rename("/add/mine", "/add/f")`, want: "EACCES", trail: "rename $DIR/add/mine"},
	{name: "create where there is only deleting", code: `open("/drop/new", "w")`, want: "EACCES", trail: "open $DIR/drop/new"},
	{name: "write where there is only deleting", code: `writes("/drop/f")`, want: "EACCES", trail: "open $DIR/drop/f"},
	{name: "rename where there is only deleting", code: `os.rename("/drop/f", "/drop/g")`, want: "EACCES", trail: "rename $DIR/drop/g"},
	{name: "from one grant to another", code: `os.rename("/drop/f", "/rw/f")`, want: "EXDEV", why: "files are not renamed between mounts"},
	{name: "a hard link from one grant to another", code: `os.link("/ro/f", "/rw/hard")`, want: "EXDEV", why: "there are no links between mounts"},
	{name: "a hard link of a descriptor", code: `os.link("/proc/self/fd/%d" % os.open("/ro/f", os.O_RDONLY), "/rw/hard", follow_symlinks=True)`, want: "EXDEV", why: "there are no links between mounts"},

	{name: "a set-user-ID bit", code: `open("/rw/suid", "w").close(); os.chmod("/rw/suid", 0o4755)`, want: "EPERM", trail: "chmod $DIR/rw/suid"},
	{name: "a set-group-ID bit through a descriptor", code: `os.fchmod(os.open("/rw/suid", os.O_RDWR | os.O_CREAT), 0o2755)`, want: "EPERM", trail: "chmod $DIR/rw/suid"},
	{name: "create with a set-user-ID bit", code: `os.umask(0); os.open("/rw/suid2", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o6755)`, want: "EPERM", trail: "open $DIR/rw/suid2"},
	{name: "make a node with a set-user-ID bit", code: `os.mknod("/rw/suid3", 0o104755)`, want: "EPERM", trail: "mknod $DIR/rw/suid3"},
	{name: "file capabilities", code: `os.setxattr("/rw/f", "security.capability", struct.pack("<5I", 0x2000001, ~0 & 0xffffffff, 0, 0, 0))`, want: "EPERM", trail: "setxattr $DIR/rw/f"},
	{name: "trusted attributes", code: `os.setxattr("/rw/f", "trusted.overlay.opaque", b"y")`, want: "EPERM", trail: "setxattr $DIR/rw/f"},
	{name: "a set-user-ID program of the host", code: `
def go():
    os.setgid(1000); os.setuid(1000)
    import subprocess
    return subprocess.run(["/ro/suid", "-u"], capture_output=True, text=True).stdout.strip()
child(go)`, want: "1000", why: "such bits mean nothing in a grant"},

	{name: "more bytes than the quota", code: `
fd = os.open("/rw/big", os.O_RDWR | os.O_CREAT); n = 0
while True: n += os.write(fd, b"x" * 10000)`, want: "EDQUOT", trail: "write $DIR/rw/big"},
	{name: "bytes far behind the end", code: `os.pwrite(os.open("/rw/big", os.O_RDWR), b"x", 1 << 50)`, want: "EDQUOT", trail: "write $DIR/rw/big"},
	{name: "room beyond the quota", code: `os.posix_fallocate(os.open("/rw/big", os.O_RDWR), 0, 1 << 30)`, want: "EDQUOT", trail: "fallocate $DIR/rw/big"},
	{name: "room without end", code: `call("fallocate", os.open("/rw/big", os.O_RDWR), 0, 1 << 62, 1 << 62)`, want: "EFBIG", why: "no file is so large"},
	{name: "a length beyond the quota", code: `os.truncate("/rw/big", 1 << 40)`, want: "EDQUOT", trail: "truncate $DIR/rw/big"},
	{name: "a negative length", code: `os.truncate("/rw/big", -1)`, want: "EINVAL", why: "the call makes no sense"},
	{name: "sendfile beyond the quota", code: `
os.lseek(fd := os.open("/rw/big", os.O_RDWR), 0, 2)
os.sendfile(fd, os.open("/bin/sh", os.O_RDONLY), 0, 10000)`, want: "EDQUOT", trail: "write $DIR/rw/big"},
	{name: "splice beyond the quota", code: `
os.lseek(fd := os.open("/rw/big", os.O_RDWR), 0, 2)
r, w = os.pipe(); os.write(w, b"x" * 4096)
os.splice(r, fd, 4096)`, want: "EDQUOT", trail: "write $DIR/rw/big"},
	{name: "copy_file_range beyond the quota", code: `
os.lseek(fd := os.open("/rw/big", os.O_RDWR), 0, 2)
os.copy_file_range(os.open("/rw/big", os.O_RDONLY), fd, 4096)`, want: "EDQUOT", trail: "write $DIR/rw/big"},
	{name: "write in the background beyond the quota", code: `
fd = os.open("/rw/big", os.O_RDWR); ctx = buf(b"", 8); data = buf(b"x" * 4096)
call("io_setup", 4, addr(ctx)); ctx = struct.unpack("<Q", ctx.raw[:8])[0]
cb = buf(struct.pack("<QIiHhIQQqQII", 0, 0, 0, 1, 0, fd, addr(data), 4096, 1 << 20, 0, 0, 0))
list_ = buf(struct.pack("<Q", addr(cb))); events = buf(b"", 32)
call("io_submit", ctx, 1, addr(list_)); call("io_getevents", ctx, 1, 1, addr(events), 0)
raise OSError(-struct.unpack("<QQqq", events.raw[:32])[2], "")`, want: "EDQUOT", trail: "write $DIR/rw/big"},
	{name: "more files than the quota", code: `
for i in range(20): open("/rw/n%d" % i, "w").close()`, want: "EDQUOT", trail: "open $DIR/rw/n…"},
	{name: "a directory beyond the quota", code: `os.mkdir("/rw/more")`, want: "EDQUOT", trail: "mkdir $DIR/rw/more"},

	{name: "a device of the host", code: `os.open("/ro/null", os.O_RDONLY)`, want: "EACCES", trail: "open $DIR/ro/null"},
	{name: "a socket of the host, to read", code: `socket.socket(socket.AF_UNIX).connect("/ro/socket")`, want: "EROFS", trail: "connect $DIR/ro/socket"},
	{name: "a socket of the host, to write", code: `socket.socket(socket.AF_UNIX).connect("/rw/socket")`, want: "ECONNREFUSED", why: "no program of the host listens inside"},
	{name: "an ioctl on a file", code: `fcntl.ioctl(os.open("/rw/f", os.O_RDWR), 0x40086602, b"\0" * 8)`, want: "ENOTTY", why: "files have none"},
	{name: "a host path by a symlink of the host", code: `reads("/ro/absolute")`, want: "ENOENT", why: "inside, that path names nothing"},
	{name: "a host path by a symlink with ..", code: `reads("/ro/relative")`, want: "ENOENT", why: "inside, that path names nothing"},
	{name: "above a grant", code: `os.chdir("/ro/sub"); reads("../../outside/canary")`, want: "ENOENT", why: "what is above is the agent's own root"},
	{name: "the host path of a grant", code: `reads(canary)`, want: "ENOENT", why: "inside, that path names nothing"},
}

func runEscapeFiles(t *testing.T, e *escape) {
	program, err := os.ReadFile("/bin/true")
	must(t, err)
	id, err := os.ReadFile("/usr/bin/id")
	must(t, err)
	ro := e.share(t, "ro", map[string]string{"f": "to read", "prog": string(program), "suid": string(id)})
	read := e.share(t, "read", map[string]string{"prog": string(program)})
	rw := e.share(t, "rw", map[string]string{"f": "to write"})
	add := e.share(t, "add", map[string]string{"f": "to add to"})
	drop := e.share(t, "drop", map[string]string{"f": "to delete"})
	must(t, os.Mkdir(filepath.Join(ro, "sub"), 0o755))
	must(t, os.Symlink(e.canary, filepath.Join(ro, "absolute")))
	must(t, os.Symlink("../outside/canary", filepath.Join(ro, "relative")))
	must(t, os.Chmod(filepath.Join(ro, "suid"), 0o4755|os.ModeSetuid))
	for _, dir := range []string{ro, rw} {
		l, err := net.Listen("unix", filepath.Join(dir, "socket"))
		must(t, err)
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				t.Error("an agent has connected to a socket of the host")
				c.Close()
			}
		}()
	}
	rows := e.theme.rows
	if err := unix.Mknod(filepath.Join(ro, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Logf("no device to try: %v", err)
		rows = e.without("a device of the host")
	}
	h := e.hostile(t, "intruder", nil,
		"--grant", "fs:"+ro+":ro,at=/ro", "--grant", "fs:"+read+":read,at=/read", "--grant", "fs:"+rw+":rw,at=/rw,quota=64K,inodes=8",
		"--grant", "fs:"+add+":read+write+create,at=/add", "--grant", "fs:"+drop+":read+delete,at=/drop")
	h.try(t, rows)
	for name, want := range map[string]string{"ro/f": "to read", "add/f": "to add to", "drop/f": "to delete"} {
		if raw, err := os.ReadFile(filepath.Join(e.dir, name)); err != nil || string(raw) != want {
			t.Errorf("%s on the host: %q %v", name, raw, err)
		}
	}
	if fi, err := os.Stat(filepath.Join(rw, "suid")); err == nil && fi.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
		t.Errorf("a file on the host has mode %v", fi.Mode())
	}
}

// without drops a row that the host has nothing for.
func (e *escape) without(name string) []attempt {
	var rows []attempt
	for _, a := range e.theme.rows {
		if a.name != name {
			rows = append(rows, a)
		}
	}
	e.theme.rows = rows
	return rows
}
