package sentry

import (
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/sched"
	"aios.dev/aios/sentry/smp"
)

// cpuGrants is what an agent's capabilities to CPU time say together, but for
// the quota: the largest weight and the highest priority, the sum of what is
// reserved, any CPU that one of them names. Idle it is if all say so.
type cpuGrants struct {
	some, busy, anywhere bool
	weight, priority     uint64
	period, burst, every uint64
	reserve              uint64
	cpus                 smp.Set
}

// usualPriority is that of an agent that was given none: it may be as nice as any,
// and not less.
const usualPriority = 20

func (g *cpuGrants) add(c *capability.Capability) {
	spec := c.Spec()
	left, _ := c.Left(capability.KindReserve)
	g.addSpec(&spec, left)
}

// addSpec adds a capability that says spec and has not handed on left of what it
// reserves.
func (g *cpuGrants) addSpec(spec *capability.Spec, left uint64) {
	l := spec.Limits
	g.some = true
	g.busy = g.busy || l.Idle == 0
	weight, priority := l.Weight, l.Priority
	if weight == 0 {
		weight = sched.DefaultWeight
	}
	if priority == 0 {
		priority = usualPriority
	}
	g.weight, g.priority = max(g.weight, weight), max(g.priority, priority)
	g.period, g.burst = max(g.period, l.Period), max(g.burst, l.Burst)
	if l.Reserve != 0 && left > 0 {
		g.reserve += left
		if every := l.Every; every != 0 && (g.every == 0 || every < g.every) {
			g.every = every
		}
	}
	set, all := spec.Object.CPUs()
	g.anywhere = g.anywhere || all
	g.cpus = g.cpus.Or(set)
}

// defaultEvery is the period of a reservation that names none.
const defaultEvery = 100 * time.Millisecond

// params returns the parameters of the agent's group.
func (g *cpuGrants) params() sched.Params {
	p := sched.Defaults()
	if !g.some {
		return p
	}
	p.Weight, p.Idle = g.weight, !g.busy
	if g.period != 0 {
		p.Period = max(time.Duration(g.period), sched.PeriodLeast)
	}
	p.Burst = time.Duration(g.burst)
	if !g.anywhere {
		p.CPUs = g.cpus
	}
	if g.reserve > 0 {
		every := g.every
		if every == 0 {
			every = uint64(defaultEvery)
		}
		p.Reserved = sched.Reservation{Runtime: int64(float64(g.reserve) * float64(every) / 1e6), Deadline: int64(every), Period: int64(every)}
	}
	return p
}

// schedule gives the agent's group what it was granted. A reservation that the
// domain cannot keep is left out; the error says so.
//
// +checklocks:a.authMu
func (a *Agent) schedule(milli uint64) error {
	p := a.cpuParams
	p.MilliCPU = milli
	if p == a.scheduled && p.Reserved == (sched.Reservation{}) {
		a.cpuRefused = nil // Most changes to what an agent holds are to something else.
		return nil
	}
	err := a.crowd.Group().SetParams(p)
	if err != nil {
		p.Reserved = sched.Reservation{}
		a.crowd.Group().SetParams(p)
		a.s.cpuShort.Store(true)
	} else if a.s.cpuShort.Load() {
		// What this one has less now, another may have been waiting for: when
		// a reservation is handed on, who gets it may be told first.
		a.s.cfg.Clock.AfterFunc(0, a.s.scheduleAgain)
	}
	a.scheduled, a.cpuRefused = p, err
	return err
}

// scheduleAgain gives agents the reservations that could not be kept before.
func (s *Kernel) scheduleAgain() {
	if !s.cpuShort.Swap(false) {
		return
	}
	for _, a := range s.liveAgents() {
		a.authMu.Lock()
		if a.cpuRefused != nil {
			a.requota()
		}
		a.authMu.Unlock()
	}
}

// cpuRefusal returns why the agent does not have the CPU time it was granted, or
// nil.
func (a *Agent) cpuRefusal() error {
	a.authMu.Lock()
	defer a.authMu.Unlock()
	if a.cpuRefused == nil {
		return nil
	}
	return errdefs.Wrap(a.cpuRefused, errdefs.CPULimit, "grant")
}

// leastNice is the least niceness that the agent's tasks may take.
func (a *Agent) leastNice() int {
	return usualPriority - int(a.priority.Load())
}

// hasCPUs refuses an object that names CPUs which the domain does not have.
func (s *Kernel) hasCPUs(o capability.Object) error {
	if o.Class != abi.ClassCPU {
		return nil
	}
	set, _ := o.CPUs()
	if missing := set.Minus(smp.First(s.cfg.CPUs)); !missing.Empty() {
		return errdefs.New(errdefs.CapabilityInvalid, "the domain has no CPU "+missing.String(), errdefs.Op("grant"), errdefs.Resource("%s", o),
			errdefs.Fix("name some of its CPUs, %s", smp.First(s.cfg.CPUs)))
	}
	return nil
}
