package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
)

// Prepare creates the state directory, its subdirectories and the directory of
// the socket, all for the owner alone, and refuses directories that another
// user owns or can write to. It is idempotent.
func (p Paths) Prepare() error {
	for _, dir := range []string{p.StateDir, p.Images, p.Domains, p.Agents, p.Audit, p.Tokens, p.Crashes, p.Events, filepath.Dir(p.Socket)} {
		if err := private(dir); err != nil {
			return err
		}
	}
	return nil
}

// private makes dir a directory that only the caller can change.
func private(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		code := errdefs.HostIO
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			code = errdefs.DiskFull
		}
		return errdefs.Wrap(err, code, "create directory",
			errdefs.Fix("name a directory that you can write to with --state-dir or %s", StateDirEnv))
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "examine directory")
	}
	st := fi.Sys().(*syscall.Stat_t)
	refuse := func(detail, fix string, args ...any) error {
		return errdefs.New(errdefs.Denied, detail, errdefs.Op("use directory"), errdefs.Resource("%q", dir), errdefs.Fix(fix, args...))
	}
	if uid := os.Geteuid(); int(st.Uid) != uid {
		return refuse("another user owns it", "chown %d %s, or name another directory with --state-dir or %s", uid, dir, StateDirEnv)
	}
	if fi.Mode().Perm()&0o022 != 0 {
		return refuse("other users can write to it", "chmod go-w %s", dir)
	}
	return nil
}

func ownerOf(path string) (int, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	if !fi.IsDir() {
		return 0, &fs.PathError{Op: "stat", Path: path, Err: unix.ENOTDIR}
	}
	return int(fi.Sys().(*syscall.Stat_t).Uid), nil
}
