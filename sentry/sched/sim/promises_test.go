package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"aios.dev/aios/sentry/sched"
)

var real = Costs{Start: 50 * time.Microsecond, Return: 200 * time.Microsecond}

// group makes a group with changed parameters.
func group(t testing.TB, w *World, name string, change func(*sched.Params)) *sched.Group {
	t.Helper()
	g := w.S.NewGroup(name)
	p := sched.Defaults()
	if change != nil {
		change(&p)
	}
	if err := g.SetParams(p); err != nil {
		t.Fatal(err)
	}
	return g
}

func spin() Step { return Step{Run: Forever} }

func run(t testing.TB, w *World, d time.Duration) {
	t.Helper()
	if err := w.Run(d); err != nil {
		t.Fatal(err)
	}
}

// fairShares is what groups should get of n CPUs if each has so many tasks that
// compute: by weight, but none more CPUs than it has tasks.
func fairShares(n int, weights []float64, tasks []int) []float64 {
	share := make([]float64, len(weights))
	done := make([]bool, len(weights))
	left := float64(n)
	for {
		sum := 0.0
		for i, w := range weights {
			if !done[i] {
				sum += w
			}
		}
		again := false
		for i, w := range weights {
			if !done[i] && left*w/sum > float64(tasks[i]) {
				share[i], done[i], again = float64(tasks[i]), true, true
			}
		}
		if again {
			left = float64(n)
			for i := range share {
				if done[i] {
					left -= share[i]
				}
			}
			continue
		}
		for i, w := range weights {
			if !done[i] {
				share[i] = left * w / sum
			}
		}
		return share
	}
}

// TestShares has groups of random weights compute, on any number of CPUs: each
// gets its share.
func TestShares(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 2))
		n := 1 + r.IntN(8)
		w := New(n, seed, real)
		w.Check = seed < 10
		var gs []*sched.Group
		var weights []float64
		var tasks []int
		for i := range 2 + r.IntN(16) {
			weight := 1 + r.IntN(1000)
			gs = append(gs, group(t, w, fmt.Sprint(i), func(p *sched.Params) { p.Weight = uint64(weight) }))
			weights, tasks = append(weights, float64(weight)), append(tasks, 1+r.IntN(3))
			for range tasks[i] {
				w.Add(gs[i], "spin", spin)
			}
		}
		d := 20 * time.Second
		run(t, w, d)
		for i, share := range fairShares(n, weights, tasks) {
			want := share * d.Seconds()
			got := gs[i].State().Service.Seconds()
			if math.Abs(got-want) > 0.02*want+0.02 {
				t.Errorf("seed %d, %d CPUs: group %d of weight %v and %d tasks got %.3f s, want %.3f s", seed, n, i, weights[i], tasks[i], got, want)
			}
		}
	}
}

// TestSleepersShares has half of the groups sleep at random: those that compute
// share by weight what is left, and sleepers get what they ask for, if it is
// less than their share.
func TestSleepersShares(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 3))
		w := New(2, seed, real)
		w.Check = false
		type one struct {
			g      *sched.Group
			weight float64
		}
		var spinners []one
		var asleep []*sched.Group
		for i := range 8 {
			weight := 50 + r.IntN(200)
			g := group(t, w, fmt.Sprint(i), func(p *sched.Params) { p.Weight = uint64(weight) })
			spinners = append(spinners, one{g, float64(weight)})
			w.Add(g, "spin", spin)
			s := group(t, w, fmt.Sprint("s", i), nil)
			asleep = append(asleep, s)
			w.Add(s, "sleeper", func() Step {
				return Step{Run: time.Duration(r.IntN(1000)+100) * time.Microsecond, Sleep: time.Duration(r.IntN(40)) * time.Millisecond}
			})
		}
		d := 20 * time.Second
		run(t, w, d)
		left := 2 * d.Seconds()
		for _, g := range asleep {
			left -= g.State().Service.Seconds()
		}
		sum := 0.0
		for _, s := range spinners {
			sum += s.weight
		}
		for i, s := range spinners {
			want, got := left*s.weight/sum, s.g.State().Service.Seconds()
			if math.Abs(got-want) > 0.02*want+0.02 {
				t.Errorf("seed %d: group %d of weight %v got %.3f s, want %.3f s", seed, i, s.weight, got, want)
			}
		}
	}
}

