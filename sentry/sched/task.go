package sched

import (
	"sync/atomic"

	"aios.dev/aios/sentry/smp"
)

// Task is a thread. All but the atomics is guarded by Scheduler.mu.
type Task struct {
	s *Scheduler
	// owner is its own group, which never changes; g is the one that it runs
	// on: another's, while that lends it its rank.
	owner, g *Group
	r        Runner
	// id is what the task is to others.
	id any
	e  entity
	n  node

	attr    Attr
	allowed smp.Set // what it asked for; empty: any
	// part is where it competes, nil if it does not, or on a reservation. If
	// that is bound to a CPU, it is because the task must not run everywhere.
	part *part
	was  *part // where it competed last
	// server is the reservation that it may use, or nil; on is that while it
	// competes on it.
	server, on *server

	state state
	cpu   int // -1: none
	last  int // which it had last, -1: none yet
	asked int64
	got   int64
	burst int64 // service since it last slept
	usual int64 // burst, on average
	boost boost
	// traceAt is its place in the trace traceOf.
	traceOf, traceAt uint32

	// yield says that it is to ask again. The platform looks at it without the
	// lock.
	yield atomic.Bool
	// entered is one more than the CPU on which it executes application code; 0
	// while it does not. bare is one more than since when it does so without a CPU;
	// 0 while it does not. They belong to the task.
	entered int
	bare    int64
	use     use
}

type state uint8

const (
	nowhere state = iota // it wants no CPU
	queued               // it waits for one
	running
	spent // it waits for its reservation's next period
)

// NewTask returns a task of the group that wants no CPU. It has the group's
// CPUs and the attributes of a task that asked for none. id is what ID returns.
func (g *Group) NewTask(r Runner, id any) *Task {
	t := new(Task)
	g.Init(t, r, id)
	return t
}

// Init is NewTask in memory of the caller's, which must be zero, or a task that
// was closed.
func (g *Group) Init(t *Task, r Runner, id any) {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	t.s, t.owner, t.g, t.r, t.id, t.cpu, t.last = g.s, g, g, r, id, -1, -1
	t.e = entity{weight: unit, request: sliceMax}
	t.n.of, t.n.task = &t.e, t
	t.attr, t.allowed, t.was, t.server, t.boost = Attr{}, smp.Set{}, nil, nil, boost{}
	t.asked, t.got, t.burst, t.usual = 0, 0, 0, 0
	t.use = use{}
	t.traceOf = 0
	g.tasks++
	if g.members == nil {
		g.members = make(map[any]*Task)
	}
	g.members[id] = t
}

// Find returns the group's task of that ID, or nil.
func (g *Group) Find(id any) *Task {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	return g.members[id]
}

// Wanted returns what SetCPUs was given.
func (t *Task) Wanted() smp.Set {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	return t.allowed
}

// Runner returns what the task is run by.
func (t *Task) Runner() Runner { return t.r }

// ID returns what the task is to others.
func (t *Task) ID() any { return t.id }

// Now returns the scheduler's time.
func (t *Task) Now() int64 { return t.s.Now() }

// Has reports whether the task has a CPU. Like Must it may be called by the task
// only.
func (t *Task) Has() bool { return t.cpu >= 0 }

// Answer is what becomes of a task that asks for a CPU.
type Answer uint8

const (
	// Go: it has one.
	Go Answer = iota
	// Wait: Granted will be called, or Withdraw.
	Wait
	// Not: it gets none now, and did not want to wait.
	Not
)

// Must reports whether the task must ask before it goes on: it has no CPU, or is
// to give it up. It may be called by the task only, without a lock.
func (t *Task) Must() bool { return t.cpu < 0 || t.yield.Load() }

