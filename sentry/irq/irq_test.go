package irq

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// stepped is a controller whose goroutines run when they are told to, by a clock
// that moves when it is told to.
type stepped struct {
	*Controller
	clock     *ktime.Fake
	goes      []func()
	cpu       int
	storms    []Storm
	throttles []Throttle
}

func newStepped(cpus int) *stepped {
	s := &stepped{clock: ktime.NewFake(time.Unix(1_000_000, 0))}
	s.Controller = New(Config{
		CPUs: cpus, Clock: s.clock, CPU: func() int { return s.cpu },
		OnStorm:    func(e Storm) { s.storms = append(s.storms, e) },
		OnThrottle: func(e Throttle) { s.throttles = append(s.throttles, e) },
	})
	s.spawn = func(f func()) { s.goes = append(s.goes, f) }
	return s
}

// step runs what was spawned.
func (s *stepped) step() {
	for len(s.goes) > 0 {
		f := s.goes[0]
		s.goes = s.goes[1:]
		f()
	}
}

// backlog is something whose bottom half takes numbers out of a queue.
type backlog struct {
	mu     sync.Mutex
	queued []int
	done   []int
	work   *Work
}

func newBacklog(s *Source, l Line) *backlog {
	b := &backlog{}
	b.work = s.NewWork(l, b.poll)
	return b
}

func (b *backlog) add(n int) {
	b.mu.Lock()
	b.queued = append(b.queued, n)
	b.mu.Unlock()
	b.work.Schedule()
}

func (b *backlog) poll(budget int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(budget, len(b.queued))
	b.done = append(b.done, b.queued[:n]...)
	b.queued = b.queued[n:]
	return len(b.queued) > 0
}

func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for n, i := range Lines() {
		if int(i.Line) != n || i.Name == "" || i.Doc == "" || i.Label == "" || seen[i.Name] || seen[i.Label] || i.Priority > MaxPriority {
			t.Errorf("row %d: %+v", n, i)
		}
		seen[i.Name], seen[i.Label] = true, true
		for _, text := range []string{i.Name, fmt.Sprint(n), i.Label} {
			if l, err := ParseLine(text); err != nil || l != i.Line {
				t.Errorf("%q is %v, %v", text, l, err)
			}
		}
	}
	if _, err := ParseLine("nosuch"); err == nil || !strings.Contains(errdefs.FixOf(err), "net-rx") {
		t.Errorf("%v, %s", err, errdefs.FixOf(err))
	}
}

