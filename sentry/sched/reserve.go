package sched

import (
	"slices"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/smp"
)

// Reservation is CPU time that is promised: runtime in every period, within
// deadline of the period's beginning. The zero value is none.
type Reservation struct {
	Runtime, Deadline, Period int64
}

// density is what of a CPU it takes while it is most urgent.
func (r Reservation) density() float64 {
	if r.Runtime == 0 {
		return 0
	}
	return float64(r.Runtime) / float64(min(r.Deadline, r.Period))
}

// Bounds of a reservation.
const (
	RuntimeMin = 100_000        // nanoseconds: shorter is not kept
	PeriodMax  = 10_000_000_000 // nanoseconds
	// reservedMost is what of all CPUs may be promised; the rest is for others.
	reservedMost = 0.95
)

// check reports what is wrong with a reservation.
func (r Reservation) check() error {
	bad := func(detail string) error {
		return errdefs.New(errdefs.InvalidArgument, detail, errdefs.Op("reserve CPU time"),
			errdefs.Resource("%v in %v, every %v", duration(r.Runtime), duration(r.Deadline), duration(r.Period)),
			errdefs.Fix("give a runtime of at least %v, not above its deadline, that not above its period, and that not above %v", duration(RuntimeMin), duration(PeriodMax)))
	}
	switch {
	case r == Reservation{}:
		return nil
	case r.Runtime < RuntimeMin:
		return bad("the runtime is too short")
	case r.Deadline < r.Runtime:
		return bad("the deadline comes before the runtime could end")
	case r.Period < r.Deadline:
		return bad("the period ends before the deadline")
	case r.Period > PeriodMax:
		return bad("the period is too long")
	}
	return nil
}

// reservations is those of the domain.
type reservations struct {
	all   []*server
	ready []*server // by due
}

type svState uint8

const (
	svIdle svState = iota // nobody of it waits
	svReady
	svRunning
	svSpent // its runtime is used up
)

// server is a reservation at work: a constant-bandwidth server. That of a task
// serves it alone, and nothing else does; that of a group serves whichever of
// its tasks comes next, one at a time, and all of them have the group's share
// besides.
type server struct {
	Reservation
	g *Group
	s *Scheduler
	// owner is the task whose reservation it is; nil: the group's. user is the
	// task that competes on it at the moment, the owner or one that it waits
	// for; nil: none, or it is the group's.
	owner, user *Task

	state  svState
	left   int64 // of the runtime
	due    int64 // the deadline
	refill int64 // when spent: the beginning of the next period

	missed, overruns uint64
}

func (s *Scheduler) newServer(g *Group, t *Task, r Reservation) *server {
	sv := &server{Reservation: r, g: g, owner: t, s: s}
	s.rsv.all = append(s.rsv.all, sv)
	return sv
}

func (s *Scheduler) drop(sv *server) {
	sv.unqueue()
	s.rsv.all = slices.DeleteFunc(s.rsv.all, func(o *server) bool { return o == sv })
	for i := range s.cpus {
		if s.cpus[i].server == sv {
			s.cpus[i].server = nil
		}
	}
	if t := sv.user; t != nil {
		t.on, sv.user = nil, nil
	}
}

// wake is called when a task begins to want a CPU: what is left of the runtime
// may be used until the deadline if that is no faster than what was promised;
// else the next runtime begins now.
func (sv *server) wake(now int64) {
	if sv.state != svIdle {
		return
	}
	if now >= sv.due || float64(sv.left)*float64(sv.Deadline) > float64(sv.due-now)*float64(sv.Runtime) {
		sv.left, sv.due = sv.Runtime, now+sv.Deadline
	}
}

// sleep is called when nobody of it wants a CPU any more.
func (sv *server) sleep() {
	sv.unqueue()
	if sv.state != svSpent {
		sv.state = svIdle
	}
}

// queue has it served when it can be.
func (sv *server) queue(now int64) {
	if sv.state != svIdle {
		return
	}
	sv.wake(now)
	sv.enlist()
}

