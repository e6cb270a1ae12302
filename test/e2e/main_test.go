package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// theRoot is the directory of this test run: bin/ with what was built, and one
// directory for each installation. Its path is short, for the sake of sockets.
var theRoot string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	root, err := os.MkdirTemp("", "aios-e2e-")
	if err == nil {
		defer os.RemoveAll(root)
		// Agents of other users than root look into directories below.
		err = os.Chmod(root, 0o755)
	}
	if err == nil {
		theRoot = root
		err = build(filepath.Join(root, "bin"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	return m.Run()
}

// build makes the binaries under test.
func build(dir string) error {
	for _, name := range []string{"aiosd", "aiosctl"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), "aios.dev/aios/cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("build %s: %w", name, err)
		}
	}
	return nil
}

// platforms returns what the tests run on, the default first.
func platforms() []string {
	if p := os.Getenv("AIOS_TEST_PLATFORM"); p != "" {
		return []string{p}
	}
	return []string{"systrap", "ptrace"}
}

// onEach runs f on every platform, each time in a fresh installation, beside other
// tests: most wait most of the time.
func onEach(t *testing.T, f func(t *testing.T, in *install)) {
	t.Parallel()
	on(t, platforms(), f)
}

// onOne runs f on the platform that is taken by default, for a feature that no
// platform can tell apart; on every one in a soak.
func onOne(t *testing.T, f func(t *testing.T, in *install)) {
	t.Parallel()
	which := platforms()
	if !soak() {
		which = which[:1]
	}
	on(t, which, f)
}

func on(t *testing.T, platforms []string, f func(t *testing.T, in *install)) {
	for _, p := range platforms {
		t.Run(p, func(t *testing.T) {
			t.Parallel()
			f(t, newInstall(t, p))
		})
	}
}

// soak reports whether the long versions of tests were asked for.
func soak() bool { return os.Getenv("AIOS_SOAK") == "1" }

// need skips the test, or fails it where everything must be there, unless the
// host has the programs.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if hostHas(p) {
			continue
		}
		if os.Getenv("AIOS_REQUIRE_PROGRAMS") == "1" {
			t.Fatalf("%s is not installed, and AIOS_REQUIRE_PROGRAMS=1 demands it", p)
		}
		t.Skipf("%s is not installed on this host", p)
	}
}

// hostHas reports whether a program is where agents on the host image look.
func hostHas(program string) bool {
	for _, dir := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		if fi, err := os.Stat(filepath.Join(dir, program)); err == nil && fi.Mode()&0o111 != 0 {
			return true
		}
	}
	return false
}