// Ask wants a CPU, or goes on wanting one when it has been told to ask again.
// hurried, unless it is nil, says that it does not wait; who sets it and then calls
// Withdraw is sure that the task does not.
func (t *Task) Ask(hurried *atomic.Bool) Answer {
	s := t.s
	s.mu.Lock()
	defer s.unlock()
	hurry := hurried != nil && hurried.Load()
	now := s.Now()
	s.roll(t.g, now)
	if t.state == running {
		return t.again(now, hurry)
	}
	t.asked = now
	t.start(now)
	if t.state != spent && !t.g.quota.stopped {
		if c := s.idleFor(t); c != nil {
			s.dispatch(c, t, t.serverFor(now), now)
			s.arm(now)
			return Go
		}
	}
	if hurry {
		t.stop(now)
		return Not
	}
	s.enqueue(t, now)
	s.trace(TraceWait, t, now, 0)
	s.wakeKick(t, now)
	s.arm(now)
	return Wait
}

// again is Ask of a task that has a CPU.
func (t *Task) again(now int64, hurry bool) Answer {
	s := t.s
	c := &s.cpus[t.cpu]
	s.charge(c, now)
	if t.yield.Load() {
		preempted := c.kicked != 0
		s.vacate(c, now)
		t.asked = now
		s.enqueue(t, now)
		s.trace(TraceWait, t, now, 0)
		next := s.serve(c, now)
		if preempted && next != t {
			s.counts.Preempted++
			t.g.preempted++
		}
		if next != nil && next != t {
			next.r.Granted()
		}
		s.fill(now, t) // There may be another that it may use.
	}
	s.arm(now)
	switch {
	case t.state == running:
		return Go
	case hurry:
		s.dequeue(t, now)
		s.trace(TraceGone, t, now, 0)
		t.stop(now)
		return Not
	}
	return Wait
}

// Withdraw has a task that waits wait no more. It reports false if it does not.
func (t *Task) Withdraw() bool {
	s := t.s
	s.mu.Lock()
	defer s.unlock()
	if t.state != queued && t.state != spent {
		return false
	}
	now := s.Now()
	s.dequeue(t, now)
	s.trace(TraceGone, t, now, 0)
	t.stop(now)
	return true
}

// Leave gives up the CPU, if the task has one: it will sleep, or stop.
func (t *Task) Leave() {
	if t.cpu < 0 {
		return
	}
	s := t.s
	s.mu.Lock()
	defer s.unlock()
	now := s.Now()
	c := &s.cpus[t.cpu]
	s.charge(c, now)
	s.vacate(c, now)
	t.stop(now)
	t.usual = average(t.usual, t.burst)
	t.burst = 0
	if next := s.serve(c, now); next != nil {
		next.r.Granted()
		s.arm(now)
	}
}

// Yield gives up what the present request has left, as sched_yield does: others
// of its group that wait come first, as far as they are owed time.
func (t *Task) Yield() {
	s := t.s
	s.mu.Lock()
	defer s.unlock()
	if t.state != running {
		return
	}
	now := s.Now()
	c := &s.cpus[t.cpu]
	s.charge(c, now)
	if c.server != nil && c.server == t.on {
		c.server.forfeit()
	} else {
		t.e.deadline = t.e.v + t.e.virtual(2*t.e.request) // However often.
	}
	if s.waiting > 0 || c.server != nil {
		t.yield.Store(true)
	}
}

// Close ends the task.
func (t *Task) Close() {
	t.Leave()
	t.Withdraw()
	t.nameTraced()
	s := t.s
	s.mu.Lock()
	defer s.unlock()
	t.unboost() // What it has now is its own.
	if t.server != nil {
		s.drop(t.server)
		t.server = nil
		t.g.shrink()
	}
	t.g.tasks--
	delete(t.g.members, t.id)
}

// start has the task compete.
func (t *Task) start(now int64) {
	s, g := t.s, t.g
	s.total++
	if sv := t.server; sv != nil && sv.user == nil {
		t.on, sv.user = sv, t
		g.reserved++
		sv.wake(now)
		if sv.state == svSpent {
			t.state = spent
		}
		return
	}
	t.part = t.place()
	if t.part != t.was { // Another timeline.
		t.was = t.part
		t.e.v, t.e.credit = t.part.line.now(), 0
	}
	t.part.line.join(&t.e)
	t.e.renew(g.firstRequest(t.usual))
	if t.part.e.on {
		g.divideBound()
	}
	t.part.compete()
	if g.server != nil {
		g.server.wake(now)
	}
}

