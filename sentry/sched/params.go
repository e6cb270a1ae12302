package sched

import (
	"math"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/smp"
)

// Weights of groups.
const (
	DefaultWeight = 100
	MaxWeight     = 10000
)

// Params is what a group may use. The zero value of a field but Weight and
// MilliCPU is the default.
type Params struct {
	// Weight is the group's part among those that want a CPU, 1 to MaxWeight.
	Weight uint64
	// MilliCPU is the quota in thousandths of a CPU: none at all if it is 0,
	// everything if it is Unlimited.
	MilliCPU uint64
	// Period is what the quota is for; Burst what may be saved up besides.
	Period, Burst time.Duration
	// CPUs is where its tasks may run; empty: anywhere.
	CPUs smp.Set
	// Reserved is promised to the group: to whichever task comes next, less
	// what its tasks have reserved of it for themselves.
	Reserved Reservation
	// Idle has it run only while nobody else wants to.
	Idle bool
}

// Defaults returns the parameters of a group that was given none.
func Defaults() Params {
	return Params{Weight: DefaultWeight, MilliCPU: Unlimited, Period: DefaultPeriod}
}

// Bounds of the period of a quota.
const (
	PeriodLeast = time.Millisecond
	PeriodMost  = time.Second
)

func (p *Params) check() error {
	bad := func(what string, value any, fix string) error {
		return errdefs.New(errdefs.InvalidArgument, "out of range", errdefs.Op("set CPU parameters"), errdefs.Resource("%s %v", what, value), errdefs.Fix("%s", fix))
	}
	switch {
	case p.Weight < 1 || p.Weight > MaxWeight:
		return bad("weight", p.Weight, "give a weight from 1 to 10000")
	case p.Period < PeriodLeast || p.Period > PeriodMost:
		return bad("period", p.Period, "give a period from 1ms to 1s")
	case p.Burst < 0 || p.Burst > time.Minute:
		return bad("burst", p.Burst, "give a burst of at most 1m")
	}
	return p.Reserved.check()
}

// Params returns the group's parameters.
func (g *Group) Params() Params {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	p := g.params
	p.MilliCPU, p.Period, p.Burst = g.quota.milli, duration(g.quota.period), duration(g.quota.burst)
	return p
}

// SetParams changes the group's parameters from now on: all of them, or, with an
// error, none.
func (g *Group) SetParams(p Params) error {
	if p.Period == 0 {
		p.Period = DefaultPeriod
	}
	if err := p.check(); err != nil {
		return err
	}
	s := g.s
	s.mu.Lock()
	defer s.unlock()
	now := s.Now()
	if err := g.reserve(p.Reserved, p.CPUs); err != nil {
		return err
	}
	s.setQuota(g, p.MilliCPU, p.Period, p.Burst, now)
	g.params = p
	g.move(now, func() {
		g.class = fair
		if p.Idle {
			g.class = idle
		}
		g.allowed = p.CPUs
	})
	g.reweigh()
	s.fill(now, nil)
	s.arm(now)
	return nil
}

// Name returns what NewGroup was given.
func (g *Group) Name() string { return g.name }

// Quota returns the quota, in thousandths of a CPU.
func (g *Group) Quota() uint64 { return g.Params().MilliCPU }

// SetHint changes the group's hint.
func (g *Group) SetHint(h Hint) {
	s := g.s
	s.mu.Lock()
	defer s.unlock()
	g.hint = h
	g.reweigh()
	now := s.Now()
	s.arm(now)
}

// Hint returns the group's hint.
func (g *Group) Hint() Hint {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	return g.hint
}

// reweigh computes the group's weight.
func (g *Group) reweigh() {
	g.weight = max(int64(g.params.Weight)*unit/DefaultWeight/g.hint.params().lighter, 1)
	g.divide(nil)
}

// move changes where the group's tasks may run, or in which class.
func (g *Group) move(now int64, change func()) {
	s := g.s
	s.chargeGroup(g, now)
	var waiting, has []*Task
	g.all(func(p *part) {
		p.waiting.each(func(m *node) bool {
			waiting = append(waiting, m.task)
			return true
		})
	})
	for i := range s.cpus {
		if t := s.cpus[i].task; t != nil && t.part != nil && t.g == g {
			has = append(has, t)
		}
	}
	for _, t := range waiting {
		s.dequeue(t, now)
		t.stop(now)
	}
	for _, t := range has {
		t.suspend(now)
	}
	change()
	for _, t := range has {
		t.proceed(now)
	}
	for _, t := range waiting {
		t.start(now)
		s.enqueue(t, now)
	}
}

