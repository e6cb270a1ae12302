// Command vm runs tests that need what the host may lack: a /dev/kvm that
// really virtualises, and cgroup v2 with every controller. It boots a Debian
// kernel in QEMU with software emulation, nested SVM included, runs statically
// linked test binaries there, and exits 0 only if every one of them passed and
// not one test in them was skipped.
//
//	test/vm/run                      build and run all of them
//	test/vm/run kvm cgroup           only these
//	AIOS_VM_KERNEL=/a/linux.deb …    with this kernel package
//
// It needs qemu-system-x86_64, a static busybox, dpkg-deb, and for the first
// run apt-get and a network: the kernel package is kept in the user's cache.
// Nothing is installed, and no privilege is needed.
//
// The parts: kernel.go (package, kernel image, modules), initramfs.go (the
// archive the kernel starts from), machine.go (QEMU and its console). There is
// one goroutine besides main's, which reads the console.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"aios.dev/aios/ktime"
)

// suite is one test binary.
type suite struct {
	name string
	dir  string // its package in this module
	env  []string
}

// suites lists what is run, in order.
var suites = []suite{
	{name: "cgroup", dir: "./host/cgroup", env: []string{"AIOS_REQUIRE_CGROUP=v2"}},
	{name: "drivers", dir: "./platform/drivers"},
	{name: "ptrace", dir: "./platform/ptrace", env: []string{"AIOS_REQUIRE_PTRACE=1"}},
	{name: "systrap", dir: "./platform/systrap", env: []string{"AIOS_REQUIRE_SYSTRAP=1"}},
	{name: "kvm", dir: "./platform/kvm", env: []string{"AIOS_REQUIRE_KVM=1"}},
}

func main() {
	limit := flag.Duration("timeout", 8*time.Minute, "end the machine after this time")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: test/vm/run [flags] [suite ...]")
		flag.PrintDefaults()
	}
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *limit, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, limit time.Duration, names []string) error {
	chosen, err := choose(names)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "aios-vm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	start := ktime.Real.Now()
	step := func(format string, args ...any) {
		fmt.Printf("vm: %5.1fs %s\n", ktime.Real.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}
	step("building %d test binaries", len(chosen))
	for _, s := range chosen {
		if err := build(ctx, s, dir); err != nil {
			return err
		}
	}
	pkg, err := findKernel(ctx, step)
	if err != nil {
		return err
	}
	k, err := unpackKernel(ctx, pkg, dir)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", pkg, err)
	}
	initramfs := filepath.Join(dir, "initramfs")
	if err := writeFile(initramfs, func(w io.Writer) error { return writeInitramfs(w, k, chosen, dir) }); err != nil {
		return fmt.Errorf("make the initramfs: %w", err)
	}
	step("booting %s", filepath.Base(pkg))
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the machine did not finish within %v", limit))
	defer cancel()
	results, err := boot(ctx, k.image, initramfs, os.Stdout)
	step("the machine is off")
	return errors.Join(err, judge(chosen, results))
}

// choose returns the suites with the given names, or all.
func choose(names []string) ([]suite, error) {
	if len(names) == 0 {
		return suites, nil
	}
	var chosen []suite
	for _, n := range names {
		i := slices.IndexFunc(suites, func(s suite) bool { return s.name == n })
		if i < 0 {
			return nil, fmt.Errorf("no suite is called %q", n)
		}
		chosen = append(chosen, suites[i])
	}
	return chosen, nil
}

// build makes the static test binary of a suite.
func build(ctx context.Context, s suite, dir string) error {
	goTool := os.Getenv("GO")
	if goTool == "" {
		goTool = "go"
	}
	cmd := exec.CommandContext(ctx, goTool, "test", "-c", "-ldflags", "-s -w", "-o", filepath.Join(dir, s.name), s.dir)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", s.dir, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// judge says which of the chosen suites did not pass.
func judge(chosen []suite, results map[string]result) error {
	var errs []error
	for _, s := range chosen {
		r := results[s.name]
		switch {
		case !r.ended:
			errs = append(errs, fmt.Errorf("%s did not finish", s.name))
		case r.status != 0:
			errs = append(errs, fmt.Errorf("%s failed with status %d", s.name, r.status))
		case r.passed == 0:
			errs = append(errs, fmt.Errorf("%s ran no test", s.name))
		}
		if r.skipped > 0 {
			errs = append(errs, fmt.Errorf("%s skipped %d tests that this machine is for", s.name, r.skipped))
		}
	}
	return errors.Join(errs...)
}

// writeFile makes a file of what f writes.
func writeFile(name string, f func(io.Writer) error) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(f(file), file.Close())
}
