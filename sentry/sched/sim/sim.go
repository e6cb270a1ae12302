// Package sim runs the scheduler on CPUs and a clock that are not there.
//
// A world is made from a seed: CPUs, groups with weights, quotas and
// reservations, tasks that compute, sleep, yield, are interrupted, wait for each
// other and change their mind. Its time is that of its events, so seconds of it
// take milliseconds, and the same seed is the same world. After each event the
// invariants are checked; at the end, what everybody got.
//
// Key types: World, which is one run, and Report, what came of it.
package sim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
	"aios.dev/aios/sentry/sched"
)

// clock is the time of a world.
type clock struct {
	now    int64
	seq    uint64
	events events
}

// event is something that will happen.
type event struct {
	at   int64
	seq  uint64 // of equal times, what was planned first
	f    func()
	dead bool
	idx  int
}

type events []*event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i]; e[i].idx, e[j].idx = i, j }
func (e *events) Push(x any)   { ev := x.(*event); ev.idx = len(*e); *e = append(*e, ev) }
func (e *events) Pop() any     { old := *e; x := old[len(old)-1]; *e = old[:len(old)-1]; return x }

var epoch = time.Unix(0, 0)

func (c *clock) Now() time.Time                  { return epoch.Add(time.Duration(c.now)) }
func (c *clock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }
func (c *clock) AfterFunc(d time.Duration, f func()) ktime.Timer {
	return c.after(int64(d), f)
}

func (c *clock) after(d int64, f func()) *event {
	c.seq++
	ev := &event{at: c.now + max(d, 0), seq: c.seq, f: f}
	heap.Push(&c.events, ev)
	return ev
}

// Stop implements ktime.Timer.
func (e *event) Stop() bool {
	if e.dead {
		return false
	}
	e.dead = true
	return true
}

// World is one run.
type World struct {
	clock
	S    *sched.Scheduler
	rng  *rand.Rand
	cost Costs
	all  []*Actor
	err  error
	// Check has the invariants checked after every event.
	Check bool
	// Steps counts events.
	Steps int
}

// Costs is how long things take that a real machine needs time for, at most; how
// long each takes is random.
type Costs struct {
	Start  time.Duration // from the grant of a CPU until the task executes
	Return time.Duration // from Preempt until the task returns
	// Stall is how long the host has something else for a CPU now and then: one in
	// twenty of those that are to return does so as much later, at most.
	Stall time.Duration
	// Besides is what the host counts for each second besides what tasks are served,
	// in CPUs; less than nothing if it counts less.
	Besides float64
}

// New returns a world of n CPUs.
func New(n int, seed uint64, cost Costs) *World {
	w := &World{rng: rand.New(rand.NewPCG(seed, 0)), cost: cost, Check: true}
	w.S = sched.New(sched.Config{CPUs: n, Clock: &w.clock, Near: func(a, b int) int { return a ^ b },
		Besides: func(time.Duration) (time.Duration, bool) {
			return time.Duration(cost.Besides * float64(w.clock.now)), true
		}})
	return w
}

// Now returns the time.
func (w *World) Now() time.Duration { return time.Duration(w.clock.now) }

// At has f happen after d.
func (w *World) At(d time.Duration, f func()) { w.after(int64(d), f) }

// Fail ends the run.
func (w *World) Fail(format string, args ...any) {
	if w.err == nil {
		w.err = errdefs.Newf(errdefs.Internal, "at %v: %s", w.Now(), fmt.Sprintf(format, args...))
	}
}

// Run lets d pass, and returns what was wrong first, if anything was.
func (w *World) Run(d time.Duration) error {
	end := w.clock.now + int64(d)
	for w.err == nil && len(w.events) > 0 && w.events[0].at <= end {
		ev := heap.Pop(&w.events).(*event)
		if ev.dead {
			continue
		}
		ev.dead = true
		w.clock.now = ev.at
		ev.f()
		w.Steps++
		if w.Check && w.err == nil {
			if err := w.S.Check(); err != nil {
				w.Fail("%v", err)
			}
		}
	}
	if w.err == nil {
		w.clock.now = end
	}
	return w.err
}

// upTo returns a random time of at most d.
func (w *World) upTo(d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	return w.rng.Int64N(int64(d) + 1)
}