func (sv *server) enlist() {
	sv.state = svReady
	i, _ := slices.BinarySearchFunc(sv.s.rsv.ready, sv, func(a, b *server) int {
		if a.due <= b.due {
			return -1
		}
		return 1
	})
	sv.s.rsv.ready = slices.Insert(sv.s.rsv.ready, i, sv)
}

// unqueue takes it from the queue.
func (sv *server) unqueue() {
	if sv.state == svReady {
		sv.s.rsv.ready = slices.DeleteFunc(sv.s.rsv.ready, func(o *server) bool { return o == sv })
		sv.state = svIdle
	}
}

// start is the beginning of a run on it.
func (sv *server) start() {
	sv.unqueue()
	sv.state = svRunning
}

// stop is the end of a run on it.
func (sv *server) stop(now int64) {
	if sv.state != svRunning {
		return
	}
	sv.state = svIdle
	if sv.owner == nil && sv.g.queued > 0 {
		sv.queue(now)
	}
}

// spendReserved charges the reservation that c's task runs on.
func (s *Scheduler) spendReserved(c *cpu, d int64) {
	sv := c.server
	sv.left -= d
	if sv.left > 0 || sv.state == svSpent {
		return
	}
	sv.exhaust()
	sv.overruns++
	sv.g.kept.Overruns++
	s.notify(sv.g, Overrun)
	s.kick(c, c.since, &s.counts.SliceKicks)
}

func (sv *server) exhaust() {
	sv.unqueue()
	sv.state = svSpent
	sv.refill = sv.due - sv.Deadline + sv.Period
}

// forfeit gives up what is left of the runtime.
func (sv *server) forfeit() {
	if sv.state != svSpent {
		sv.left = min(sv.left, 0)
		sv.exhaust()
	}
}

// renew begins the next period if it is time, and reports whether it did.
func (sv *server) renew(now int64) bool {
	if now < sv.refill {
		return false
	}
	for now >= sv.refill {
		sv.left = min(sv.left+sv.Runtime, sv.Runtime)
		sv.due = sv.refill + sv.Deadline
		sv.refill += sv.Period
		if sv.left > 0 && now < sv.refill {
			break
		}
	}
	return sv.left > 0
}

// serverFor returns the reservation on which a task that is in no queue may run
// at once, or nil.
func (t *Task) serverFor(now int64) *server {
	switch sv := t.g.server; {
	case t.on != nil:
		return t.on
	case sv != nil && (sv.state == svIdle || sv.state == svReady):
		sv.wake(now)
		return sv
	}
	return nil
}

// readyServer returns the reservation on which a task that is in a queue may
// run, or nil.
func (t *Task) readyServer() *server {
	switch sv := t.g.server; {
	case t.on != nil:
		return t.on
	case sv != nil && sv.state == svReady:
		return sv
	}
	return nil
}

// pickReserved returns the task with the earliest deadline that may have c.
func (s *Scheduler) pickReserved(c *cpu) (*Task, *server) {
	for _, sv := range s.rsv.ready {
		switch {
		case sv.g.quota.stopped:
		case sv.user != nil:
			if sv.user.mayRun(c.id) {
				return sv.user, sv
			}
		default:
			p := sv.g.free
			if p.waiting.empty() && sv.g.bound != nil && sv.g.bound[c.id] != nil {
				p = sv.g.bound[c.id]
			}
			if !p.waiting.empty() {
				return p.pick(), sv
			}
		}
	}
	return nil, nil
}

