package sentry

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/log"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/klog"
	"aios.dev/aios/platform"
	"aios.dev/aios/platform/drivers"
)

// One kernel serves all tests of the package: gVisor allows one per process.
var (
	theKernel *Kernel
	exits     exitBook
)

// exitBook collects exit events.
type exitBook struct {
	mu   sync.Mutex
	cond *sync.Cond
	got  map[string]map[int32]control.Exit
}

func (b *exitBook) note(e control.ExitEvent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.got[e.ID] == nil {
		b.got[e.ID] = map[int32]control.Exit{}
	}
	b.got[e.ID][e.ExecID] = e.Exit
	b.cond.Broadcast()
}

func (b *exitBook) wait(t testing.TB, id string, exec int32) control.Exit {
	t.Helper()
	watchdog := time.AfterFunc(60*time.Second, func() { panic(t.Name() + ": no exit event for " + id) })
	defer watchdog.Stop()
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		if e, ok := b.got[id][exec]; ok {
			return e
		}
		b.cond.Wait()
	}
}

// forget drops the exits that nobody asks for any more.
func (b *exitBook) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got = map[string]map[int32]control.Exit{}
}

func TestMain(m *testing.M) {
	flag.Set("test.parallel", "4") // Those that say so wait most of the time.
	exits.cond = sync.NewCond(&exits.mu)
	exits.got = map[string]map[int32]control.Exit{}
	os.Exit(run(m))
}

// run boots on the platform named by AIOS_TEST_PLATFORM, or the one that suits
// the way the test was built.
func run(m *testing.M) int {
	log.SetLevel(log.Warning)
	name := os.Getenv("AIOS_TEST_PLATFORM")
	if name == "" {
		name = platform.Auto
	}
	choice, err := drivers.All().Select(name)
	if err != nil {
		// Under the race detector the usual reason is a C library that
		// registered restartable sequences; the error names the fix.
		fmt.Fprintf(os.Stderr, "skipping the tests of package sentry: %v; %s\n", err, errdefs.FixOf(err))
		if os.Getenv("AIOS_REQUIRE_"+strings.ToUpper(name)) == "1" {
			return 1
		}
		return 0
	}
	device, err := choice.Driver.OpenDevice()
	if err != nil {
		panic(err)
	}
	cfg := Config{
		Domain: "test", Driver: choice.Driver, Device: device,
		Log:  klog.New(klog.Config{Out: &theLog, OutLevel: slog.LevelDebug}),
		CPUs: runtime.NumCPU(), OnExit: exits.note, OnLimit: theLimits.note, Push: theDaemon.push,
		Exit: func(status int) {
			fmt.Fprintf(os.Stderr, "the kernel ends itself with status %d; its log:\n%s\n", status, theLog.about(""))
			os.Exit(status)
		},
	}
	if from := os.Getenv(restoreEnv); from != "" {
		return restoreMain(cfg, from)
	}
	if theKernel, err = Boot(cfg); err != nil {
		panic(err)
	}
	close(theKernelIsUp)
	dir, err := os.MkdirTemp("", "aios-sentry-test")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	theImageDir = dir
	if err := mountTestImage(dir); err != nil {
		panic(err)
	}
	return m.Run()
}

// mountTestImage makes busybox-static known as "busybox".
func mountTestImage(dir string) error {
	return mountImage(dir, "busybox", func(root string) error {
		for _, d := range []string{"bin", "etc", "tmp", "proc", "sys", "dev"} {
			if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
				return err
			}
		}
		bb, err := os.ReadFile("/bin/busybox")
		if err != nil {
			return err
		}
		for name, f := range map[string]struct {
			text string
			mode os.FileMode
		}{
			"bin/busybox": {string(bb), 0o755},
			"bin/script":  {"not a program\n", 0o755},
			"bin/hello":   {"#!/bin/sh\necho hello $1\n", 0o755},
			"bin/data":    {"data\n", 0o644},
			"bin/private": {"#!/bin/sh\necho private\n", 0o700},
			"etc/passwd":  {"root:x:0:0::/root:/bin/sh\nbob:x:1000:1001::/home/bob:/bin/sh\nbroken:x:one:0::/:/bin/sh\n", 0o644},
			"etc/group":   {"root:x:0:\nbobs:x:1001:\nteam:x:2000:alice,bob\nothers:x:2001:alice,bobby\n", 0o644},
		} {
			if err := os.WriteFile(filepath.Join(root, name), []byte(f.text), f.mode); err != nil {
				return err
			}
		}
		for _, l := range strings.Fields(`cat chroot cmp cut date dd echo env false find free grep head hostname id kill
			ls mkdir mount mv nc nproc od printf ps readlink rm sed seq setsid sh sleep sort stat stty taskset test touch tr
			true tty usleep wc yes`) {
			if err := os.Symlink("busybox", filepath.Join(root, "bin", l)); err != nil {
				return err
			}
		}
		return nil
	})
}

