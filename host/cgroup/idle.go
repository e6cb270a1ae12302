package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
)

// idleGroup is the group below a group whose threads get the CPU time that the
// others of the group leave.
//
// Threads of SCHED_IDLE beside others leave it to them in the long run, but not always
// at once: the host's scheduler (EEVDF) preempts for a thread that wakes only if that
// has had no more than its part of the queue. Two idle threads on one CPU owe each other
// so much, at their small weight, that a thread which wakes can seem to have had more
// until the one of them has caught up. In a group of their own that is between them. It
// is inferred from when threads were late, not seen in the host's scheduler.
const idleGroup = "idle"

// OpenIdle makes the idle group, unless it is there, and opens what a thread of the
// group gives to EnterIdle. It needs the CPU controller. The group goes with its own.
func (g *Group) OpenIdle() (*os.File, error) {
	const op = "make idle cgroup"
	if err := Detect().RequireControllers(CPU); err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostFeature, op, errdefs.Resource("%s", g))
	}
	threads, err := g.backend.idle()
	if err != nil {
		return nil, hostError(err, op, g.String())
	}
	f, err := os.OpenFile(threads, os.O_WRONLY, 0)
	return f, hostError(err, op, g.String())
}

// EnterIdle moves the calling thread, and what it will fork, into the idle group that
// f was opened of. The thread has to be locked to its goroutine. Where the process sees
// the host's files or PIDs does not matter, nor does whose it is.
func EnterIdle(f *os.File) error {
	_, err := f.WriteString("0")
	return hostError(err, "enter idle cgroup", f.Name())
}

// leaveRest has the group of dir get what its siblings leave. Before Linux 5.15 there
// is only the least weight.
func leaveRest(dir, weightFile, least string) error {
	err := writeFile(filepath.Join(dir, "cpu.idle"), "1")
	if errors.Is(err, fs.ErrNotExist) {
		err = writeFile(filepath.Join(dir, weightFile), least)
	}
	return err
}

func makeDir(dir string) error {
	if err := unix.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	return nil
}

// idle on v1 is a group of the CPU controller alone.
func (b *v1) idle() (string, error) {
	dir := filepath.Join(b.dir(CPU), idleGroup)
	if err := makeDir(dir); err != nil {
		return "", err
	}
	return filepath.Join(dir, "tasks"), leaveRest(dir, "cpu.shares", "2")
}

// idle on v2 is a threaded group: one that is not may hold no processes beside groups
// that share its CPUs.
func (b *v2) idle() (string, error) {
	dir := filepath.Join(b.dir(), idleGroup)
	if err := makeDir(dir); err != nil {
		return "", err
	}
	if err := writeFile(filepath.Join(dir, "cgroup.type"), "threaded"); err != nil {
		return "", err
	}
	if !slices.Contains(readFields(filepath.Join(b.dir(), "cgroup.subtree_control")), CPU) {
		if err := writeFile(filepath.Join(b.dir(), "cgroup.subtree_control"), "+"+CPU); err != nil {
			return "", err
		}
	}
	return filepath.Join(dir, "cgroup.threads"), leaveRest(dir, "cpu.weight", "1")
}

// idleThreads are the threads in the idle group, if there is one.
func (b *v2) idleThreads() []string {
	raw, _ := os.ReadFile(filepath.Join(b.dir(), idleGroup, "cgroup.threads"))
	return strings.Fields(string(raw))
}
