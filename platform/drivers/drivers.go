// Package drivers lists the platforms that this build of AIOS has. It exists
// apart from platform so that the drivers can import the interface they
// implement. It has no state and takes no locks.
package drivers

import (
	"aios.dev/aios/platform"
	"aios.dev/aios/platform/kvm"
	"aios.dev/aios/platform/ptrace"
	"aios.dev/aios/platform/systrap"
)

// All returns every platform, in the order in which "auto" tries them: kvm
// where a guest really runs, systrap elsewhere, ptrace where the host rules
// systrap out.
func All() platform.Drivers {
	return platform.Drivers{kvm.Driver{}, systrap.Driver{}, ptrace.Driver{}}
}
