package sentry

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// testImage makes an image known for the time of the test.
func testImage(t testing.TB, key string, files map[string]string) {
	t.Helper()
	if err := mountImage(t.TempDir(), key, func(root string) error {
		for name, text := range files {
			p := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				return err
			}
			if target, ok := strings.CutPrefix(text, "-> "); ok {
				if err := os.Symlink(target, p); err != nil {
					return err
				}
			} else if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := theKernel.Unmount(control.UnmountRequest{Key: key}); err != nil {
			t.Error(err)
		}
	})
}

func rooted(root control.Root, files ...control.Grant) func(*control.SpawnRequest) {
	return func(r *control.SpawnRequest) { r.Root, r.Grants = root, append(r.Grants, files...) }
}

func TestRootIsPutTogether(t *testing.T) {
	testImage(t, "layer", map[string]string{"file": "of the layer\n", "deep/er/file": "deep\n", "secret/key": "hidden\n"})
	testImage(t, "bound", map[string]string{"file": "of the bind\n"})
	root := control.Root{
		Base:   "busybox",
		Layers: []control.Bind{{Key: "layer", Target: "/usr"}, {Key: "layer", Target: "/opt/made/up", ReadOnly: true}},
		Hide:   []string{"/usr/secret"},
	}
	binds := []control.Grant{{Key: "bound", Spec: "fs:/a:rw,at=/mnt/a"}, {Key: "bound", Spec: "fs:/a:ro,at=/usr/deep/b"}}
	s := spawn(t, []string{"sleep", "1000"}, rooted(root, binds...))
	for _, step := range []struct{ script, want string }{
		{"cat /usr/file /opt/made/up/deep/er/file /mnt/a/file /usr/deep/b/file", "of the layer\ndeep\nof the bind\nof the bind\n"},
		{"ls -A /usr/secret", ""},
		{"echo changed > /usr/file && cat /usr/file && cat /opt/made/up/file", "changed\nof the layer\n"},
		{"rm /usr/deep/er/file && ls -A /usr/deep/er", ""},
		{"mkdir /usr/new && mv /usr/new /usr/newer && ls -d /usr/newer", "/usr/newer\n"},
		{"ls /proc/1/cmdline /proc/self/exe /dev/null /dev/pts/ptmx /dev/shm -d /sys/kernel -d | sort | wc -l", "6\n"},
		{"echo x > /dev/null && echo y > /dev/shm/y && cat /dev/shm/y", "y\n"},
		{"readlink /proc/self/exe", "/bin/busybox\n"},
	} {
		if out, errout, exit := s.execIn(sh(step.script)).output(); out != step.want || exit.Code != 0 {
			t.Errorf("%q: stdout %q stderr %q exit %+v, want %q", step.script, out, errout, exit, step.want)
		}
	}
	for _, script := range []string{
		"touch /opt/made/up/x", "touch /usr/deep/b/x", "rm /usr/deep/b/file", "touch /usr/secret/x", "touch /sys/x",
		"touch /mnt/a/x", // The image under the bind is read-only.
	} {
		if _, _, exit := s.execIn(sh(script)).output(); exit.Code == 0 {
			t.Errorf("%q succeeded", script)
		}
	}
	// Another agent of the same root starts afresh.
	if out, _, _ := spawn(t, sh("cat /usr/file /usr/deep/er/file; ls /dev/shm /tmp"), rooted(root, binds...)).output(); out != "of the layer\ndeep\n/dev/shm:\n\n/tmp:\n" {
		t.Errorf("a second agent sees %q", out)
	}
}