// TestQuotaIsExact has groups with quotas use them with one or many tasks.
func TestQuotaIsExact(t *testing.T) {
	for _, c := range []struct {
		cpus, tasks int
		milli       uint64
		period      time.Duration
	}{{2, 1, 250, 100 * time.Millisecond}, {2, 8, 250, 100 * time.Millisecond}, {4, 8, 1500, 20 * time.Millisecond}, {1, 3, 10, 100 * time.Millisecond}, {2, 2, 0, 0}} {
		w := New(c.cpus, 1, real)
		g := group(t, w, "g", func(p *sched.Params) { p.MilliCPU, p.Period = c.milli, c.period })
		for range c.tasks {
			w.Add(g, "spin", spin)
		}
		run(t, w, 5*time.Second)
		got, want := g.State().Service.Seconds()/5, float64(c.milli)/1000
		if math.Abs(got-want) > 0.01*want+0.002 {
			t.Errorf("%+v: used %.4f CPUs", c, got)
		}
		if u := g.Usage(); c.milli > 0 && (u.Stops < 40 || u.Stopped <= 0) {
			t.Errorf("%+v: %+v", c, u)
		}
	}
}

// TestQuotaIsOfTheHost has groups pay for what the host counts besides what their
// tasks are served, and get back what it counts less.
func TestQuotaIsOfTheHost(t *testing.T) {
	for _, c := range []struct {
		besides float64
		quotas  []uint64 // 0: none
		want    []float64
	}{
		{0.04, []uint64{250}, []float64{0.21}},
		{0.04, []uint64{250, 750}, []float64{0.24, 0.72}},
		{0.04, []uint64{250, 0}, []float64{0.25 - 0.04*0.245/2, 2 - 0.245}}, // Who has none pays nothing.
		{-0.04, []uint64{250}, []float64{0.29}},
		{0.6, []uint64{250}, []float64{0.2}}, // Nobody pays for more than a quarter of what it gets.
		{-0.6, []uint64{250}, []float64{1.0 / 3}},
	} {
		w := New(2, 1, Costs{Besides: c.besides})
		var groups []*sched.Group
		for _, milli := range c.quotas {
			g := group(t, w, "g", func(p *sched.Params) {
				if milli > 0 {
					p.MilliCPU = milli
				}
			})
			w.Add(g, "spin", spin)
			w.Add(g, "spin", spin)
			groups = append(groups, g)
		}
		run(t, w, 20*time.Second)
		for i, g := range groups {
			if got := g.State().Service.Seconds() / 20; math.Abs(got-c.want[i]) > 0.02*c.want[i] {
				t.Errorf("%+v: %d used %.4f CPUs", c, i, got)
			}
		}
	}
}

// TestBurst lets a group save up what it does not use.
func TestBurst(t *testing.T) {
	worst := func(burst time.Duration) time.Duration {
		w := New(1, 1, Costs{})
		g := group(t, w, "g", func(p *sched.Params) { p.MilliCPU, p.Burst = 200, burst })
		a := w.Add(g, "a", func() Step { return Step{Run: 60 * time.Millisecond, Sleep: 340 * time.Millisecond} })
		run(t, w, 10*time.Second)
		return slices.Max(a.Finished[2:])
	}
	if d := worst(0); d < 120*time.Millisecond {
		t.Errorf("without a burst, 60 ms took %v at a quota of 20 ms in 100 ms", d)
	}
	if d := worst(60 * time.Millisecond); d > 61*time.Millisecond {
		t.Errorf("with a burst of 60 ms, 60 ms took %v", d)
	}
}

// quantile returns the time that so many per 100 are not above.
func quantile(all []time.Duration, per100 int) time.Duration {
	all = slices.Sorted(slices.Values(all))
	return all[min(len(all)*per100/100, len(all)-1)]
}

