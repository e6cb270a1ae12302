package filter

import (
	"golang.org/x/sys/unix"

	"aios.dev/aios/host/box"
)

// platforms is what each platform does to run agents.
var platforms = map[string]func() Table{
	"systrap": systrap,
	"ptrace":  ptrace,
	"kvm":     kvm,
}

// tracer is what a platform does whose stubs are processes of their own.
func tracer() Table {
	return append(always(unix.SYS_TGKILL, unix.SYS_WAIT4),
		on(unix.SYS_RT_TGSIGQUEUEINFO, self(0), is(2, uint64(unix.SIGKILL)))...)
}

func ptrace() Table { return append(tracer(), always(unix.SYS_PTRACE)...) }

func systrap() Table {
	t := append(tracer(), sharedFutex()...)
	t = append(t, each(unix.SYS_PTRACE, 0, []uint64{
		unix.PTRACE_ATTACH, unix.PTRACE_DETACH, unix.PTRACE_GETEVENTMSG, unix.PTRACE_GETSIGINFO,
	})...)
	t = append(t, each(unix.SYS_PTRACE, 0, []uint64{unix.PTRACE_CONT, ptraceSysEmu}, is(2, 0), is(3, 0))...)
	t = append(t, each(unix.SYS_PTRACE, 0, []uint64{unix.PTRACE_GETREGSET, unix.PTRACE_SETREGSET}, is(2, ntPRStatus))...)
	t = append(t, on(unix.SYS_PTRACE, is(0, unix.PTRACE_SETOPTIONS), is(2, 0),
		is(3, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACEEXIT|unix.PTRACE_O_EXITKILL))...)
	t = append(t, on(unix.SYS_PTRACE, is(0, unix.PTRACE_SETSIGMASK), is(2, 8))...)
	t = append(t, each(unix.SYS_IOCTL, 1, []uint64{unix.SECCOMP_IOCTL_NOTIF_RECV, seccompNotifSend}, fd(0))...)
	t = append(t, on(unix.SYS_IOCTL, fd(0), is(1, seccompNotifSetFlags), is(2, seccompSyncWakeUp))...)
	t = append(t, on(unix.SYS_WAITID, is(0, unix.P_PID), is(3, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT))...)
	t = append(t, on(unix.SYS_SETPRIORITY, is(0, unix.PRIO_PROCESS), is(2, box.NicePlaceholder))...)
	return t
}

func kvm() Table {
	t := always(unix.SYS_RT_SIGSUSPEND, unix.SYS_RT_SIGTIMEDWAIT, kvmReturnToHost)
	t = append(t, on(unix.SYS_TGKILL, self(0))...)
	t = append(t, on(unix.SYS_MMAP, noExec(2))...)
	t = append(t, each(unix.SYS_ARCH_PRCTL, 0, []uint64{archGetFS, archGetGS})...)
	t = append(t, on(unix.SYS_MEMBARRIER, is(0, membarrierPrivateExpedited), is(1, 0))...)
	t = append(t, each(unix.SYS_IOCTL, 1, []uint64{
		kvmRun, kvmSetUserMemoryRegion, kvmIOEventFD, kvmGetRegs, kvmSetRegs, kvmInterrupt, kvmNMI,
	}, fd(0))...)
	return t
}
