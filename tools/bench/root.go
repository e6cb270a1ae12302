package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// root is a directory that becomes the root file system of every contender.
type root struct{ dir string }

// newRoot makes a root with the directories that every runtime mounts on.
func newRoot(dir string) (*root, error) {
	for _, d := range []string{"usr/bin", "usr/lib", "usr/lib64", "proc", "sys", "dev", "tmp", "etc", "data", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	for _, d := range []string{"bin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+d, filepath.Join(dir, d)); err != nil {
			return nil, err
		}
	}
	passwd := "root:x:0:0:root:/tmp:/bin/sh\n"
	return &root{dir}, os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte(passwd), 0o644)
}

// program copies a dynamically linked program of the host, with everything
// that its loader wants.
func (r *root) program(ctx context.Context, path string) error {
	text, err := output(ctx, exec.CommandContext(ctx, "ldd", path))
	if err != nil {
		return err
	}
	for _, f := range append(libraries(string(text)), path) {
		if err := r.file(f); err != nil {
			return err
		}
	}
	return nil
}

// libraries returns the files that ldd's output names.
func libraries(ldd string) []string {
	var out []string
	for line := range strings.Lines(ldd) {
		if _, after, ok := strings.Cut(line, "=> "); ok {
			line = after
		}
		if path := strings.Fields(line); len(path) > 0 && filepath.IsAbs(path[0]) {
			out = append(out, path[0])
		}
	}
	return out
}

// place returns where a path of the host lies in the root; /lib, /bin and
// /lib64 are links there.
func (r *root) place(path string) string {
	for _, d := range []string{"/bin/", "/lib/", "/lib64/"} {
		if strings.HasPrefix(path, d) {
			path = "/usr" + path
			break
		}
	}
	return filepath.Join(r.dir, path)
}

// file copies one file, following links, to the same path.
func (r *root) file(path string) error {
	path = filepath.Clean(path)
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	to := r.place(path)
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, info.Mode().Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	// Python trusts its compiled files only when the source's time matches.
	return os.Chtimes(to, info.ModTime(), info.ModTime())
}

// tree copies the regular files beneath a directory of the host, except those
// in directories of the given names.
func (r *root) tree(dir string, except ...string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			for _, name := range except {
				if d.Name() == name {
					return filepath.SkipDir
				}
			}
			return nil
		}
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
			return nil // A dangling link, or something that is no file.
		}
		return r.file(path)
	})
}

// write puts a file of the harness's own into the root.
func (r *root) write(path, text string, mode fs.FileMode) error {
	return os.WriteFile(filepath.Join(r.dir, path), []byte(text), mode)
}
