package sentry

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/account"
	"aios.dev/aios/sentry/sched"
)

// cgroupViews are the files of /sys/fs/cgroup: an agent finds itself in a
// cgroup of its own (version 2) that has its limits. They are for reading.
var cgroupViews = map[string]viewWriter{
	"cgroup.controllers":     constant("cpuset cpu memory pids"),
	"cgroup.subtree_control": constant(""),
	"cgroup.type":            constant("domain"),
	"cgroup.events":          constant("populated 1\nfrozen 0"),
	"cgroup.stat":            constant("nr_descendants 0\nnr_dying_descendants 0"),
	"cgroup.max.depth":       constant("0"),
	"cgroup.max.descendants": constant("0"),
	"cgroup.procs": func(v *view, _ string, buf *bytes.Buffer) {
		v.ids(buf, func(t *kernel.Task) bool { return t.ThreadGroup().Leader() == t })
	},
	"cgroup.threads": func(v *view, _ string, buf *bytes.Buffer) { v.ids(buf, func(*kernel.Task) bool { return true }) },

	"cpuset.cpus":           func(v *view, _ string, buf *bytes.Buffer) { fmt.Fprintln(buf, v.cpus()) },
	"cpuset.cpus.effective": func(v *view, _ string, buf *bytes.Buffer) { fmt.Fprintln(buf, v.cpus()) },
	"cpuset.mems":           constant("0"),
	"cpuset.mems.effective": constant("0"),

	"cpu.max":        writes((*view).cpuMax),
	"cpu.max.burst":  constant("0"),
	"cpu.weight":     writes((*view).cpuWeight),
	"cpu.stat":       writes((*view).cpuStat),
	"memory.current": func(v *view, _ string, buf *bytes.Buffer) { _, used := v.ownMemory(); fmt.Fprintln(buf, used) },
	"memory.peak": func(v *view, _ string, buf *bytes.Buffer) {
		_, used := v.ownMemory()
		if v.a != nil {
			used = v.a.account.ledger.Peak(account.Memory)
		}
		fmt.Fprintln(buf, used)
	},
	"memory.max":          func(v *view, _ string, buf *bytes.Buffer) { fmt.Fprintln(buf, v.limit(account.Memory)) },
	"cpu.pressure":        pressureText(pressureCPU),
	"memory.pressure":     pressureText(pressureMemory),
	"io.pressure":         pressureText(pressureIO),
	"memory.high":         constant("max"),
	"memory.low":          constant("0"),
	"memory.min":          constant("0"),
	"memory.oom.group":    writes((*view).oomGroup),
	"memory.events":       writes((*view).memoryEvents),
	"memory.stat":         writes((*view).memoryStat),
	"memory.swap.current": func(v *view, _ string, buf *bytes.Buffer) { _, used := v.swap(); fmt.Fprintln(buf, used) },
	"memory.swap.max":     func(v *view, _ string, buf *bytes.Buffer) { limit, _ := v.swap(); fmt.Fprintln(buf, limit) },
	"pids.current":        func(v *view, _ string, buf *bytes.Buffer) { fmt.Fprintln(buf, len(v.tasks())) },
	"pids.max":            func(v *view, _ string, buf *bytes.Buffer) { fmt.Fprintln(buf, v.limit(account.Tasks)) },
}

func constant(text string) viewWriter {
	text = fixed(text).arg
	return func(_ *view, _ string, buf *bytes.Buffer) { buf.WriteString(text) }
}

// fixed is a text of one line, or none, that is the same for all.
func fixed(text string) viewText {
	if text != "" {
		text += "\n"
	}
	return viewText{arg: text}
}

// writes makes a viewWriter of a method.
func writes(method func(v *view, buf *bytes.Buffer)) viewWriter {
	return func(v *view, _ string, buf *bytes.Buffer) { method(v, buf) }
}

// limit is the hard limit of r, in the notation of cgroups.
func (v *view) limit(r account.Resource) string {
	if v.a != nil {
		if _, hard := v.a.account.ledger.Limits(r); hard != account.Unlimited {
			return strconv.FormatUint(hard, 10)
		}
	}
	return "max"
}

// ids writes the numbers of tasks as their agent knows them.
func (v *view) ids(buf *bytes.Buffer, want func(*kernel.Task) bool) {
	ns := v.s.k.RootPIDNamespace()
	if v.a != nil {
		ns = v.a.ns.pid()
	}
	var ids []kernel.ThreadID
	for _, t := range ns.Tasks() {
		if id := ns.IDOfTask(t); id != 0 && want(t) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	for _, id := range ids {
		fmt.Fprintln(buf, id)
	}
}

// cpuMax is the quota: microseconds in a period of so many microseconds.
func (v *view) cpuMax(buf *bytes.Buffer) {
	p := sched.Defaults()
	if v.a != nil {
		p = v.a.crowd.Group().Params()
	}
	period := p.Period.Microseconds()
	if p.MilliCPU == sched.Unlimited {
		fmt.Fprintf(buf, "max %d\n", period)
		return
	}
	fmt.Fprintf(buf, "%d %d\n", p.MilliCPU*uint64(period)/1000, period)
}

func (v *view) cpuWeight(buf *bytes.Buffer) {
	p := sched.Defaults()
	if v.a != nil {
		p = v.a.crowd.Group().Params()
	}
	fmt.Fprintf(buf, "%d\n", p.Weight)
}

func (v *view) cpuStat(buf *bytes.Buffer) {
	u := v.cpuUse()
	us := time.Duration.Microseconds
	fmt.Fprintf(buf, "usage_usec %d\nuser_usec %d\nsystem_usec %d\nnr_periods %d\nnr_throttled %d\nthrottled_usec %d\n",
		us(u.User+u.System), us(u.User), us(u.System), u.Periods, u.Stops, us(u.Stopped))
}

func (v *view) memoryStat(buf *bytes.Buffer) {
	kinds, _ := v.ownMemory()
	f := v.faultsSeen()
	fmt.Fprintf(buf, "anon %d\nfile %d\nshmem %d\nkernel %d\npgfault %d\npgmajfault %d\n",
		kinds.Anonymous, kinds.PageCache+kinds.Mapped+kinds.Tmpfs, kinds.Tmpfs, kinds.System, f.Minor+f.Major, f.Major)
}
