package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"aios.dev/aios/api"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/config"
	"aios.dev/aios/errdefs"
)

// fakeDaemonEnv makes this test binary behave as aiosd; the value says how.
const fakeDaemonEnv = "AIOS_TEST_DAEMON"

func TestMain(m *testing.M) {
	if how := os.Getenv(fakeDaemonEnv); how != "" && len(os.Args) > 1 && os.Args[1] == "serve" {
		os.Exit(fakeDaemon(how))
	}
	if os.Getenv(ptyChildEnv) != "" {
		os.Exit(ptyChild())
	}
	os.Exit(m.Run())
}

// inheritable is a descriptor that fresh leaves open across exec.
const inheritable = 99

type versioned struct {
	apiv1.UnimplementedControlServer
	stop func()
}

func (versioned) Version(context.Context, *apiv1.VersionRequest) (*apiv1.VersionResponse, error) {
	return &apiv1.VersionResponse{Pid: int32(os.Getpid())}, nil
}

func (v versioned) Shutdown(context.Context, *apiv1.ShutdownRequest) (*apiv1.ShutdownResponse, error) {
	go v.stop()
	return &apiv1.ShutdownResponse{}, nil
}

func fakeDaemon(how string) int {
	if wd, err := os.Getwd(); err != nil || wd != "/" || len(os.Args) != 4 || os.Args[2] != "--state-dir" {
		fmt.Fprintln(os.Stderr, "started wrongly:", wd, os.Args)
		return 9
	}
	if sid, err := unix.Getsid(0); err != nil || sid != os.Getpid() {
		fmt.Fprintln(os.Stderr, "not a session of its own")
		return 9
	}
	if _, err := unix.FcntlInt(inheritable, unix.F_GETFD, 0); err == nil {
		fmt.Fprintln(os.Stderr, "a descriptor leaked")
		return 9
	}
	if how == "fail" {
		fmt.Fprintln(os.Stderr, "no room for\na kernel")
		return 1
	}
	p, err := config.Resolve(os.Args[3])
	if err != nil {
		return 9
	}
	lock, err := os.OpenFile(p.LockFile, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return 9
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return 0
	}
	fmt.Fprintln(lock, os.Getpid())
	if how == "silent" {
		time.Sleep(time.Minute)
		return 0
	}
	os.Remove(p.Socket)
	l, err := net.Listen("unix", p.Socket)
	if err != nil {
		return 9
	}
	s := grpc.NewServer(api.ServerOptions()...)
	apiv1.RegisterControlServer(s, versioned{stop: s.GracefulStop})
	time.AfterFunc(time.Minute, s.Stop) // In case the test dies.
	if err := s.Serve(l); err != nil {
		return 9
	}
	return 0
}

// fresh returns options whose daemon is this binary behaving as told.
func fresh(t *testing.T, how string) Options {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "aios-start")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p, err := config.Resolve(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Dup3(2, inheritable, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(inheritable) })
	t.Setenv(fakeDaemonEnv, how)
	t.Setenv("GORACE", "atexit_sleep_ms=0") // Lets a fake daemon end as fast as a real one.
	return Options{Paths: p, Daemon: self, startTimeout: 3 * time.Second}
}

func TestRacingClientsStartOneDaemon(t *testing.T) {
	o := fresh(t, "serve")
	const clients = 6
	pids := make([]int32, clients)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			c, err := Dial(within(t), o)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			r, err := c.Version(within(t), &apiv1.VersionRequest{})
			if err != nil {
				t.Error(err)
			}
			pids[i] = r.GetPid()
		})
	}
	wg.Wait()
	if pids[0] == 0 || len(slices.Compact(slices.Clone(pids))) != 1 {
		t.Errorf("the clients spoke to processes %v", pids)
	}
	c, err := Dial(within(t), o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Shutdown(within(t), &apiv1.ShutdownRequest{}); err != nil {
		t.Fatal(err)
	}
	// A start right behind a stop finds the lock still taken, and tries again.
	again, err := Dial(within(t), o)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	_, _ = again.Shutdown(within(t), &apiv1.ShutdownRequest{}) // The connection may have reached the old daemon.
}

func TestAFailingDaemonShowsItsLog(t *testing.T) {
	o := fresh(t, "fail")
	if err := o.Paths.Prepare(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.Paths.LogFile, []byte("an older failure\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Dial(within(t), o)
	if errdefs.CodeOf(err) != errdefs.DaemonUnreachable || !strings.Contains(err.Error(), "exit status 1") ||
		!strings.Contains(err.Error(), "    no room for\n    a kernel") || strings.Contains(err.Error(), "older") ||
		!strings.Contains(errdefs.FixOf(err), o.Paths.LogFile) {
		t.Errorf("%v; fix: %s", err, errdefs.FixOf(err))
	}
}

func TestASilentHolderOfTheLockIsNamed(t *testing.T) {
	o := fresh(t, "silent")
	o.startTimeout = time.Second
	_, err := Dial(within(t), o) // Its own silent daemon.
	if errdefs.CodeOf(err) != errdefs.DaemonUnreachable || !strings.Contains(err.Error(), "does not answer on "+o.Paths.Socket) {
		t.Errorf("first: %v", err)
	}
	_, err = Dial(within(t), o) // Loses against the first one.
	text, rerr := os.ReadFile(o.Paths.LockFile)
	pid, perr := strconv.Atoi(strings.TrimSpace(string(text)))
	if rerr != nil || perr != nil {
		t.Fatal(rerr, perr)
	}
	if !strings.Contains(errdefs.FixOf(err), fmt.Sprintf("`kill %d`", pid)) {
		t.Errorf("second: %v; fix: %s", err, errdefs.FixOf(err))
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Error(err)
	}
}

func TestDialRefusals(t *testing.T) {
	o := fresh(t, "serve")
	o.NoStart = true
	if _, err := Dial(within(t), o); errdefs.CodeOf(err) != errdefs.DaemonUnreachable || errdefs.FixOf(err) == "" {
		t.Errorf("no daemon: %v", err)
	}
	o.NoStart, o.Daemon = false, filepath.Join(t.TempDir(), "missing")
	if _, err := Dial(within(t), o); errdefs.CodeOf(err) != errdefs.DaemonUnreachable || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing binary: %v", err)
	}
	ctx, cancel := context.WithCancel(within(t))
	cancel()
	o = fresh(t, "serve")
	if _, err := Dial(ctx, o); errdefs.CodeOf(err) != errdefs.Cancelled {
		t.Errorf("cancelled: %v", err)
	}
}

func TestFindDaemon(t *testing.T) {
	dir := t.TempDir()
	plain, program := filepath.Join(dir, "plain"), filepath.Join(dir, "aiosd")
	for path, mode := range map[string]os.FileMode{plain: 0o600, program: 0o700} {
		if err := os.WriteFile(path, []byte("#!/bin/true\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	for env, want := range map[string]string{"": program, program: program} {
		t.Setenv(DaemonEnv, env)
		if got, err := FindDaemon(); err != nil || got != want {
			t.Errorf("with %q: %s, %v", env, got, err)
		}
	}
	for _, env := range []string{plain, dir, filepath.Join(dir, "missing")} {
		t.Setenv(DaemonEnv, env)
		if got, err := FindDaemon(); err == nil || errdefs.FixOf(err) == "" {
			t.Errorf("with %q: %s, %v", env, got, err)
		}
	}
	t.Setenv(DaemonEnv, "")
	t.Setenv("PATH", t.TempDir())
	if got, err := FindDaemon(); err == nil || errdefs.FixOf(err) == "" {
		t.Errorf("with nothing: %s, %v", got, err)
	}
}
