// Package cgroup puts each domain's kernel process into a host cgroup of its
// own, so that a domain gone wrong is bounded, and ended, by the host.
//
// The package speaks cgroup v1 and v2. On a hybrid host, where both are
// mounted, the version that owns the memory and pids controllers is used.
// Groups are two levels deep, PARENT/NAME, below the base that Detect finds:
// the root of the hierarchy for root, the highest delegated group for an
// ordinary user on v2. The parent is made with the first group in it and
// removed with the last. Below a group may be one more, for threads of it that
// shall have what CPU time the others leave (Group.OpenIdle).
//
//	Detect  what the host offers, as facts (Info)
//	Create  a group with Limits        Load  the group a former daemon made
//	Group   Start, SetLimits, Stats, OpenUsage, OpenIdle, Rename, Kill, Delete
//	Sweep   removes the groups whose owners are gone
//
// A child is born inside its group (Group.Start): there is no moment in which
// it runs unbounded, and it needs no cooperation.
//
// Units: bytes, microseconds where a name ends in Micros, milli-CPUs (1000 is
// one CPU), CPU weight as in cgroup v2 (1 to 10000, 100 is the default).
//
// The package keeps no state besides the host's; a Group is immutable and may
// be used by many goroutines. Processes on the host race with it by nature:
// making and removing retry a bounded number of times. It must not import
// anything that knows what a domain or an agent is.
package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// Limits bounds a group. A zero field leaves the resource unbounded.
type Limits struct {
	// MemoryBytes bounds anonymous memory, page cache and kernel memory
	// together; swap is not given on top.
	MemoryBytes int64
	// PidsMax bounds host processes and threads.
	PidsMax int64
	// CPUMilli bounds CPU time: 1500 is one and a half CPUs.
	CPUMilli int64
	// CPUWeight is the share when CPUs are contended, 1 to 10000.
	CPUWeight uint64
}

const (
	minMemory    = 1 << 20
	minCPUMilli  = 10
	maxCPUWeight = 10000
	// quotaPeriodMicros is the window of a CPU quota: the kernel's default.
	quotaPeriodMicros = 100_000
)

func (l Limits) validate() error {
	bad := func(field, fix string) error {
		return errdefs.New(errdefs.InvalidArgument, field+" is out of range", errdefs.Op("limit cgroup"), errdefs.Fix("%s", fix))
	}
	switch {
	case l.MemoryBytes < 0 || (l.MemoryBytes > 0 && l.MemoryBytes < minMemory):
		return bad("MemoryBytes", "give at least 1 MiB, or 0 for no limit")
	case l.PidsMax < 0:
		return bad("PidsMax", "give at least 1, or 0 for no limit")
	case l.CPUMilli < 0 || (l.CPUMilli > 0 && l.CPUMilli < minCPUMilli):
		return bad("CPUMilli", "give at least 10 (a hundredth of a CPU), or 0 for no limit")
	case l.CPUWeight > maxCPUWeight:
		return bad("CPUWeight", "give 1 to 10000, or 0 for the default")
	}
	return nil
}

// needs lists the controllers that l cannot be enforced without.
func (l Limits) needs() []string {
	var out []string
	if l.MemoryBytes > 0 {
		out = append(out, Memory)
	}
	if l.PidsMax > 0 {
		out = append(out, Pids)
	}
	if l.CPUMilli > 0 || l.CPUWeight > 0 {
		out = append(out, CPU)
	}
	return out
}

// Stats is what a group has used. Fields of a controller that the host lacks
// are zero.
type Stats struct {
	MemoryBytes int64
	// MemoryPeakBytes is zero where the kernel does not keep it.
	MemoryPeakBytes int64
	// MemoryLimitBytes is zero when there is no limit.
	MemoryLimitBytes int64
	// OOMKills counts processes killed for exceeding the memory limit.
	OOMKills int64
	Pids     int64
	// PidsLimit is zero when there is no limit.
	PidsLimit int64
	// PidsRefused counts forks refused for exceeding the pids limit.
	PidsRefused int64
	CPU         time.Duration
	// ThrottledPeriods counts the quota windows in which the group had to
	// wait.
	ThrottledPeriods int64
}

// Group is one host cgroup.
type Group struct {
	parent, name string
	backend      backend
}