func TestCPUsAsText(t *testing.T) {
	for text, want := range map[string][]int{"all": nil, "": nil, "0": {0}, "0-2": {0, 1, 2}, "3,0-1,1": {0, 1, 3}, "1,3,5-6": {1, 3, 5, 6}} {
		if got, err := ParseCPUs(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"x", "1-", "-1", "2-1", "1,,2", "70000", "4096", "1-2-3"} {
		if got, err := ParseCPUs(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func FuzzCPUs(f *testing.F) {
	f.Add("0-1,3")
	f.Fuzz(func(t *testing.T, text string) {
		cpus, err := ParseCPUs(text)
		if err != nil {
			return
		}
		if again, err := ParseCPUs(FormatCPUs(cpus)); err != nil || !slices.Equal(again, cpus) {
			t.Errorf("%q is %v, which is written %q: %v, %v", text, cpus, FormatCPUs(cpus), again, err)
		}
	})
}

func TestRaiseCounts(t *testing.T) {
	s := newStepped(2)
	a, b := s.NewSource("a"), s.NewSource("b")
	a.Raise(Call)
	s.cpu = 1
	a.Raise(Call)
	s.cpu = 3 // A CPU of the host that the domain does not have.
	b.Raise(Call)
	if got := s.States()[Call].OnCPU; !slices.Equal(got, []uint64{1, 2}) {
		t.Errorf("the line: %v", got)
	}
	if x, y := a.Counts(Call), b.Counts(Call); !slices.Equal(x, []uint64{1, 1}) || !slices.Equal(y, []uint64{0, 1}) {
		t.Errorf("the sources: %v %v", x, y)
	}
	a.Close()
	if got := s.States()[Call].OnCPU; !slices.Equal(got, []uint64{1, 2}) {
		t.Errorf("without a: %v", got)
	}
	var none *Source
	if !none.Raise(Timer) {
		t.Error("no source puts something off")
	}
	none.Drop(NetRx)
	none.Observe(Timer, 1)
	none.Close()
}

// TestMaskKeepsWhatIsPending: nothing runs while the line is masked, everything
// once it is not, and never more than once.
func TestMaskKeepsWhatIsPending(t *testing.T) {
	s := newStepped(1)
	a := s.NewSource("a")
	b := newBacklog(a, NetRx)
	runs := 0
	thread := a.NewThread(Console, func() { runs++ })
	b.add(0) // It is queued when the line is masked.
	for _, l := range []Line{NetRx, Console} {
		if err := s.Mask(l); err != nil {
			t.Fatal(err)
		}
	}
	if a.Raise(NetRx) || a.Raise(Console) || !a.Raise(Call) {
		t.Error("a bottom half may go on that may not, or the other way round")
	}
	b.add(1)
	b.add(2)
	thread.Schedule()
	thread.Schedule()
	s.step()
	if len(b.done) != 0 || runs != 0 || s.States()[NetRx].Pending != 1 || s.States()[Console].Pending != 1 {
		t.Errorf("masked: %v done, %d runs, %+v", b.done, runs, s.States()[NetRx])
	}
	s.clock.Advance(time.Second)
	s.Unmask(NetRx)
	s.Unmask(Console)
	s.step()
	if !slices.Equal(b.done, []int{0, 1, 2}) || runs != 1 || !a.Raise(NetRx) {
		t.Errorf("unmasked: %v done, %d runs", b.done, runs)
	}
	if l := s.States()[Console].Latency; l.Count != 1 || l.Max != time.Second {
		t.Errorf("put off for %+v", l)
	}
	// Cancelled while it waits, and scheduled anew.
	s.Mask(Console)
	thread.Schedule()
	if !thread.Cancel() || thread.Cancel() {
		t.Error("it cannot be cancelled once")
	}
	thread.Schedule()
	s.Unmask(Console)
	s.step()
	if runs != 2 {
		t.Errorf("%d runs", runs)
	}
	for _, l := range []Line{Timer, Control, Resched, Call, NMI} {
		if err := s.Mask(l); errdefs.CodeOf(err) != errdefs.InvalidArgument || !strings.Contains(errdefs.FixOf(err), "console, net-rx, signal") {
			t.Errorf("%v can be masked, or nobody says what can: %v", l, err)
		}
	}
}

func TestSourceThatEndsWhileMasked(t *testing.T) {
	s := newStepped(1)
	a, other := s.NewSource("a"), s.NewSource("other")
	x, y := newBacklog(a, NetRx), newBacklog(other, NetRx)
	s.Mask(NetRx)
	x.add(1)
	y.add(1)
	a.Close()
	if n := s.States()[NetRx].Pending; n != 1 {
		t.Errorf("%d pending", n)
	}
	s.Unmask(NetRx)
	s.step()
	x.add(2)
	s.step()
	if len(x.done) != 0 || len(y.done) != 1 {
		t.Errorf("done: %v %v", x.done, y.done)
	}
}

func TestRoutes(t *testing.T) {
	s := newStepped(4)
	a := s.NewSource("a")
	b := newBacklog(a, NetRx)
	if !a.Raise(NetRx) {
		t.Error("it is put off and has no route")
	}
	for _, cpus := range [][]int{{2}, {3}, {0, 1}} {
		if err := s.Route(NetRx, cpus); err != nil {
			t.Fatal(err)
		}
		if a.Raise(NetRx) || s.NewSource("late").Raise(NetRx) {
			t.Error("it is not put off to its CPU")
		}
		b.add(1)
		for i, k := range s.workers {
			if (k.length > 0) != (i == cpus[int(a.id)%len(cpus)]) {
				t.Errorf("routed to %v: %d waits on CPU %d", cpus, k.length, i)
			}
		}
		s.step()
	}
	if err := s.Route(NetRx, nil); err != nil || !a.Raise(NetRx) {
		t.Errorf("the route is not undone: %v", err)
	}
	if err := s.Route(NetRx, []int{4}); !strings.Contains(errdefs.FixOf(err), "0-3") {
		t.Errorf("a CPU that is not there: %v", err)
	}
	if err := s.Route(Console, []int{1}); !strings.Contains(errdefs.FixOf(err), "net-rx, signal") {
		t.Errorf("a line that has no workers: %v", err)
	}
	// One whose bottom halves are always queued stays so.
	if s.Route(Signal, nil); a.Raise(Signal) {
		t.Error("a signal is not put off")
	}
}

func TestPriorities(t *testing.T) {
	s := newStepped(1)
	a := s.NewSource("a")
	var order []Line
	work := func(l Line) *Work {
		return a.NewWork(l, func(int) bool { order = append(order, l); return false })
	}
	net, sig := work(NetRx), work(Signal)
	run := func(want ...Line) {
		t.Helper()
		order = nil
		net.Schedule()
		sig.Schedule()
		if s.step(); !slices.Equal(order, want) {
			t.Errorf("order %v, want %v", order, want)
		}
	}
	run(Signal, NetRx)
	if err := s.SetPriority(NetRx, MaxPriority); err != nil {
		t.Fatal(err)
	}
	run(NetRx, Signal)
	s.SetPriority(NetRx, 6)
	run(NetRx, Signal) // The same: in their order.
	for _, bad := range []int{-1, MaxPriority + 1} {
		if s.SetPriority(NetRx, bad) == nil {
			t.Errorf("%d is a priority", bad)
		}
	}
	if s.SetPriority(Timer, 1) == nil {
		t.Error("timers have a priority")
	}
}

// TestBudget: what has much to do lets others have a turn.
func TestBudget(t *testing.T) {
	s := newStepped(1)
	much, little := newBacklog(s.NewSource("a"), NetRx), newBacklog(s.NewSource("b"), NetRx)
	for i := range 3 * pollBudget {
		much.add(i)
	}
	var before int
	little.work = little.work.src.NewWork(NetRx, func(int) bool { before = len(much.done); return false })
	little.work.Schedule()
	s.step()
	if before != pollBudget || len(much.done) != 3*pollBudget || !slices.IsSorted(much.done) {
		t.Errorf("%d were done before, %d in all", before, len(much.done))
	}
}

func TestFullQueueRunsAtOnce(t *testing.T) {
	s := newStepped(1)
	a := s.NewSource("a")
	ran := 0
	for range queueMax {
		a.NewWork(NetRx, func(int) bool { ran++; return false }).Schedule()
	}
	last := false
	a.NewWork(NetRx, func(int) bool { last = true; return false }).Schedule()
	if !last || ran != 0 || s.States()[NetRx].Overflows != 1 {
		t.Errorf("with a full queue: %v, %d of the others", last, ran)
	}
	if s.step(); ran != queueMax {
		t.Errorf("%d ran", ran)
	}
}

// TestStorm follows one: it begins, is throttled, and is over.
func TestStorm(t *testing.T) {
	s := newStepped(1)
	a, calm := s.NewSource("a"), s.NewSource("calm")
	if err := s.SetLimit(NetRx, 10_000); err != nil {
		t.Fatal(err)
	}
	b := newBacklog(a, NetRx)
	sent := 0
	send := func(perMilli, millis int) {
		for range millis {
			for range perMilli {
				if sent++; a.Raise(NetRx) {
					b.done = append(b.done, sent)
				} else {
					b.add(sent)
				}
			}
			calm.Raise(NetRx)
			s.clock.Advance(time.Millisecond)
			s.step()
		}
	}
	send(9, 500)
	if len(s.storms) != 0 {
		t.Fatalf("below the bound: %+v", s.storms)
	}
	send(50, 200)
	if len(s.storms) != 1 || s.storms[0].Source != a || s.storms[0].Line != NetRx || s.storms[0].PerSecond < 10_000 || s.storms[0].Limit != 10_000 {
		t.Fatalf("storms %+v", s.storms)
	}
	if len(s.throttles) != 1 || s.throttles[0].Lifted || a.Raise(NetRx) || !calm.Raise(NetRx) {
		t.Fatalf("throttles %+v", s.throttles)
	}
	sent++ // By the Raise above.
	before := len(b.done)
	send(50, 100)
	if n := len(b.done) - before; n < 900 || n > 1100 {
		t.Errorf("%d were done in 100 ms, the bound allows 1000", n)
	}
	if st := s.States()[NetRx]; st.Storms != 1 || !slices.Equal(st.Stormy, []string{"a"}) || st.Deferred == 0 {
		t.Errorf("%+v", st)
	}
	send(9, 300) // Below the bound, above half of it.
	send(9, 900)
	if len(s.throttles) != 1 {
		t.Error("it is over, and was not below half the bound")
	}
	send(1, 800)
	send(9, 100)
	send(1, 900)
	if len(s.throttles) != 1 {
		t.Error("it is over, and was not calm for a second")
	}
	send(1, 300)
	if len(s.throttles) != 2 || !s.throttles[1].Lifted || s.throttles[1].Deferred == 0 || s.throttles[1].Lasted < 3*time.Second {
		t.Fatalf("throttles %+v", s.throttles)
	}
	for len(b.queued) > 0 {
		send(0, 1)
	}
	if !a.Raise(NetRx) || len(s.States()[NetRx].Stormy) != 0 {
		t.Error("it is over, and still throttled")
	}
	// One that comes again soon must be calm for twice as long.
	send(50, 50)
	if len(s.storms) != 2 {
		t.Fatalf("storms %+v", s.storms)
	}
	send(1, 1900)
	if len(s.throttles) != 3 {
		t.Errorf("throttles %+v", s.throttles)
	}
	if send(1, 400); len(s.throttles) != 4 {
		t.Errorf("throttles %+v", s.throttles)
	}
	// Without a bound there is none; and one that rages is over.
	send(50, 50)
	s.SetLimit(NetRx, 0)
	if send(50, 200); len(s.throttles) != 6 {
		t.Errorf("throttles %+v", s.throttles)
	}
	if s.SetLimit(NMI, 1) == nil {
		t.Error("the watchdog has storms")
	}
}

// TestStormOfOneThatEnds: nobody looks for the end of a storm whose source is
// gone.
func TestStormOfOneThatEnds(t *testing.T) {
	s := newStepped(1)
	a := s.NewSource("a")
	s.SetLimit(Console, 100)
	for range 200 {
		a.Raise(Console)
		s.clock.Advance(time.Millisecond)
	}
	if len(s.storms) != 1 || a.Coalesce(Console) <= 0 || a.Coalesce(Console) > pollEvery || a.Coalesce(Timer) != 0 {
		t.Fatalf("storms %+v, %v", s.storms, a.Coalesce(Console))
	}
	a.Close()
	if len(s.throttles) != 2 || len(s.stormy) != 0 {
		t.Errorf("%+v", s.throttles)
	}
	s.clock.Advance(time.Second)
	if s.watch != nil {
		t.Error("somebody looks for storms that are over")
	}
}

func TestBusyWorkers(t *testing.T) {
	s := newStepped(2)
	a := s.NewSource("a")
	var busy []Busy
	a.NewWork(Signal, func(int) bool {
		s.clock.Advance(3 * time.Second)
		busy = append(s.BusyWorkers(4*time.Second), s.BusyWorkers(2*time.Second)...)
		return false
	}).Schedule()
	s.step()
	if len(busy) != 1 || busy[0].Line != Signal || busy[0].Source != a || busy[0].For != 3*time.Second {
		t.Errorf("%+v", busy)
	}
	if left := s.BusyWorkers(0); len(left) != 0 {
		t.Errorf("%+v", left)
	}
}

// TestModel does anything in any order: what was scheduled is done once, in its
// order, when nothing is masked any more.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newStepped(rapid.IntRange(1, 3).Draw(t, "CPUs"))
		s.SetLimit(NetRx, 3000)
		var all []*backlog
		for i := range 3 {
			src := s.NewSource(fmt.Sprint(i))
			all = append(all, newBacklog(src, NetRx), newBacklog(src, Signal))
		}
		added := make([]int, len(all))
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				i := rapid.IntRange(0, len(all)-1).Draw(t, "which")
				for range rapid.IntRange(1, 100).Draw(t, "times") {
					all[i].work.src.Raise(all[i].work.line)
					all[i].add(added[i])
					added[i]++
				}
			},
			"mask":   func(t *rapid.T) { s.Mask(rapid.SampledFrom([]Line{NetRx, Signal}).Draw(t, "line")) },
			"unmask": func(t *rapid.T) { s.Unmask(rapid.SampledFrom([]Line{NetRx, Signal}).Draw(t, "line")) },
			"route": func(t *rapid.T) {
				s.Route(NetRx, []int{rapid.IntRange(0, len(s.workers)-1).Draw(t, "CPU")})
			},
			"unroute":  func(*rapid.T) { s.Route(NetRx, nil) },
			"priority": func(t *rapid.T) { s.SetPriority(NetRx, rapid.IntRange(0, MaxPriority).Draw(t, "priority")) },
			"advance": func(t *rapid.T) {
				s.clock.Advance(time.Duration(rapid.IntRange(1, 300).Draw(t, "ms")) * time.Millisecond)
			},
			"": func(t *rapid.T) {
				if rapid.Bool().Draw(t, "run") && len(s.goes) > 0 {
					f := s.goes[0]
					s.goes = s.goes[1:]
					f()
				}
			},
		})
		s.Unmask(NetRx)
		s.Unmask(Signal)
		for range 1000 {
			s.step()
			s.clock.Advance(10 * time.Millisecond)
		}
		for i, b := range all {
			if len(b.done) != added[i] || !slices.IsSorted(b.done) {
				t.Fatalf("of %d, %d are done: %v", added[i], len(b.done), b.done)
			}
		}
		for _, st := range s.States() {
			if st.Pending != 0 {
				t.Fatalf("%+v", st)
			}
		}
	})
}

