package daemon

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
)

// hostDir is a directory of the host that is to be given to agents: root, which
// its user has named, and what is below it, which somebody else has named who
// was given root, or all of the host in part: an agent, or the bearer of a
// token. Below root no symbolic link is followed: an agent that can write there
// could make one that leads elsewhere.
type hostDir struct{ root, below string }

// String is root and, after "//", what is below it. Clean paths do not have
// that, so that it says how the directory was opened.
func (h hostDir) String() string {
	if h.below == "" {
		return h.root
	}
	return strings.TrimSuffix(h.root, "/") + "//" + h.below
}

// rootIn returns the root in a key of package control that ends with a hostDir.
func rootIn(key string) string {
	_, dir, _ := strings.Cut(key, ":")
	root, _, _ := strings.Cut(dir, "//")
	if root == "" {
		return "/"
	}
	return root
}

// dirWithin is the directory path, seen as a part of root; root is "" for a user
// who may name every directory.
func dirWithin(root, path string) (hostDir, error) {
	if root == "" || root == path {
		return hostDir{root: path}, nil
	}
	below, err := filepath.Rel(root, path)
	if err != nil || !filepath.IsLocal(below) {
		return hostDir{}, errdefs.New(errdefs.RightsExceed, "it is not below the directory that was given", errdefs.Resource("%s", path),
			errdefs.Fix("name a part of what was given"))
	}
	return hostDir{root, below}, nil
}

// open opens the directory without the right to read it: that is the gofer's.
func (h hostDir) open() (*os.File, error) {
	f, err := os.OpenFile(h.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, openError(err)
	}
	if h.below == "" {
		return f, nil
	}
	defer f.Close()
	at, fd := int(f.Fd()), -1
	for name := range strings.SplitSeq(h.below, "/") {
		next, err := unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		led := err != nil && isLink(at, name)
		if fd >= 0 {
			unix.Close(fd)
		}
		if led {
			return nil, errdefs.New(errdefs.Denied, "a symbolic link is in the way, which is not followed", errdefs.Op("mount"),
				errdefs.Resource("%s", filepath.Join(h.root, h.below)), errdefs.Fix("name the directory by a path without symbolic links"))
		}
		if err != nil {
			return nil, openError(&fs.PathError{Op: "open", Path: filepath.Join(h.root, h.below), Err: err})
		}
		at, fd = next, next
	}
	return os.NewFile(uintptr(fd), h.String()), nil
}

func isLink(at int, name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK
}

func openError(err error) error {
	code := errdefs.HostIO
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		code = errdefs.InvalidArgument
	}
	return errdefs.Wrap(err, code, "mount", errdefs.Fix("name a directory of the host"))
}