// suspend has a task that has a CPU compete no more, until proceed.
func (t *Task) suspend(now int64) {
	c := &t.s.cpus[t.cpu]
	t.s.charge(c, now)
	if c.server != nil {
		c.server.stop(now)
		c.server = nil
	}
	if t.part != nil {
		t.part.running--
	}
	t.stop(now)
}

func (t *Task) proceed(now int64) {
	s := t.s
	c := &s.cpus[t.cpu]
	t.start(now)
	t.state = running
	if t.part != nil {
		t.part.running++
	}
	if sv := t.serverFor(now); sv != nil && sv.state != svSpent {
		c.server = sv
		sv.start()
	} else if t.on != nil { // Spent: it must wait.
		s.kick(c, now, &s.counts.SliceKicks)
	}
	if !t.mayRun(c.id) || !c.on || t.g.quota.stopped {
		s.kick(c, now, &s.counts.SliceKicks)
	}
}

// Fits reports what SetParams would say to p at this moment, and changes nothing.
func (g *Group) Fits(p Params) error {
	if p.Period == 0 {
		p.Period = DefaultPeriod
	}
	if err := p.check(); err != nil {
		return err
	}
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	return g.mayReserve(p.Reserved, p.CPUs)
}

// reserve sets what the group is promised, on which CPUs.
func (g *Group) reserve(r Reservation, on smp.Set) error {
	if err := g.mayReserve(r, on); err != nil {
		return err
	}
	g.params.Reserved = r
	g.shrink()
	return nil
}

// mayReserve reports whether the group can be promised r on some CPUs.
func (g *Group) mayReserve(r Reservation, on smp.Set) error {
	s := g.s
	taken := g.taken()
	if r.density() < taken-1e-9 {
		return errdefs.New(errdefs.CPULimit, "its tasks have reserved more for themselves", errdefs.Op("reserve CPU time"),
			errdefs.Resource("%.3g of a CPU, of which tasks have %.3g", r.density(), taken),
			errdefs.Fix("have the tasks give up their reservations first, or end them"))
	}
	if r.density() > g.params.Reserved.density() || r.Runtime > 0 && on != g.params.CPUs {
		return s.admit(g, r, on)
	}
	return nil
}

// taken is what the group's tasks have reserved.
func (g *Group) taken() (sum float64) {
	for _, sv := range g.s.rsv.all {
		if sv.g == g && sv.owner != nil {
			sum += sv.density()
		}
	}
	return sum
}

// shrink has the group's own reservation be what its tasks leave of it.
func (g *Group) shrink() {
	s, r := g.s, g.params.Reserved
	if r.Runtime > 0 {
		r.Runtime = int64((r.density() - g.taken()) * float64(min(r.Deadline, r.Period)))
		if r.Runtime < RuntimeMin {
			r.Runtime = 0
		}
	}
	switch {
	case r.Runtime == 0:
		if g.server != nil {
			s.drop(g.server)
			g.server = nil
		}
		return
	case g.server == nil:
		g.server = s.newServer(g, nil, r)
	case r == g.server.Reservation:
		return
	default:
		sv := g.server
		sv.unqueue()
		if sv.left > r.Runtime {
			sv.left = r.Runtime
		}
		sv.Reservation = r
	}
	if g.queued > 0 {
		g.server.queue(s.Now())
	}
}

// Policy is how a task wants to be scheduled.
type Policy uint8

// Policies.
const (
	Normal   Policy = iota // by its niceness
	Batch                  // the same, but it takes nobody's CPU when it wakes
	Idle                   // so, and only what nobody else of the group wants, nearly
	Deadline               // on a reservation of its own
)

// Attr is what a task asks for.
type Attr struct {
	Policy   Policy
	Nice     int // -20 to 19
	Reserved Reservation
}

// niceWeights is 1024 for 0, and 1.25 times as much for each step less, as Linux
// has it.
var niceWeights = func() (w [40]int64) {
	for i := range w {
		w[i] = int64(math.Round(unit * math.Pow(1.25, float64(20-i))))
	}
	return w
}()

const idleWeight = 3

func (a *Attr) weight() int64 {
	if a.Policy == Idle {
		return idleWeight
	}
	return niceWeights[min(max(a.Nice+20, 0), 39)]
}

// Attr returns what the task asked for.
func (t *Task) Attr() Attr {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	return t.attr
}

// SetAttr changes how the task is scheduled. A reservation must be within what
// its group is promised and its tasks have not taken.
func (t *Task) SetAttr(a Attr) error {
	if a.Policy != Deadline {
		a.Reserved = Reservation{}
	} else if a.Reserved.Runtime == 0 {
		a.Reserved.Runtime = -1 // Not none.
	}
	if err := a.Reserved.check(); err != nil {
		return err
	}
	t.s.mu.Lock()
	defer t.s.unlock()
	return t.setAttr(a)
}

