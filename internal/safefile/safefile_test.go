package safefile

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"aios.dev/aios/errdefs"
)

func TestWriteReplacesWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, text := range []string{"a longer first version", "short"} {
		if err := Write(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Fatalf("read %q, %v", got, err)
		}
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := Write(filepath.Join(path, "below"), nil); err == nil {
		t.Error("wrote below a file")
	}
}

func TestSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if _, err := ReadSecret(path, 8); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a missing key: %v", err)
	}
	if err := CreateSecret(path, []byte("12345678")); err != nil {
		t.Fatal(err)
	}
	if err := CreateSecret(path, []byte("other")); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("a key was replaced: %v", err)
	}
	if got, err := ReadSecret(path, 8); err != nil || !bytes.Equal(got, []byte("12345678")) {
		t.Fatalf("read %q, %v", got, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	if _, err := ReadSecret(path, 7); !errors.Is(err, errdefs.Denied) {
		t.Errorf("a key that is too long: %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSecret(path, 8); !errors.Is(err, errdefs.Denied) || errdefs.FixOf(err) == "" {
		t.Errorf("a key that a group may read: %v", err)
	}
	link := path + "-link"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSecret(link, 8); err == nil {
		t.Error("followed a symbolic link")
	}
	if _, err := ReadSecret(filepath.Dir(path), 8); !errors.Is(err, errdefs.Denied) {
		t.Errorf("a directory: %v", err)
	}
}

func TestFail(t *testing.T) {
	full := &fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}
	if err := Fail(full, "write", "/d/x"); !errors.Is(err, errdefs.DiskFull) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("no space: %v", err)
	}
	if err := Fail(syscall.EIO, "write", "/d/x"); !errors.Is(err, errdefs.HostIO) {
		t.Errorf("EIO: %v", err)
	}
	if Fail(nil, "write", "/d/x") != nil {
		t.Error("nil became an error")
	}
}
