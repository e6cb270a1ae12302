package sched

import (
	"math"
	"slices"
	"time"
)

// Unlimited is the quota of a group that may use all it gets.
const Unlimited uint64 = math.MaxUint64

// DefaultPeriod is the period of a quota that names none.
const DefaultPeriod = 100 * time.Millisecond

// quota bounds the service of a group.
type quota struct {
	milli  uint64 // thousandths of a CPU
	period int64
	budget int64 // of a period
	burst  int64 // what may be saved up beyond it
	left   int64 // less than nothing: to be paid in later periods
	began  int64 // when the period began
	// stopped says that it is used up, since when.
	stopped bool
	since   int64
	// due is what it owes for overhead, less than nothing if it gets that back, and
	// paid up to which service.
	due, paid int64
	// corrected is what it has paid for overhead in all.
	corrected int64

	periods, stops uint64
	stoppedFor     int64
}

func duration(ns int64) time.Duration { return time.Duration(ns) }

// limited reports whether there is one.
func (q *quota) limited() bool { return q.milli != Unlimited }

// spend charges the quota.
func (g *Group) spend(d int64) {
	if g.quota.limited() {
		g.quota.left -= d
	}
}

// setQuota changes the quota from now on. What was used of the period stays
// used.
func (s *Scheduler) setQuota(g *Group, milli uint64, period, burst time.Duration, now int64) {
	q := &g.quota
	if milli == q.milli && int64(period) == q.period && int64(burst) == q.burst {
		return
	}
	s.chargeGroup(g, now)
	s.roll(g, now)
	was := q.limited()
	used := q.budget - q.left
	budget := int64(math.MaxInt64 / 4)
	if per := uint64(max(period/1000, 1)); milli < math.MaxInt64/4/per {
		budget = int64(milli * per)
	}
	q.milli, q.period, q.budget, q.burst = milli, int64(period), budget, int64(burst)
	if !q.limited() {
		s.bounded = slices.DeleteFunc(s.bounded, func(o *Group) bool { return o == g })
		s.resume(g, now)
		return
	}
	if !was {
		s.bounded = append(s.bounded, g)
		q.began, used, q.due, q.paid = now, 0, 0, g.got
	}
	q.left = min(budget-used, budget+q.burst)
	if q.left > 0 {
		s.resume(g, now)
	}
	s.enforce(g, now)
}

// roll begins the next period of the group's quota if it is time.
func (s *Scheduler) roll(g *Group, now int64) {
	q := &g.quota
	if !q.limited() {
		return
	}
	n := (now - q.began) / q.period
	if n <= 0 {
		return
	}
	s.chargeOverhead(now)
	q.began += n * q.period
	if q.left < q.budget || q.stopped {
		q.periods++
	}
	// Each period gives the budget; what it leaves is saved up to the burst.
	if most := q.budget + q.burst; q.left < most {
		if q.budget > 0 && n < math.MaxInt64/2/q.budget {
			q.left = min(q.left+n*q.budget, most)
		} else if q.budget > 0 {
			q.left = most
		}
	}
	q.left -= q.due // More than most, if it had less than it was charged for.
	q.corrected += q.due
	q.due = 0
	if q.left > 0 {
		s.resume(g, now)
	}
}

// enforce stops the group if its quota is used up.
func (s *Scheduler) enforce(g *Group, now int64) {
	q := &g.quota
	if q.stopped || !q.limited() || q.left > 0 {
		return
	}
	q.stopped, q.since = true, now
	q.stops++
	g.all((*part).unlink)
	g.all((*part).rest)
	s.traceGroup(TraceThrottled, g, now)
	s.notify(g, Throttled)
	for i := range s.cpus {
		if c := &s.cpus[i]; c.task != nil && c.payer() == g {
			s.kick(c, now, &s.counts.SliceKicks)
		}
	}
}

// resume lets the group run again.
func (s *Scheduler) resume(g *Group, now int64) {
	q := &g.quota
	if !q.stopped {
		return
	}
	q.stopped = false
	q.stoppedFor += now - q.since
	g.all((*part).compete)
	g.all((*part).link)
	s.traceGroup(TraceResumed, g, now)
	s.notify(g, Unthrottled)
	s.fill(now, nil)
}

// nextQuota is when the next quota could be used up, or its period ends.
func (s *Scheduler) nextQuota(now int64) int64 {
	at := int64(noTime)
	for _, g := range s.bounded {
		q := &g.quota
		switch {
		case q.stopped && q.budget > 0:
			at = min(at, q.began+q.period)
		case !q.stopped && g.running > 0:
			// Another task may join those that run.
			at = min(at, now+max(q.left/int64(min(g.running+1, len(s.cpus))), look))
		}
	}
	for i := range s.cpus {
		c := &s.cpus[i]
		if c.task == nil || c.server == nil || c.server.g == c.task.g {
			continue
		}
		if q := &c.server.g.quota; q.limited() && !q.stopped { // On what is lent.
			at = min(at, now+max(q.left/int64(len(s.cpus)), look))
		}
	}
	return at
}

// chargeGroup charges the tasks that run at a group's expense.
func (s *Scheduler) chargeGroup(g *Group, now int64) {
	for i := range s.cpus {
		if c := &s.cpus[i]; c.task != nil && c.payer() == g {
			s.charge(c, now)
		}
	}
}
