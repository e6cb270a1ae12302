package sentry

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/ktime"
	"aios.dev/aios/sentry/clocks"
	"aios.dev/aios/sentry/irq"
	"aios.dev/aios/sentry/smp"
)

// What an agent sees of the use of its CPUs. Time counts from the start of the
// domain, as the times of processes do; of the CPUs that the agent saw since then,
// what it did not use is idle, and what its quota kept from it is stolen.

// cpuCapacity is how much CPU time there was for an agent.
type cpuCapacity struct {
	mu    sync.Mutex
	n     int64 // +checklocks:mu
	since int64 // +checklocks:mu
	sum   int64 // +checklocks:mu
	// idle is the most that was ever told: it must not decrease.
	idle int64 // +checklocks:mu
}

// upTo returns how much there was until now, after which n CPUs are seen.
func (c *cpuCapacity) upTo(now int64, n int) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sum += c.n * max(0, now-c.since)
	c.since, c.n = max(now, c.since), int64(n)
	return c.sum
}

// first has it as if n CPUs had been seen from the start.
func (c *cpuCapacity) first(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n, c.since, c.sum = int64(n), 0, 0
}

func (c *cpuCapacity) leastIdle(idle int64) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = max(c.idle, idle)
	return c.idle
}

// uptimeNS is the time since the domain began.
func (s *Kernel) uptimeNS() int64 { return s.k.MonotonicClock().Now().Nanoseconds() }

// clocks returns how far ahead of the kernel's the clocks are that the agent sees.
func (v *view) clocks() (realtime, monotonic clocks.Shift) {
	if v.a != nil {
		if c := v.a.clock.own.Load(); c != nil {
			return c.offset(), c.monotonic
		}
	}
	return 0, 0
}

// uptimeNS is what the agent's CLOCK_BOOTTIME shows.
func (v *view) uptimeNS() int64 {
	_, ahead := v.clocks()
	return ahead.Inside(v.s.uptimeNS())
}

// bootTime is when that was 0, by its CLOCK_REALTIME, in seconds.
func (v *view) bootTime() int64 {
	realtime, monotonic := v.clocks()
	return clocks.Shift(-monotonic).Inside(realtime.Inside(v.s.k.Timekeeper().BootTime().Nanoseconds())) / 1e9
}

// cpuTimes is how CPU time was spent, in nanoseconds.
type cpuTimes struct{ user, system, idle, stolen int64 }

func (v *view) cpuTimes() cpuTimes {
	use := v.cpuUse()
	t := cpuTimes{user: int64(use.User), system: int64(use.System), stolen: int64(use.Stopped)}
	used := t.user + t.system + t.stolen
	if v.a == nil {
		t.idle = max(0, int64(v.cpuCount())*v.s.uptimeNS()-used)
	} else {
		c := &v.a.account.capacity
		t.idle = c.leastIdle(c.upTo(v.s.uptimeNS(), v.a.seenCPUs().Len()) - used)
	}
	return t
}

// tasksThatWant returns how many of the tasks want a CPU.
func tasksThatWant(tasks []*kernel.Task) (n int) {
	for _, t := range tasks {
		switch t.TaskGoroutineState() {
		case kernel.TaskGoroutineRunningApp, kernel.TaskGoroutineRunningSys, kernel.TaskGoroutineBlockedUninterruptible:
			n++
		}
	}
	return n
}

func (v *view) stat(buf *bytes.Buffer) {
	all, cpus := v.cpuTimes(), v.cpus()
	line := func(name string, share func(int64) int64) {
		ticks := func(ns int64) int64 { return share(int64(linux.ClockTFromDuration(time.Duration(ns)))) }
		fmt.Fprintf(buf, "%s %d 0 %d %d 0 0 0 %d 0 0\n", name, ticks(all.user), ticks(all.system), ticks(all.idle), ticks(all.stolen))
	}
	line("cpu ", func(ticks int64) int64 { return ticks })
	i, n := int64(0), int64(cpus.Len())
	cpus.All(func(cpu int) bool { // Which of them ran is not known.
		line(fmt.Sprintf("cpu%d", cpu), func(ticks int64) int64 { return ticks*(i+1)/n - ticks*i/n })
		i++
		return true
	})
	var counts strings.Builder
	sum := uint64(0)
	for _, l := range irq.Lines() {
		all := irq.Fold(v.s.sourceOf(v.a).Counts(l.Line), 1)[0]
		if sum += all; l.Linux == "" {
			fmt.Fprintf(&counts, " %d", all)
		}
	}
	fmt.Fprintf(buf, "intr %d%s\nctxt %d\nbtime %d\nprocesses %d\nprocs_running %d\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n",
		sum, counts.String(), v.switches(), v.bootTime(), v.started(), tasksThatWant(v.tasks()))
}

// switches returns how often a task was given a CPU.
func (v *view) switches() (n uint64) {
	if v.a != nil {
		return v.a.crowd.Group().State().Switches
	}
	for _, c := range v.s.sched.State().CPUs {
		n += c.Switches
	}
	return n
}

// started returns how many tasks there have been.
func (v *view) started() uint64 {
	if v.a == nil {
		return uint64(len(v.tasks()))
	}
	return v.a.account.started.Load()
}

func (v *view) uptime(buf *bytes.Buffer) {
	idle, up := v.cpuTimes().idle, v.uptimeNS()
	const second, hundredth = int64(time.Second), int64(time.Second / 100)
	fmt.Fprintf(buf, "%d.%02d %d.%02d\n", up/second, up%second/hundredth, idle/second, idle%second/hundredth)
}

// load returns how many tasks want a CPU on average.
func (v *view) load() *smp.Load {
	if v.a == nil {
		return &v.s.processors.load
	}
	return &v.a.account.load
}

func (v *view) loadavg(buf *bytes.Buffer) {
	for _, avg := range v.load().Averages() {
		// Rounded to hundredths.
		avg += 1 << smp.LoadShift / 200
		fmt.Fprintf(buf, "%d.%02d ", avg>>smp.LoadShift, avg&(1<<smp.LoadShift-1)*100>>smp.LoadShift)
	}
	tasks := v.tasks()
	last := int32(0)
	if v.a != nil {
		last = v.a.account.lastTask.Load()
	}
	fmt.Fprintf(buf, "%d/%d %d\n", tasksThatWant(tasks), len(tasks), last)
}

// tellLoads tells the loads how many tasks want a CPU, now and then.
func (s *Kernel) tellLoads() {
	clock, p := ktime.Steady(s.cfg.Clock), &s.processors
	n := 1
	if !p.told.IsZero() { // Timers are late, and the process may have been stopped.
		n = int((clock.Since(p.told) + smp.LoadEvery/2) / smp.LoadEvery)
	}
	p.told = clock.Now()
	s.tickLoads(n)
	s.cfg.Clock.AfterFunc(smp.LoadEvery, s.tellLoads)
}

// tickLoads tells how many tasks want a CPU, as they did for n intervals.
func (s *Kernel) tickLoads(n int) {
	all := 0
	for _, a := range s.liveAgents() {
		want := tasksThatWant(a.ns.pid().Tasks())
		a.account.load.Tick(want, n)
		all += want
	}
	s.processors.load.Tick(all, n)
}
