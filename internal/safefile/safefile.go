// Package safefile writes small files that must survive a crash and keeps
// secrets that only their owner may read. The audit trail, the tokens
// and the journal of events share it.
//
// Nothing here locks: each path has one writer at a time, and that is the
// caller's business. It imports errdefs and the standard library.
package safefile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"aios.dev/aios/errdefs"
)

// Fail gives a failure of the host's files its code: DISK_FULL when there is
// no room, HOST_IO otherwise. It returns nil when err is nil.
func Fail(err error, op, path string) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return errdefs.Wrap(err, errdefs.DiskFull, op, errdefs.Resource("%s", path),
			errdefs.Fix("make room on the file system of %s", filepath.Dir(path)))
	}
	return errdefs.Wrap(err, errdefs.HostIO, op, errdefs.Resource("%s", path))
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

// Write replaces path with data, mode 0600, so that whoever looks, even after
// a crash of the machine, finds the old contents whole or the new.
func Write(path string, data []byte) error {
	tmp := path + ".tmp"
	if err := writeNew(tmp, data, os.O_TRUNC); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// writeNew writes and syncs a file; how is O_TRUNC or O_EXCL.
func writeNew(path string, data []byte, how int) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|how, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// ReadSecret reads a file of at most max bytes that nobody but its owner can
// read, and whose owner is this process's user or root. Anything else is
// refused. A missing file is reported as fs.ErrNotExist beneath.
func ReadSecret(path string, max int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errdefs.Wrap(err, errdefs.NotFound, "open key", errdefs.Resource("%s", path))
	}
	if err != nil {
		return nil, Fail(err, "open key", path)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, Fail(err, "open key", path)
	}
	refuse := func(detail, fix string) ([]byte, error) {
		return nil, errdefs.New(errdefs.Denied, detail,
			errdefs.Op("open key"), errdefs.Resource("%s", path), errdefs.Fix("%s", fix))
	}
	if !info.Mode().IsRegular() {
		return refuse("it is not a regular file", "move it away; a new key is made when there is none")
	}
	if info.Mode().Perm()&0o077 != 0 {
		return refuse("others than its owner may use it: mode "+info.Mode().Perm().String(),
			"if nobody did, chmod 600 it; otherwise replace it")
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return refuse("it belongs to another user", "chown it to the user of the daemon")
	}
	data, err := io.ReadAll(io.LimitReader(f, int64(max)+1))
	if err != nil {
		return nil, Fail(err, "read key", path)
	}
	if len(data) > max {
		return refuse("it is too long for a key", "move it away; a new key is made when there is none")
	}
	return data, nil
}

// CreateSecret writes a new file, mode 0600, and makes it durable. It never
// replaces one: that is reported as fs.ErrExist beneath.
func CreateSecret(path string, data []byte) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Fail(err, "create key", path)
	}
	if err := writeNew(tmp, data, os.O_EXCL); err != nil {
		return Fail(err, "create key", path)
	}
	defer os.Remove(tmp)
	if err := os.Link(tmp, path); err != nil {
		return Fail(err, "create key", path)
	}
	return Fail(SyncDir(filepath.Dir(path)), "create key", path)
}
