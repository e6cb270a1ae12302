package platform

import (
	"math"
	"sync/atomic"
	"time"

	"aios.dev/aios/ktime"
)

// Unlimited is the quota of a crowd that may use all it gets.
const Unlimited uint64 = math.MaxUint64

// QuotaPeriod is the time in which a quota may be used at any pace.
const QuotaPeriod = 100 * time.Millisecond

// quotaLook is the least time between two looks at what running tasks have
// used.
const quotaLook = 500 * time.Microsecond

// What a task does since it was last charged; the lowest bit of place.mark.
const (
	inKernel = 0
	inApp    = 1
)

// use is the CPU time of a crowd. It is charged without a lock.
type use struct {
	user, system atomic.Int64 // nanoseconds
	faults       atomic.Uint64
	// limited says that there is a quota; spent, in nanoseconds, is what
	// this period's tasks have used of budget, or are behind from earlier ones.
	limited       atomic.Bool
	spent, budget atomic.Int64
}

// quota is what else there is to know of a crowd's quota.
//
// What a period uses too much, the next has less: tasks stop a little late,
// but the quota holds over time. What it leaves is lost.
type quota struct {
	milli   uint64      // thousandths of a CPU
	began   int64       // when the period began, by Processors.now
	stopped bool        // it is used up
	since   int64       // since when stopped
	timer   ktime.Timer // nil while nothing runs or waits

	periods, stops uint64
	stoppedFor     int64
}

// Usage is what the tasks of a crowd have used, and how their quota fared.
type Usage struct {
	User, System time.Duration
	Faults       uint64 // page faults
	// Periods counts the quota periods in which a task ran or waited, Stops
	// those in which the quota was used up, and Stopped is for how long it was.
	Periods, Stops uint64
	Stopped        time.Duration
}

// Usage returns what the crowd has used up to now.
func (g *Crowd) Usage() Usage {
	g.mu.Lock()
	defer g.mu.Unlock()
	for p := g.holders.next; p != &g.holders; p = p.next {
		g.settle(p)
	}
	stopped := g.quota.stoppedFor
	if g.quota.stopped {
		stopped += g.cpus.now() - g.quota.since
	}
	return Usage{
		User: time.Duration(g.use.user.Load()), System: time.Duration(g.use.system.Load()),
		Faults: g.use.faults.Load(), Periods: g.quota.periods, Stops: g.quota.stops, Stopped: time.Duration(stopped),
	}
}

// Quota returns the quota, in thousandths of a CPU.
func (g *Crowd) Quota() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.quota.milli
}

// SetQuota lets the crowd use milli thousandths of a CPU from now on: none at
// all if that is zero, everything if it is Unlimited.
func (g *Crowd) SetQuota(milli uint64) {
	g.mu.Lock()
	g.setQuotaLocked(milli)
	over := g.overLocked()
	g.mu.Unlock()
	interruptAll(over)
}

func (g *Crowd) setQuotaLocked(milli uint64) {
	if milli == g.quota.milli {
		return
	}
	g.rollLocked()
	for p := g.holders.next; p != &g.holders; p = p.next {
		g.settle(p) // By the old quota.
	}
	if g.quota.milli == Unlimited {
		g.quota.began = g.cpus.now()
		g.use.spent.Store(0)
	}
	g.quota.milli = milli
	g.use.limited.Store(milli != Unlimited)
	budget := int64(math.MaxInt64)
	if perMilli := uint64(QuotaPeriod / 1000); milli < math.MaxInt64/perMilli {
		budget = int64(milli * perMilli)
	}
	g.use.budget.Store(budget)
	if milli == Unlimited {
		g.use.spent.Store(0)
	}
	if g.use.spent.Load() < budget {
		g.goOnLocked()
	} else {
		g.stopLocked()
	}
	g.armLocked()
}

