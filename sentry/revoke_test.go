package sentry

import (
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
		if err := theKernel.Unmount(control.UnmountRequest{Key: key}); err != nil {
			t.Error(err)
		}
	})
	return dir, key
}

// writeHost writes a file of the host.
func writeHost(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// racer is the program in testdata that uses grants, compiled once.
var racer = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "aios-racer")
	if err != nil {
		return "", err
	}
	prog := filepath.Join(dir, "racer")
	if out, err := exec.Command("gcc", "-O1", "-static", "-pthread", "-o", prog, "testdata/racer.c").CombinedOutput(); err != nil {
		return "", fmt.Errorf("gcc: %w: %s", err, out)
	}
	return prog, nil
})

// racerProgram returns the program.
func racerProgram(t testing.TB) []byte {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("it needs gcc")
	}
	prog, err := racer()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(prog)
	if err != nil {
		t.Fatal(err)
	}
	return raw
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
	return strings.TrimSpace(out+errout) + fmt.Sprintf(" [%d]", exit.Code)
}