// TestWakers has a task that wakes every 10 ms run soon, beside 16 groups that
// compute on 2 CPUs.
func TestWakers(t *testing.T) {
	for _, c := range []struct {
		hint sched.Hint
		p99  time.Duration
	}{{sched.HintNone, 3 * time.Millisecond}, {sched.HintInteractive, time.Millisecond}, {sched.HintModel, time.Millisecond}, {sched.HintTool, time.Millisecond}} {
		w := New(2, 1, real)
		w.Check = false
		for i := range 16 {
			w.Add(group(t, w, fmt.Sprint(i), nil), "spin", spin)
		}
		g := group(t, w, "waker", nil)
		g.SetHint(c.hint)
		a := w.Add(g, "waker", func() Step { return Step{Run: 200 * time.Microsecond, Sleep: 10 * time.Millisecond} })
		run(t, w, 20*time.Second)
		if got := quantile(a.Late, 99); got > c.p99 || len(a.Late) < 1500 {
			t.Errorf("%v: %d wakes, p50 %v, p99 %v, worst %v", c.hint, len(a.Late), quantile(a.Late, 50), got, slices.Max(a.Late))
		}
	}
}

// TestWakersAfterABadTurn is the same with a waker whose turn is now and then far
// longer than usual, and one that wakes when who has a CPU has only just got it:
// neither waits for the end of somebody's turn.
func TestWakersAfterABadTurn(t *testing.T) {
	w := New(2, 1, Costs{Start: 50 * time.Microsecond, Return: 50 * time.Microsecond})
	w.Check = false
	for i := range 16 {
		w.Add(group(t, w, fmt.Sprint(i), nil), "spin", spin)
	}
	n := 0
	a := w.Add(group(t, w, "waker", nil), "waker", func() Step {
		n++
		run := 80 * time.Microsecond
		if n%20 == 0 {
			run = 1200 * time.Microsecond
		}
		return Step{Run: run, Sleep: 10 * time.Millisecond}
	})
	run(t, w, 20*time.Second)
	if got := quantile(a.Late, 99); got > time.Millisecond || len(a.Late) < 1500 {
		t.Errorf("%d wakes, p50 %v, p90 %v, p99 %v, worst %v", len(a.Late), quantile(a.Late, 50), quantile(a.Late, 90), got, slices.Max(a.Late))
	}
}

// TestDeadlinesAreMet has reservations for 80 % of the CPUs run beside a full
// load: no deadline is missed, and each period's work is done within it.
func TestDeadlinesAreMet(t *testing.T) {
	w := New(2, 1, real)
	w.Check = false
	for i := range 8 {
		w.Add(group(t, w, fmt.Sprint(i), nil), "spin", spin)
	}
	var all []*Actor
	var gs []*sched.Group
	for i := range 8 {
		period := time.Duration(20+10*i) * time.Millisecond
		run := period / 5
		g := group(t, w, fmt.Sprint("d", i), func(p *sched.Params) {
			p.Reserved = sched.Reservation{Runtime: int64(run), Deadline: int64(period), Period: int64(period)}
		})
		gs = append(gs, g)
		n := 0
		all = append(all, w.Add(g, "periodic", func() Step {
			n++
			return Step{Run: run - time.Millisecond, Sleep: time.Duration(n)*period - w.Now() - run}
		}))
	}
	run(t, w, 60*time.Second)
	for i, g := range gs {
		if st := g.State(); st.Missed > 0 || len(all[i].Finished) < 200 {
			t.Errorf("group %d: %d missed, %d jobs, longest %v", i, st.Missed, len(all[i].Finished), slices.Max(all[i].Finished))
		}
	}
}

// TestOverrunHarmsItself has reservations that want more than they were
// promised beside one that does not.
func TestOverrunHarmsItself(t *testing.T) {
	w := New(1, 1, real)
	ms := int64(time.Millisecond)
	promise := func(runtime, period int64) func(*sched.Params) {
		return func(p *sched.Params) {
			p.Reserved = sched.Reservation{Runtime: runtime * ms, Deadline: period * ms, Period: period * ms}
		}
	}
	greedy := group(t, w, "greedy", promise(20, 50))
	hog := w.Add(greedy, "hog", spin)
	if err := hog.T.SetAttr(sched.Attr{Policy: sched.Deadline, Reserved: sched.Reservation{Runtime: 20 * ms, Deadline: 50 * ms, Period: 50 * ms}}); err != nil {
		t.Fatal(err)
	}
	meek := group(t, w, "meek", promise(10, 40))
	w.Add(meek, "meek", func() Step { return Step{Run: 8 * time.Millisecond, Sleep: 30 * time.Millisecond} })
	fair := group(t, w, "fair", nil)
	w.Add(fair, "spin", spin)
	run(t, w, 10*time.Second)
	if st := meek.State(); st.Missed > 0 {
		t.Errorf("%d deadlines were missed", st.Missed)
	}
	st := greedy.State()
	if got := st.Service.Seconds(); math.Abs(got-4) > 0.1 || st.Overruns < 100 || st.Missed > 0 {
		t.Errorf("greedy had %.3f s of 4, %d overruns, %d missed", got, st.Overruns, st.Missed)
	}
	if got := fair.State().Service.Seconds(); got < 3.5 {
		t.Errorf("what was left is %.3f s", got)
	}
}

