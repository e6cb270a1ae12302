package sentry

import (
	"os"
	"sync"

	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/fd"
	"gvisor.dev/gvisor/pkg/gomaxprocs"
	"gvisor.dev/gvisor/pkg/memutil"
	"gvisor.dev/gvisor/pkg/rand"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"
	"gvisor.dev/gvisor/pkg/sentry/seccheck"
	"gvisor.dev/gvisor/pkg/sentry/usage"
	"gvisor.dev/gvisor/pkg/sighandling"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/platform"
)

// Machine is what a kernel runs on, and knows nothing of it: the platform, and the
// file that all memory of agents is in. A process that may become a kernel makes it
// before it is told which.
type Machine struct {
	platform gvplatform.Platform
	memory   *pgalloc.MemoryFile
	file     *os.File // of memory, which closes it
}

// MakeMachine makes a platform of that driver for so many CPUs; yield is
// Config.Yield. It may be called once per process.
func MakeMachine(driver platform.Driver, device *fd.FD, cpus int, yield func()) (*Machine, error) {
	if err := processPrepared(); err != nil {
		return nil, errdefs.Wrap(err, errdefs.DomainBoot, "prepare process")
	}
	gomaxprocs.SetBase(cpus) // The platform has no more threads than that for an address space.
	inner, err := platform.Start(driver, gvplatform.Options{DeviceFile: device, ApplicationCores: cpus}, yield)
	if err != nil {
		return nil, err
	}
	// To the Go runtime, who waits for a stub is in a system call, and keeps a
	// processor of the runtime's for up to 10 ms. With as many of these as CPUs
	// there may be none left for a timer.
	gomaxprocs.SetBase(2 * cpus)
	memfd, err := memutil.CreateMemFD("aios-memory", 0)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostFeature, "create memory file")
	}
	file := os.NewFile(uintptr(memfd), "aios-memory")
	mf, err := pgalloc.NewMemoryFile(file, pgalloc.MemoryFileOpts{})
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostFeature, "create memory file")
	}
	return &Machine{inner, mf, file}, nil
}

// pointsKnown makes gVisor's trace points known, which takes some milliseconds: other
// things can be done meanwhile.
var pointsKnown = sync.OnceFunc(seccheck.Initialize)

// processPrepared sets up what gVisor keeps per process.
var processPrepared = sync.OnceValue(func() error {
	cpuid.Initialize()
	go pointsKnown()
	if err := rand.Init(); err != nil {
		return err
	}
	rand.Reader = random{rand.Reader}
	if err := usage.Init(); err != nil {
		return err
	}
	// Platforms can produce a great many child signals; nobody wants them.
	return sighandling.IgnoreChildStop()
})
