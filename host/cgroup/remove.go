package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// patience bounds the wait for the kernel to finish with killed processes.
const patience = 5 * time.Second

// Processes lists the group's processes, as numbered in the caller's PID
// namespace; processes that have no number there are left out.
func (g *Group) Processes() ([]int, error) {
	seen := map[int]bool{}
	var pids []int
	var dirs []string
	for _, d := range g.backend.dirs() {
		dirs = append(dirs, d, filepath.Join(d, idleGroup))
	}
	for _, d := range dirs {
		b, err := os.ReadFile(filepath.Join(d, "cgroup.procs"))
		if err != nil {
			// A threaded group does not say; the one above it does.
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.EOPNOTSUPP) {
				continue
			}
			return nil, hostError(err, "list cgroup", g.String())
		}
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 && !seen[pid] {
				seen[pid] = true
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}

// Kill kills every process of the group and waits until the last has left it.
// A group that is gone or empty is not an error; one with the caller inside is.
func (g *Group) Kill() error {
	start := ktime.Real.Now()
	for delay := time.Millisecond; ; delay = min(2*delay, 50*time.Millisecond) {
		pids, err := g.Processes()
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return nil
		}
		if slices.Contains(pids, os.Getpid()) {
			return errdefs.New(errdefs.WrongState, "the caller is inside it", errdefs.Op("kill cgroup"), errdefs.Resource("%s", g),
				errdefs.Fix("move the caller to another cgroup first"))
		}
		if !g.backend.killAll() {
			g.killEach()
		}
		if ktime.Real.Since(start) > patience {
			return errdefs.Newf(errdefs.Timeout, "%d processes, the first of them %d, do not die", len(pids), pids[0]).
				With(errdefs.Op("kill cgroup"), errdefs.Resource("%s", g), errdefs.Fix("see /proc/%d/stack: a process stuck in the host kernel cannot be killed", pids[0]))
		}
		pause(delay)
	}
}

// killEach kills process by process; while frozen, none can fork in between.
func (g *Group) killEach() {
	g.backend.freeze(true)
	defer g.backend.freeze(false)
	pids, err := g.Processes()
	if err != nil {
		return
	}
	for _, pid := range pids {
		// A process that has gone meanwhile is what is wanted.
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

// Delete removes the empty group, and its parent when this was the last group
// in it. Deleting a group that is gone is not an error; one with processes is
// refused with WRONG_STATE.
func (g *Group) Delete() error {
	start := ktime.Real.Now()
	for delay := time.Millisecond; ; delay = min(2*delay, 50*time.Millisecond) {
		err := g.removeDirs()
		if err == nil {
			return nil
		}
		// A process counts until the kernel has finished its exit.
		if !errors.Is(err, syscall.EBUSY) {
			return hostError(err, "delete cgroup", g.String())
		}
		pids, perr := g.Processes()
		if perr == nil && len(pids) > 0 {
			return errdefs.Newf(errdefs.WrongState, "%d processes are in it", len(pids)).
				With(errdefs.Op("delete cgroup"), errdefs.Resource("%s", g), errdefs.Fix("kill the group first"))
		}
		if ktime.Real.Since(start) > patience {
			return hostError(err, "delete cgroup", g.String())
		}
		pause(delay)
	}
}

// removeDirs removes the group's directories and then each parent that has
// become empty, and returns the first error that matters.
func (g *Group) removeDirs() error {
	var first error
	for _, d := range g.backend.dirs() {
		_ = unix.Rmdir(filepath.Join(d, idleGroup))
		if err := unix.Rmdir(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			if first == nil {
				first = &os.PathError{Op: "rmdir", Path: d, Err: err}
			}
			continue
		}
		// Siblings keep the parent: the kernel refuses to remove it.
		_ = unix.Rmdir(filepath.Dir(d))
	}
	return first
}

// Sweep kills and removes every group below parent for which alive returns
// false, and returns the names of those it removed: what a daemon that was
// killed left behind. It goes on past a group that resists and returns the
// first error.
func Sweep(parent string, alive func(name string) bool) ([]string, error) {
	const op = "sweep cgroups"
	probe, _, err := newGroup(op, parent, "x")
	if err != nil {
		return nil, err
	}
	var removed []string
	var first error
	seen := map[string]bool{}
	for _, d := range probe.backend.dirs() {
		entries, err := os.ReadDir(filepath.Dir(d))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, hostError(err, op, parent)
		}
		for _, e := range entries {
			name := e.Name()
			if !e.IsDir() || seen[name] {
				continue
			}
			seen[name] = true
			if alive(name) {
				continue
			}
			g, _, err := newGroup(op, parent, name)
			if err == nil {
				if err = g.Kill(); err == nil {
					err = g.Delete()
				}
			}
			switch {
			case err == nil:
				removed = append(removed, name)
			case first == nil:
				first = err
			}
		}
		_ = unix.Rmdir(filepath.Dir(d))
	}
	return removed, first
}
