package sched

import (
	"time"

	"aios.dev/aios/observe"
	"aios.dev/aios/sentry/smp"
)

// Usage is what the tasks of a group have used, and how its quota fared.
type Usage struct {
	// User is what they executed, and System what the kernel did for them. The sum is
	// exact; the parts are estimated by samples.
	User, System time.Duration
	// Periods counts the quota periods in which a task ran or waited, Stops
	// those in which the quota was used up, and Stopped is for how long it was.
	Periods, Stops uint64
	Stopped        time.Duration
}

// Usage returns what the group has used up to now.
func (g *Group) Usage() Usage {
	s := g.s
	s.mu.Lock()
	defer s.unlock()
	now := s.Now()
	uncharged := int64(0)
	for i := range s.cpus {
		if c := &s.cpus[i]; c.task != nil && c.task.owner == g {
			uncharged += max(now-c.since, 0)
		}
	}
	user, system := g.use.split(uncharged)
	u := Usage{User: user, System: system, Periods: g.quota.periods, Stops: g.quota.stops, Stopped: duration(g.quota.stoppedFor)}
	if g.quota.stopped {
		u.Stopped += duration(now - g.quota.since)
		u.Periods++ // The present one.
	}
	return u
}

// Slice returns what a task of the group that computes asks for at once.
func (g *Group) Slice() time.Duration {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	return duration(g.fullRequest())
}

// GroupState is what is known of a group at one moment.
type GroupState struct {
	Name string
	// At is when it was looked at, by the scheduler's time.
	At      time.Duration
	Params  Params
	Hint    Hint
	Tasks   int
	Running []*Task
	Waiting []*Task
	// Service is the time its tasks had a CPU.
	Service time.Duration
	// Lag is how much service it is owed, less than nothing if it owes.
	Lag time.Duration
	// Request is what it asks for at once.
	Request   time.Duration
	Throttled bool
	// Left is what this period's quota has left, if there is one.
	Left  time.Duration
	Usage Usage
	// Corrected is what the quota was charged besides service: what the host has
	// counted for what the kernel needed. Less than nothing: it got that back.
	Corrected                     time.Duration
	Switches, Preempted, Migrated uint64
	// Missed and Overruns are of its reservations and those of its tasks; Taken
	// is what its tasks have of what it is promised, in CPUs.
	Missed, Overruns uint64
	Taken            float64
	// Waits is how long its tasks waited for a CPU; WaitCounts the same, to be
	// compared with that of another time.
	Waits      observe.Latency
	WaitCounts observe.Counts
}

// State looks at the group.
func (g *Group) State() GroupState {
	u, p := g.Usage(), g.Params()
	s := g.s
	s.mu.Lock()
	defer s.unlock()
	now := s.Now()
	for i := range s.cpus {
		s.charge(&s.cpus[i], now)
	}
	st := GroupState{
		Name: g.name, At: duration(now), Params: p, Hint: g.hint, Tasks: g.tasks, Service: duration(g.got), Request: duration(g.free.e.request),
		Throttled: g.quota.stopped, Usage: u, Corrected: duration(g.quota.corrected), Switches: g.switches, Preempted: g.preempted, Migrated: g.migrated,
		Waits: g.waits.Latency(), WaitCounts: g.waits.Counts(), Taken: g.taken(),
		Missed: g.kept.Missed, Overruns: g.kept.Overruns,
	}
	g.all(func(p *part) {
		if p.e.on {
			st.Lag += duration(p.e.service(p.timeline().now()-p.e.v) - 1)
		}
	})
	if g.quota.limited() {
		st.Left = duration(g.quota.left)
	}
	for i := range s.cpus {
		if t := s.cpus[i].task; t != nil && t.g == g {
			st.Running = append(st.Running, t)
		}
	}
	g.all(func(p *part) {
		p.waiting.each(func(m *node) bool {
			st.Waiting = append(st.Waiting, m.task)
			return true
		})
	})
	for _, sv := range s.rsv.all {
		if sv.g == g {
			if t := sv.user; t != nil && (t.state == queued || t.state == spent) {
				st.Waiting = append(st.Waiting, t)
			}
		}
	}
	return st
}