// TestRaces does the same with real goroutines and a real clock.
func TestRaces(t *testing.T) {
	c := New(Config{CPUs: 4, CPU: func() int { return rand.IntN(4) }})
	c.SetLimit(NetRx, 50_000)
	const makers, each = 4, 3000
	var threads atomic.Int64
	var all []*backlog
	var wg sync.WaitGroup
	for i := range makers {
		src := c.NewSource(fmt.Sprint(i))
		b := newBacklog(src, NetRx)
		th := src.NewThread(Console, func() { threads.Add(1) })
		all = append(all, b)
		wg.Go(func() {
			for n := range each {
				src.Raise(NetRx)
				b.add(n)
				src.Raise(Console)
				th.Schedule()
				if n%7 == 0 {
					th.Cancel()
				}
			}
		})
	}
	stop := make(chan struct{})
	var turns sync.WaitGroup
	turns.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			c.Mask(NetRx)
			c.Mask(Console)
			c.Route(NetRx, []int{i % 4})
			c.States()
			c.BusyWorkers(time.Hour)
			c.Unmask(Console)
			c.Unmask(NetRx)
			c.Route(NetRx, nil)
		}
	})
	wg.Wait()
	close(stop)
	turns.Wait()
	for i, b := range all {
		deadline := time.Now().Add(time.Minute)
		for {
			b.mu.Lock()
			n := len(b.done)
			b.mu.Unlock()
			if n == each {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d: %d are done", i, n)
			}
			time.Sleep(time.Millisecond)
		}
		if !slices.IsSorted(b.done) {
			t.Errorf("%d: out of order", i)
		}
	}
	var n uint64
	for _, x := range c.States()[NetRx].OnCPU {
		n += x
	}
	if n != makers*each {
		t.Errorf("%d were raised, %d are counted", makers*each, n)
	}
	for deadline := time.Now().Add(time.Minute); threads.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no thread ran")
		}
	}
}

