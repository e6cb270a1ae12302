package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const emulator = "qemu-system-x86_64"

// cpuArgs returns the processors that this version of QEMU emulates well.
// Version 7 hangs with two of them, and its nested SVM knows no AVX state.
func cpuArgs(version string) ([]string, error) {
	m := regexp.MustCompile(`version (\d+)\.`).FindStringSubmatch(version)
	if m == nil {
		return nil, fmt.Errorf("%s has no version in %q", emulator, version)
	}
	if major, err := strconv.Atoi(m[1]); err != nil || major < 10 {
		return []string{"-cpu", "EPYC,+svm,+npt,-avx,-avx2,-f16c,-fma,-xsave", "-smp", "1"}, nil
	}
	return []string{"-cpu", "EPYC,+svm,+npt", "-smp", "2"}, nil
}

// result is what the console told about a suite.
type result struct {
	ended           bool
	status          int
	passed, skipped int // tests, subtests too
}

// boot runs the machine until it powers itself off or ctx ends, copies its
// console to log, and returns what it tells about each suite.
func boot(ctx context.Context, image, initramfs string, log io.Writer) (map[string]result, error) {
	version, err := exec.CommandContext(ctx, emulator, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w (Debian: install qemu-system-x86)", emulator, err)
	}
	cpu, err := cpuArgs(string(version))
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, emulator, append(cpu,
		"-machine", "q35", "-accel", "tcg,thread=multi", "-m", "3072",
		"-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot", "-nodefaults",
		"-kernel", image, "-initrd", initramfs,
		"-append", "console=ttyS0 panic=-1 quiet mitigations=off nokaslr")...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	console, out := io.Pipe()
	cmd.Stdout, cmd.Stderr = out, out
	results := make(map[string]result)
	read := make(chan error, 1)
	go func() { read <- follow(console, log, results) }()
	err = cmd.Run()
	out.Close()
	if readErr := <-read; err == nil {
		err = readErr
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return results, err
}

// follow copies the console and notes the results in it.
func follow(console io.Reader, log io.Writer, results map[string]result) error {
	lines := bufio.NewReader(console)
	current := ""
	for {
		line, readErr := lines.ReadString('\n')
		if _, err := io.WriteString(log, strings.ReplaceAll(line, "\r", "")); err != nil {
			return err
		}
		r := results[current]
		switch f := strings.Fields(line); {
		case len(f) == 3 && f[0] == mark && f[1] == "begin":
			current = f[2]
		case len(f) == 4 && f[0] == mark && f[1] == "end" && f[2] == current:
			status, err := strconv.Atoi(f[3])
			r.ended, r.status = err == nil, status
			results[current] = r
			current = ""
		case current != "" && len(f) > 2 && f[0] == "---":
			switch f[1] {
			case "PASS:":
				r.passed++
			case "SKIP:":
				r.skipped++
			}
			results[current] = r
		}
		if errors.Is(readErr, io.EOF) {
			return nil
		}
		if readErr != nil {
			return readErr
		}
	}
}