// TestImagesThatMislead checks that links in an image lead nowhere but into
// the image, and that an image which cannot be completed is refused.
func TestImagesThatMislead(t *testing.T) {
	bb, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := mountImage(t.TempDir(), "links", func(root string) error {
		for _, l := range [][2]string{{"../../../../../../etc", "mnt"}, {"/elsewhere", "sys"}} {
			if err := os.Symlink(l[0], filepath.Join(root, l[1])); err != nil {
				return err
			}
		}
		for _, d := range []string{"elsewhere", "etc", "bin"} {
			if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
				return err
			}
		}
		return os.WriteFile(filepath.Join(root, "bin/sh"), bb, 0o755)
	}); err != nil {
		t.Fatal(err)
	}
	testImage(t, "more", map[string]string{"passwd": "more\n"})
	s := spawn(t, []string{"/bin/sh", "-c", "read x < /etc/passwd; echo $x; [ -d /elsewhere/kernel ] && echo sys"},
		rooted(control.Root{Base: "links"}, control.Grant{Key: "more", Spec: "fs:/more:ro,at=/mnt"}))
	if out, errout, _ := s.output(); out != "more\nsys\n" {
		t.Errorf("stdout %q stderr %q", out, errout)
	}

	for n, files := range []map[string]string{
		{"proc": "a file"}, {"dev": "a file"}, {"sys": "-> /sys"}, {"proc": "-> /nowhere/at/all/../.."},
	} {
		key := fmt.Sprint("bad", n)
		testImage(t, key, files)
		_, err := trySpawn(t, []string{"true"}, rooted(control.Root{Base: key}))
		if code := errdefs.CodeOf(err); code != errdefs.InvalidArgument { // Not for want of the program.
			t.Errorf("%v: %v (%s)", files, err, code)
		}
	}
}

func TestRootErrors(t *testing.T) {
	for name, test := range map[string]struct {
		opt  func(*control.SpawnRequest)
		want errdefs.Code
	}{
		"no base":         {rooted(control.Root{}), errdefs.NotFound},
		"unknown base":    {rooted(control.Root{Base: "nosuch"}), errdefs.NotFound},
		"unknown layer":   {rooted(control.Root{Base: "busybox", Layers: []control.Bind{{Key: "nosuch", Target: "/usr"}}}), errdefs.NotFound},
		"unknown bind":    {rooted(control.Root{Base: "busybox"}, control.Grant{Key: "nosuch", Spec: "fs:/bind:rw,at=/mnt"}), errdefs.NotFound},
		"bind on root":    {rooted(control.Root{Base: "busybox"}, control.Grant{Key: "busybox", Spec: "fs:/bind:rw,at=/"}), errdefs.InvalidArgument},
		"bind on /..":     {rooted(control.Root{Base: "busybox"}, control.Grant{Key: "busybox", Spec: "fs:/bind:rw,at=/.."}), errdefs.CapabilityInvalid},
		"relative bind":   {rooted(control.Root{Base: "busybox"}, control.Grant{Key: "busybox", Spec: "fs:/bind:rw,at=mnt"}), errdefs.CapabilityInvalid},
		"bind on a file":  {rooted(control.Root{Base: "busybox"}, control.Grant{Key: "busybox", Spec: "fs:/bind:rw,at=/etc/passwd"}), errdefs.InvalidArgument},
		"bind below one":  {rooted(control.Root{Base: "busybox"}, control.Grant{Key: "busybox", Spec: "fs:/bind:rw,at=/etc/passwd/x"}), errdefs.InvalidArgument},
		"hide a file":     {rooted(control.Root{Base: "busybox", Hide: []string{"/etc/passwd"}}), errdefs.InvalidArgument},
		"layer on a file": {rooted(control.Root{Base: "busybox", Layers: []control.Bind{{Key: "busybox", Target: "/etc/passwd"}}}), errdefs.InvalidArgument},
	} {
		_, err := trySpawn(t, []string{"true"}, test.opt)
		if got := errdefs.CodeOf(err); got != test.want {
			t.Errorf("%s: %v (%s), want %s", name, err, got, test.want)
		}
	}
}

