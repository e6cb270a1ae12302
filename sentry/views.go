package sentry

import (
	"bytes"
	"fmt"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	gvsched "gvisor.dev/gvisor/pkg/sentry/kernel/sched"
	"gvisor.dev/gvisor/pkg/sentry/usage"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/account"
	"aios.dev/aios/sentry/sched"
	"aios.dev/aios/sentry/smp"
)

// What an agent sees of the machine is what it may use: so many CPUs as its
// quota fills, so much memory as its limit. The texts of files say so as of
// the moment they are read; limits may change.

// kernelViews is what the views of all agents share.
type kernelViews struct {
	minor      uint32        // of the device that the files are on
	ino        atomic.Uint64 // the last inode number
	cgroup     *vfs.Filesystem
	cgroupRoot *vfs.Dentry
}

// view is the machine as one agent sees it; a is nil for the kernel itself,
// which sees all.
type view struct {
	s *Kernel
	a *Agent
}

// viewOf returns the view of the agent that ctx works for.
func (s *Kernel) viewOf(ctx context.Context) *view {
	v := &view{s: s}
	if t := kernel.TaskFromContext(ctx); t != nil {
		v.a = s.agentOf(t)
	}
	return v
}

// cpus is the CPUs that there are.
func (v *view) cpus() smp.Set {
	if v.a == nil {
		return v.s.usableCPUs()
	}
	return v.a.seenCPUs()
}

func (v *view) cpuCount() uint { return uint(v.cpus().Len()) }

// memory returns what there is, what of it is used, and for what.
func (v *view) memory() (total, used uint64, kinds usage.MemoryStats) {
	mf := v.s.k.MemoryFile()
	if v.a != nil {
		if limit := v.a.memoryLimit(); limit != account.Unlimited {
			kinds, used = v.ownMemory()
			// The page that takes it over the limit is counted before it dies.
			return limit, min(used, limit), kinds
		}
	}
	mf.UpdateUsage(nil) // Fails during a checkpoint only.
	kinds, used = usage.MemoryAccounting.Copy()
	total = usage.TotalMemory(mf.TotalSize(), used)
	if v.a != nil {
		// Others' memory is not free, and no more is said of it.
		kinds, _ = v.ownMemory()
	}
	return total, min(used, total), kinds
}

// ownMemory returns what the agent has.
func (v *view) ownMemory() (usage.MemoryStats, uint64) {
	if v.a == nil {
		return usage.MemoryAccounting.Copy()
	}
	v.s.watch.refresh(v.a)
	kinds, used := usage.MemoryAccounting.CopyPerCg(v.a.memID)
	kinds.System += v.a.account.memory.forKernel()
	used += v.a.beside()
	v.a.account.ledger.Measure(account.Memory, used)
	return kinds, used
}

// swap returns how much of a swap file the agent may use, and how much of that it
// does.
func (v *view) swap() (limit, used uint64) {
	if v.a == nil {
		return 0, 0
	}
	sw := v.a.swap.Load()
	if sw == nil {
		return 0, 0
	}
	u := sw.store.Usage()
	return u.FileLimit, min(u.File, u.FileLimit)
}

// cpuUse returns the CPU time used in all.
func (v *view) cpuUse() sched.Usage {
	if v.a == nil {
		all := v.s.k.CPUStats()
		return sched.Usage{User: all.UserTime, System: all.SysTime}
	}
	return v.a.crowd.Group().Usage()
}

func (v *view) tasks() []*kernel.Task {
	if v.a == nil {
		return v.s.k.RootPIDNamespace().Tasks()
	}
	return v.a.ns.pid().Tasks()
}

// procViews are files of /proc.
var procViews = map[string]viewWriter{
	"cpuinfo": func(v *view, _ string, buf *bytes.Buffer) {
		features, cpus := v.s.k.FeatureSet(), v.cpus()
		n := uint(cpus.Len())
		cpus.All(func(cpu int) bool {
			features.WriteCPUInfoTo(uint(cpu), n, buf)
			return true
		})
	},
	"meminfo": writes((*view).meminfo),
	"stat":    writes((*view).stat),
	"loadavg": writes((*view).loadavg),
	"uptime":  writes((*view).uptime),
	"vmstat":  writes((*view).vmstat),
	// gVisor has none.
	procInterrupts: writes((*view).interrupts),
	// By this some programs tell that cgroups are of version 2.
	"cgroups": constant("#subsys_name\thierarchy\tnum_cgroups\tenabled\n" +
		"cpuset\t0\t1\t1\ncpu\t0\t1\t1\ncpuacct\t0\t1\t1\nmemory\t0\t1\t1\npids\t0\t1\t1"),
}

