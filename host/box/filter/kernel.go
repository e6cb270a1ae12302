package filter

import (
	"golang.org/x/sys/unix"

	"aios.dev/aios/host/box"
)

// Requests and flags that package unix lacks.
const (
	futexWait    = 0
	futexWake    = 1
	futexPrivate = 128
	ptraceSysEmu = 31
	ntPRStatus   = 1

	archGetFS = 0x1003
	archGetGS = 0x1004

	membarrierGlobal           = 1
	membarrierPrivateExpedited = 8

	seccompNotifSend        = 0xc0182101
	seccompNotifSetFlags    = 0x40082104
	seccompSyncWakeUp       = 1
	fallocPunchHoleKeepSize = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE

	kvmRun                 = 0xae80
	kvmGetRegs             = 0x8090ae81
	kvmSetRegs             = 0x4090ae82
	kvmInterrupt           = 0x4004ae86
	kvmNMI                 = 0xae9a
	kvmSetUserMemoryRegion = 0x4020ae46
	kvmIOEventFD           = 0x4040ae79
	// kvmReturnToHost is no call: the number that the kvm platform uses to
	// leave a virtual machine, and which the host answers with ENOSYS.
	kvmReturnToHost = 0xffffffff
)

// goRuntime is what any Go program does that opens nothing: threads, memory,
// time, signals of its own, and files and sockets that it was handed.
func goRuntime() Table {
	const anon = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	const rw = unix.PROT_READ | unix.PROT_WRITE
	t := always(
		unix.SYS_CLOCK_GETTIME, unix.SYS_CLOSE, unix.SYS_DUP, unix.SYS_EPOLL_CTL,
		unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
		unix.SYS_GETPID, unix.SYS_GETRANDOM, unix.SYS_GETTID, unix.SYS_GETTIMEOFDAY,
		unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID,
		unix.SYS_MADVISE, unix.SYS_MUNMAP, unix.SYS_NANOSLEEP,
		unix.SYS_READ, unix.SYS_WRITE, unix.SYS_PREAD64, unix.SYS_FTRUNCATE,
		unix.SYS_RESTART_SYSCALL, unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN,
		unix.SYS_SCHED_YIELD, unix.SYS_SIGALTSTACK,
	)
	t = append(t, on(unix.SYS_CLONE,
		is(0, unix.CLONE_VM|unix.CLONE_FS|unix.CLONE_FILES|unix.CLONE_SETTLS|unix.CLONE_SIGHAND|unix.CLONE_SYSVSEM|unix.CLONE_THREAD),
		is(2, 0), is(3, 0))...)
	t = append(t, on(unix.SYS_EPOLL_PWAIT, is(4, 0))...)
	t = append(t, each(unix.SYS_FCNTL, 1, []uint64{unix.F_GETFD, unix.F_GETFL, unix.F_SETFL})...)
	t = append(t, on(unix.SYS_GETCPU, is(1, 0), is(2, 0))...)
	t = append(t, on(unix.SYS_MMAP, noExec(2), is(3, unix.MAP_SHARED))...)
	t = append(t, on(unix.SYS_MMAP, noExec(2), is(3, anon))...)
	t = append(t, on(unix.SYS_MMAP, is(2, rw), is(3, unix.MAP_DROPPABLE|unix.MAP_ANONYMOUS))...) // getrandom of the vDSO
	t = append(t, on(unix.SYS_MPROTECT, noExec(2))...)
	t = append(t, on(unix.SYS_PRCTL, is(0, unix.PR_SET_VMA), is(1, unix.PR_SET_VMA_ANON_NAME))...)
	t = append(t, on(unix.SYS_SCHED_GETAFFINITY, is(0, 0))...)
	return t
}

