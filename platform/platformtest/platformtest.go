// Package platformtest is the contract between the kernel and a platform, as a
// test suite: what Switch must return for a system call, a fault, a signal and
// an interrupt, what happens to registers, and what mapping and unmapping mean
// for a thread that is running. Every platform that AIOS offers keeps it, with
// the decorator around it, and so does the fake.
//
// Key types: fixture (a platform and memory for it), space (an address space
// and the least memory manager a platform accepts), thread (a context with
// registers). The programs the threads run are a few bytes of x86-64 machine
// code from the assembler in program.go; platform/fake understands exactly
// those instructions.
//
// Lock order: space.mu is taken alone. The package must not import anything
// under sentry/.
package platformtest

import (
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/memutil"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
	"aios.dev/aios/platform"
	"aios.dev/aios/sentry/sched"
)

// RunDriver runs the suite on the platform that d makes, behind the
// decorator. Where the probe refuses, the test is skipped with the reason,
// unless the environment has AIOS_REQUIRE_<NAME>=1: then it fails.
func RunDriver(t *testing.T, d platform.Driver) {
	if err := d.Probe(); err != nil {
		require := "AIOS_REQUIRE_" + strings.ToUpper(d.Name())
		if os.Getenv(require) == "1" {
			t.Fatalf("%v (and %s=1); %s", err, require, errdefs.FixOf(err))
		}
		t.Skipf("%v; %s", err, errdefs.FixOf(err))
	}
	cpuid.Initialize()
	dev, err := d.OpenDevice()
	if err != nil {
		t.Fatal(err)
	}
	p, err := d.New(gvplatform.Options{DeviceFile: dev})
	if err != nil {
		t.Fatal(err)
	}
	Run(t, p)
}

// Run runs the suite on p behind the decorator, and checks the decorator's
// hooks over the whole run.
func Run(t *testing.T, p gvplatform.Platform) {
	cpuid.Initialize()
	var first, exits atomic.Int64
	// Everybody has a CPU: interrupts of the scheduler's own are not expected.
	crowd := platform.NewCrowd(sched.New(sched.Config{CPUs: 1000, Clock: ktime.Real}).NewGroup("test"))
	f := &fixture{memory: newMemory(t), crowd: crowd}
	f.Platform = platform.Wrap(p, platform.Hooks{
		FirstSwitch: func(context.Context) *platform.Crowd { first.Add(1); return crowd },
		Enter:       f.tracing.enter,
		Left:        f.tracing.leave,
		Exit:        func(context.Context) { exits.Add(1) },
	})
	for _, c := range []struct {
		name string
		test func(*testing.T, *fixture)
	}{
		{"Limits", testLimits},
		{"Syscall", testSyscall},
		{"SyscallAfterPrepare", testSyscallAfterPrepare},
		{"RegistersOfTwoContexts", testRegistersOfTwoContexts},
		{"ThreadPointer", testThreadPointer},
		{"FloatingPoint", testFloatingPoint},
		{"FloatingPointFork", testFloatingPointFork},
		{"KernelChangesState", testKernelChangesState},
		{"CPUID", testCPUID},
		{"FaultOnRead", testFaultOnRead},
		{"FaultOnWrite", testFaultOnWrite},
		{"FaultOnExecute", testFaultOnExecute},
		{"Exceptions", testExceptions},
		{"InterruptRunning", testInterruptRunning},
		{"InterruptPending", testInterruptPending},
		{"InterruptKeepsState", testInterruptKeepsState},
		{"InterruptAtAnyTime", testInterruptAtAnyTime},
		{"Unmap", testUnmap},
		{"UnmapWhileRunning", testUnmapWhileRunning},
		{"MapReplaces", testMapReplaces},
		{"SpacesAreIsolated", testSpacesAreIsolated},
		{"SpacesShareMemory", testSpacesShareMemory},
		{"ContextMovesToNewSpace", testContextMovesToNewSpace},
		{"ManyContexts", testManyContexts},
		{"ManySpaces", testManySpaces},
		{"Step", testStep},
		{"StepFaults", testStepFaults},
		{"Stay", testStay},
		{"Release", testRelease},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, f) })
	}
	if first.Load() == 0 || first.Load() != exits.Load() {
		t.Errorf("%d contexts began and %d ended", first.Load(), exits.Load())
	}
}

// newMemory returns a file of anonymous memory, as the kernel has one.
func newMemory(t *testing.T) *pgalloc.MemoryFile {
	fd, err := memutil.CreateMemFD("platformtest", 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "platformtest")
	memory, err := pgalloc.NewMemoryFile(file, pgalloc.MemoryFileOpts{})
	if err != nil {
		file.Close()
		t.Fatal(err)
	}
	t.Cleanup(memory.Destroy)
	return memory
}
