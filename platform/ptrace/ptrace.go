// Package ptrace is the platform that needs nothing but ptrace(2): the agent's
// code runs in child processes whose every system call stops and is emulated
// (PTRACE_SYSEMU). It is the slowest platform and the most undemanding one,
// but like systrap it cannot stand a C library that registered restartable
// sequences.
//
// gVisor's implementation makes a stub thread for every pair of a thread of this
// process and an address space, and keeps them for ever; bounded, around it,
// keeps them from using up the host's process IDs.
//
// Lock order: memoryThread.mu, bounded.mu; space.mu is taken alone. The first is
// held while a stub process works, with locks of the kernel's memory managers
// above it. The package must not import anything under sentry/.
package ptrace

import (
	"gvisor.dev/gvisor/pkg/fd"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"
	gvptrace "gvisor.dev/gvisor/pkg/sentry/platform/ptrace"

	"aios.dev/aios/platform"
	"aios.dev/aios/platform/internal/hostprobe"
)

// Name is the platform's name.
const Name = "ptrace"

// Driver implements platform.Driver.
type Driver struct{}

var _ platform.Driver = Driver{}

// Name implements platform.Driver.
func (Driver) Name() string { return Name }

// Probe implements platform.Driver.
func (Driver) Probe() error {
	if err := hostprobe.Rseq(); err != nil {
		return platform.Unusable(Name, "child processes would fault", hostprobe.RseqFix, err)
	}
	if err := hostprobe.TraceChild(); err != nil {
		return platform.Unusable(Name, "this process cannot trace its children", hostprobe.TraceFix(), err)
	}
	return nil
}

// OpenDevice implements platform.Driver; the platform needs no device.
func (Driver) OpenDevice() (*fd.FD, error) { return nil, nil }

// New implements platform.Driver.
func (Driver) New(opts gvplatform.Options) (gvplatform.Platform, error) {
	if err := hostprobe.Rseq(); err != nil {
		// It would wait for its first child for ever.
		return nil, platform.Unusable(Name, "child processes would fault", hostprobe.RseqFix, err)
	}
	p, err := gvptrace.NewWithOptions(opts)
	if err != nil {
		return nil, platform.Unusable(Name, "it did not start", hostprobe.TraceFix(), err)
	}
	return bound(p), nil
}
