package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"aios.dev/aios/sentry/sched"
	"aios.dev/aios/sentry/smp"
)

// Report is what came of a random world.
type Report struct {
	Seed          uint64
	CPUs          int
	Groups, Tasks int
	Steps         int
	Counts        sched.Counts
}

// Random runs a world that is made from a seed for a while: anything that
// programs do and people change, at random times. It returns the first thing
// that was wrong.
func Random(seed uint64, d time.Duration) (Report, error) {
	r := rand.New(rand.NewPCG(seed, 1))
	cpus := 1 + r.IntN(4)*r.IntN(3)
	cost := Costs{Start: time.Duration(r.IntN(60)) * time.Microsecond, Return: time.Duration(r.IntN(400)) * time.Microsecond}
	if seed%5 > 2 { // The worlds in which bugs were found are others.
		cost.Besides = float64(seed%64) / 256
	}
	w := New(cpus, seed, cost)
	x := &chaos{World: w, r: r, quota: make(map[*sched.Group]*quotaWatch)}
	for i := range 1 + r.IntN(6) {
		g := w.S.NewGroup(fmt.Sprint("g", i))
		x.groups = append(x.groups, g)
		x.change(g)
		for j := range 1 + r.IntN(4) {
			x.actors = append(x.actors, w.Add(g, fmt.Sprintf("g%d.%d", i, j), x.script()))
		}
	}
	x.stir(d)
	err := w.Run(d)
	if err == nil {
		err = x.settle()
	}
	return Report{Seed: seed, CPUs: w.S.CPUs(), Groups: len(x.groups), Tasks: len(x.actors), Steps: w.Steps, Counts: w.S.State().Counts}, err
}

// chaos is a random world.
type chaos struct {
	*World
	r      *rand.Rand
	groups []*sched.Group
	actors []*Actor
	quota  map[*sched.Group]*quotaWatch
}

// quotaWatch is since when a group has had its quota, and what it had used.
type quotaWatch struct {
	since, used time.Duration
}

func (x *chaos) millis(n int) time.Duration {
	return time.Duration(x.r.IntN(n*1000)+1) * time.Microsecond
}

// script returns what a task does.
func (x *chaos) script() func() Step {
	run, sleep := x.millis(10), x.millis(20)
	switch x.r.IntN(6) {
	case 0:
		return func() Step { return Step{Run: Forever} }
	case 1: // Little work, often.
		return func() Step { return Step{Run: run / 20, Sleep: sleep / 4} }
	case 2:
		return func() Step { return Step{Run: run / 50, Yield: true} }
	case 3: // It waits for another, at times.
		return func() Step {
			st := Step{Run: x.millis(4), Sleep: x.millis(4)}
			if x.r.IntN(3) == 0 {
				st.On = x.actors[x.r.IntN(len(x.actors))]
			}
			return st
		}
	case 4:
		n := x.r.IntN(40)
		return func() Step { n--; return Step{Run: x.millis(3), Sleep: x.millis(3), End: n < 0} }
	}
	return func() Step { return Step{Run: x.millis(2 * int(run/time.Millisecond+1)), Sleep: sleep} }
}

// stir changes something now and then.
func (x *chaos) stir(end time.Duration) {
	x.At(x.millis(15), func() {
		if x.Now() > end {
			return
		}
		a := x.actors[x.r.IntN(len(x.actors))]
		switch x.r.IntN(7) {
		case 0, 1:
			x.change(x.groups[x.r.IntN(len(x.groups))])
		case 2:
			x.groups[x.r.IntN(len(x.groups))].SetHint(sched.Hint(x.r.IntN(len(sched.Hints()))))
		case 3:
			if !a.ended {
				a.T.SetCPUs(x.cpus())
			}
		case 4:
			if !a.ended {
				x.attr(a)
			}
		case 5:
			x.S.SetOnline(x.cpus())
		case 6:
			a.Poke()
		}
		x.stir(end)
	})
}