func TestProcFile(t *testing.T) {
	s := newStepped(4)
	a := s.NewSource("a")
	for i := range 5 {
		s.cpu = i
		a.Raise(NetRx)
		a.Raise(Resched)
	}
	a.Drop(NetRx)
	var b strings.Builder
	a.WriteProc(&b, 2)
	want := `           CPU0       CPU1
  0:          0          0   AIOS     0-edge      timer
  1:          0          0   AIOS     1-edge      control
  2:          0          0   AIOS     2-edge      console
  3:          3          2   AIOS     3-edge      net-rx
  4:          0          0   AIOS     4-edge      signal
RES:          3          2   Rescheduling interrupts
CAL:          0          0   Function call interrupts
NMI:          0          0   Non-maskable interrupts
ERR:          1
`
	if b.String() != want {
		t.Errorf("%s", b.String())
	}
}

func TestTopHalfAllocatesNothing(t *testing.T) {
	c := New(Config{CPUs: 2})
	c.spawn = func(func()) {}
	a := c.NewSource("a")
	w := a.NewWork(NetRx, func(int) bool { return false })
	c.Route(NetRx, []int{0})
	for name, f := range map[string]func(){
		"raise":    func() { a.Raise(Call) },
		"put off":  func() { a.Raise(NetRx) },
		"schedule": func() { w.Schedule(); c.workers[0].pop(); w.state.Store(idle) },
		"observe":  func() { a.Observe(Call, 100) },
		"drop":     func() { a.Drop(NetRx) },
		"run":      func() { w.Schedule(); c.workers[0].run() },
	} {
		if n := testing.AllocsPerRun(1000, f); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

func BenchmarkRaise(b *testing.B) {
	c := New(Config{CPUs: 2})
	a := c.NewSource("a")
	b.Run("direct", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			a.Raise(NetRx)
		}
	})
	b.Run("put off and done", func(b *testing.B) {
		b.ReportAllocs()
		w := a.NewWork(NetRx, func(int) bool { return false })
		k := c.workers[0]
		k.alive = true // Whoever measures is the worker.
		for b.Loop() {
			a.Raise(NetRx)
			w.Schedule()
			k.run()
			k.alive = true
		}
	})
	b.Run("observe", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			a.Observe(NetRx, 1234)
		}
	})
}
