package images

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aios.dev/aios/errdefs"
	"golang.org/x/sys/unix"
)

func write(t testing.TB, path, body string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
		t.Fatal(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDirectoryIsKeptAsItIs(t *testing.T) {
	s := newStore(t)
	dir := t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret")
	write(t, secret, "outside")
	write(t, filepath.Join(dir, "a/file"), "data")
	write(t, filepath.Join(dir, "exec"), "#!")
	write(t, filepath.Join(dir, ".wh.kept"), "not a whiteout here")
	must(t, os.Chmod(filepath.Join(dir, "exec"), 0o755|os.ModeSetuid))
	must(t, os.Link(filepath.Join(dir, "a/file"), filepath.Join(dir, "hard")))
	must(t, os.Symlink(secret, filepath.Join(dir, "link")))
	must(t, os.Symlink(filepath.Dir(secret), filepath.Join(dir, "dirlink")))
	must(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	must(t, os.Chtimes(filepath.Join(dir, "exec"), stamp, time.Unix(12345, 678)))
	l, err := net.Listen("unix", filepath.Join(dir, "sock"))
	must(t, err)
	defer l.Close()

	img := mustImport(t, s, "x", dir, ImportOptions{})
	me := fmt.Sprintf(" %d:%d", os.Getuid(), os.Getgid())
	wantContents(t, contents(t, s, "x"), map[string]string{
		"a": "40755" + me, "a/file": "100644" + me + ` "data"`, "hard": "=a/file", "exec": "104755" + me + ` "#!"`, ".wh.kept": "100644" + me + ` "not a whiteout here"`,
		"link": "120777" + me + " -> " + secret, "dirlink": "120777" + me + " -> " + filepath.Dir(secret), "pipe": "10600" + me,
	})
	fsck(t, s, "x")
	if len(img.Warnings) != 1 || img.Warnings[0] != "1 sockets left out: /sock" {
		t.Errorf("warnings %q", img.Warnings)
	}
	f, _, err := s.Open("x")
	must(t, err)
	defer f.Close()
	b, err := os.ReadFile(f.Name())
	must(t, err)
	if bytes.Contains(b, []byte("outside")) {
		t.Error("a symbolic link was followed")
	}
	if n := mtimeOf(t, f, "exec"); n != 12345_000000678 {
		t.Errorf("time of modification %d", n)
	}
}

func TestDeviceNodesOfADirectory(t *testing.T) {
	s := newStore(t)
	dir := t.TempDir()
	if err := unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))); err != nil {
		t.Skipf("device nodes cannot be made here: %v", err)
	}
	mustImport(t, s, "x", dir, ImportOptions{})
	wantContents(t, contents(t, s, "x"), map[string]string{"null": "20600 0:0 dev 0x103"})
}

func TestOtherFileSystemsAreNotEntered(t *testing.T) {
	s := newStore(t)
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "mnt"), 0o755))
	if err := unix.Mount("tmpfs", filepath.Join(dir, "mnt"), "tmpfs", 0, ""); err != nil {
		t.Skipf("nothing can be mounted here: %v", err)
	}
	defer unix.Unmount(filepath.Join(dir, "mnt"), unix.MNT_DETACH)
	write(t, filepath.Join(dir, "mnt/f"), "x")
	img := mustImport(t, s, "x", dir, ImportOptions{})
	if len(img.Warnings) != 1 || !strings.Contains(img.Warnings[0], "/mnt") || img.Files != 2 {
		t.Errorf("%d files, warnings %q", img.Files, img.Warnings)
	}
}

func TestStoreCannotBeImportedIntoItself(t *testing.T) {
	s := newStore(t)
	_, err := s.Import(context.Background(), "x", filepath.Dir(s.dir), ImportOptions{})
	wantError(t, err, errdefs.ImageInvalid, "image store is inside")
}

