package hostprobe

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
)

// ErrRseq says that a C library has registered restartable sequences.
var ErrRseq = errdefs.New(errdefs.PlatformUnusable, "the C library registered restartable sequences (rseq) for the threads of this process")

// RseqFix is what to do about ErrRseq.
const RseqFix = "build with CGO_ENABLED=0, or set GLIBC_TUNABLES=glibc.pthread.rseq=0 in the environment"

// Rseq reports ErrRseq if the host kernel writes to an rseq area whenever a
// thread of this process is scheduled. A platform's child processes inherit
// the registration but not the memory, and fault for ever. Binaries without
// cgo never register one.
func Rseq() error {
	const (
		size       = 32
		signature  = 0x53053053
		unregister = 1
	)
	// Registration is per thread. All of a process's threads come from the
	// same library, so any one tells.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	var area [2 * size]byte
	p := unsafe.Pointer(&area[(size-uintptr(unsafe.Pointer(&area[0]))%size)%size])
	register := func(flags uintptr) unix.Errno {
		_, _, errno := unix.RawSyscall6(unix.SYS_RSEQ, uintptr(p), size, flags, signature, 0, 0)
		return errno
	}
	switch errno := register(0); errno {
	case 0:
		if errno := register(unregister); errno != 0 {
			return errdefs.Wrap(errno, errdefs.PlatformUnusable, "cannot take back a registration of restartable sequences")
		}
		return nil
	case unix.EINVAL, unix.EBUSY, unix.EPERM:
		return ErrRseq
	default:
		return nil // The kernel has none, or does not let anybody have one.
	}
}