// mountImage makes an image of what fill puts into a directory known as key.
func mountImage(dir, key string, fill func(root string) error) error {
	// A kernel that is restored opens all images anew, whoever made them.
	root, img := filepath.Join(dir, key+".root"), filepath.Join(theImageDir, key+".erofs")
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	if err := fill(root); err != nil {
		return err
	}
	if out, err := exec.Command("mkfs.erofs", "-E", "noinline_data", img, root).CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.erofs: %w: %s", err, out)
	}
	f, err := os.Open(img)
	if err != nil {
		return err
	}
	theImages[key] = img
	return theKernel.Mount(control.MountRequest{Key: key, Kind: control.KindEROFS, ReadOnly: true}, f)
}

// spawned is an agent under test with its streams.
type spawned struct {
	t      testing.TB
	id     string
	exec   int32
	stream *control.Stream
	file   *os.File // beneath stream
	log    string
}

// spawn starts an agent; opts change the request first.
func spawn(t testing.TB, argv []string, opts ...func(*control.SpawnRequest)) *spawned {
	t.Helper()
	s, err := trySpawn(t, argv, opts...)
	if err != nil {
		t.Fatalf("spawn %q: %v", argv, err)
	}
	return s
}

func trySpawn(t testing.TB, argv []string, opts ...func(*control.SpawnRequest)) (*spawned, error) {
	t.Helper()
	req := control.SpawnRequest{
		ID: string(abi.NewAgentID()), Hostname: "box",
		Root:    control.Root{Base: "busybox"},
		Process: control.Process{Argv: argv, Env: []string{"PATH=/bin"}},
		Grants:  grants(everyGrant...),
		Attach:  true,
	}
	for _, o := range opts {
		o(&req)
	}
	logPath := filepath.Join(t.TempDir(), "log")
	logFile, err := os.Create(logPath)
	if err != nil {
		t.Fatal(err)
	}
	files := []*os.File{logFile}
	s := &spawned{t: t, id: req.ID, log: logPath}
	if req.Attach {
		ours, theirs := socketpair(t)
		s.stream, s.file = control.NewStream(ours), ours
		files = append(files, theirs)
	}
	if err := theKernel.Spawn(req, files); err != nil {
		if s.stream != nil {
			s.stream.Close()
		}
		return nil, err
	}
	t.Cleanup(func() {
		theKernel.Signal(control.SignalRequest{ID: s.id, Signal: 9})
		exits.wait(t, s.id, 0)
		if s.stream != nil {
			s.stream.Close()
		}
		theKernel.Forget(control.AgentRequest{ID: s.id})
	})
	return s, nil
}

func socketpair(t testing.TB) (ours, theirs *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
}

// output reads the stream to its end.
func (s *spawned) output() (stdout, stderr string, exit control.Exit) {
	s.t.Helper()
	for {
		kind, p, err := s.stream.Read()
		if err != nil {
			s.t.Fatalf("stream ended early: %v (stdout so far %q)", err, stdout)
		}
		switch kind {
		case control.FrameStdout:
			stdout += string(p)
		case control.FrameStderr:
			stderr += string(p)
		case control.FrameExit:
			exit, err = control.DecodeExit(p)
			if err != nil {
				s.t.Fatal(err)
			}
			return stdout, stderr, exit
		}
	}
}