func (x *chaos) cpus() (s smp.Set) {
	for c := range x.S.CPUs() {
		if x.r.IntN(3) > 0 {
			s.Add(c)
		}
	}
	return s
}

func (x *chaos) attr(a *Actor) {
	at := sched.Attr{Policy: sched.Policy(x.r.IntN(4)), Nice: x.r.IntN(40) - 20}
	if at.Policy == sched.Deadline {
		period := int64(x.millis(30)) + 1_000_000
		at.Reserved = sched.Reservation{Runtime: period / int64(2+x.r.IntN(20)), Deadline: period, Period: period}
	}
	a.T.SetAttr(at) // Most are refused.
}

// change gives a group other parameters.
func (x *chaos) change(g *sched.Group) {
	p := sched.Defaults()
	p.Weight = 1 + uint64(x.r.IntN(400))
	p.Idle = x.r.IntN(6) == 0
	if x.r.IntN(3) == 0 {
		p.CPUs = x.cpus()
	}
	if x.r.IntN(3) == 0 {
		p.MilliCPU = uint64(x.r.IntN(1500))
		p.Period = 5*time.Millisecond + x.millis(50)
		p.Burst = x.millis(5) * time.Duration(x.r.IntN(2))
	}
	if x.r.IntN(4) == 0 {
		period := int64(x.millis(50)) + 1_000_000
		p.Reserved = sched.Reservation{Runtime: period / int64(2+x.r.IntN(8)), Deadline: period, Period: period}
	}
	x.checkQuota(g)
	if err := g.SetParams(p); err == nil {
		delete(x.quota, g)
		if p.MilliCPU != sched.Unlimited {
			x.quota[g] = &quotaWatch{since: x.Now(), used: g.State().Service}
		}
	}
}

// checkQuota looks whether a group has used more than its quota since it has it.
func (x *chaos) checkQuota(g *sched.Group) {
	q := x.quota[g]
	if q == nil {
		return
	}
	p := g.Params()
	budget := time.Duration(p.MilliCPU) * p.Period / 1000
	periods := (x.Now()-q.since)/p.Period + 2 // The first and the last may be parts.
	// A task stops a little late; what is too much is paid back, but for the end.
	slack := time.Duration(x.S.CPUs()) * (x.cost.Return + x.cost.Start + time.Millisecond)
	if used := g.State().Service - q.used; used > budget*periods+p.Burst+slack {
		x.Fail("%s used %v in %v, its quota is %v in %v", g.State().Name, used, x.Now()-q.since, budget, p.Period)
	}
}

// settle checks what can be said at the end: with all CPUs there and nothing
// forbidden, everybody who waits gets a CPU.
func (x *chaos) settle() error {
	x.S.SetOnline(smp.First(x.S.CPUs())) // Before anybody is given them: fewer may not hold what is promised.
	for _, g := range x.groups {
		x.checkQuota(g)
		if err := g.SetParams(sched.Defaults()); err == nil {
			continue
		}
		p := sched.Defaults() // Tasks of it have reservations.
		p.Reserved = g.Params().Reserved
		if err := g.SetParams(p); err != nil {
			return err
		}
	}
	for _, a := range x.actors {
		if at := a.T.Attr(); !a.ended && at.Policy != sched.Deadline { // Those may have a weight of next to nothing.
			a.T.SetAttr(sched.Attr{})
		}
	}
	if x.err != nil {
		return x.err
	}
	before := make(map[*Actor]time.Duration)
	for _, a := range x.actors {
		if a.awake && !a.ended {
			before[a] = a.Service()
		}
	}
	// As long as it takes, to a bound that is far more than a turn of everybody.
	for end := x.Now() + 3*time.Second; len(before) > 0; {
		if err := x.World.Run(10 * time.Millisecond); err != nil {
			return err
		}
		for a, got := range before {
			if !a.awake || a.ended || a.Service() != got || a.left <= 0 {
				delete(before, a)
			} else if x.Now() > end {
				x.Fail("%s starves: it has waited since %v", a.Name, time.Duration(a.asked))
			}
		}
	}
	return x.err
}
