package sched

import (
	"math/rand/v2"
	"sync"
	"time"

	"aios.dev/aios/ktime"
	"aios.dev/aios/sentry/smp"
)

const (
	// sliceMax is what a task that computes asks for at once while few others
	// do, and sliceMin when many do; loadPeriod is the time in which all that
	// wait should have their turn, as far as that goes.
	sliceMax   = 4 * int64(time.Millisecond)
	sliceMin   = 1 * int64(time.Millisecond)
	loadPeriod = 20 * int64(time.Millisecond)
	// savedMax is how much of what somebody did not use while it slept may make
	// up for what it uses too much later: about a turn in which the host ran
	// something else.
	savedMax = 4 * int64(time.Millisecond)
	// owedMax is how much service is owed to who has all the CPUs that it can use:
	// what it misses while the host runs something else, in its turn or in others'
	// that therefore end late. What it can never use, as who has fewer tasks than
	// its share of the CPUs, must not add up; and the more others are owed, the
	// longer is in debt whose turn the host has held up.
	owedMax = 8 * int64(time.Millisecond)
	// requestMin is the least that a task can ask for.
	requestMin = 200 * int64(time.Microsecond)
	// granule is the least that a task runs before a waking one takes its CPU.
	granule = 200 * int64(time.Microsecond)
	// chargeMost bounds what counts against a share at once. Who has a CPU for
	// longer without a look at it has no competitor, and virtual time, which is
	// far finer than nanoseconds, no end.
	chargeMost = int64(time.Minute)
	// look is the least time between two looks at what goes on.
	look = 100 * int64(time.Microsecond)
)

// Runner is how a task is told.
type Runner interface {
	// Granted says that a task that was told to wait has a CPU. It is called
	// with locks held: it must not block, or call the scheduler.
	Granted()
	// Preempt says that the task is to ask again soon. It is called without
	// locks, by anybody, and may come late: when the task has no CPU any more.
	Preempt()
}

// Config is what a scheduler is made of.
type Config struct {
	// CPUs is how many tasks may run at once, at least 1.
	CPUs  int
	Clock ktime.Clock
	// Timers is the clock whose timers end turns; nil: Clock.
	Timers ktime.Clock
	// Near says how near two CPUs are: the less, the nearer. nil: all are alike.
	Near func(a, b int) int
	// Notify hears of what happens to groups. It is called with locks held: it
	// must not block, or call the scheduler. May be nil.
	Notify func(*Group, Notice)
	// Besides returns how much more CPU time the host has counted so far, for the
	// process and for what executes application code, than tasks were served; less
	// than nothing if it was less. With it quotas are kept by what the host counts;
	// nil, or from when it reports false, by what tasks are served. It is called with
	// the scheduler's lock held.
	Besides func(served time.Duration) (besides time.Duration, ok bool)
}

// Notice is something that happened to a group.
type Notice uint8

// Notices.
const (
	Throttled   Notice = iota // its quota is used up
	Unthrottled               // the next period has begun
	Missed                    // a reservation did not get its runtime before its deadline
	Overrun                   // a task wanted more than its reservation
)

// Scheduler shares CPUs.
type Scheduler struct {
	clock  ktime.Clock
	timers ktime.Clock
	epoch  time.Time
	near   func(a, b int) int
	notify func(*Group, Notice)
	calls  *smp.Calls

	mu     sync.Mutex
	cpus   []cpu
	online smp.Set
	nOn    int
	// idle is how many CPUs of those are not in use.
	idle    int
	levels  [levels]level
	rsv     reservations
	groups  []*Group
	bounded []*Group // those with a quota
	waiting int      // tasks
	total   int      // tasks that compete
	timer   ktime.Timer
	timerAt int64 // noTime: none
	again   int64 // when to look again for whom a CPU is taken
	// sampleAt is when to look next what those do that have a CPU, noTime if nobody
	// had one; sampledAt since when the sample stands for their time.
	sampleAt, sampledAt int64
	// random says how far apart samples are; always the same, for the simulator.
	random *rand.Rand
	kicks  []int // CPUs whose tasks must leave them
	tracer *tracer
	traces uint32 // so far
	counts Counts

	overhead overhead
}

const noTime = 1<<63 - 1

// The classes that have a timeline.
const (
	fair = iota
	idle
	levels
)

// level is the groups of one class.
type level struct {
	line timeline
	free tree // groups with tasks that may run on any CPU
}

// cpu is one CPU. All is guarded by Scheduler.mu.
type cpu struct {
	id   int
	on   bool
	task *Task
	// server is the reservation that the task runs on, or nil.
	server *server
	// got is when the task got the CPU, and since when it was last charged.
	got, since int64
	// over says that a request of the task is fulfilled.
	over bool
	// kicked is when the task was told to leave, 0 if it was not; next for whom,
	// if for somebody who woke.
	kicked int64
	next   *Task
	bound  [levels]tree // groups with tasks that may run here and not everywhere

	busy     int64
	switches uint64
}

