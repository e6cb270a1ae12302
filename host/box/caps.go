package box

import (
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
)

// goferCaps is a gofer's power over files: those of other users, and giving
// files to them.
var goferCaps = []uintptr{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER, unix.CAP_FSETID,
}

// The kernel reads these on every thread while a change of capabilities runs.
var (
	capHeader = unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	capData   [2]unix.CapUserData
)

// permitted returns the capabilities that this thread may use, as a set.
func permitted() uint64 {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0
	}
	return uint64(data[1].Permitted)<<32 | uint64(data[0].Permitted)
}

// ownCaps returns those of want that this process has.
func ownCaps(want []uintptr) []uintptr {
	have := permitted()
	return slices.DeleteFunc(slices.Clone(want), func(c uintptr) bool { return have>>c&1 == 0 })
}

// dropCaps leaves every thread of the process with no capabilities but keep.
//
// The bounding set is emptied only where bounding is true. It says what a
// program could gain by being executed, and with no new privileges that is
// nothing; emptying it stops all threads once for each capability, 4 ms in
// all. Inside a user namespace, where it could at most concern that namespace,
// this is not worth its price.
func dropCaps(keep []uintptr, bounding bool) Report {
	var mask uint64
	for _, c := range keep {
		mask |= 1 << c
	}
	note := ""
	if bounding {
		var err error
		if note, err = dropBounding(mask); err != nil {
			return Missing(Capabilities, err.Error())
		}
	}
	mask &= permitted()
	for i := range capData {
		half := uint32(mask >> (32 * i))
		capData[i] = unix.CapUserData{Effective: half, Permitted: half}
	}
	// Emptying the inheritable set empties the ambient one with it.
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&capHeader)), uintptr(unsafe.Pointer(&capData[0])), 0); errno != 0 {
		return Missing(Capabilities, allThreadsReason(errno))
	}
	return Report{Box: Capabilities, OK: true, Reason: note}
}

// dropBounding empties the bounding set. A process that may not do so has to
// live with it.
func dropBounding(keep uint64) (note string, err error) {
	for c := uintptr(0); c < 64; c++ {
		set, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if err != nil {
			break // beyond the last capability of this kernel
		}
		if set == 0 || keep>>c&1 == 1 {
			continue
		}
		_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0, 0, 0, 0)
		if errno == unix.EPERM {
			return "the bounding set stays, for lack of CAP_SETPCAP; no program can be executed to use it", nil
		}
		if errno != 0 {
			return "", errdefs.New(errdefs.HostIO, allThreadsReason(errno))
		}
	}
	return "", nil
}

// noNewPrivileges binds every thread, and all that they will ever start.
func noNewPrivileges() Report {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return Missing(NoNewPrivileges, allThreadsReason(errno))
	}
	return Stands(NoNewPrivileges)
}

func allThreadsReason(errno syscall.Errno) string {
	if errno == unix.ENOTSUP {
		return "a program built with cgo cannot change all of its threads: build with CGO_ENABLED=0"
	}
	return errno.Error()
}
