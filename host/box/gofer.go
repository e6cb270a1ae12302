package box

import (
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

// ApplyGofer closes every box around a gofer but seccomp, and returns the path
// under which the directory is now to be served: "/", or where the host grants
// neither mounts nor chroot, its path on the host. The report on the empty
// root tells which.
func ApplyGofer(o GoferOptions) (path string, reports []Report, err error) {
	const op = "confine gofer"
	warm()
	got := takeHandover()
	limitsErr := raiseLimits(o.OpenFiles)
	if o.Dir == nil {
		return "", nil, errdefs.New(errdefs.InvalidArgument, "no directory given", errdefs.Op(op), errdefs.Fix("hand down an open directory"))
	}
	d, err := readDir(o.Dir)
	if err != nil {
		return "", nil, errdefs.Wrap(err, errdefs.InvalidArgument, op, errdefs.Fix("hand down an open directory"))
	}
	unix.Umask(0) // files get the modes that agents ask for
	reports = []Report{closeOthers(append([]int{d.fd}, o.Keep...))}

	selfFD := "/proc/self/fd"
	enter := d.chroot
	note := "chroot on the host's mounts, for lack of a mount namespace"
	if got["mount"] {
		if mounted, err := d.mount(o.ReadOnly); err != nil {
			note = "chroot on the host's mounts, because: " + err.Error()
		} else {
			enter, note = mounted, ""
			if got["pid"] {
				if dir, err := freshProc(); err == nil {
					selfFD = dir
				}
			}
		}
	}
	if o.BeforeRoot != nil {
		if err := o.BeforeRoot(selfFD); err != nil {
			return "", reports, errdefs.Wrap(err, errdefs.HostIO, op)
		}
	}
	path = "/"
	r := Report{Box: EmptyRoot, OK: true, Reason: note}
	if err := enter(); err != nil {
		path = d.path
		r = Missing(EmptyRoot, err.Error())
		r.Effect = "the gofer could open the host's other files as its user; its server does not"
	}
	if err := o.Dir.Close(); err != nil {
		return "", reports, errdefs.Wrap(err, errdefs.HostIO, op)
	}
	reports, err = finish(append(reports, r, dropCaps(goferCaps, !got["user"]), noNewPrivileges()), limitsErr)
	return path, reports, err
}

// served is the directory of a gofer.
type served struct {
	fd   int
	path string
	stat unix.Stat_t
}

func readDir(f *os.File) (*served, error) {
	d := &served{fd: int(f.Fd())}
	if err := unix.Fstat(d.fd, &d.stat); err != nil {
		return nil, err
	}
	if d.stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, errdefs.Newf(errdefs.InvalidArgument, "descriptor %d is not a directory", d.fd)
	}
	var err error
	d.path, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", d.fd))
	return d, err
}

// mount mounts the directory in the process's own namespace, aside from
// everything else, and returns how to make it the root.
func (d *served) mount(readOnly bool) (enter func() error, err error) {
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, err
	}
	// The descriptor speaks of the host's mount; only a path leads to this
	// namespace's copy of it.
	dir, err := unix.Open(d.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "open", errdefs.Resource("%s", d.path))
	}
	defer unix.Close(dir)
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return nil, err
	}
	if st.Dev != d.stat.Dev || st.Ino != d.stat.Ino {
		return nil, errdefs.Newf(errdefs.HostIO, "%s is no longer the directory that was handed down", d.path)
	}
	tree, err := unix.OpenTree(dir, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "open_tree", errdefs.Resource("%s", d.path))
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "mount_setattr", errdefs.Resource("%s", d.path))
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
		return nil, errdefs.Wrap(err, errdefs.HostIO, "move_mount", errdefs.Resource("%s", d.path))
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

// chroot is for a process that cannot mount.
func (d *served) chroot() error {
	if err := unix.Fchdir(d.fd); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "the host grants no mount namespace, and chroot")
	}
	return os.Chdir("/")
}
