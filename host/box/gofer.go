package box

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
)

// GoferOptions says what a gofer keeps.
type GoferOptions struct {
	// Dir is the directory that becomes its root, as it was handed down. It
	// is closed: what lies outside of the directory cannot be reached from
	// the new root, but could be from the old descriptor.
	Dir *os.File
	// Keep lists the inherited descriptors to stay open, as in Options.
	Keep []int
	// ReadOnly makes the directory, and all that is mounted below it,
	// read-only for this process, where it has mounts of its own.
	ReadOnly bool
	// BeforeRoot, if set, is called with the path of a directory like
	// /proc/self/fd that shows nothing of the host but this process, before
	// the root is changed: package fsgofer wants it opened.
	BeforeRoot func(selfFD string) error
	// OpenFiles is the limit on descriptors to aim for.
	OpenFiles uint64
}

// ApplyGofer closes every box around a gofer but seccomp. The directory is
// essential: without it as root there is no gofer, and the error says why.
func ApplyGofer(o GoferOptions) ([]Report, error) {
	const op = "confine gofer"
	warm()
	got := takeHandover()
	limitsErr := raiseLimits(o.OpenFiles)
	if o.Dir == nil {
		return nil, errdefs.New(errdefs.InvalidArgument, "no directory given", errdefs.Op(op), errdefs.Fix("hand down an open directory"))
	}
	dirFD := int(o.Dir.Fd())
	var want unix.Stat_t
	if err := unix.Fstat(dirFD, &want); err != nil || want.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, errdefs.New(errdefs.InvalidArgument, "not a directory", errdefs.Op(op), errdefs.Resource("%s", o.Dir.Name()),
			errdefs.Fix("hand down an open directory"), errdefs.Cause(err))
	}
	unix.Umask(0) // files get the modes that agents ask for
	reports := []Report{closeOthers(append([]int{dirFD}, o.Keep...))}

	selfFD := "/proc/self/fd"
	enter := func() error { return chrootDir(dirFD) }
	note := "chroot on the host's mounts, for lack of a mount namespace"
	if got["mount"] {
		var err error
		if enter, err = ownDir(dirFD, o.ReadOnly, &want); err != nil {
			return reports, errdefs.Wrap(err, errdefs.HostIO, op)
		}
		note = ""
		if got["pid"] {
			if dir, err := freshProc(); err == nil {
				selfFD = dir
			}
		}
	}
	if o.BeforeRoot != nil {
		if err := o.BeforeRoot(selfFD); err != nil {
			return reports, errdefs.Wrap(err, errdefs.HostIO, op)
		}
	}
	if err := enter(); err != nil {
		return append(reports, Missing(EmptyRoot, err.Error())),
			errdefs.Wrap(err, errdefs.HostFeature, op, errdefs.Fix("a gofer needs CAP_SYS_CHROOT or user namespaces; see aiosctl doctor"))
	}
	if err := o.Dir.Close(); err != nil {
		return reports, errdefs.Wrap(err, errdefs.HostIO, op)
	}
	reports = append(reports, Report{Box: EmptyRoot, OK: true, Reason: note})
	return finish(append(reports, dropCaps(goferCaps, !got["user"]), noNewPrivileges()), limitsErr)
}

// ownDir mounts the directory in the process's own namespace, aside from
// everything else, and returns how to make it the root.
func ownDir(dirFD int, readOnly bool, want *unix.Stat_t) (func() error, error) {
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, err
	}
	// The descriptor speaks of the host's mount; only a path leads to this
	// namespace's copy of it.
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", dirFD))
	if err != nil {
		return nil, err
	}
	dir, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(dir)
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return nil, err
	}
	if st.Dev != want.Dev || st.Ino != want.Ino {
		return nil, fmt.Errorf("%s is no longer the directory that was handed down", path)
	}
	tree, err := unix.OpenTree(dir, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open_tree %s: %w", path, err)
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return nil, fmt.Errorf("mount_setattr %s: %w", path, err)
	}
	at, err := mountPoint()
	if err != nil {
		return nil, err
	}
	// The new root's own place must not lie below what it covers later.
	if err := mount("aios", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755,size=64k"); err != nil {
		return nil, err
	}
	root := filepath.Join(at, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return nil, err
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, root, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, fmt.Errorf("move_mount %s: %w", path, err)
	}
	return func() error { return enterRoot(root) }, nil
}

// freshProc mounts a procfs that shows this PID namespace only, and returns
// where it lists this process's descriptors. Hosts that cover parts of /proc,
// as containers do, refuse.
func freshProc() (string, error) {
	at, err := mountPoint()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(at, "proc")
	if err := os.Mkdir(dir, 0o555); err != nil {
		return "", err
	}
	if err := mount("proc", dir, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return "", err
	}
	return filepath.Join(dir, "self", "fd"), nil
}

// chrootDir is for a process that cannot mount.
func chrootDir(dir int) error {
	if err := unix.Fchdir(dir); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return errors.Join(errors.New("the host grants neither a mount namespace nor chroot"), err)
	}
	return os.Chdir("/")
}