// Counts is what has happened so far.
type Counts struct {
	Switches   uint64 // a CPU went to another task
	Preempted  uint64 // before the task left it by itself
	Migrated   uint64 // a task got another CPU than its last one
	WakeKicks  uint64 // a task was preempted for one that woke
	SliceKicks uint64 // because its time was over
}

// New returns a scheduler of CPUs that nobody uses.
func New(cfg Config) *Scheduler {
	n := min(max(cfg.CPUs, 1), smp.MaxCPUs)
	s := &Scheduler{
		clock: cfg.Clock, timers: cfg.Timers, epoch: cfg.Clock.Now(), near: cfg.Near, notify: cfg.Notify,
		cpus: make([]cpu, n), online: smp.First(n), nOn: n, idle: n, timerAt: noTime, again: noTime, sampleAt: noTime, random: rand.New(rand.NewPCG(0, 0)),
	}
	s.calls = smp.NewCalls(n, cfg.Clock, s)
	s.overhead.of = cfg.Besides
	if s.timers == nil {
		s.timers = s.clock
	}
	if s.notify == nil {
		s.notify = func(*Group, Notice) {}
	}
	for i := range s.cpus {
		s.cpus[i].id, s.cpus[i].on = i, true
	}
	return s
}

// CPUs returns how many CPUs there are, in use or not.
func (s *Scheduler) CPUs() int { return len(s.cpus) }

// Now returns the time, which counts from when the scheduler was made.
func (s *Scheduler) Now() int64 { return int64(s.clock.Since(s.epoch)) }

// unlock ends a change: it sets the timer for what comes next, and tells those
// that must leave their CPU.
//
// +checklocksrelease:s.mu
func (s *Scheduler) unlock() {
	if len(s.kicks) == 0 {
		s.mu.Unlock()
		return
	}
	var few [8]int
	kicks := append(few[:0], s.kicks...)
	s.kicks = s.kicks[:0]
	s.mu.Unlock()
	for _, cpu := range kicks {
		s.calls.Kick(cpu, smp.Resched) // Who executes nothing looks before it does.
	}
}

// Poke implements smp.Poker.
func (s *Scheduler) Poke(cpu int) {
	s.mu.Lock()
	var r Runner
	if t := s.cpus[cpu].task; t != nil {
		r = t.r // Its memory may be that of another task soon.
	}
	s.mu.Unlock()
	if r != nil {
		r.Preempt()
	}
}

// Flush returns when every CPU of a set has been out of application code since it
// was called. It must not be called by a task that executes any.
func (s *Scheduler) Flush(cpus smp.Set) { s.calls.Run(cpus, smp.Flush, func(int) {}) }

// kick has the task of c ask again.
func (s *Scheduler) kick(c *cpu, now int64, count *uint64) {
	if c.task == nil || c.kicked != 0 {
		return
	}
	c.kicked = max(now, 1)
	*count++
	c.task.yield.Store(true)
	s.kicks = append(s.kicks, c.id)
}

// slice is what a task that computes asks for at once.
func (s *Scheduler) slice() int64 {
	return min(max(loadPeriod*int64(max(s.nOn, 1))/int64(s.total+1), sliceMin), sliceMax)
}

// payer is the group that c's task runs at the expense of: whose reservation it is
// on, be it lent, or its own.
func (c *cpu) payer() *Group {
	if c.server != nil {
		return c.server.g
	}
	return c.task.g
}

// charge gives c's task what it has got since it was last charged.
func (s *Scheduler) charge(c *cpu, now int64) {
	d := now - c.since
	c.since = now
	if c.task == nil || d <= 0 {
		return
	}
	t, payer := c.task, c.payer()
	c.busy += d
	t.got += d
	t.use.total += d
	t.owner.use.total += d
	t.burst += d
	payer.got += d
	payer.spend(d)
	if c.server != nil {
		s.spendReserved(c, d)
	}
	p := t.part
	if p == nil { // On a reservation of its own.
		return
	}
	d = min(d, chargeMost)
	p.line.advance(&t.e, t.e.virtual(d))
	if least := p.line.now() - t.e.virtual(owedMax); p.waiting.empty() && t.e.v-least < 0 {
		p.line.advance(&t.e, least-t.e.v) // It has all that it can use.
	}
	p.line.settle(&t.e)
	if t.e.fulfilled() {
		t.e.renew(min(2*t.e.request, t.g.fullRequest()))
		c.over = true
	}
	if p.advance(d, c.server != nil) {
		c.over = true
	}
}

