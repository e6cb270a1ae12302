package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2"

	"aios.dev/aios/errdefs"
)

// v2 is the group at one path of the unified hierarchy.
type v2 struct {
	info  Info
	group string // below info.Mount
}

func (b *v2) dir() string    { return filepath.Join(b.info.Mount, b.group) }
func (b *v2) dirs() []string { return []string{b.dir()} }

// resources turns limits into files. With enable, every controller is switched
// on even when it has no limit, so that its counters are there.
func (b *v2) resources(l Limits, enable bool) *cgroup2.Resources {
	r := &cgroup2.Resources{}
	if on := enable && slices.Contains(b.info.Controllers, Memory); on || l.MemoryBytes > 0 {
		r.Memory = &cgroup2.Memory{}
		if l.MemoryBytes > 0 {
			// A domain is one fault boundary: the out-of-memory killer takes
			// all of it, never a process out of its middle.
			whole := true
			r.Memory.Max, r.Memory.OOMGroup = &l.MemoryBytes, &whole
		}
	}
	if on := enable && slices.Contains(b.info.Controllers, Pids); on || l.PidsMax > 0 {
		r.Pids = &cgroup2.Pids{Max: l.PidsMax}
	}
	if on := enable && slices.Contains(b.info.Controllers, CPU); on || l.CPUMilli > 0 || l.CPUWeight > 0 {
		r.CPU = &cgroup2.CPU{}
		if l.CPUMilli > 0 {
			period, quota := uint64(quotaPeriodMicros), l.CPUMilli*quotaPeriodMicros/1000
			r.CPU.Max = cgroup2.NewCPUMax(&quota, &period)
		}
		if l.CPUWeight > 0 {
			r.CPU.Weight = &l.CPUWeight
		}
	}
	return r
}

func (b *v2) create(l Limits) error {
	if _, err := cgroup2.NewManager(b.info.Mount, b.group, b.resources(l, true)); err != nil {
		return err
	}
	return b.noSwap(l)
}

func (b *v2) update(l Limits) error {
	m, err := cgroup2.Load(b.group, cgroup2.WithMountpoint(b.info.Mount))
	if err != nil {
		return err
	}
	if err := m.Update(b.resources(l, false)); err != nil {
		return err
	}
	return b.noSwap(l)
}

// noSwap keeps a memory limit from being evaded into swap, on kernels that
// account for swap.
func (b *v2) noSwap(l Limits) error {
	if l.MemoryBytes == 0 {
		return nil
	}
	err := writeFile(filepath.Join(b.dir(), "memory.swap.max"), "0")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (b *v2) start(cmd *exec.Cmd) error {
	dir, err := os.Open(b.dir())
	if err != nil {
		return hostError(err, "enter cgroup", b.group)
	}
	defer dir.Close()
	cmd.SysProcAttr.UseCgroupFD = true
	cmd.SysProcAttr.CgroupFD = int(dir.Fd())
	if err := cmd.Start(); err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "start process", errdefs.Resource("%s", cmd.Path),
			errdefs.Fix("a child is started inside its cgroup with clone3(2), which needs Linux 5.7 and no seccomp filter against it"))
	}
	return nil
}

func (b *v2) rename(to *Group, l Limits) error {
	if err := to.backend.create(l); err != nil {
		to.removeDirs()
		return err
	}
	idlers := b.idleThreads() // Before their processes leave, which takes them along.
	raw, err := os.ReadFile(filepath.Join(b.dir(), "cgroup.procs"))
	procs := filepath.Join(to.backend.dirs()[0], "cgroup.procs")
	for _, pid := range strings.Fields(string(raw)) {
		if err == nil {
			err = writeFile(procs, pid)
		}
	}
	if err == nil && len(idlers) > 0 {
		err = moveIdle(to, idlers)
	}
	if err == nil {
		_ = os.Remove(filepath.Join(b.dir(), idleGroup))
		err = os.Remove(b.dir())
	}
	return err
}

// moveIdle has those threads of to be in its idle group.
func moveIdle(to *Group, threads []string) error {
	file, err := to.backend.idle()
	for _, tid := range threads {
		if err == nil {
			err = writeFile(file, tid)
		}
	}
	return err
}

func (b *v2) freeze(on bool) {
	state := "0"
	if on {
		state = "1"
	}
	_ = writeFile(filepath.Join(b.dir(), "cgroup.freeze"), state)
}

func (b *v2) killAll() bool {
	return writeFile(filepath.Join(b.dir(), "cgroup.kill"), "1") == nil
}

func (b *v2) stats() (Stats, error) {
	d := b.dir()
	r := reader{}
	s := Stats{
		MemoryBytes:      r.number(d, "memory.current"),
		MemoryPeakBytes:  r.number(d, "memory.peak"),
		MemoryLimitBytes: r.number(d, "memory.max"),
		OOMKills:         r.key(d, "memory.events", "oom_kill"),
		Pids:             r.number(d, "pids.current"),
		PidsLimit:        r.number(d, "pids.max"),
		PidsRefused:      r.key(d, "pids.events", "max"),
		CPU:              time.Duration(r.key(d, "cpu.stat", "usage_usec")) * time.Microsecond,
		ThrottledPeriods: r.key(d, "cpu.stat", "nr_throttled"),
	}
	return s, r.err
}