// charge charges the time since p was last charged; from now on it is in next.
func (g *Crowd) charge(p *place, next int64) {
	now := g.cpus.time()
	if g.book(p.mark.Swap(now<<1|next), now) {
		g.mu.Lock()
		g.stopLocked()
		over := g.overLocked()
		g.mu.Unlock()
		interruptAll(over)
	}
}

// settle charges p for somebody else. It reports whether the quota is used up.
func (g *Crowd) settle(p *place) bool {
	for {
		now, old := g.cpus.time(), p.mark.Load()
		if p.mark.CompareAndSwap(old, now<<1|old&1) {
			return g.book(old, now)
		}
	}
}

// restart has p charged from now on.
func (g *Crowd) restart(p *place) { p.mark.Store(g.cpus.time()<<1 | inKernel) }

// book adds the time from a mark until now, and reports whether that has used
// the quota up.
func (g *Crowd) book(mark, now int64) bool {
	d := now - mark>>1
	if d <= 0 {
		return false
	}
	if mark&1 == inApp {
		g.use.user.Add(d)
	} else {
		g.use.system.Add(d)
	}
	return g.use.limited.Load() && g.use.spent.Add(d) >= g.use.budget.Load()
}

// stopLocked notes that the quota is used up, if it is.
func (g *Crowd) stopLocked() {
	if g.quota.stopped || !g.use.limited.Load() || g.use.spent.Load() < g.use.budget.Load() {
		return
	}
	g.quota.stopped = true
	g.quota.stops++
	g.quota.since = g.cpus.now()
	if g.onStop != nil {
		g.onStop()
	}
	g.armQuotaLocked()
}

// overLocked returns the tasks that must stop, each once.
func (g *Crowd) overLocked() (over []*taskContext) {
	if !g.quota.stopped {
		return nil
	}
	for p := g.holders.next; p != &g.holders; p = p.next {
		if !p.yield.Swap(true) {
			over = append(over, p.c)
		}
	}
	return over
}

// goOnLocked lets tasks run again.
func (g *Crowd) goOnLocked() {
	if !g.quota.stopped {
		return
	}
	g.quota.stopped = false
	g.quota.stoppedFor += g.cpus.now() - g.quota.since
	g.fillLocked()
	g.armLocked()
}

// rollLocked begins a new period if it is time.
func (g *Crowd) rollLocked() {
	if !g.use.limited.Load() {
		return
	}
	n := (g.cpus.now() - g.quota.began) / int64(QuotaPeriod)
	if n <= 0 {
		return
	}
	g.quota.began += n * int64(QuotaPeriod)
	spent, budget := g.use.spent.Load(), g.use.budget.Load()
	if spent > 0 || g.quota.stopped {
		g.quota.periods++
	}
	if budget == 0 {
		return
	}
	if spent/budget >= n {
		spent = n * budget // The rest remains to be paid.
	}
	g.use.spent.Add(-spent)
	if g.use.spent.Load() < budget {
		g.goOnLocked()
	}
}

// armQuotaLocked has the next look taken at the quota, if there is anything
// to see: at the end of the period or, before that, when the tasks that run
// could have used it up.
func (g *Crowd) armQuotaLocked() {
	q := &g.quota
	if q.timer != nil || !g.use.limited.Load() || q.milli == 0 || g.held == 0 && g.queue.empty() {
		return
	}
	d := int64(QuotaPeriod) - (g.cpus.now() - q.began)
	if !q.stopped {
		left := g.use.budget.Load() - g.use.spent.Load()
		// Another task may join those that run.
		d = min(d, left/min(int64(g.held+1), g.cpus.n))
	}
	q.timer = g.cpus.clock.AfterFunc(max(time.Duration(d), quotaLook), g.look)
}

// look charges what runs, and stops it if the quota is used up.
func (g *Crowd) look() {
	g.mu.Lock()
	g.quota.timer = nil
	for p := g.holders.next; p != &g.holders; p = p.next {
		g.settle(p)
	}
	g.rollLocked()
	g.stopLocked()
	over := g.overLocked()
	g.armQuotaLocked()
	g.mu.Unlock()
	interruptAll(over)
}
