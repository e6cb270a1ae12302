package box

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
)

// bootFiles is what a kernel process still reads while it boots inside its
// empty root: facts about the machine, as copies.
var bootFiles = []string{
	"/etc/localtime",
	"/proc/cpuinfo",
	"/proc/meminfo",
	"/proc/self/auxv",
	"/proc/sys/vm/mmap_min_addr",
	"/sys/devices/system/cpu/possible",
	"/sys/kernel/mm/transparent_hugepage/enabled",
	"/sys/kernel/mm/transparent_hugepage/defrag",
	"/sys/kernel/mm/transparent_hugepage/shmem_enabled",
}

// ownMaps is the one live file of the empty root: a platform looks there for
// a free place in the process's own address space.
const ownMaps = "/proc/self/maps"

// maxCopy bounds a copied file; the largest is cpuinfo on a big machine.
const maxCopy = 4 << 20

// fill copies files into root under their own names. What the host does not
// have is left out: whoever needs it says so itself.
func fill(root string, files []string) error {
	for _, name := range files {
		if !filepath.IsAbs(name) || filepath.Clean(name) != name {
			return errdefs.Newf(errdefs.InvalidArgument, "%q is not a clean absolute path", name)
		}
		if err := copyFile(name, filepath.Join(root, name)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o444)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, io.LimitReader(src, maxCopy))
	return errors.Join(err, dst.Close())
}

// mountPoint returns a directory to cover with the new root; nothing below it
// is needed any more.
func mountPoint() (string, error) {
	for _, dir := range []string{"/tmp", "/run", "/mnt", "/var", "/usr"} {
		if st, err := os.Lstat(dir); err == nil && st.IsDir() {
			return dir, nil
		}
	}
	return "", errdefs.New(errdefs.HostIO, "no directory to mount on")
}

// emptyRoot makes a read-only tmpfs with nothing but files the root of the
// process. The process must have a mount namespace of its own.
func emptyRoot(files []string) error {
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	root, err := mountPoint()
	if err != nil {
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := mount("aios", root, "tmpfs", flags, "mode=0755,size=16m"); err != nil {
		return err
	}
	if err := fill(root, files); err != nil {
		return err
	}
	maps := filepath.Join(root, ownMaps)
	if err := os.MkdirAll(filepath.Dir(maps), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(maps, nil, 0o444); err != nil {
		return err
	}
	if err := mount(ownMaps, maps, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|flags, ""); err != nil {
		return err
	}
	return enterRoot(root)
}

// enterRoot makes the mount at root the root of the process and forgets the
// old one.
func enterRoot(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	err := unix.PivotRoot(".", ".")
	switch {
	case err == nil:
		// The old root now lies on top of the new one.
		if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
			return errdefs.Wrap(err, errdefs.HostIO, "unmount old root")
		}
	case errors.Is(err, unix.EINVAL):
		// The first root of a machine, rootfs, cannot be pivoted away: it is
		// covered instead.
		if err := mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
			return err
		}
		if err := unix.Chroot("."); err != nil {
			return errdefs.Wrap(err, errdefs.HostIO, "chroot")
		}
	default:
		return errdefs.Wrap(err, errdefs.HostIO, "pivot_root")
	}
	return os.Chdir("/")
}

// NewRoot makes the directory at path, for Options.Root, and opens it. The
// caller passes it to the child, closes it, and removes path with what is in
// it when the child has ended.
func NewRoot(path string) (*os.File, error) {
	err := os.Mkdir(path, 0o700)
	if err == nil && os.Getuid() == 0 {
		// The child may be nobody by the time it writes there.
		err = os.Chown(path, nobody, nobody)
	}
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "make root directory")
	}
	f, err := os.Open(path)
	return f, errdefs.Wrap(err, errdefs.HostIO, "open root directory")
}

// chrootInto is the empty root of a process that cannot mount: a directory on
// a host file system. What is in it are copies, so the address space that a
// platform reads there is that of a moment ago.
func chrootInto(dir int, files []string) error {
	if err := unix.Fchdir(dir); err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "fchdir")
	}
	if err := fill(".", append([]string{ownMaps}, files...)); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "chroot")
	}
	return os.Chdir("/")
}

func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "mount", errdefs.Resource("%s on %s", strings.TrimSpace(fstype+" "+source), target))
	}
	return nil
}
