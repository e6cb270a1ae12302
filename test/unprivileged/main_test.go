package unprivileged

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"aios.dev/aios/client"
	"aios.dev/aios/config"
)

// theRoot holds the binaries and a directory for each place.
var theRoot string

// someone is an ordinary user that owns nothing on the host.
const someone = 61234

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	root, err := os.MkdirTemp("", "aios-few-")
	if err == nil {
		defer os.RemoveAll(root)
		err = os.Chmod(root, 0o755)
	}
	for _, name := range []string{"aiosd", "aiosctl"} {
		if err == nil {
			cmd := exec.Command("go", "build", "-o", filepath.Join(root, "bin", name), "aios.dev/aios/cmd/"+name)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
			cmd.Stderr = os.Stderr
			err = cmd.Run()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "unprivileged:", err)
		return 1
	}
	theRoot = root
	return m.Run()
}

// lacking skips the test, or fails it where everything must be there.
func lacking(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("AIOS_REQUIRE_PROGRAMS") == "1" {
		t.Fatalf("%s, and AIOS_REQUIRE_PROGRAMS=1 demands it", what)
	}
	t.Skip(what)
}

// place is where commands run: by whom, and with which part of the host.
type place struct {
	home string // of the user, below theRoot; the same path inside and outside
	uid  int
	// command prepares a command line to run there.
	command func(ctx context.Context, argv ...string) *exec.Cmd
	// processes lists the command lines of AIOS's processes there.
	processes func(t *testing.T) []string
}

// result is what a command came to.
type result struct {
	out, errOut string
	status      int
}

// aiosctl runs one command there.
func (p *place) aiosctl(t *testing.T, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := p.command(ctx, append([]string{filepath.Join(theRoot, "bin", "aiosctl")}, args...)...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("aiosctl %q: %v", args, err)
	}
	return result{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

// ok is aiosctl for what must succeed.
func (p *place) ok(t *testing.T, args ...string) string {
	t.Helper()
	r := p.aiosctl(t, args...)
	if r.status != 0 {
		t.Fatalf("aiosctl %q: status %d\n%s%s", args, r.status, r.out, r.errOut)
	}
	return r.out
}

func (p *place) stateDir() string { return filepath.Join(p.home, ".local/state/aios") }

// dial connects to the daemon there, from here.
func (p *place) dial(t *testing.T) *client.Client {
	t.Helper()
	paths, err := config.Resolve(p.stateDir())
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.Dial(context.Background(), client.Options{Paths: paths, NoStart: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// leave ends everything there, and wants nothing to be left.
func (p *place) leave(t *testing.T) {
	p.ok(t, "daemon", "stop", "--domains")
	var left []string
	for range 100 {
		if left = p.processes(t); len(left) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("processes are left: %q", left)
}

// newHome makes a home directory of uid.
func newHome(t *testing.T, uid int) string {
	t.Helper()
	home, err := os.MkdirTemp(theRoot, "h")
	if err == nil && os.Getuid() == 0 {
		err = os.Chown(home, uid, uid)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	return home
}

// environment is what commands see: nothing of ours. Root would keep its state
// in /var/lib.
func environment(home string, uid int) []string {
	env := []string{"HOME=" + home, "PATH=/usr/local/bin:/usr/bin:/bin"}
	if uid == 0 {
		env = append(env, config.StateDirEnv+"="+filepath.Join(home, ".local/state/aios"))
	}
	return env
}

// user is a place: this host, as someone.
func user(t *testing.T) *place {
	uid := someone
	if os.Getuid() != 0 {
		uid = os.Getuid()
	}
	p := &place{home: newHome(t, uid), uid: uid}
	p.command = func(ctx context.Context, argv ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Dir, cmd.Env = p.home, environment(p.home, uid)
		if os.Getuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
		}
		return cmd
	}
	p.processes = func(t *testing.T) []string { return ours(t, "/proc", uid) }
	return p
}

// ours lists, in a /proc, the processes of AIOS that belong to uid, or with -1
// to anybody. Dead ones count as gone: a container's init may not collect them.
func ours(t *testing.T, proc string, uid int) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, dir := range dirs {
		fi, err := os.Stat(dir)
		if err != nil {
			continue // It ended meanwhile.
		}
		raw, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		line := strings.TrimSpace(strings.ReplaceAll(string(raw), "\x00", " "))
		if strings.Contains(line, "aiosd") && (uid < 0 || int(fi.Sys().(*syscall.Stat_t).Uid) == uid) {
			out = append(out, line)
		}
	}
	return out
}
