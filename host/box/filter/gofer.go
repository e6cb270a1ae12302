package filter

import "golang.org/x/sys/unix"

// goferBase is what a gofer does even for a directory that is granted for
// reading only: it looks, opens, reads, and hands descriptors to the kernel
// process through shared memory and sockets.
func goferBase() Table {
	t := goRuntime()
	t = append(t, always(
		unix.SYS_ACCEPT, unix.SYS_FSTATFS, unix.SYS_FSYNC, unix.SYS_GETDENTS64,
		unix.SYS_LGETXATTR, unix.SYS_LLISTXATTR, unix.SYS_LSEEK,
		unix.SYS_MEMFD_CREATE, unix.SYS_NEWFSTATAT, unix.SYS_PPOLL, unix.SYS_READLINKAT,
	)...)
	t = append(t, each(unix.SYS_FUTEX, 1, []uint64{futexWait | futexPrivate, futexWake | futexPrivate}, is(4, 0))...)
	t = append(t, sharedFutex()...)
	t = append(t, on(unix.SYS_EVENTFD2, is(0, 0), is(1, 0))...)
	t = append(t, on(unix.SYS_FCNTL, is(1, unix.F_ADD_SEALS))...)
	t = append(t, on(unix.SYS_FGETXATTR, fd(0))...)
	t = append(t, on(unix.SYS_FLISTXATTR, fd(0))...)
	t = append(t, on(unix.SYS_MMAP, noExec(2), is(3, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED))...)
	t = append(t, each(unix.SYS_RECVMSG, 2, []uint64{
		unix.MSG_DONTWAIT | unix.MSG_TRUNC, unix.MSG_DONTWAIT | unix.MSG_TRUNC | unix.MSG_PEEK,
	})...)
	t = append(t, each(unix.SYS_SENDMSG, 2, []uint64{0, unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL})...)
	t = append(t, on(unix.SYS_SHUTDOWN, is(1, unix.SHUT_RDWR))...)
	t = append(t, on(unix.SYS_SOCKETPAIR, is(0, unix.AF_UNIX), is(1, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC), is(2, 0))...)
	t = append(t, on(unix.SYS_STATX, fd(0), has(2, unix.AT_EMPTY_PATH))...)
	t = append(t, on(unix.SYS_TGKILL, self(0))...)
	return t
}

// oTmpfile is the bit that makes O_TMPFILE of O_DIRECTORY.
const oTmpfile = unix.O_TMPFILE &^ unix.O_DIRECTORY

// goferRead opens nothing for writing and creates nothing.
func goferRead() Table {
	return on(unix.SYS_OPENAT, none(2, unix.O_ACCMODE|unix.O_CREAT|unix.O_TRUNC|unix.O_APPEND|oTmpfile))
}

// goferWrite changes the directory.
func goferWrite() Table {
	t := always(
		unix.SYS_FCHMOD, unix.SYS_FCHMODAT,
		unix.SYS_LREMOVEXATTR, unix.SYS_LSETXATTR,
		unix.SYS_MKDIRAT, unix.SYS_MKNODAT,
		unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_PWRITE64,
		unix.SYS_RENAMEAT2, unix.SYS_SYMLINKAT, unix.SYS_UNLINKAT, unix.SYS_UTIMENSAT,
	)
	t = append(t, on(unix.SYS_FALLOCATE, is(1, 0))...)
	t = append(t, on(unix.SYS_FREMOVEXATTR, fd(0))...)
	t = append(t, on(unix.SYS_FSETXATTR, fd(0))...)
	t = append(t, on(unix.SYS_LINKAT, fd(0), fd(2), is(4, 0))...)
	return t
}

// goferOwner gives files to their owners.
func goferOwner() Table { return always(unix.SYS_FCHOWNAT) }

// goferKeepOwner is for a gofer that cannot: giving a file to an agent's root
// succeeds and does nothing.
func goferKeepOwner() Table {
	return Table{
		{Call: unix.SYS_FCHOWNAT, Guards: []Guard{is(2, 0), is(3, 0)}, Skip: true},
		{Call: unix.SYS_FCHOWNAT, Guards: []Guard{{Arg: 2, Op: NotEqual}}},
		{Call: unix.SYS_FCHOWNAT, Guards: []Guard{is(2, 0), {Arg: 3, Op: NotEqual}}},
	}
}