// TestAdmission refuses what cannot be promised.
func TestAdmission(t *testing.T) {
	w := New(2, 1, Costs{})
	ms := int64(time.Millisecond)
	reserve := func(g *sched.Group, runtime, period int64) error {
		p := sched.Defaults()
		p.Reserved = sched.Reservation{Runtime: runtime * ms, Deadline: period * ms, Period: period * ms}
		return g.SetParams(p)
	}
	a, b, c := w.S.NewGroup("a"), w.S.NewGroup("b"), w.S.NewGroup("c")
	if err := reserve(a, 50, 100); err != nil {
		t.Error(err)
	}
	if err := reserve(b, 50, 100); err != nil {
		t.Error(err)
	}
	if err := reserve(c, 60, 100); err == nil {
		t.Error("1.6 of 2 CPUs were promised where the largest is 0.6: 1.4 is what EDF can keep")
	}
	if err := reserve(c, 40, 100); err != nil {
		t.Error(err)
	}
	if err := reserve(c, 120, 100); err == nil {
		t.Error("more than a CPU was promised")
	}
	if err := reserve(a, 10, 100); err != nil {
		t.Error(err)
	}
	if err := reserve(c, 50, 100); err != nil {
		t.Errorf("what was given back cannot be promised: %v", err)
	}
	// Two that are bound to one CPU have no more than that.
	w = New(2, 1, Costs{})
	a, b = w.S.NewGroup("a"), w.S.NewGroup("b")
	bound := func(g *sched.Group, runtime int64, cpu int) error {
		p := sched.Defaults()
		p.CPUs.Add(cpu)
		p.Reserved = sched.Reservation{Runtime: runtime * ms, Deadline: 100 * ms, Period: 100 * ms}
		return g.SetParams(p)
	}
	if err := bound(a, 50, 0); err != nil {
		t.Error(err)
	}
	if err := bound(b, 55, 0); err == nil {
		t.Error("1.05 of one CPU was promised")
	}
	if err := bound(b, 55, 1); err != nil {
		t.Error(err)
	}
	if err := bound(b, 55, 0); err == nil {
		t.Error("a reservation was moved to a CPU that cannot hold it")
	}
}

// TestGaming has a group try to get more than its share.
func TestGaming(t *testing.T) {
	tricks := map[string]func(w *World, g *sched.Group){
		"yields": func(w *World, g *sched.Group) {
			w.Add(g, "y", func() Step { return Step{Run: 50 * time.Microsecond, Yield: true} })
		},
		"sleeps just before its slice ends": func(w *World, g *sched.Group) {
			w.Add(g, "s", func() Step { return Step{Run: 950 * time.Microsecond, Sleep: 10 * time.Microsecond} })
		},
		"sleeps after the shortest request": func(w *World, g *sched.Group) {
			w.Add(g, "s", func() Step { return Step{Run: 190 * time.Microsecond, Sleep: time.Microsecond} })
		},
		"sleeps long and then computes": func(w *World, g *sched.Group) {
			w.Add(g, "s", func() Step { return Step{Run: 100 * time.Millisecond, Sleep: 100 * time.Millisecond} })
		},
		"many tasks": func(w *World, g *sched.Group) {
			for range 500 {
				w.Add(g, "m", spin)
			}
		},
		"many sleepers": func(w *World, g *sched.Group) {
			for range 200 {
				w.Add(g, "m", func() Step { return Step{Run: 300 * time.Microsecond, Sleep: time.Millisecond} })
			}
		},
		"a storm of timers": func(w *World, g *sched.Group) {
			for range 8 {
				w.Add(g, "t", func() Step { return Step{Run: 20 * time.Microsecond, Sleep: 20 * time.Microsecond} })
			}
		},
		"10,000 tasks": func(w *World, g *sched.Group) {
			for range 10_000 {
				w.Add(g, "m", spin)
			}
		},
		"says that it is interactive": func(w *World, g *sched.Group) {
			g.SetHint(sched.HintInteractive)
			for range 4 {
				w.Add(g, "i", func() Step { return Step{Run: 400 * time.Microsecond, Sleep: 20 * time.Microsecond} })
			}
		},
	}
	for name, trick := range tricks {
		w := New(2, 1, real)
		w.Check = false
		var honest []*sched.Group
		for i := range 5 {
			g := group(t, w, fmt.Sprint(i), nil)
			honest = append(honest, g)
			w.Add(g, "spin", spin)
		}
		g := group(t, w, "hostile", nil)
		trick(w, g)
		run(t, w, 20*time.Second)
		share := 40.0 / 6
		if got := g.State().Service.Seconds(); got > 1.02*share {
			t.Errorf("%s: it got %.3f s, its share is %.3f s", name, got, share)
		}
		for _, g := range honest {
			if got := g.State().Service.Seconds(); got < 0.97*share {
				t.Errorf("%s: an honest one got %.3f s, its share is %.3f s", name, got, share)
			}
		}
	}
}

