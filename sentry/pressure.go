package sentry

import (
	"bytes"
	"fmt"
	"math"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/kernfs"

	"aios.dev/aios/account"
	"aios.dev/aios/ktime"
)

// Pressure is for how long an agent's tasks could not go on for want of something,
// as Linux reckons it: the time in which at least one could not, and the time in
// which none could. Of CPUs the scheduler knows. Of memory it is the time in which a
// task waits while the agent is counted near its limit, and in which the agent stands
// still because it is out of memory; of I/O that for which its rate holds tasks back.

// stall adds up for how long something was missing.
type stall struct {
	mu sync.Mutex // leaf
	// tasks is how many wait, since up to when it was added up, and idle whether
	// no other task ran at the last change.
	tasks int   // +checklocks:mu
	since int64 // +checklocks:mu
	idle  bool  // +checklocks:mu
	some  int64 // nanoseconds; +checklocks:mu
	full  int64 // +checklocks:mu
}

// change notes that n more tasks wait, and whether others run.
func (s *stall) change(n int, now int64, idle bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addLocked(now)
	s.tasks += n
	s.idle = idle
}

// +checklocks:s.mu
func (s *stall) addLocked(now int64) {
	if d := now - s.since; s.tasks > 0 && d > 0 {
		s.some += d
		if s.idle {
			s.full += d
		}
	}
	s.since = now
}

// totals returns what there was up to now.
func (s *stall) totals(now int64) (some, full time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addLocked(now)
	return time.Duration(s.some), time.Duration(s.full)
}

// pressureEvery is how often averages are brought up to date, as on Linux.
const pressureEvery = 2 * time.Second

// Of what averages are: the last 10, 60 and 300 seconds, by how much an old one
// counts at each step.
var pressureWindows = [3]float64{
	math.Exp(-pressureEvery.Seconds() / 10), math.Exp(-pressureEvery.Seconds() / 60), math.Exp(-pressureEvery.Seconds() / 300),
}

// pressureAverage follows one total. Averages are parts of one.
type pressureAverage struct {
	last time.Duration
	avg  [3]float64
}

// step takes up what the total has grown by in so much time.
func (p *pressureAverage) step(total, took time.Duration) {
	share := 0.0
	if took > 0 {
		share = min(max(float64(total-p.last)/float64(took), 0), 1)
	}
	p.last = total
	for i, keep := range pressureWindows {
		// Over a longer step an old average counts less.
		keep = math.Pow(keep, took.Seconds()/pressureEvery.Seconds())
		p.avg[i] = p.avg[i]*keep + share*(1-keep)
	}
}

// The resources that there is pressure on.
const (
	pressureCPU = iota
	pressureMemory
	pressureIO
	pressures
)

// agentPressure is the pressure on an agent.
type agentPressure struct {
	memory stall
	io     stall

	mu sync.Mutex
	// Of the averages, since the kernel was started.
	at time.Duration // +checklocks:mu
	// Of some, and of full.
	avg [pressures][2]pressureAverage // +checklocks:mu
}

// stalled notes that a task of a begins to wait for memory or I/O; what it returns
// that it does no more.
func (a *Agent) stalled(s *stall) (done func()) {
	s.change(1, a.s.uptimeNS(), a.crowd.Group().Active() <= 1)
	return func() { s.change(-1, a.s.uptimeNS(), a.crowd.Group().Active() <= 1) }
}

// pressureTotal returns the totals of one resource.
func (a *Agent) pressureTotal(resource int) (some, full time.Duration) {
	switch resource {
	case pressureMemory:
		return a.pressure.memory.totals(a.s.uptimeNS())
	case pressureIO:
		return a.pressure.io.totals(a.s.uptimeNS())
	}
	return a.crowd.Group().Pressure()
}

// step brings the averages of an agent up to date.
func (p *agentPressure) step(a *Agent) {
	now := time.Duration(a.s.uptimeNS())
	p.mu.Lock()
	defer p.mu.Unlock()
	took := now - p.at
	p.at = now
	for i := range p.avg {
		some, full := a.pressureTotal(i)
		p.avg[i][0].step(some, took)
		p.avg[i][1].step(full, took)
	}
}

// kernelPressure has averages of all agents brought up to date while there are any.
type kernelPressure struct {
	mu    sync.Mutex
	timer ktime.Timer // nil: there is no agent; +checklocks:mu
	// restored are files of a checkpoint, until their triggers are set.
	restored []*pressureFD
}

// begin has the averages of a new agent kept, too.
func (k *kernelPressure) begin(s *Kernel) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.timer == nil {
		k.timer = s.cfg.Clock.AfterFunc(pressureEvery, s.pressureStep)
	}
}

func (s *Kernel) pressureStep() {
	agents := s.liveAgents()
	for _, a := range agents {
		a.pressure.step(a)
	}
	k := &s.pressure
	k.mu.Lock()
	defer k.mu.Unlock()
	k.timer = nil
	if len(agents) > 0 {
		k.timer = s.cfg.Clock.AfterFunc(pressureEvery, s.pressureStep)
	}
}

// pressureUse is the pressure on the agent up to now.
func (a *Agent) pressureUse(resource int) account.PressureUse {
	some, full := a.pressureTotal(resource)
	p := &a.pressure
	p.mu.Lock()
	defer p.mu.Unlock()
	return account.PressureUse{
		SomeNS: uint64(some), FullNS: uint64(full), Some: p.avg[resource][0].avg, Full: p.avg[resource][1].avg,
	}
}

// pressureText is a file of /proc/pressure or of the cgroup.
func pressureText(resource int) viewWriter {
	return func(v *view, _ string, buf *bytes.Buffer) {
		var u account.PressureUse
		if v.a != nil {
			u = v.a.pressureUse(resource)
		}
		for _, line := range []struct {
			name string
			avg  [3]float64
			ns   uint64
		}{{"some", u.Some, u.SomeNS}, {"full", u.Full, u.FullNS}} {
			fmt.Fprintf(buf, "%s avg10=%.2f avg60=%.2f avg300=%.2f total=%d\n", line.name, 100*line.avg[0], 100*line.avg[1], 100*line.avg[2], line.ns/1000)
		}
	}
}

// newPressureDir makes /proc/pressure.
func (s *Kernel) newPressureDir(ctx context.Context) kernfs.Inode {
	d := s.newViewDir(ctx, linux.PROC_SUPER_MAGIC)
	files := make(map[string]kernfs.Inode, pressures)
	for _, name := range []string{"cpu", "memory", "io"} {
		files[name] = s.newViewFile(ctx, linux.PROC_SUPER_MAGIC, viewText{of: "cgroup/" + name + ".pressure"})
	}
	d.fill(files)
	return d
}