func TestMountErrors(t *testing.T) {
	before := consumed(t)
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("not an image", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(path string) *os.File {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	for range 20 {
		wantCode(t, theKernel.Mount(control.MountRequest{Key: "x", Kind: "nosuch"}, open(garbage)), errdefs.Unsupported)
		wantCode(t, theKernel.Mount(control.MountRequest{Key: "x", Kind: control.KindEROFS}, open(garbage)), errdefs.ImageInvalid)
		wantCode(t, theKernel.Mount(control.MountRequest{Key: "x", Kind: control.KindEROFS}, open("/dev/null")), errdefs.ImageInvalid)
		if err := theKernel.Mount(control.MountRequest{Key: "busybox", Kind: control.KindEROFS}, open(garbage)); err != nil {
			t.Error(err) // It is known already; the file is not looked at.
		}
	}
	_, err := theKernel.Unmount(control.UnmountRequest{Key: "x"})
	wantCode(t, err, errdefs.NotFound)
	backTo(t, before)
}

// TestUnmountWhileUsed checks that an agent keeps what it was given.
func TestUnmountWhileUsed(t *testing.T) {
	before := consumed(t)
	func() {
		dir := t.TempDir()
		if err := mountImage(dir, "brief", func(root string) error {
			return os.WriteFile(filepath.Join(root, "file"), []byte("kept\n"), 0o644)
		}); err != nil {
			t.Fatal(err)
		}
		s := spawn(t, []string{"sleep", "1000"}, rooted(control.Root{Base: "busybox"}, control.Grant{Key: "brief", Spec: "fs:/bind:rw,at=/mnt"}))
		if _, err := theKernel.Unmount(control.UnmountRequest{Key: "brief"}); err != nil {
			t.Fatal(err)
		}
		if out, _, _ := s.execIn([]string{"cat", "/mnt/file"}).output(); out != "kept\n" {
			t.Errorf("read %q", out)
		}
		_, err := trySpawn(t, []string{"true"}, rooted(control.Root{Base: "busybox"}, control.Grant{Key: "brief", Spec: "fs:/bind:rw,at=/mnt"}))
		wantCode(t, err, errdefs.NotFound)
		s.signal(9)
		s.wait()
	}()
	backTo(t, before)
}

func TestProgramsAreFound(t *testing.T) {
	for name, test := range map[string]struct {
		argv []string
		opt  func(*control.SpawnRequest)
		want string
	}{
		"by name":     {[]string{"hello", "you"}, func(*control.SpawnRequest) {}, "hello you\n"},
		"by path":     {[]string{"/bin/hello", "you"}, func(*control.SpawnRequest) {}, "hello you\n"},
		"relative":    {[]string{"./hello"}, func(r *control.SpawnRequest) { r.Process.Cwd = "/bin" }, "hello\n"},
		"own PATH":    {[]string{"hello"}, func(r *control.SpawnRequest) { r.Process.Env = []string{"PATH=/nosuch::bin:/etc/passwd:/bin"} }, "hello\n"},
		"no PATH":     {[]string{"hello"}, func(r *control.SpawnRequest) { r.Process.Env = nil }, "hello\n"},
		"as root":     {[]string{"private"}, func(*control.SpawnRequest) {}, "private\n"},
		"environment": {[]string{"sh", "-c", "echo $A$HOME"}, func(r *control.SpawnRequest) { r.Process.Env = []string{"A=b", "HOME=/h"} }, "b/h\n"},
	} {
		if out, errout, exit := spawn(t, test.argv, test.opt).output(); out != test.want || exit.Code != 0 {
			t.Errorf("%s: stdout %q stderr %q %+v", name, out, errout, exit)
		}
	}
	_, err := trySpawn(t, []string{"private"}, as("bob"))
	wantCode(t, err, errdefs.ProgramNotRunable)
	_, err = trySpawn(t, []string{"true"}, func(r *control.SpawnRequest) { r.Process.Cwd = "/bin/data" })
	wantCode(t, err, errdefs.InvalidArgument)
}

// TestTmpOfTheImage checks that /tmp is a file system of its own, unless the
// image has something there.
func TestTmpOfTheImage(t *testing.T) {
	testImage(t, "withtmp", map[string]string{"tmp/kept": "of the image\n", "bin/sh": "-> /usr/bin/busybox"})
	testImage(t, "without", map[string]string{"bin/sh": "-> /usr/bin/busybox"})
	for base, want := range map[string]string{"withtmp": "of the image\nmounts 0\n", "without": "mounts 1\n"} {
		root := control.Root{Base: base, Layers: []control.Bind{{Key: "busybox", Target: "/usr"}}}
		script := "b=/usr/bin/busybox; $b touch /tmp/new && $b cat /tmp/kept 2>/dev/null; echo mounts $($b grep -c ' /tmp ' /proc/mounts)"
		if out, errout, _ := spawn(t, sh(script), rooted(root)).output(); out != want {
			t.Errorf("%s: %q %q, want %q", base, out, errout, want)
		}
	}
}
