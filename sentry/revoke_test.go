package sentry

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/gofer"
)

var (
	hostDirs   atomic.Int64
	openSelfFD = sync.OnceValue(func() error { return gofer.OpenSelfFD("/proc/self/fd") })
)

// hostDir makes a new directory of the host known, for reading and writing,
// and returns its path and its key.
func hostDir(t testing.TB) (dir, key string) {
	t.Helper()
	if err := openSelfFD(); err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- gofer.Serve(os.NewFile(uintptr(fds[0]), "gofer"), dir, false, func() error { return nil })
	}()
	key = fmt.Sprint("host", hostDirs.Add(1))
	if err := theKernel.Mount(control.MountRequest{Key: key, Kind: control.KindGofer}, os.NewFile(uintptr(fds[1]), "kernel")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := theKernel.Unmount(control.UnmountRequest{Key: key}); err != nil {
			t.Error(err)
		}
	})
	return dir, key
}

// racerImage makes the image "racer" known, once, and returns the program
// racer, which is in it beside taker and a shell; see testdata.
var racerImage = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "aios-racer")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	racer, err := compiled(dir, "racer")
	if err != nil {
		return nil, err
	}
	taker, err := compiled(dir, "taker")
	if err != nil {
		return nil, err
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, err
	}
	return racer, mountImage(dir, "racer", func(root string) error {
		for _, d := range []string{"bin", "proc", "sys", "dev"} {
			if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
				return err
			}
		}
		for _, applet := range strings.Fields("cat cut dd echo grep head ls mkdir mount mv nc readlink rm sh sleep sort stat touch true usleep wc") {
			if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
				return err
			}
		}
		return errors.Join(
			os.WriteFile(filepath.Join(root, "bin", "busybox"), busybox, 0o755),
			os.WriteFile(filepath.Join(root, "bin", "racer"), racer, 0o755),
			os.WriteFile(filepath.Join(root, "bin", "taker"), taker, 0o755))
	})
})

// compiled is a program of testdata, static.
func compiled(dir, name string) ([]byte, error) {
	prog := filepath.Join(dir, name)
	if out, err := exec.Command("gcc", "-O1", "-static", "-o", prog, "testdata/"+name+".c").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("gcc: %w: %s", err, out)
	}
	return os.ReadFile(prog)
}

// ofRacer makes an agent of that image.
func ofRacer(t testing.TB) func(*control.SpawnRequest) {
	t.Helper()
	racerProgram(t)
	return func(r *control.SpawnRequest) { r.Root.Base = "racer" }
}

// racerProgram returns the program.
func racerProgram(t testing.TB) []byte {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("it needs gcc")
	}
	prog, err := racerImage()
	if err != nil {
		t.Fatal(err)
	}
	return prog
}

// racerDir is a directory of the host with what the program expects.
func racerDir(t testing.TB) (dir, key string) {
	t.Helper()
	prog := racerProgram(t)
	dir, key = hostDir(t)
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "f"), []byte(strings.Repeat("0123456789abcdef", 512)), 0o644),
		os.Mkdir(filepath.Join(dir, "sub"), 0o755),
		os.WriteFile(filepath.Join(dir, "sub", "in"), []byte("in sub\n"), 0o644),
		os.Symlink("f", filepath.Join(dir, "l")),
		os.WriteFile(filepath.Join(dir, "prog"), prog, 0o755),
	); err != nil {
		t.Fatal(err)
	}
	return dir, key
}

// give grants a running agent one thing more.
func give(t testing.TB, id, spec, key string) control.Cap {
	t.Helper()
	r, err := theKernel.CapGrant(control.GrantRequest{ID: id, Grants: []control.Grant{{Spec: spec, Key: key}}})
	if err != nil {
		t.Fatalf("grant %s: %v", spec, err)
	}
	return r.Caps[0]
}

// handOn delegates a capability as its holder would.
func handOn(t testing.TB, c control.Cap, to string, ch capability.Change) control.Cap {
	t.Helper()
	d, err := theKernel.CapDelegate(control.CapRequest{Cap: c.ID, To: to, Change: ch, Actor: control.Actor{Name: c.Agent}})
	if err != nil {
		t.Fatalf("delegate %s: %v", c.Spec, err)
	}
	return d
}

// lend delegates a capability as the operator would.
func lend(t testing.TB, c control.Cap, to string, ch capability.Change) control.Cap {
	t.Helper()
	d, err := theKernel.CapDelegate(control.CapRequest{Cap: c.ID, To: to, Change: ch})
	if err != nil {
		t.Fatalf("delegate %s: %v", c.Spec, err)
	}
	return d
}

// takeBack revokes.
func takeBack(t testing.TB, id capability.ID) control.RevokeReply {
	t.Helper()
	r, err := theKernel.CapRevoke(control.RevokeRequest{Cap: id, Reason: "test"})
	if err != nil {
		t.Fatalf("revoke: %v", err)
	}
	return r
}

func ptr[T any](v T) *T { return &v }

// run executes a script in s's agent and returns what it writes, and its exit.
func (s *spawned) run(script string) string {
	s.t.Helper()
	out, errout, exit := s.execIn(sh(script)).output()
	return strings.TrimSpace(strings.TrimSpace(out+errout) + fmt.Sprintf(" [%d]", exit.Code))
}