// backend is one cgroup version's way to handle the group PARENT/NAME.
type backend interface {
	create(Limits) error
	update(Limits) error
	stats() (Stats, error)
	start(*exec.Cmd) error
	// usage is the file that tells what CPU time was used.
	usage() string
	// idle makes the idle group, unless it is there, and returns the file that
	// takes threads.
	idle() (string, error)
	// freeze stops or continues every process where the host can.
	freeze(bool)
	// killAll asks the kernel to kill the whole group at once; false when it
	// cannot and each process has to be killed.
	killAll() bool
	// rename gives a live group the name at the end of the path of to, which does
	// not exist.
	rename(to *Group, l Limits) error
	// dirs lists the group's directories, one per hierarchy.
	dirs() []string
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

func newGroup(op, parent, name string) (*Group, Info, error) {
	for _, n := range []string{parent, name} {
		if !nameForm.MatchString(n) {
			return nil, Info{}, errdefs.New(errdefs.InvalidArgument, "not a valid cgroup name", errdefs.Op(op),
				errdefs.Resource("%.80q", n), errdefs.Fix("use 1 to 64 letters, digits, '_', '.' and '-', beginning with a letter or digit"))
		}
	}
	info := Detect()
	if err := info.Require(); err != nil {
		return nil, info, errdefs.Wrap(err, errdefs.HostFeature, op, errdefs.Resource("%s/%s", parent, name))
	}
	g := &Group{parent: parent, name: name}
	if info.Version == V2 {
		g.backend = &v2{info: info, group: filepath.Join(info.Base, parent, name)}
	} else {
		g.backend = newV1(info, filepath.Join("/", parent, name))
	}
	return g, info, nil
}

// Create makes the group PARENT/NAME with limits. A limit that needs a
// controller which the host lacks is an error: a bound that does not bind is
// worse than none.
func Create(parent, name string, l Limits) (*Group, error) {
	const op = "create cgroup"
	if err := l.validate(); err != nil {
		return nil, err
	}
	g, info, err := newGroup(op, parent, name)
	if err != nil {
		return nil, err
	}
	if err := info.RequireControllers(l.needs()...); err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostFeature, op, errdefs.Resource("%s", g))
	}
	if g.exists() {
		return nil, errdefs.New(errdefs.AlreadyExists, "the cgroup exists", errdefs.Op(op), errdefs.Resource("%s", g),
			errdefs.Fix("choose another name, or remove what a crashed run left behind with Sweep"))
	}
	// A concurrent Delete may remove the parent between its making and ours.
	for try := 0; ; try++ {
		err = g.backend.create(l)
		if err == nil {
			return g, nil
		}
		g.removeDirs()
		if !errors.Is(err, fs.ErrNotExist) || try == 4 {
			return nil, hostError(err, op, g.String())
		}
	}
}

// Load returns the group PARENT/NAME that an earlier Create made.
func Load(parent, name string) (*Group, error) {
	const op = "load cgroup"
	g, _, err := newGroup(op, parent, name)
	if err != nil {
		return nil, err
	}
	if !g.exists() {
		return nil, errdefs.New(errdefs.NotFound, "no such cgroup", errdefs.Op(op), errdefs.Resource("%s", g))
	}
	return g, nil
}

// String returns PARENT/NAME.
func (g *Group) String() string { return g.parent + "/" + g.name }

// Name returns the group's own name.
func (g *Group) Name() string { return g.name }

// Paths lists the group's directories on the host: one on v2, one per
// hierarchy on v1.
func (g *Group) Paths() []string { return g.backend.dirs() }

// SetLimits replaces the limits of a live group. Zero fields leave what is
// set as it is.
func (g *Group) SetLimits(l Limits) error {
	if err := l.validate(); err != nil {
		return err
	}
	if err := Detect().RequireControllers(l.needs()...); err != nil {
		return errdefs.Wrap(err, errdefs.HostFeature, "limit cgroup", errdefs.Resource("%s", g))
	}
	return hostError(g.backend.update(l), "limit cgroup", g.String())
}

// Rename has what is in the group be in one of another name, with those limits, and
// returns that; the group is gone. No process of it may fork meanwhile. What it was
// charged for stays with the parent on v2, which has no renaming.
func (g *Group) Rename(name string, l Limits) (*Group, error) {
	const op = "rename cgroup"
	if err := l.validate(); err != nil {
		return nil, err
	}
	to, _, err := newGroup(op, g.parent, name)
	if err != nil {
		return nil, err
	}
	if to.exists() {
		return nil, errdefs.New(errdefs.AlreadyExists, "the cgroup exists", errdefs.Op(op), errdefs.Resource("%s", to))
	}
	if err := g.backend.rename(to, l); err != nil {
		return nil, hostError(err, op, g.String())
	}
	return to, nil
}

// Stats reads the group's counters.
func (g *Group) Stats() (Stats, error) {
	s, err := g.backend.stats()
	return s, hostError(err, "read cgroup", g.String())
}

// Start starts cmd inside the group: the child's first instruction is already
// bounded. Callers may set every other field of cmd.SysProcAttr; UseCgroupFD
// and CgroupFD are Start's.
func (g *Group) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	return g.backend.start(cmd)
}

func (g *Group) exists() bool {
	for _, d := range g.backend.dirs() {
		if _, err := os.Stat(d); err == nil {
			return true
		}
	}
	return false
}

// hostError gives a failed host operation its code: a refusal for lack of
// privilege is a missing feature of the host, anything else an I/O error.
func hostError(err error, op, resource string) error {
	if err == nil {
		return nil
	}
	code, fix := errdefs.HostIO, ""
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		code, fix = errdefs.HostFeature, "run the daemon as root, or delegate a cgroup to its user (systemd: Delegate=yes)"
	case errors.Is(err, syscall.EBUSY):
		code, fix = errdefs.HostFeature, "the cgroup above holds processes itself, so it cannot hand out controllers: run the daemon in a leaf of its own"
	case errors.Is(err, syscall.ENOSPC):
		code, fix = errdefs.HostIO, "the host's limit on cgroups is reached: see cgroup.max.descendants and /proc/cgroups"
	}
	return errdefs.Wrap(err, code, op, errdefs.Resource("%s", resource), errdefs.Fix("%s", fix))
}

// pause waits between two looks at what the kernel does on its own.
func pause(d time.Duration) {
	done := make(chan struct{})
	ktime.Real.AfterFunc(d, func() { close(done) })
	<-done
}