func (t *Task) setAttr(a Attr) error {
	s := t.s
	now := s.Now()
	// What it borrows is not its own to change, and what it lends changes.
	to, what, lenders := t.boost.to, t.boost.what, t.boost.from
	t.reclaim()
	t.boost.from = nil
	t.borrow(now)
	defer func() {
		t.boost.from = lenders
		s.spread(t)
		if to != nil {
			t.lend(to, what)
		}
	}()
	g := t.g
	if a.Policy == Deadline {
		room := g.params.Reserved.density() - g.taken()
		if t.server != nil {
			room += t.server.density()
		}
		if d := a.Reserved.density(); d > room+1e-9 {
			return errdefs.New(errdefs.CPULimit, "its agent was not promised as much", errdefs.Op("reserve CPU time"),
				errdefs.Resource("%.3g of a CPU", d), errdefs.Fix("reserve %.3g of a CPU at most, or have the agent promised more", max(room, 0)))
		}
		if !t.allowed.Empty() && t.cpus() != g.groupCPUs() {
			return errdefs.New(errdefs.Denied, "a task with a reservation must be able to run on all CPUs of its agent",
				errdefs.Op("reserve CPU time"), errdefs.Fix("take back the task's affinity first"))
		}
	}
	t.replace(now, func() {
		t.attr = a
		switch {
		case a.Policy == Deadline && t.server == nil:
			t.server = s.newServer(g, t, a.Reserved)
		case a.Policy == Deadline:
			t.server.Reservation = a.Reserved
			t.server.left, t.server.due = 0, 0
			if t.server.state == svSpent {
				t.server.state = svIdle
			}
		case t.server != nil:
			s.drop(t.server)
			t.server = nil
		}
		t.reweigh()
		g.shrink()
	})
	return nil
}

// weight is the task's, with what others lend it.
func (t *Task) weight() int64 { return max(t.attr.weight(), t.boost.weight) }

// reweigh computes the weight of a task that does not compete.
func (t *Task) reweigh() {
	if t.was == nil {
		t.was = t.g.free
	}
	t.was.line.reweigh(&t.e, t.weight())
}

// groupCPUs is where the group's tasks may run.
func (g *Group) groupCPUs() smp.Set {
	if a := g.allowed.And(g.s.online); !a.Empty() {
		return a
	}
	return g.s.online
}

// replace changes what a task is scheduled by, whatever it does at the moment.
func (t *Task) replace(now int64, change func()) {
	s := t.s
	switch t.state {
	case queued, spent:
		s.dequeue(t, now)
		t.stop(now)
		change()
		t.start(now)
		s.enqueue(t, now)
		s.fill(now, nil)
		s.wakeKick(t, now)
	case running:
		t.suspend(now)
		change()
		t.proceed(now)
	default:
		change()
	}
	s.arm(now)
}

// SetCPUs says where the task may run; empty: wherever its group may.
func (t *Task) SetCPUs(cpus smp.Set) error {
	s := t.s
	s.mu.Lock()
	defer s.unlock()
	if t.server != nil && !cpus.Empty() && cpus.And(t.g.groupCPUs()) != t.g.groupCPUs() {
		return errdefs.New(errdefs.Denied, "a task with a reservation must be able to run on all CPUs of its agent",
			errdefs.Op("set affinity"), errdefs.Fix("give up the reservation first"))
	}
	t.replace(s.Now(), func() { t.allowed = cpus })
	return nil
}

// CPUs returns where the task may run.
func (t *Task) CPUs() smp.Set {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	return t.cpus()
}

// SetOnline says which CPUs may be used from now on: those of the set that there
// are, or, if that is none, the first.
func (s *Scheduler) SetOnline(set smp.Set) {
	s.mu.Lock()
	defer s.unlock()
	set = set.And(smp.First(len(s.cpus)))
	if set.Empty() {
		set = smp.Of(0)
	}
	if set == s.online {
		return
	}
	now := s.Now()
	s.online, s.nOn = set, set.Len()
	s.idle = 0
	for i := range s.cpus {
		c := &s.cpus[i]
		s.charge(c, now)
		c.on = set.Has(i)
		if c.on && c.task == nil {
			s.idle++
		}
		if !c.on {
			s.kick(c, now, &s.counts.SliceKicks)
		}
	}
	for _, g := range s.groups {
		g.move(now, func() {})
	}
	s.fill(now, nil)
	s.arm(now)
}