// TaskState is what is known of a task at one moment.
type TaskState struct {
	ID any // what its ID returns
	// Runs says that it has a CPU, and Waits that it wants one; Spent that this
	// is until its reservation's next period. For is since when.
	Runs, Waits, Spent bool
	For                time.Duration
	CPU                int // -1: none
	Attr               Attr
	CPUs               smp.Set
	// Service is the time it had a CPU. User and System are that and what it executed
	// without one, divided by samples.
	Service, User, System time.Duration
	// Lent says that it has rank of another that waits for it.
	Lent bool
	// Missed and Overruns are of its own reservation.
	Missed, Overruns uint64
}

// Tasks looks at the tasks of the group, in no order.
func (g *Group) Tasks() []TaskState {
	s := g.s
	s.mu.Lock()
	defer s.unlock()
	now := s.Now()
	s.chargeGroup(g, now)
	out := make([]TaskState, 0, len(g.members))
	for _, t := range g.members {
		st := TaskState{
			ID: t.id, Runs: t.state == running, Waits: t.state == queued || t.state == spent, Spent: t.state == spent,
			CPU: t.cpu, Attr: t.attr, CPUs: t.cpus(), Service: duration(t.got), Lent: t.boost.lent || t.boost.weight > 0,
		}
		uncharged := int64(0)
		if st.Runs {
			uncharged = max(now-s.cpus[t.cpu].since, 0)
			st.For = duration(now - s.cpus[t.cpu].got)
		}
		if st.Waits {
			st.For = duration(now - t.asked)
		}
		st.User, st.System = t.use.split(uncharged)
		if _, sv := t.outer(); sv != nil {
			st.Missed, st.Overruns = sv.missed, sv.overruns
		}
		out = append(out, st)
	}
	return out
}

// CPUState is what is known of a CPU at one moment.
type CPUState struct {
	ID     int
	Online bool
	Task   *Task // nil: none
	Has    any   // what its ID returns
	Group  string
	Busy   time.Duration
	// Queued is how many groups wait for this CPU alone.
	Queued   int
	Switches uint64
	// Kicks counts tasks that were told to leave it, and Late how long they took.
	Kicks uint64
	Late  observe.Latency
}

// State is what is known of the scheduler at one moment.
type State struct {
	// At is when that was, by the scheduler's time.
	At      time.Duration
	Online  smp.Set
	CPUs    []CPUState
	Waiting int // tasks
	Slice   time.Duration
	Counts  Counts
}

// State looks at the scheduler.
func (s *Scheduler) State() State {
	s.mu.Lock()
	defer s.unlock()
	now := s.Now()
	st := State{At: duration(now), Online: s.online, Waiting: s.waiting, Slice: duration(s.slice()), Counts: s.counts}
	for i := range s.cpus {
		c := &s.cpus[i]
		s.charge(c, now)
		v := CPUState{ID: i, Online: c.on, Task: c.task, Busy: duration(c.busy), Switches: c.switches}
		kicks := s.calls.Stats(i, smp.Resched)
		v.Kicks, v.Late = kicks.Pokes, kicks.Latency
		if c.task != nil {
			v.Group, v.Has = c.task.g.name, c.task.id
		}
		for l := range c.bound {
			v.Queued += c.bound[l].n
		}
		st.CPUs = append(st.CPUs, v)
	}
	return st
}

// Idle returns for how long each CPU was not in use.
func (s *Scheduler) Idle() []time.Duration {
	s.mu.Lock()
	defer s.unlock()
	now := s.Now()
	out := make([]time.Duration, len(s.cpus))
	for i := range s.cpus {
		s.charge(&s.cpus[i], now)
		out[i] = duration(now - s.cpus[i].busy)
	}
	return out
}
