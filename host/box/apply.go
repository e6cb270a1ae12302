package box

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
)

// Options says what a kernel process keeps.
type Options struct {
	// Keep lists the inherited descriptors to stay open. Standard input,
	// output and error that are not among them are replaced by /dev/null.
	Keep []int
	// Files lists further host files that are copied into the empty root.
	Files []string
	// Root, if not 0, is an inherited descriptor of a directory that
	// NewRoot made, for a process that may not mount but may chroot. It is
	// closed. With none, such a process keeps the host's root.
	Root int
	// OpenFiles is the limit on descriptors to aim for; 0 takes what the host
	// allows.
	OpenFiles uint64
}

// Apply closes every box around a kernel process but the last, seccomp, which
// InstallProgram closes once the kernel has booted. It must run before the
// platform starts its first stub process: stubs inherit what this leaves. The
// error is not nil only when the process is in no state to go on; refused
// boxes are reports.
func Apply(o Options) ([]Report, error) {
	warm()
	got := takeHandover()
	limitsErr := raiseLimits(o.OpenFiles)
	reports := []Report{closeOthers(append([]int{o.Root}, o.Keep...))}

	files := slices.Concat(bootFiles, o.Files)
	switch {
	case got["mount"]:
		if err := emptyRoot(files); err != nil {
			reports = append(reports, Missing(EmptyRoot, err.Error()))
		} else {
			reports = append(reports, Stands(EmptyRoot))
		}
	case o.Root != 0:
		if err := chrootInto(o.Root, files); err != nil {
			reports = append(reports, Missing(EmptyRoot, "the host grants no mount namespace, and "+err.Error()))
		} else {
			reports = append(reports, Report{Box: EmptyRoot, OK: true, Reason: "a directory on the host, for lack of a mount namespace"})
		}
	default:
		reports = append(reports, Missing(EmptyRoot, "the host grants no mount namespace"))
	}

	if o.Root != 0 {
		_ = unix.Close(o.Root)
	}
	var keep []uintptr
	if got["ptrace"] {
		keep = []uintptr{unix.CAP_SYS_PTRACE}
	}
	return finish(append(reports, dropCaps(keep, !got["user"]), noNewPrivileges()), limitsErr)
}

// warm makes the standard library read now what it would read from a file at
// its first use, when the seccomp filter would kill the process for it: the
// local time zone.
func warm() { _, _ = time.Unix(0, 0).Local().Zone() }

// finish makes the process able to trace its own stubs, which its own exec may
// have forbidden, and hands out the result.
func finish(reports []Report, err error) ([]Report, error) {
	if perr := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); perr != nil {
		err = errors.Join(err, errdefs.Wrap(perr, errdefs.HostIO, "prctl(PR_SET_DUMPABLE)"))
	}
	return reports, errdefs.Wrap(err, errdefs.HostIO, "confine process")
}

// raiseLimits gives a process that holds the files of hundreds of agents room
// for them, as far as the host allows, and keeps its memory out of core files.
func raiseLimits(want uint64) error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "setrlimit(RLIMIT_CORE)")
	}
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "getrlimit(RLIMIT_NOFILE)")
	}
	if want > l.Max {
		// Refused without CAP_SYS_RESOURCE.
		higher := unix.Rlimit{Cur: want, Max: want}
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &higher) == nil {
			return nil
		}
	}
	l.Cur = l.Max
	if want > 0 && want < l.Max {
		l.Cur = want
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "setrlimit(RLIMIT_NOFILE)")
	}
	return nil
}

// closeOthers closes what the process inherited and was not told to keep.
// Inherited descriptors are those without the close-on-exec flag: the Go
// runtime and the os package set it on all of theirs.
func closeOthers(keep []int) Report {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return Missing(Descriptors, err.Error())
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 || slices.Contains(keep, fd) {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC == 0 {
			_ = unix.Close(fd)
		}
	}
	for fd := range 3 {
		if slices.Contains(keep, fd) {
			continue
		}
		if err := silence(fd); err != nil {
			return Missing(Descriptors, err.Error())
		}
	}
	return Stands(Descriptors)
}

// silence puts /dev/null, or where there is none an empty pipe, in the place
// of a standard descriptor.
func silence(fd int) error {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return unix.Close(fd)
	}
	if err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "open /dev/null")
	}
	defer unix.Close(null)
	if err := unix.Dup3(null, fd, 0); err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, fmt.Sprintf("replace descriptor %d", fd))
	}
	return nil
}