// tickReserved begins periods, and finds deadlines that were missed.
func (s *Scheduler) tickReserved(now int64) {
	for _, sv := range s.rsv.all {
		switch sv.state {
		case svSpent:
			if !sv.renew(now) {
				continue
			}
			sv.state = svIdle
			for i := range s.cpus {
				if s.cpus[i].server == sv {
					sv.state = svRunning // It has not looked up since it was told.
				}
			}
			if sv.state == svRunning {
				continue
			}
			switch t := sv.user; {
			case t != nil && t.state == spent:
				t.state = queued
				sv.enlist()
				s.fill(now, nil)
				s.wakeKick(t, now)
			case sv.owner == nil && sv.g.queued > 0:
				sv.enlist()
				s.fill(now, nil)
				if t := sv.first(); t != nil {
					s.wakeKick(t, now)
				}
			}
		case svReady, svRunning:
			if now <= sv.due || sv.g.quota.stopped {
				continue
			}
			sv.missed++
			sv.g.kept.Missed++
			sv.g.kept.Short = max(sv.g.kept.Short, duration(sv.left))
			s.notify(sv.g, Missed)
			ready := sv.state == svReady
			sv.unqueue()
			for sv.due < now {
				sv.due += sv.Period
			}
			sv.left = sv.Runtime
			if ready {
				sv.enlist()
			}
		}
	}
}

// Kept is how the reservations of a group and of its tasks fared since the group
// was made.
type Kept struct {
	// Missed counts deadlines that passed before a task that wanted to run had the
	// runtime, Overruns periods in which a task wanted more than it.
	Missed, Overruns uint64
	// Short is the most of a runtime that was still to come at a deadline, since
	// TakeShort.
	Short time.Duration
}

// Kept tells how the group's reservations fared.
func (g *Group) Kept() Kept {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	return g.kept
}

// TakeShort returns Kept.Short, and begins it anew.
func (g *Group) TakeShort() time.Duration {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	short := g.kept.Short
	g.kept.Short = 0
	return short
}

// first returns a task of a group's reservation that waits, or nil.
func (sv *server) first() (t *Task) {
	sv.g.all(func(p *part) {
		if t == nil && !p.waiting.empty() && sv.state == svReady {
			t = p.pick()
		}
	})
	return t
}

// nextReserved is when a reservation is next used up, begins or is due.
func (s *Scheduler) nextReserved(now int64) int64 {
	at := int64(noTime)
	for _, sv := range s.rsv.all {
		switch sv.state {
		case svSpent:
			at = min(at, sv.refill)
		case svReady:
			at = min(at, sv.due+1)
		case svRunning:
			at = min(at, sv.due+1, now+max(sv.left, 0))
		}
	}
	return at
}

// admit reports whether a group can be promised r on some CPUs, instead of what it
// has. Every set of CPUs that somebody is bound to must hold what is promised on it
// and on parts of it; for one set that is what the test guarantees, for several
// that overlap it is only what cannot do without.
func (s *Scheduler) admit(g *Group, r Reservation, on smp.Set) error {
	type promise struct {
		density float64
		on      smp.Set
	}
	where := func(set smp.Set) smp.Set {
		if set = set.And(s.online); set.Empty() {
			return s.online
		}
		return set
	}
	all := []promise{{r.density(), where(on)}}
	for _, o := range s.groups {
		if o != g && o.params.Reserved.Runtime > 0 {
			all = append(all, promise{o.params.Reserved.density(), where(o.params.CPUs)})
		}
	}
	fits := func(set smp.Set) error {
		sum, most := 0.0, 0.0
		for _, p := range all {
			if p.on.Minus(set).Empty() {
				sum, most = sum+p.density, max(most, p.density)
			}
		}
		m := float64(set.Len())
		if room := min(m*reservedMost, m-(m-1)*most); sum > room+1e-9 {
			return errdefs.New(errdefs.CPULimit, "the CPUs cannot promise as much",
				errdefs.Op("reserve CPU time"), errdefs.Resource("%.3g of a CPU, %.3g with what is promised to others", r.density(), sum),
				errdefs.Fix("ask for %.3g of a CPU at most: the CPUs %s promise %.3g where the largest reservation takes %.3g", max(room-sum+r.density(), 0), set, room, most))
		}
		return nil
	}
	if err := fits(s.online); err != nil {
		return err
	}
	for _, p := range all {
		if all[0].on.Minus(p.on).Empty() { // What is new counts there.
			if err := fits(p.on); err != nil {
				return err
			}
		}
	}
	return nil
}