func TestDirectoryThatChangesWhileItIsRead(t *testing.T) {
	for name, change := range map[string]func(p string) error{
		"vanished":  os.Remove,
		"grew":      func(p string) error { return os.WriteFile(p, []byte("much longer"), 0o644) },
		"rewritten": func(p string) error { return os.WriteFile(p, []byte("DATA"), 0o644) },
		"replaced": func(p string) error {
			if err := os.WriteFile(p+"2", []byte("data"), 0o644); err != nil {
				return err
			}
			return os.Rename(p+"2", p)
		},
		"linked away": func(p string) error {
			if err := os.Remove(p); err != nil {
				return err
			}
			return os.Symlink("/etc/hostname", p)
		},
		"directory linked away": func(p string) error {
			d := filepath.Dir(p)
			if err := os.Rename(d, d+"2"); err != nil {
				return err
			}
			return os.Symlink(d+"2", d)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			dir := t.TempDir()
			p := filepath.Join(dir, "d/file")
			write(t, p, "data")
			must(t, os.Chtimes(p, stamp, stamp))
			src := &source{}
			defer src.close()
			must(t, readDirSource(context.Background(), dir, s.dir, src, ImportOptions{}.withDefaults()))
			must(t, change(p))
			_, err := s.writeBlob(context.Background(), src.root, nil)
			wantError(t, err, errdefs.HostIO, "/d/file")
			if got := leftovers(t, s, tmpDir); len(got) != 0 {
				t.Errorf("left %v", got)
			}
		})
	}
}

func TestUnreadableFileIsNamed(t *testing.T) {
	if os.Getuid() == 0 {
		// Root reads everything; what the error says is the same for another
		// reason that root meets: an ordinary file system never refuses it.
		err := sourceError("open", "d/secret", unix.EACCES)
		wantError(t, err, errdefs.Denied, "/d/secret")
		return
	}
	s := newStore(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "d/secret"), "x")
	must(t, os.Chmod(filepath.Join(dir, "d/secret"), 0))
	_, err := s.Import(context.Background(), "x", dir, ImportOptions{})
	wantError(t, err, errdefs.Denied, "/d/secret")
}

func TestDirectoryLimits(t *testing.T) {
	dir := t.TempDir()
	for i := range 6 {
		write(t, filepath.Join(dir, fmt.Sprint(i)), strings.Repeat("x", 100))
	}
	for _, tc := range []struct {
		limits Limits
		want   string
	}{{Limits{Entries: 5}, "entries = 5"}, {Limits{FileSize: 99}, "file-size = 99"}, {Limits{TotalSize: 599}, "total-size = 599"}} {
		s := newStore(t)
		_, err := s.Import(context.Background(), "x", dir, ImportOptions{Limits: tc.limits})
		wantError(t, err, errdefs.ImageInvalid, tc.want)
	}
	mustImport(t, newStore(t), "x", dir, ImportOptions{Limits: Limits{Entries: 6, FileSize: 100, TotalSize: 600}})
}

func TestSameSourceSameBytes(t *testing.T) {
	l := layerOf(t, entry{name: "d/"}, entry{name: "d/f", body: "f"}, entry{name: "g", typ: '1', link: "d/f"}, entry{name: "l", typ: '2', link: "g"})
	p := layout(testImage{layers: [][]byte{l}})
	dir := t.TempDir()
	write(t, filepath.Join(dir, "z"), "z")
	write(t, filepath.Join(dir, "a/b"), "b")
	docker := dockerArchive(t, l)
	for name, path := range map[string]string{"directory": dir, "layout": p.dir(t), "archive": fileOf(t, p.tar(t)), "docker": fileOf(t, docker)} {
		a := mustImport(t, newStore(t), "x", path, ImportOptions{})
		b := mustImport(t, newStore(t), "y", path, ImportOptions{})
		if a.Digest != b.Digest {
			t.Errorf("%s: %s, then %s", name, a.Digest, b.Digest)
		}
	}
	// How the layers are packed, and in what, does not matter either.
	a := mustImport(t, newStore(t), "x", p.dir(t), ImportOptions{})
	b := mustImport(t, newStore(t), "x", fileOf(t, gz(docker)), ImportOptions{})
	if a.Digest != b.Digest {
		t.Errorf("layout %s, docker archive %s", a.Digest, b.Digest)
	}
}