func (v *view) meminfo(buf *bytes.Buffer) {
	total, used, kinds := v.memory()
	anon, file := kinds.Anonymous+kinds.Tmpfs, kinds.PageCache+kinds.Mapped
	swap, out := v.swap()
	for _, line := range []struct {
		name  string
		bytes uint64
	}{
		{"MemTotal", total}, {"MemFree", total - used}, {"MemAvailable", total - used},
		{"Buffers", 0}, {"Cached", file + kinds.Tmpfs}, {"SwapCached", 0},
		{"Active", anon + file}, {"Inactive", 0},
		{"Active(anon)", anon}, {"Inactive(anon)", 0}, {"Active(file)", file}, {"Inactive(file)", 0},
		{"Unevictable", 0}, {"Mlocked", 0}, {"SwapTotal", swap}, {"SwapFree", swap - out}, {"Dirty", 0}, {"Writeback", 0},
		{"AnonPages", anon}, {"Mapped", file}, {"Shmem", kinds.Tmpfs},
	} {
		fmt.Fprintf(buf, "%-16s%8d kB\n", line.name+":", line.bytes>>10)
	}
}

// viewCalls wraps the system calls that tell of the machine. It must run
// before the first task exists.
func (s *Kernel) viewCalls(table *kernel.SyscallTable) {
	const (
		sysSysinfo          = 99
		sysSchedSetaffinity = 203
	)
	info := table.Table[sysSysinfo]
	info.Fn = s.sysinfo
	table.Table[sysSysinfo] = info

	s.dmesgCall(table)

	const sysGetrusage = 98
	rusage := table.Table[sysGetrusage]
	rusage.Fn = s.rusageFaults(rusage.Fn)
	table.Table[sysGetrusage] = rusage

	affinity := table.Table[sysSchedSetaffinity]
	inner := affinity.Fn
	affinity.Fn = func(t *kernel.Task, sysno uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		target := t
		if tid := args[0].Int(); tid != 0 {
			target = t.PIDNamespace().TaskWithID(kernel.ThreadID(tid))
		}
		if target == nil {
			return 0, nil, linuxerr.ESRCH
		}
		before := target.CPUMask()
		ret, ctrl, err := inner(t, sysno, args)
		if err != nil {
			return ret, ctrl, err
		}
		seen, mask := s.viewOf(t).cpus(), gvsched.NewCPUSet(uint(s.cfg.CPUs))
		asked := target.CPUMask()
		asked.ForEachCPU(func(cpu uint) {
			if seen.Has(int(cpu)) {
				mask.Set(cpu)
			}
		})
		if err := target.SetCPUMask(mask); err != nil { // None is left.
			target.SetCPUMask(before)
			return 0, nil, err
		}
		return ret, ctrl, nil
	}
	table.Table[sysSchedSetaffinity] = affinity
}

// sysinfoLoadShift is how many bits of a load are behind the point there.
const sysinfoLoadShift = 16

// sysinfo implements sysinfo(2).
func (s *Kernel) sysinfo(t *kernel.Task, _ uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
	v := s.viewOf(t)
	total, used, kinds := v.memory()
	swap, out := v.swap()
	si := linux.Sysinfo{
		Procs: uint16(min(len(v.tasks()), 1<<16-1)), Uptime: v.uptimeNS() / 1e9,
		TotalRAM: total, FreeRAM: total - used, SharedRAM: kinds.Tmpfs, Unit: 1, TotalSwap: swap, FreeSwap: swap - out,
	}
	for i, avg := range v.load().Averages() {
		si.Loads[i] = avg << (sysinfoLoadShift - smp.LoadShift)
	}
	_, err := si.CopyOut(t, args[0].Pointer())
	return 0, nil, err
}
