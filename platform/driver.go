package platform

import (
	"strings"

	"gvisor.dev/gvisor/pkg/fd"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"

	"aios.dev/aios/errdefs"
)

// Auto is the name under which Select chooses by itself.
const Auto = "auto"

// Driver makes one kind of platform. Its methods are called in this order, the
// first two by a process that still sees the host, New by the boxed kernel:
// Probe, OpenDevice, New.
type Driver interface {
	// Name is what a user types: "systrap".
	Name() string

	// Probe finds out whether the platform works here, by trying what it
	// needs. It leaves the process and the host as they were and takes a few
	// milliseconds, in the worst case about two seconds. The error is an
	// *errdefs.Error with code PLATFORM_UNUSABLE, the reason and a fix.
	Probe() error

	// OpenDevice opens the host device that New needs, or returns nil when it
	// needs none. The caller owns it, and may pass it to another process.
	OpenDevice() (*fd.FD, error)

	// New makes the platform. It opens nothing by path, so it also works
	// behind an empty root. opts.DeviceFile is what OpenDevice returned; New
	// takes it over. CPU features (cpuid.Initialize) must be known.
	New(opts gvplatform.Options) (gvplatform.Platform, error)
}

// Drivers is a list of platforms, the one that Auto prefers first.
type Drivers []Driver

// Choice is the outcome of Select.
type Choice struct {
	Driver Driver
	// Skipped says why each more preferred platform was not chosen.
	Skipped []error
}

// Names returns the names of the platforms, in order.
func (ds Drivers) Names() []string {
	names := make([]string, len(ds))
	for i, d := range ds {
		names[i] = d.Name()
	}
	return names
}

// Lookup returns the driver of that name without probing it: for a process
// that was told what another one selected.
func (ds Drivers) Lookup(name string) (Driver, error) {
	for _, d := range ds {
		if d.Name() == name {
			return d, nil
		}
	}
	return nil, errdefs.New(errdefs.InvalidArgument, "no such platform",
		errdefs.Op("select platform"), errdefs.Resource("%q", name),
		errdefs.Fix("choose one of %s, %s", Auto, strings.Join(ds.Names(), ", ")))
}

// Select returns the driver of that name if it works on this host, or, for
// Auto, the first that does.
func (ds Drivers) Select(name string) (Choice, error) {
	if name != Auto {
		d, err := ds.Lookup(name)
		if err != nil {
			return Choice{}, err
		}
		return Choice{Driver: d}, d.Probe()
	}
	var skipped []error
	for _, d := range ds {
		err := d.Probe()
		if err == nil {
			return Choice{Driver: d, Skipped: skipped}, nil
		}
		skipped = append(skipped, err)
	}
	reasons := make([]string, len(skipped))
	fixes := make([]string, len(skipped))
	for i, err := range skipped {
		reasons[i], fixes[i] = err.Error(), ds[i].Name()+": "+errdefs.FixOf(err)
	}
	return Choice{}, errdefs.New(errdefs.PlatformUnusable, strings.Join(reasons, "; "),
		errdefs.Op("select platform"), errdefs.Fix("any one of: %s", strings.Join(fixes, "; ")))
}

// Unusable returns the error with which the driver called name reports that
// it cannot work here.
func Unusable(name, reason, fix string, cause error) error {
	return errdefs.New(errdefs.PlatformUnusable, reason,
		errdefs.Op("use platform"), errdefs.Resource("%s", name),
		errdefs.Fix("%s", fix), errdefs.Cause(cause))
}
