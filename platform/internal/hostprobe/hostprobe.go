// Package hostprobe tries the host features that more than one platform is
// built on: tracing a child process, seccomp filters that trap, and threads
// without restartable sequences. It answers with plain errors; a driver adds
// its name and the fix. The package takes no locks, and each probe leaves the
// calling process as it was.
package hostprobe

import (
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"

	"aios.dev/aios/errdefs"
)

// Seccomp reports whether filters can be installed that trap a system call
// into a signal handler. It asks the kernel without installing one.
func Seccomp() error {
	action := uint32(linux.SECCOMP_RET_TRAP)
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, linux.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	switch errno {
	case 0:
		return nil
	case unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP:
		return errdefs.Wrap(errno, errdefs.PlatformUnusable, "the host kernel has no seccomp filters that trap")
	default:
		return errdefs.Wrap(errno, errdefs.PlatformUnusable, "seccomp is forbidden")
	}
}

// TraceFix names what to change so that TraceChild succeeds, as far as this
// host tells.
func TraceFix() string {
	const file = "/proc/sys/kernel/yama/ptrace_scope"
	if scope, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(scope)) == "3" {
		return "the host forbids all tracing (" + file + " is 3, which only a reboot lowers): boot with 1"
	}
	return "allow the ptrace system call: in a container, use a seccomp profile that permits it or add CAP_SYS_PTRACE"
}
