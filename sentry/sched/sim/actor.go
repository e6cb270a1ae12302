package sim

import (
	"time"

	"aios.dev/aios/sentry/sched"
)

// Step is what a task does next: it computes for Run, and then sleeps for Sleep.
// Forever computes for ever.
type Step struct {
	Run, Sleep time.Duration
	// Yield has it call sched_yield after computing.
	Yield bool
	// On, if it is not nil, has it sleep until that actor next sleeps, and lends
	// it its rank meanwhile.
	On *Actor
	// NoLend has it not lend that its rank.
	NoLend bool
	// End has it end after computing.
	End bool
}

// Forever is longer than any run.
const Forever = time.Duration(1 << 60)

// Actor is a task of a world.
type Actor struct {
	w    *World
	T    *sched.Task
	Name string
	// Next says what it does next.
	Next func() Step

	step Step
	left int64 // of the computation
	// since is when it went on computing, or -1.
	since int64
	done  *event
	// awake says that it wants a CPU, and runs that it has one, as it was told.
	awake, runs bool
	asking      bool
	ended       bool
	asked       int64
	waiters     []*Actor

	// Got is what it computed; WorstWait the longest that it waited for a CPU.
	Got       time.Duration
	WorstWait time.Duration
	// Wakes counts its sleeps that ended, and Late how long after that it began
	// to execute, each time.
	Late []time.Duration
	// Finished is how long each step took, from waking to the next sleep.
	Finished []time.Duration
	woke     int64
	fresh    bool
	// waits is since when it has waited for another, 0 if it does not; longest
	// is the longest that it has.
	waits, longest int64
}

// Add adds a task to a group. It begins at once.
func (w *World) Add(g *sched.Group, name string, next func() Step) *Actor {
	a := &Actor{w: w, Name: name, Next: next, since: -1}
	a.T = g.NewTask(a, a)
	w.all = append(w.all, a)
	w.after(0, a.wake)
	return a
}

// Granted implements sched.Runner.
func (a *Actor) Granted() {
	if a.runs || !a.awake || a.asking {
		a.w.Fail("%s was granted a CPU it did not wait for", a.Name)
	}
	a.runs = true
	a.w.after(a.w.upTo(a.w.cost.Start), a.begin)
}

// Preempt implements sched.Runner.
func (a *Actor) Preempt() {
	late := a.w.upTo(a.w.cost.Return)
	if a.w.cost.Stall > 0 && a.w.rng.IntN(20) == 0 {
		late += a.w.upTo(a.w.cost.Stall)
	}
	a.w.after(late, func() {
		if a.runs && a.since >= 0 && a.T.Must() {
			a.pause()
			a.ask()
		}
	})
}

// begin has it execute.
func (a *Actor) begin() {
	if !a.runs || a.since >= 0 || a.ended {
		return
	}
	if wait := time.Duration(a.w.clock.now - a.asked); wait > a.WorstWait {
		a.WorstWait = wait
	}
	if a.fresh {
		a.fresh = false
		a.Late = append(a.Late, time.Duration(a.w.clock.now-a.woke))
	}
	if a.T.Must() { // It was told again before it began.
		a.ask()
		return
	}
	a.since = a.w.clock.now
	a.T.Enters()
	a.done = a.w.after(a.left, a.finish)
}

// pause has it execute no more.
func (a *Actor) pause() {
	d := a.w.clock.now - a.since
	a.since = -1
	a.T.Returns()
	a.left -= d
	a.Got += time.Duration(d)
	if a.done != nil {
		a.done.Stop()
	}
}

// ask asks for a CPU.
func (a *Actor) ask() {
	a.asked = a.w.clock.now
	a.runs = false
	a.asking = true
	answer := a.T.Ask(nil)
	a.asking = false
	switch answer {
	case sched.Go:
		a.runs = true
		a.begin()
	case sched.Not:
		a.w.Fail("%s was refused", a.Name)
	}
}

// Poke interrupts it: if it waits for a CPU it is made to ask again.
func (a *Actor) Poke() {
	if a.awake && !a.runs && a.T.Withdraw() {
		if a.runs {
			a.w.Fail("%s was withdrawn and granted", a.Name)
		}
		a.w.after(a.w.upTo(a.w.cost.Start), func() {
			if a.awake && !a.runs && !a.ended {
				a.ask()
			}
		})
	}
}

// wake begins the next step.
func (a *Actor) wake() {
	if a.awake || a.ended {
		return
	}
	a.awake, a.fresh = true, true
	a.woke = a.w.clock.now
	a.T.Reclaim()
	a.noteWait()
	a.step = a.Next()
	a.left = int64(a.step.Run)
	a.ask()
}

// finish is the end of the computation.
func (a *Actor) finish() {
	a.pause()
	if a.step.Yield {
		a.T.Yield()
	}
	if a.step.Yield && a.step.Sleep == 0 {
		a.step = a.Next()
		a.left = int64(a.step.Run)
		a.ask()
		return
	}
	a.Finished = append(a.Finished, time.Duration(a.w.clock.now-a.woke))
	a.awake, a.runs = false, false
	on := a.step.On
	if on != nil && on != a && on.awake && !on.ended {
		on.waiters = append(on.waiters, a)
		a.waits = a.w.clock.now
		if !a.step.NoLend {
			a.T.Lend(on.T, 1)
		}
		a.T.Leave()
	} else {
		a.T.Leave()
		a.w.after(int64(a.step.Sleep), a.wake)
	}
	for _, o := range a.waiters {
		a.w.after(0, o.wake)
	}
	a.waiters = nil
	if a.step.End {
		a.ended = true
		a.T.Close()
	}
}

func (a *Actor) noteWait() {
	if a.waits != 0 {
		a.longest = max(a.longest, a.w.clock.now-a.waits)
		a.waits = 0
	}
}

// Slept returns the longest that it waited for another, up to now.
func (a *Actor) Slept() time.Duration {
	if a.waits != 0 {
		a.longest = max(a.longest, a.w.clock.now-a.waits)
	}
	return time.Duration(a.longest)
}

// Service returns what it computed, up to now.
func (a *Actor) Service() time.Duration {
	if a.since < 0 {
		return a.Got
	}
	return a.Got + time.Duration(a.w.clock.now-a.since)
}