// stop has the task, which is in no queue and has no CPU, compete no more.
func (t *Task) stop(now int64) {
	s, g := t.s, t.g
	s.total--
	t.state = nowhere
	if t.on != nil {
		g.reserved--
		t.on.sleep()
		t.on.user = nil
		t.on = nil
		return
	}
	p := t.part
	p.line.leave(&t.e, sliceMax)
	t.part = nil
	p.rest()
	if p.e.on {
		g.divideBound()
	}
	if g.server != nil && g.running+g.queued == 0 {
		g.server.sleep()
	}
}

// enqueue has a task that competes wait.
func (s *Scheduler) enqueue(t *Task, now int64) {
	s.waiting++
	t.g.pressed(1, now)
	if t.on != nil {
		t.on.queue(now)
		t.state = queued
		if t.on.state == svSpent {
			t.state = spent
		}
		return
	}
	t.state = queued
	g := t.g
	t.part.waiting.insert(&t.n)
	g.queued++
	t.part.link()
	if g.server != nil {
		g.server.queue(now)
	}
}

// dequeue has a task wait no more.
func (s *Scheduler) dequeue(t *Task, now int64) {
	s.waiting--
	t.g.pressed(-1, now)
	t.state = nowhere
	if t.on != nil {
		t.on.unqueue()
		return
	}
	g := t.g
	t.part.waiting.remove(&t.n)
	g.queued--
	if t.part.waiting.empty() {
		t.part.unlink()
	}
	if g.server != nil && g.queued == 0 {
		g.server.unqueue()
	}
}

// mayRun reports whether the task may have the CPU.
func (t *Task) mayRun(cpu int) bool {
	return t.part != nil && (t.part.cpu < 0 || t.part.cpu == cpu) || t.cpus().Has(cpu)
}

// cpus is where the task may run: what it and its group agree on, or, if that
// is nothing, what the group may.
func (t *Task) cpus() smp.Set {
	all := t.s.online
	if a := t.g.allowed.And(all); !a.Empty() {
		all = a
	}
	if a := t.allowed.And(all); !a.Empty() {
		return a
	}
	return all
}

// place chooses where a task is to compete: in the queue of all CPUs if it may
// run on them, else in the shortest of those where it may; its last one if that
// is as short.
func (t *Task) place() *part {
	if t.allowed.Empty() && t.g.allowed.Empty() {
		return t.g.free
	}
	may := t.cpus()
	if may == t.s.online {
		return t.g.free
	}
	best, shortest := -1, 0
	may.All(func(c int) bool {
		n := t.s.cpus[c].length()
		if best < 0 || n < shortest || n == shortest && c == t.last {
			best, shortest = c, n
		}
		return true
	})
	return t.g.partOn(best)
}

// length is how many groups wait for the CPU alone, and one more if a task has
// it that may run nowhere else.
func (c *cpu) length() int {
	n := 0
	for l := range c.bound {
		n += c.bound[l].n
	}
	if c.task != nil && c.task.part != nil && c.task.part.cpu >= 0 {
		n++
	}
	return n
}

// idleFor returns a CPU that the task may have at once: its last one, or the
// nearest to it.
func (s *Scheduler) idleFor(t *Task) *cpu {
	if s.idle == 0 {
		return nil
	}
	if t.last >= 0 && t.last < len(s.cpus) {
		if c := &s.cpus[t.last]; c.on && c.task == nil && t.mayRun(t.last) {
			return c
		}
	}
	var best *cpu
	dist := 0
	for i := range s.cpus {
		c := &s.cpus[i]
		if !c.on || c.task != nil || !t.mayRun(i) {
			continue
		}
		d := 0
		if s.near != nil && t.last >= 0 {
			d = s.near(t.last, i)
		}
		if best == nil || d < dist {
			best, dist = c, d
		}
	}
	return best
}
