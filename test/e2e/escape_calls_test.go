package e2e

import "testing"

// escapeCalls are system calls of an agent that may make processes, and has
// memory that it may not execute; it has nothing else.
var escapeCalls = []attempt{
	{name: "mount a file system", code: `call("mount", "none", "/mnt", "tmpfs", 0, 0)`, want: "EPERM", trail: "mount"},
	{name: "bind mount of /", code: `call("mount", "/", "/mnt", 0, 4096, 0)`, want: "EPERM", trail: "mount"},
	{name: "remount writable", code: `call("mount", 0, "/sys", 0, 32, 0)`, want: "EPERM", trail: "mount"},
	{name: "move a mount", code: `call("mount", "/proc", "/mnt", 0, 8192, 0)`, want: "EPERM", trail: "mount"},
	{name: "make mounts shared", code: `call("mount", 0, "/", 0, 1 << 20 | 1 << 14, 0)`, want: "EPERM", trail: "mount"},
	{name: "mount with every bit set", code: `call("mount", -1, -1, -1, -1, -1)`, want: "EPERM", trail: "mount"},
	{name: "unmount /proc", code: `call("umount2", "/proc", 2)`, want: "EPERM", trail: "umount2"},
	{name: "change the root", code: `call("pivot_root", "/tmp", "/tmp")`, want: "EPERM", trail: "pivot_root"},
	{name: "open a file system", code: `call("fsopen", "tmpfs", 0)`, want: "EPERM", trail: "fsopen"},
	{name: "copy a tree of mounts", code: `call("open_tree", -100, "/", 1)`, want: "EPERM", trail: "open_tree"},
	{name: "attach a mount", code: `call("move_mount", -100, "/proc", -100, "/mnt", 0)`, want: "EPERM", trail: "move_mount"},

	{name: "a user namespace", code: `call("unshare", 0x10000000)`, want: "EPERM", trail: "unshare"},
	{name: "all namespaces", code: `call("unshare", 0x7e020080)`, want: "EPERM", trail: "unshare"},
	{name: "unshare with every bit set", code: `call("unshare", -1)`, want: "EPERM", trail: "unshare"},
	{name: "enter the namespace of the first process", code: `call("setns", os.open("/proc/1/ns/mnt", os.O_RDONLY), 0)`, want: "EPERM", trail: "setns"},
	{name: "a process in a user namespace", code: `call("clone", 0x10000000 | 17, 0, 0, 0, 0)`, want: "EPERM", trail: "clone"},
	{name: "a process in a namespace of mounts", code: `call("clone", 0x20000 | 17 | 1 << 63, 0, 0, 0, 0)`, want: "EPERM", trail: "clone"},
	{name: "clone3 in a namespace of PIDs", code: `call("clone3", addr(a := buf(struct.pack("<8Q", 0x20000000, 0, 0, 0, 17, 0, 0, 0))), 64)`, want: "EPERM", trail: "clone3"},
	{name: "clone3 into a cgroup", code: `call("clone3", addr(a := buf(struct.pack("<11Q", 1 << 33, 0, 0, 0, 17, 0, 0, 0, 0, 0, 5))), 88)`, want: "EPERM", trail: "clone3"},
	{name: "clone3 with a structure of another size", code: `call("clone3", addr(a := buf(b"", 4096)), 1 << 40)`, want: "EINVAL", why: "the call makes no sense"},

	{name: "attach to a child", code: `call("ptrace", 16, sleeper(), 0, 0)`, want: "EPERM", trail: "ptrace"},
	{name: "seize the first process", code: `call("ptrace", 0x4206, 1, 0, 0)`, want: "EPERM", trail: "ptrace"},
	{name: "be traced by the parent", code: `child(lambda: call("ptrace", 0, 0, 0, 0))`, want: "EPERM", trail: "ptrace"},
	{name: "ptrace of a negative process", code: `call("ptrace", -1, -1, -1, -1)`, want: "EPERM", trail: "ptrace"},
	{name: "read a child's memory", code: `
b = buf(b"", 64); io = buf(struct.pack("<QQ", addr(b), 64))
call("process_vm_readv", sleeper(), addr(io), 1, addr(io), 1, 0)`, want: "EPERM", trail: "process_vm_readv process…"},
	{name: "write the parent's memory", code: `
b = buf(b"", 64); io = buf(struct.pack("<QQ", addr(b), 64)); me = os.getpid()
child(lambda: call("process_vm_writev", me, addr(io), 1, addr(io), 1, 0))`, want: "EPERM", trail: "process_vm_writev process…"},
	{name: "/proc/PID/mem of a child", code: `os.open("/proc/%d/mem" % sleeper(), os.O_RDONLY)`, want: "EPERM", trail: "open /proc/PID/mem"},
	{name: "/proc/PID/task/TID/mem of a child", code: `os.open("/proc/%d/task/%d/mem" % ((p := sleeper()), p), os.O_RDONLY)`, want: "EPERM", trail: "open /proc/PID/mem"},
	{name: "a kept /proc/self/mem after a fork", code: `fd = os.open("/proc/self/mem", os.O_RDONLY); child(lambda: os.pread(fd, 8, addr(buf(b"x"))))`, want: "EPERM", trail: "read /proc/PID/mem"},
	{name: "write to code through /proc/self/mem", code: `os.open("/proc/self/mem", os.O_RDWR)`, want: "EACCES", trail: "open /proc/PID/mem"},
	{name: "a descriptor of a child", code: `call("pidfd_getfd", call("pidfd_open", sleeper(), 0), 0, 0)`, want: "EPERM", trail: "pidfd_getfd"},
	{name: "compare processes", code: `call("kcmp", 1, os.getpid(), 0, 0, 0)`, want: "EPERM", trail: "kcmp"},

	{name: "a ring of keys", code: `call("keyctl", 0, -3, 1)`, want: "EPERM", trail: "keyctl"},
	{name: "add a key", code: `call("add_key", "user", "k", "v", 1, -3)`, want: "EPERM", trail: "add_key"},
	{name: "a program for the kernel", code: `call("bpf", 5, 0, 0)`, want: "EPERM", trail: "bpf"},
	{name: "performance counters", code: `call("perf_event_open", addr(a := buf(b"", 128)), -1, 0, -1, 0)`, want: "EPERM", trail: "perf_event_open"},
	{name: "handle page faults", code: `call("userfaultfd", 0)`, want: "EPERM", trail: "userfaultfd"},
	{name: "a ring of io_uring", code: `call("io_uring_setup", 8, addr(a := buf(b"", 120)))`, want: "ENOSYS", trail: "io_uring_setup"},
	{name: "enter a ring that is none", code: `call("io_uring_enter", 0, 1 << 31, 1 << 31, -1, 0, 0)`, want: "ENOSYS", trail: "io_uring_enter"},
	{name: "register with a ring", code: `call("io_uring_register", -1, 0, 0, 0)`, want: "ENOSYS", trail: "io_uring_register"},

	{name: "a raw socket", code: `call("socket", 2, 3, 1)`, want: "EPERM", trail: "socket AF_INET, raw"},
	{name: "a packet socket", code: `call("socket", 17, 3, 0x300)`, want: "EPERM", trail: "socket AF_PACKET, raw"},
	{name: "a raw socket with flags", code: `call("socket", 10, 3 | 0o2000000 | 0o4000, 58)`, want: "EPERM", trail: "socket AF_INET6, raw"},
	{name: "a stream socket", code: `call("socket", 2, 1, 0)`, want: "EACCES", trail: "socket AF_INET"},
	{name: "a datagram socket", code: `call("socket", 10, 2, 0)`, want: "EACCES", trail: "socket AF_INET6"},
	{name: "a netlink socket", code: `call("socket", 16, 3, 0)`, want: "EACCES", trail: "socket AF_NETLINK, raw"},
	{name: "a pair of network sockets", code: `call("socketpair", 2, 1, 0, addr(a := buf(b"", 8)))`, want: "ESOCKTNOSUPPORT", why: "there are pairs of Unix sockets only"},
	{name: "a socket to the host", code: `call("socket", 40, 1, 0)`, want: "EAFNOSUPPORT", why: "agents have no sockets of that family"},

	{name: "set the clock", code: `call("clock_settime", 0, addr(a := buf(b"", 16)))`, want: "EPERM", trail: "clock_settime"},
	{name: "set the time of day", code: `call("settimeofday", addr(a := buf(b"", 16)), 0)`, want: "EPERM", trail: "settimeofday"},
	{name: "tune the clock", code: `call("adjtimex", addr(a := buf(b"", 208)))`, want: "EPERM", trail: "adjtimex"},
	{name: "reboot", code: `call("reboot", 0xfee1dead, 0x28121969, 0x1234567, 0)`, want: "EPERM", trail: "reboot"},
	{name: "load a module", code: `call("init_module", 0, 0, "")`, want: "EPERM", trail: "init_module"},
	{name: "load a kernel", code: `call("kexec_load", 0, 0, 0, 0)`, want: "EPERM", trail: "kexec_load"},
	{name: "swap to a file", code: `call("swapon", "/tmp/f", 0)`, want: "EPERM", trail: "swapon"},
	{name: "I/O ports", code: `call("iopl", 3)`, want: "EPERM", trail: "iopl"},
	{name: "quotas of the machine", code: `call("quotactl", 0, 0, 0, 0)`, want: "EPERM", trail: "quotactl"},
	{name: "the node of a disk", code: `os.mknod("/tmp/sda", 0o060660, os.makedev(8, 0))`, want: "EPERM", trail: "mknod…"},
	{name: "the node of the kernel's memory", code: `call("mknod", "/tmp/mem", 0o020666, os.makedev(1, 1))`, want: "EPERM", trail: "mknod"},

	{name: "memory to write and execute", code: `mapped(4096, 7, 0x22)`, want: "EACCES", trail: "mmap anonymous executable memory"},
	{name: "the largest mapping, executable", code: `mapped(2**64 - 1, 7, 0x22)`, want: "EACCES", trail: "mmap anonymous executable memory"},
	{name: "a file to write and execute", code: `mapped(4096, 7, 2, os.open("/bin/sh", os.O_RDONLY))`, want: "EACCES", trail: "mmap executable and writable memory"},
	{name: "shared anonymous memory to execute", code: `mapped(4096, 5, 0x21)`, want: "EACCES", trail: "mmap anonymous executable memory"},
	{name: "make memory executable", code: `call("mprotect", mapped(4096, 3, 0x22), 4096, 5)`, want: "EACCES", trail: "mprotect"},
	{name: "make the stack executable", code: `call("mprotect", addr(buf(b"x")) & ~4095, 4096, 7)`, want: "EACCES", trail: "mprotect"},
	{name: "execute shared memory", code: `call("shmat", call("shmget", 0, 4096, 0o1700), 0, 0o100000)`, want: "EACCES", trail: "shmat"},
	{name: "a file of memory", code: `call("memfd_create", "x", 0)`, want: "EACCES", trail: "memfd_create"},

	{name: "signal everybody", code: `os.kill(-1, 9)`, want: "EPERM", trail: "kill processes"},
	{name: "signal the smallest number", code: `call("kill", -1 << 31, 9)`, want: "EPERM", trail: "kill processes"},
	{name: "signal the group", code: `child(lambda: os.kill(0, 10))`, want: "EPERM", trail: "kill processes"},
	{name: "kill the first process", code: `child(lambda: os.kill(1, 9))`, want: "EPERM", trail: "kill process 1"},
	{name: "kill a thread", code: `call("tkill", sleeper(), 9)`, want: "EPERM", trail: "tkill thread…"},
	{name: "kill a thread of a group", code: `call("tgkill", (p := sleeper()), p, 9)`, want: "EPERM", trail: "tgkill process…"},
	{name: "queue a signal", code: `call("rt_sigqueueinfo", sleeper(), 9, addr(a := buf(struct.pack("<iii", 9, 0, -1), 128)))`, want: "EPERM", trail: "rt_sigqueueinfo process…"},
	{name: "signal through a descriptor", code: `call("pidfd_send_signal", call("pidfd_open", sleeper(), 0), 9, 0, 0)`, want: "EPERM", trail: "pidfd_send_signal…"},

	{name: "more processes than granted", code: `for _ in range(32): sleeper()`, want: "EAGAIN", trail: "clone one more process or thread"},
	{name: "more memory than granted", code: `mapped(1 << 40, 3, 0x22)`, want: "ENOMEM", trail: "mmap more memory than its limit"},

	{name: "a call of the x32 ABI", code: `call(0x40000000 | 165, "none", "/mnt", "tmpfs", 0, 0)`, want: "ENOSYS", why: "there are no such calls"},
	{name: "a call with a large number", code: `call(1 << 40)`, want: "ENOSYS", why: "there are no such calls"},
	{name: "a call with a negative number", code: `call(-165)`, want: "ENOSYS", why: "there are no such calls"},
	{name: "files by handle", code: `call("open_by_handle_at", 3, addr(a := buf(struct.pack("<Ii", 8, 1), 64)), 0)`, want: "ENOTSUP", why: "there are no such handles"},
}

func runEscapeCalls(t *testing.T, e *escape) {
	h := e.hostile(t, "caller", nil, "--grant", "proc:self:spawn,count=32", "--grant", "mem:self:map,bytes=256M")
	h.try(t, e.theme.rows)
}
