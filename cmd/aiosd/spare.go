package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/host/box"
	"aios.dev/aios/sentry"
)

// A kernel process that is started as a spare does first what takes longest and is the
// same for all: its boxes but the seccomp filter, which depends on what it becomes, and
// its platform. It reads nothing of anybody until it has become something, and it ends
// with the daemon.

// becomeSomething prepares the process, and returns what it is to be.
func becomeSomething(cfg control.KernelConfig) (control.KernelConfig, *sentry.Machine, []box.Report, error) {
	failed := func(err error) (control.KernelConfig, *sentry.Machine, []box.Report, error) {
		return cfg, nil, nil, err
	}
	text := programText() // There is no /proc afterwards.
	reports, err := box.Apply(box.Options{Keep: keptFiles(cfg), Root: cfg.RootFD})
	if err != nil {
		return failed(err)
	}
	driver, device, err := platformOf(cfg)
	if err != nil {
		return failed(err)
	}
	machine, err := sentry.MakeMachine(driver, device, cfg.CPUs.Len(), hostYield(cfg))
	if err != nil {
		return failed(err)
	}
	if err := machine.Warm(); err != nil {
		return failed(err)
	}
	populate(text)
	c, err := spareSocket(cfg.SpareFD)
	if err != nil {
		return failed(err)
	}
	defer c.Close()
	if err := control.SpareReady(c); err != nil {
		return failed(err)
	}
	got, files, err := control.AwaitBecoming(c)
	if errors.Is(err, io.EOF) {
		os.Exit(0) // The daemon has ended, or has no use for it.
	}
	if err != nil {
		return failed(err)
	}
	for _, to := range []int{1, 2} {
		if err := unix.Dup3(int(files[0].Fd()), to, 0); err != nil {
			return failed(errdefs.Wrap(err, errdefs.HostIO, "write to the domain's log"))
		}
	}
	files[0].Close()
	number := func(n int) int {
		if i := n - control.KernelExtraFD + 1; i > 0 && i < len(files) {
			return keepOpen(files[i])
		}
		return -1
	}
	if got.RingFD != 0 {
		got.RingFD = number(got.RingFD)
	}
	if got.UsageFD != 0 {
		got.UsageFD = number(got.UsageFD)
	}
	got.Restore.Renumber(number)
	got.DeviceFD, got.RootFD, got.SpareFD = cfg.DeviceFD, cfg.RootFD, 0
	rename(got.Domain)
	return got, machine, reports, nil
}

// keepOpen returns a descriptor of f that nobody but who is told of it closes.
func keepOpen(f *os.File) int {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	f.Close()
	if err != nil {
		return -1
	}
	return fd
}

func spareSocket(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "spare")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Protocol, "use the inherited socket")
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errdefs.New(errdefs.Protocol, "the inherited socket is not a Unix socket")
	}
	return uc, nil
}

// rename has the process be listed as the kernel process of that domain, where
// control.SpareTitle stands.
func rename(domain string) {
	if len(os.Args) < 3 || len(os.Args[2]) < len(domain) {
		return
	}
	title := unsafe.Slice(unsafe.StringData(os.Args[2]), len(os.Args[2])) // What the host shows, as it was started with it.
	clear(title[copy(title, domain):])
}

// span is a part of the address space.
type span struct{ from, to uintptr }

// programText returns where the program itself is.
func programText() (out []span) {
	raw, err := os.ReadFile("/proc/self/maps")
	exe, err2 := os.Readlink("/proc/self/exe")
	if err != nil || err2 != nil {
		return nil
	}
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		var s span
		var perms string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &s.from, &s.to, &perms); err == nil && strings.HasPrefix(perms, "r-") && strings.HasSuffix(lines.Text(), exe) {
			out = append(out, s)
		}
	}
	return out
}

// populate has the program in the page tables, which otherwise comes bit by bit as it
// is used for the first time.
func populate(text []span) {
	for _, s := range text {
		unix.Syscall(unix.SYS_MADVISE, s.from, s.to-s.from, unix.MADV_POPULATE_READ) // Where the host knows it.
	}
}
