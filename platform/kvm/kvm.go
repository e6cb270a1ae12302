// Package kvm is the platform that runs the agent's code in ring 3 of a
// virtual machine whose kernel is the AIOS kernel process itself. It is the
// fastest platform where /dev/kvm is real; where it is not (inside most virtual
// machines, and on hosts whose KVM emulates instead of virtualising) it would
// take the whole process down, so the probe decides by running a guest.
//
// Key types: Driver; machine and vcpu, a throw-away virtual machine of a few
// pages for the probe. The package takes no locks and keeps no state; x86-64
// only. gVisor's implementation installs a seccomp filter on the process that
// calls New (it traps mmap), which cannot be undone. The package must not
// import anything under sentry/.
package kvm

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/fd"
	"gvisor.dev/gvisor/pkg/ring0/pagetables"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"
	gvkvm "gvisor.dev/gvisor/pkg/sentry/platform/kvm"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/platform"
	"aios.dev/aios/platform/internal/hostprobe"
)

// Name is the platform's name.
const Name = "kvm"

// Device is the host's device node.
const Device = "/dev/kvm"

const otherPlatform = "use --platform systrap, or a host whose KVM runs on hardware virtualisation"

// Driver implements platform.Driver.
type Driver struct{}

var _ platform.Driver = Driver{}

// Name implements platform.Driver.
func (Driver) Name() string { return Name }

// Probe implements platform.Driver. It runs 64-bit code in a virtual machine
// of its own: SSE, a switch to ring 3 and a system call back.
func (d Driver) Probe() error {
	dev, err := d.OpenDevice()
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := hostprobe.Seccomp(); err != nil {
		return platform.Unusable(Name, "no seccomp filters", "allow the seccomp system call", err)
	}
	if err := runGuest(dev.FD(), guestLimit); err != nil {
		return platform.Unusable(Name, "a test guest did not run", otherPlatform, err)
	}
	return nil
}

// OpenDevice implements platform.Driver.
func (Driver) OpenDevice() (*fd.FD, error) {
	dev, err := fd.Open(Device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		return dev, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, platform.Unusable(Name, "there is no "+Device,
			"load the kvm-intel or kvm-amd module, enable virtualisation in the firmware, or pass the device into the container", nil)
	case errors.Is(err, fs.ErrPermission):
		return nil, platform.Unusable(Name, "no access to "+Device,
			"add the user to the group that owns "+Device+" (usually kvm)", err)
	default:
		return nil, platform.Unusable(Name, "cannot open "+Device, otherPlatform, err)
	}
}

// New implements platform.Driver. Probe must have succeeded on this host:
// gVisor ends the process when its guest does not run.
func (Driver) New(opts gvplatform.Options) (gvplatform.Platform, error) {
	if opts.DeviceFile == nil {
		return nil, errdefs.New(errdefs.InvalidArgument, "no device file",
			errdefs.Op("use platform"), errdefs.Resource("%s", Name),
			errdefs.Fix("pass what OpenDevice returned"))
	}
	guest, err := supportedCPUID(opts.DeviceFile.FD())
	if err != nil {
		return nil, platform.Unusable(Name, "its features are unknown", otherPlatform, err)
	}
	// gVisor chooses the depth of page tables by the host's CPU and the mode
	// of the guest's by KVM's; where only the host has five levels the two
	// would disagree.
	if cpuid.HostFeatureSet().HasFeature(cpuid.X86FeatureLA57) && !guest.la57() {
		pagetables.DisableLA57()
	}
	p, err := gvkvm.New(opts.DeviceFile, gvkvm.Config{
		ApplicationCores: opts.ApplicationCores,
		UseCPUNums:       opts.UseCPUNums,
		StartupTimer:     opts.StartupTimer,
		PinRing:          opts.PinRing,
	})
	if err != nil {
		return nil, platform.Unusable(Name, "it did not start", otherPlatform, err)
	}
	return p, nil
}
