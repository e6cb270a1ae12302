// Package systrap is the default platform: the agent's code runs in child
// processes whose system calls a seccomp filter turns into signals, handled
// through memory shared with the kernel process. It needs seccomp filters,
// ptrace to set the children up, and a process in which no C library has
// registered restartable sequences: a binary built without cgo.
//
// The package has no state of its own; gVisor's implementation keeps one pool
// of child processes per process. It must not import anything under sentry/.
package systrap

import (
	"gvisor.dev/gvisor/pkg/fd"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"
	gvsystrap "gvisor.dev/gvisor/pkg/sentry/platform/systrap"

	"aios.dev/aios/platform"
	"aios.dev/aios/platform/internal/hostprobe"
)

// Name is the platform's name.
const Name = "systrap"

const seccompFix = "allow seccomp: a host kernel with CONFIG_SECCOMP_FILTER and, in a container, a profile that permits the seccomp system call"

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
	if err := hostprobe.Seccomp(); err != nil {
		return platform.Unusable(Name, "no seccomp filters", seccompFix, err)
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
	if hostprobe.Rseq() != nil {
		return nil, Driver{}.Probe() // It would hang in its first child.
	}
	p, err := gvsystrap.New(opts)
	if err != nil {
		return nil, platform.Unusable(Name, "it did not start", seccompFix, err)
	}
	return p, nil
}
