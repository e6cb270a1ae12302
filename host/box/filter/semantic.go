package filter

import (
	"golang.org/x/sys/unix"

	"aios.dev/aios/host/box"
)

const semanticName = "semanticd"

// semanticBase is what semantic memory does: it has SQLite and its indexes read,
// write, lock and sync the files of one directory, and answers at a socket that it
// was handed. It makes no directories, links or devices.
func semanticBase() Table {
	t := goRuntime()
	t = append(t, always(
		unix.SYS_ACCESS, unix.SYS_FDATASYNC, unix.SYS_FCHMOD, unix.SYS_FLOCK, unix.SYS_FSTAT, unix.SYS_FSYNC, unix.SYS_GETCWD,
		unix.SYS_GETDENTS64, unix.SYS_LSEEK, unix.SYS_LSTAT, unix.SYS_NEWFSTATAT, unix.SYS_OPEN, unix.SYS_OPENAT,
		unix.SYS_PWRITE64, unix.SYS_READLINK, unix.SYS_READLINKAT, unix.SYS_RENAME, unix.SYS_RENAMEAT, unix.SYS_STAT,
		unix.SYS_UNLINK, unix.SYS_UNLINKAT,
	)...)
	t = append(t, each(unix.SYS_FUTEX, 1, []uint64{futexWait | futexPrivate, futexWake | futexPrivate})...)
	t = append(t, on(unix.SYS_ACCEPT4, is(0, box.ListenPlaceholder))...)
	t = append(t, each(unix.SYS_FCNTL, 1, []uint64{unix.F_GETLK, unix.F_SETLK, unix.F_SETLKW, unix.F_SETFD}, fd(0))...)
	t = append(t, on(unix.SYS_FCHOWN, fd(0))...) // What root's SQLite makes beside a file is its owner's.
	t = append(t, on(unix.SYS_GETSOCKNAME, fd(0))...)
	t = append(t, on(unix.SYS_MMAP, noExec(2), is(3, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED))...)
	t = append(t, each(unix.SYS_SHUTDOWN, 1, []uint64{unix.SHUT_RD, unix.SHUT_WR, unix.SHUT_RDWR})...)
	t = append(t, on(unix.SYS_TGKILL, self(0))...)
	return t
}