// dispatch gives a CPU to a task that waits in no queue.
func (s *Scheduler) dispatch(c *cpu, t *Task, sv *server, now int64) {
	if c.task == nil {
		s.idle--
	}
	c.task, c.server, c.over, c.kicked = t, sv, false, 0
	c.got, c.since = now, now
	c.switches++
	s.counts.Switches++
	if t.last >= 0 && t.last != c.id {
		s.counts.Migrated++
		t.g.migrated++
	}
	t.cpu, t.last = c.id, c.id
	t.state = running
	if t.g.press.waits > 0 {
		t.g.pressTo(now)
	}
	t.g.running++
	if t.part != nil {
		t.part.running++
	}
	t.g.switches++
	t.yield.Store(false)
	if sv != nil {
		sv.start()
	}
	t.g.waits.Add(now - t.asked)
	s.trace(TraceRun, t, now, now-t.asked)
}

// vacate takes the CPU from its task, which has been charged.
func (s *Scheduler) vacate(c *cpu, now int64) {
	t := c.task
	told := int64(0)
	if c.kicked != 0 {
		told = max(now-c.kicked, 1)
	}
	s.trace(TraceLeave, t, now, told)
	if c.server != nil {
		c.server.stop(now)
	}
	c.task, c.server, c.kicked, c.over = nil, nil, 0, false
	if c.on {
		s.idle++
	}
	t.cpu = -1
	if t.g.press.waits > 0 {
		t.g.pressTo(now)
	}
	t.g.running--
	if t.part != nil {
		t.part.running--
	}
	t.state = nowhere
	t.yield.Store(false)
}

// serve gives a CPU that has no task to who is to have it.
func (s *Scheduler) serve(c *cpu, now int64) *Task {
	if !c.on || s.waiting == 0 || c.task != nil {
		return nil
	}
	t, sv := s.successor(c)
	if t == nil {
		t, sv = s.pick(c, now)
	}
	if t == nil {
		return nil
	}
	s.dequeue(t, now)
	s.dispatch(c, t, sv, now)
	return t
}

// successor returns for whom the CPU was taken from its last task, if that one
// still waits and nobody has a better right to it by now. Chosen anew, the last
// task itself could come first: its request may be due before.
func (s *Scheduler) successor(c *cpu) (*Task, *server) {
	t := c.next
	c.next = nil
	if t == nil || t.state != queued || t.g.quota.stopped || !t.mayRun(c.id) {
		return nil, nil
	}
	if sv := t.readyServer(); sv != nil {
		return nil, nil // The earliest deadline comes first anyway.
	}
	if u, _ := s.pickReserved(c); u != nil || t.g.class != fair {
		return nil, nil
	}
	return t, nil
}

// fill serves all CPUs that have no task. The task asks, if it is not nil, and is
// not told: it sees what came of it.
func (s *Scheduler) fill(now int64, asks *Task) {
	for i := range s.cpus {
		if s.waiting == 0 || s.idle == 0 {
			return
		}
		if t := s.serve(&s.cpus[i], now); t != nil && t != asks {
			t.r.Granted()
		}
	}
}

// pick returns who is to have the CPU, and on which reservation, or nil.
func (s *Scheduler) pick(c *cpu, now int64) (*Task, *server) {
	if t, sv := s.pickReserved(c); t != nil {
		return t, sv
	}
	for l := range s.levels {
		if p := s.pickPart(l, c); p != nil {
			return p.pick(), nil
		}
	}
	return s.pull(c), nil
}

// pull returns a task that waits for another CPU but may have c as well, or nil.
func (s *Scheduler) pull(c *cpu) (t *Task) {
	for l := range s.levels {
		for i := range s.cpus {
			if i == c.id {
				continue
			}
			s.cpus[i].bound[l].each(func(n *node) bool {
				n.part.waiting.each(func(m *node) bool {
					if m.task.mayRun(c.id) {
						t = m.task
					}
					return t == nil
				})
				return t == nil
			})
			if t != nil {
				return t
			}
		}
	}
	return nil
}

// pickPart returns whose task is to run on c, or nil.
func (s *Scheduler) pickPart(l int, c *cpu) *part {
	free, bound := &s.levels[l].free, &c.bound[l]
	v := s.levels[l].line.now()
	a, b := free.earliest(v), bound.earliest(v)
	switch {
	case a == nil && b == nil: // Nobody who waits is eligible, but a CPU is free.
		a, b = free.least(), bound.least()
		if a == nil || b != nil && b.of.v-a.of.v < 0 {
			a = b
		}
	case a == nil || b != nil && b.of.deadline-a.of.deadline < 0:
		a = b
	}
	if a == nil {
		return nil
	}
	return a.part
}
