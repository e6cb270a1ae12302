package sched

import (
	"slices"

	"aios.dev/aios/observe"
	"aios.dev/aios/sentry/smp"
)

// Group is tasks that share a weight, a quota, a reservation and CPUs: an agent.
// All but the atomics is guarded by Scheduler.mu.
type Group struct {
	s    *Scheduler
	name string
	// class is fair or idle.
	class  int
	weight int64
	// free is the tasks that may run on any CPU. bound is those that may not,
	// by the CPU in whose queue they are; nil until they are needed.
	free  *part
	bound []*part
	parts int // that compete

	params  Params
	allowed smp.Set // CPUs that tasks may run on; empty: any

	running  int // tasks that have a CPU
	queued   int // tasks in a queue
	reserved int // tasks with a reservation that are not asleep
	tasks    int
	members  map[any]*Task // by ID
	quota    quota
	server   *server // its own reservation, or nil

	got                int64 // service, in nanoseconds
	switches, migrated uint64
	preempted          uint64
	waits              observe.Histogram // from wanting a CPU to having one
	use                use
	hint               Hint
	kept               Kept
	press              press
}

// part is the tasks of a group that wait in the same queue. It competes with
// those of other groups, by its part of the group's weight, and its tasks with
// each other.
type part struct {
	g   *Group
	cpu int // whose queue it is; -1: that of all
	e   entity
	n   node
	// line is of its tasks, and waiting those that are in the queue.
	line    timeline
	waiting tree
	running int

	burst int64 // service since it last began to compete
	usual int64 // burst, on average
}

// NewGroup returns a group without tasks. name is for traces.
func (s *Scheduler) NewGroup(name string) *Group {
	g := &Group{s: s, name: name, weight: unit}
	g.free = g.newPart(-1)
	g.params.Weight = DefaultWeight
	g.quota.milli, g.quota.period = Unlimited, int64(DefaultPeriod)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups = append(s.groups, g)
	return g
}

// Close ends the group. It must have no tasks.
func (g *Group) Close() {
	s := g.s
	s.mu.Lock()
	defer s.unlock()
	if g.server != nil {
		s.drop(g.server)
		g.server = nil
	}
	same := func(o *Group) bool { return o == g }
	s.groups = slices.DeleteFunc(s.groups, same)
	s.bounded = slices.DeleteFunc(s.bounded, same)
}

func (g *Group) newPart(cpu int) *part {
	p := &part{g: g, cpu: cpu}
	p.e = entity{weight: unit, request: sliceMax}
	p.n.of, p.n.part = &p.e, p
	return p
}

// partOn returns the part in the queue of a CPU, or in that of all if cpu is
// negative.
func (g *Group) partOn(cpu int) *part {
	if cpu < 0 {
		return g.free
	}
	if g.bound == nil {
		g.bound = make([]*part, len(g.s.cpus))
	}
	if g.bound[cpu] == nil {
		g.bound[cpu] = g.newPart(cpu)
	}
	return g.bound[cpu]
}

// all calls f for every part.
func (g *Group) all(f func(*part)) {
	f(g.free)
	for _, p := range g.bound {
		if p != nil {
			f(p)
		}
	}
}

// divide gives each part that competes, but for one that is about to leave, its
// share of the group's weight: as much as its tasks have of the weight of all
// tasks.
func (g *Group) divide(leaves *part) {
	if g.parts == 1 && g.free.e.on && leaves == nil {
		g.free.reweigh(g.weight)
		return
	}
	load := int64(0)
	g.all(func(p *part) {
		if p != leaves {
			load += p.line.load
		}
	})
	g.all(func(p *part) {
		if p.e.on && p != leaves && load > 0 {
			p.reweigh(max(g.weight*p.line.load/load, 1))
		}
	})
}

// divideBound is divide, where the weights of tasks matter.
func (g *Group) divideBound() {
	if g.bound != nil {
		g.divide(nil)
	}
}

func (p *part) reweigh(weight int64) {
	if weight == p.e.weight {
		return
	}
	p.unlink()
	p.timeline().reweigh(&p.e, weight)
	p.link()
}

// timeline returns where the part competes.
func (p *part) timeline() *timeline { return &p.g.s.levels[p.g.class].line }

// tree returns the queue it waits in.
func (p *part) tree() *tree {
	if p.cpu < 0 {
		return &p.g.s.levels[p.g.class].free
	}
	return &p.g.s.cpus[p.cpu].bound[p.g.class]
}

// unlink takes the part out of the queue, so that what it is ordered by can
// change.
func (p *part) unlink() {
	if p.n.in != nil {
		p.n.in.remove(&p.n)
	}
}

// link puts it into the queue, if it has tasks that wait and may run.
func (p *part) link() {
	if p.n.in == nil && !p.waiting.empty() && !p.g.quota.stopped {
		p.tree().insert(&p.n)
	}
}

// advance gives the part d of service, and reports whether that fulfilled its
// request. promised says that it had a reservation for it: that counts against
// its share, but does not put it in debt.
func (p *part) advance(d int64, promised bool) bool {
	p.burst += d
	dv := p.e.virtual(d)
	if !p.e.on {
		p.e.v += dv
		return false
	}
	if p.n.in != nil {
		p.unlink()
		defer p.link()
	}
	l := p.timeline()
	l.advance(&p.e, dv)
	now := l.now()
	switch {
	case promised:
		if most := now + p.e.virtual(sliceMax); p.e.v-most > 0 {
			l.advance(&p.e, most-p.e.v)
		}
	case p.waiting.empty():
		// It has all that it can use: what it does not use is not owed to it.
		if least := now - p.e.virtual(owedMax); p.e.v-least < 0 {
			l.advance(&p.e, least-p.e.v)
		}
	}
	l.settle(&p.e)
	if !p.e.fulfilled() {
		return false
	}
	p.e.renew(min(2*p.e.request, p.g.fullRequest()))
	return true
}

// fullRequest is the most that tasks of the group ask for at once.
func (g *Group) fullRequest() int64 { return g.hint.scale(g.s.slice()) }

// firstRequest is what is asked for by who begins to compete, and usually needs
// as much.
func (g *Group) firstRequest(usual int64) int64 {
	if r := g.hint.params().request; r > 0 {
		return r
	}
	return min(max(2*usual, requestMin), g.fullRequest())
}

// compete puts the part on its timeline if it should be there.
func (p *part) compete() {
	if p.e.on || p.line.n == 0 || p.g.quota.stopped {
		return
	}
	p.timeline().join(&p.e)
	p.e.renew(p.g.firstRequest(p.usual))
	p.g.parts++
	p.burst = 0
	p.g.divide(nil)
}

// rest takes the part off its timeline if it should not be there.
func (p *part) rest() {
	if !p.e.on || p.line.n > 0 && !p.g.quota.stopped {
		return
	}
	p.unlink()
	p.usual = average(p.usual, p.burst)
	// First, so that what its lag does to the others is what it does when it
	// comes back.
	p.g.divide(p)
	p.timeline().leave(&p.e, sliceMax)
	p.g.parts--
}

// average is of bursts. One that is out of the ordinary, for which the host may be
// to blame, does not make it so.
func average(old, burst int64) int64 { return old + (burst-old)/4 }

// pick returns which of the tasks that wait is to run.
func (p *part) pick() *Task {
	m := p.waiting.earliest(p.line.now())
	if m == nil {
		m = p.waiting.least()
	}
	return m.task
}