// TestStalls has a host that has something else to do for tens of milliseconds now
// and then: who has more threads than CPUs, which is never without one that waits,
// gains nothing over those that have as many as there are CPUs, or one.
func TestStalls(t *testing.T) {
	for seed := range uint64(4) {
		w := New(2, seed, Costs{Start: 50 * time.Microsecond, Return: 200 * time.Microsecond, Stall: 10 * time.Millisecond})
		w.Check = false
		var groups []*sched.Group
		for i, tasks := range []int{1, 2, 2, 4, 1, 1, 16} {
			g := group(t, w, fmt.Sprint(i), nil)
			groups = append(groups, g)
			for range tasks {
				w.Add(g, "spin", spin)
			}
		}
		d := 20 * time.Second
		run(t, w, d)
		share := 2 * d.Seconds() / float64(len(groups))
		for i, g := range groups {
			got := g.State().Service.Seconds()
			t.Logf("seed %d: group %d: %+.2f %%", seed, i, 100*(got/share-1))
			if got < 0.98*share || got > 1.02*share {
				t.Errorf("seed %d: group %d had %.3f s, its share is %.3f s", seed, i, got, share)
			}
		}
	}
}

// TestInversion has a task of low rank hold what one of high rank waits for,
// while others between the two compute: it is not kept from the CPU.
func TestInversion(t *testing.T) {
	worst := func(lend bool) time.Duration {
		w := New(1, 1, Costs{})
		w.Check = true
		idle := group(t, w, "low", func(p *sched.Params) { p.Idle = true })
		middle := group(t, w, "middle", nil)
		high := group(t, w, "high", nil)
		low := w.Add(idle, "holder", func() Step { return Step{Run: 3 * time.Millisecond, Sleep: time.Millisecond} })
		for range 3 {
			w.Add(middle, "spin", spin)
		}
		n := 0
		a := w.Add(high, "waiter", func() Step {
			n++
			st := Step{Run: 100 * time.Microsecond, Sleep: 5 * time.Millisecond}
			if n%2 == 1 {
				st.On = low
				st.NoLend = !lend
			}
			return st
		})
		run(t, w, 4*time.Second)
		return time.Duration(a.Slept())
	}
	without, with := worst(false), worst(true)
	if with > 40*time.Millisecond || without < time.Second {
		t.Errorf("the waiter waited %v with inheritance, %v without", with, without)
	}
}

// TestAffinity has tasks that may run on some CPUs only share those.
func TestAffinity(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 4))
		n := 2 + r.IntN(4)
		w := New(n, seed, real)
		w.Check = seed < 5
		var pinned, free []*Actor
		for i := range n {
			for j := range 2 {
				a := w.Add(group(t, w, fmt.Sprint("p", i, j), func(p *sched.Params) { p.CPUs.Add(i) }), "pinned", spin)
				pinned = append(pinned, a)
			}
			free = append(free, w.Add(group(t, w, fmt.Sprint("f", i), nil), "free", spin))
		}
		d := 10 * time.Second
		run(t, w, d)
		for _, a := range slices.Concat(pinned, free) {
			if want := d / 3; a.Service() < want*95/100 || a.Service() > want*105/100 {
				t.Errorf("seed %d, %d CPUs: %s got %v of %v", seed, n, a.Name, a.Service(), want)
			}
		}
	}
}