// kernelBase is what a kernel process does on every platform and whatever its
// agents were granted: its threads, its memory file, images, logs, and messages
// of the daemon with descriptors beside them.
func kernelBase() Table {
	const anon = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	const rw = unix.PROT_READ | unix.PROT_WRITE
	t := goRuntime()
	t = append(t, always(
		unix.SYS_FSTAT, unix.SYS_MINCORE, unix.SYS_MLOCK, unix.SYS_MUNLOCK, unix.SYS_PWRITE64,
		unix.SYS_FSYNC, // of the files that regions are kept in
		unix.SYS_LSEEK, // of the memory file: where there is something in it
	)...)
	t = append(t, each(unix.SYS_FUTEX, 1, []uint64{futexWait | futexPrivate, futexWake | futexPrivate})...)
	t = append(t, on(unix.SYS_ACCEPT4, is(0, box.ListenPlaceholder))...)
	t = append(t, each(unix.SYS_EPOLL_CREATE1, 0, []uint64{0, unix.EPOLL_CLOEXEC})...)
	t = append(t, on(unix.SYS_EVENTFD2, is(0, 0))...)
	t = append(t, each(unix.SYS_FALLOCATE, 1, []uint64{0, fallocPunchHoleKeepSize})...)
	t = append(t, each(unix.SYS_FCNTL, 1, []uint64{unix.F_SETFD, unix.F_DUPFD_CLOEXEC}, fd(0))...)
	t = append(t, on(unix.SYS_FSTATFS, fd(0))...)
	t = append(t, on(unix.SYS_GETPEERNAME, fd(0))...)
	t = append(t, on(unix.SYS_GETSOCKNAME, fd(0))...)
	for _, name := range []uint64{unix.SO_DOMAIN, unix.SO_TYPE, unix.SO_ERROR} {
		t = append(t, on(unix.SYS_GETSOCKOPT, is(1, unix.SOL_SOCKET), is(2, name))...)
	}
	t = append(t, on(unix.SYS_MEMBARRIER, is(0, membarrierGlobal), is(1, 0))...)
	t = append(t, on(unix.SYS_MEMFD_CREATE, is(1, unix.MFD_CLOEXEC))...)
	t = append(t, each(unix.SYS_MMAP, 3, []uint64{
		unix.MAP_SHARED | unix.MAP_FIXED, unix.MAP_PRIVATE, anon | unix.MAP_STACK, anon | unix.MAP_NORESERVE,
	}, noExec(2))...)
	t = append(t, on(unix.SYS_MMAP, is(2, rw), is(3, anon|unix.MAP_FIXED))...)
	t = append(t, each(unix.SYS_RECVMSG, 2, []uint64{
		0, unix.MSG_CMSG_CLOEXEC, unix.MSG_PEEK, unix.MSG_DONTWAIT | unix.MSG_CMSG_CLOEXEC,
	}, fd(0))...)
	t = append(t, each(unix.SYS_SENDMSG, 2, []uint64{0, unix.MSG_NOSIGNAL, unix.MSG_DONTWAIT}, fd(0))...)
	t = append(t, each(unix.SYS_SHUTDOWN, 1, []uint64{unix.SHUT_RD, unix.SHUT_WR, unix.SHUT_RDWR})...)
	t = append(t, on(unix.SYS_TIMERFD_SETTIME, is(1, 0), is(3, 0))...) // of the timer made at boot
	return t
}

// kernelFiles is what a kernel process does besides when directories of the
// host were granted: it talks to gofers over sockets and shared memory, and
// reads, writes and syncs the files whose descriptors they donate.
func kernelFiles() Table {
	t := always(
		unix.SYS_FDATASYNC, unix.SYS_PPOLL, unix.SYS_PREADV2, unix.SYS_PWRITEV2,
	)
	t = append(t, on(unix.SYS_DUP3, is(2, unix.O_CLOEXEC))...)
	t = append(t, sharedFutex()...)
	t = append(t, each(unix.SYS_RECVMSG, 2, []uint64{
		unix.MSG_DONTWAIT | unix.MSG_TRUNC, unix.MSG_DONTWAIT | unix.MSG_TRUNC | unix.MSG_PEEK,
	}, fd(0))...)
	t = append(t, on(unix.SYS_SENDMSG, fd(0), is(2, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL))...)
	t = append(t, on(unix.SYS_STATX, fd(0), has(2, unix.AT_EMPTY_PATH))...)
	return t
}

// sharedFutex is futexes in memory that other processes map too.
func sharedFutex() Table {
	return each(unix.SYS_FUTEX, 1, []uint64{futexWait, futexWake})
}
