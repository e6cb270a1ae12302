package hostprobe

import (
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// traceLimit bounds TraceChild; the work itself takes about a millisecond.
const traceLimit = 2 * time.Second

// TraceChild reports whether this process may trace a child and emulate its
// system calls (PTRACE_SYSEMU). It starts the running program once more, under
// trace, and kills it at its first system call, which is never executed: none
// of the program's own code runs.
//
// The caller must not reap children of all kinds (wait4 with pid -1) meanwhile.
func TraceChild() error {
	// All requests of a tracer must come from the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	pid, err := syscall.ForkExec("/proc/self/exe", []string{"aios-trace-probe"}, &syscall.ProcAttr{
		Sys: &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return errdefs.Wrap(err, errdefs.PlatformUnusable, "cannot start a traced child")
	}
	defer reap(pid)
	defer ktime.Real.AfterFunc(traceLimit, func() { _ = unix.Kill(pid, unix.SIGKILL) }).Stop()

	if err := waitStop(pid, unix.SIGTRAP); err != nil {
		return errdefs.Wrap(err, errdefs.PlatformUnusable, "a traced child did not stop at exec")
	}
	if err := unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_EXITKILL); err != nil {
		return errdefs.Wrap(err, errdefs.PlatformUnusable, "PTRACE_SETOPTIONS")
	}
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SYSEMU, uintptr(pid), 0, 0, 0, 0); errno != 0 {
		return errdefs.Wrap(errno, errdefs.PlatformUnusable, "PTRACE_SYSEMU")
	}
	if err := waitStop(pid, unix.SIGTRAP|0x80); err != nil {
		return errdefs.Wrap(err, errdefs.PlatformUnusable, "a traced child did not stop at its first system call")
	}
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(pid, &regs); err != nil {
		return errdefs.Wrap(err, errdefs.PlatformUnusable, "PTRACE_GETREGS")
	}
	if int64(regs.Orig_rax) < 0 {
		return errdefs.New(errdefs.PlatformUnusable, "the host does not tell a tracer which system call its child made")
	}
	return nil
}

// waitStop waits until the child stops, and checks that sig is the reason.
func waitStop(pid int, sig unix.Signal) error {
	status, err := wait(pid)
	switch {
	case err != nil:
		return err
	case status.Stopped() && status.StopSignal() == sig:
		return nil
	case status.Stopped():
		return errdefs.Newf(errdefs.PlatformUnusable, "stopped by %v instead", status.StopSignal())
	default:
		return errdefs.Newf(errdefs.PlatformUnusable, "it ended (wait status %#x)", uint32(status))
	}
}

// reap ends the child whatever its state, and collects it.
func reap(pid int) {
	_ = unix.Kill(pid, unix.SIGKILL)
	for {
		status, err := wait(pid)
		if err != nil || status.Exited() || status.Signaled() {
			return
		}
	}
}

func wait(pid int) (status unix.WaitStatus, err error) {
	for {
		_, err = unix.Wait4(pid, &status, unix.WALL, nil)
		if err != unix.EINTR {
			return status, err
		}
	}
}
