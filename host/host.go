// Package host finds out what the host offers to AIOS, and says what AIOS
// does about each thing that is missing: the facts behind "aiosctl doctor"
// and behind the one line of warning that a degraded host earns.
//
// Examine looks and touches nothing: it reads files of /proc and /sys, asks
// for limits, and starts a program that does not exist to learn which
// namespaces would be granted. Which platforms run is not known here: the
// daemon adds package platform's verdicts as further findings.
//
// The package keeps no state. It must not import platform or anything below
// it in the list of layers.
package host

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Status says how much a finding costs.
type Status string

// The statuses.
const (
	// OK is as good as AIOS can use.
	OK Status = "ok"
	// Degraded is worked around; Effect says at what price.
	Degraded Status = "degraded"
	// Missing is not worked around: something cannot be done.
	Missing Status = "missing"
)

// Finding is one fact about the host.
type Finding struct {
	// Name is what was looked at: "cgroup".
	Name   string `json:"name"`
	Status Status `json:"status"`
	// What was found.
	What string `json:"what"`
	// Effect is what AIOS does about it; empty when all is well.
	Effect string `json:"effect,omitempty"`
	// Fix is how to improve it; empty when there is nothing to improve.
	Fix string `json:"fix,omitempty"`
}

// Facts is everything that was found, in the order in which people read it.
type Facts struct {
	Findings []Finding `json:"findings"`
}

// Warning returns one line that names what is degraded or missing, or "".
func (f Facts) Warning() string {
	var degraded, missing []string
	for _, g := range f.Findings {
		switch g.Status {
		case Degraded:
			degraded = append(degraded, g.Name)
		case Missing:
			missing = append(missing, g.Name)
		}
	}
	var parts []string
	if len(missing) > 0 {
		parts = append(parts, "missing: "+strings.Join(missing, ", "))
	}
	if len(degraded) > 0 {
		parts = append(parts, "degraded: "+strings.Join(degraded, ", "))
	}
	if len(parts) == 0 {
		return ""
	}
	return "this host is not all that AIOS can use (" + strings.Join(parts, "; ") + "); aiosctl doctor tells what that means"
}

// Find returns the finding of that name.
func (f Facts) Find(name string) (Finding, bool) {
	for _, g := range f.Findings {
		if g.Name == name {
			return g, true
		}
	}
	return Finding{}, false
}

// examiner looks at a host. Tests give it another root and another user.
type examiner struct {
	root     string
	stateDir string
	uid      int
	caps     uint64
	env      func(string) string
}

// Examine looks at the host on behalf of a daemon that keeps its state in
// stateDir, which need not exist yet. It stops early, with what it has, when
// ctx ends.
func Examine(ctx context.Context, stateDir string) Facts {
	e := examiner{root: "/", stateDir: stateDir, uid: os.Geteuid(), caps: effectiveCaps(), env: os.Getenv}
	return e.examine(ctx)
}

func (e *examiner) examine(ctx context.Context) Facts {
	var f Facts
	for _, look := range []func() []Finding{
		e.kernel, e.user, e.container, e.capabilities, e.cgroup, e.namespaces, e.seccomp, e.ptrace, e.kvm,
		e.cpus, e.openFiles, e.processes, e.memory, e.memfd, e.hugePages, e.disk,
	} {
		if ctx.Err() != nil {
			break
		}
		f.Findings = append(f.Findings, look()...)
	}
	return f
}

// one makes a look of a single finding easy to write.
func one(f Finding) []Finding { return []Finding{f} }

// read returns the trimmed content of a file of the host, or "".
func (e *examiner) read(path string) string {
	b, err := os.ReadFile(filepath.Join(e.root, path))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// number reads a file that holds one number; absent is returned where there
// is none.
func (e *examiner) number(path string, absent int64) int64 {
	n, err := strconv.ParseInt(e.read(path), 10, 64)
	if err != nil {
		return absent
	}
	return n
}

func (e *examiner) exists(path string) bool {
	_, err := os.Lstat(filepath.Join(e.root, path))
	return err == nil
}
