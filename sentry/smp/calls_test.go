package smp

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/ktime"
)

// noter is a Poker that notes whom it poked.
type noter struct{ poked []int }

func (n *noter) Poke(cpu int) { n.poked = append(n.poked, cpu) }

// TestCallsModel compares calls with a plain reckoning of them, step by step. CPUs
// enter and leave as the test has them.
func TestCallsModel(t *testing.T) {
	const cpus = 3
	rapid.Check(t, func(t *rapid.T) {
		clock, pokes := ktime.NewFake(time.Unix(1000, 0)), &noter{}
		c := NewCalls(cpus, clock, pokes)
		type waiting struct {
			id, kind int
			since    time.Duration
		}
		var (
			in     [cpus]bool
			queue  [cpus][]waiting
			kicked [cpus][kinds]time.Duration // since when, plus one
			poked  [cpus]bool
			want   [cpus][kinds]CallStats
			now    time.Duration
			ran    []string
			expect []string
			wake   []int
			ids    int
		)
		late := func(cpu, kind int, d time.Duration) {
			s := &want[cpu][kind].Latency
			s.Count++
			s.Max = max(s.Max, d)
		}
		poke := func(cpu, kind int) {
			want[cpu][kind].Calls++
			want[cpu][kind].Pokes++
			if !poked[cpu] {
				poked[cpu] = true
				wake = append(wake, cpu)
			}
		}
		step := func(name string, ok func(cpu int) bool, do func(cpu, kind int)) func(*rapid.T) {
			return func(t *rapid.T) {
				cpu, kind := rapid.IntRange(0, cpus-1).Draw(t, name), rapid.IntRange(0, int(kinds)-1).Draw(t, "kind")
				if ok(cpu) {
					do(cpu, kind)
				}
			}
		}
		always := func(int) bool { return true }
		t.Repeat(map[string]func(*rapid.T){
			"enter": step("enter", func(cpu int) bool { return !in[cpu] }, func(cpu, _ int) {
				c.Enter(cpu)
				in[cpu] = true
			}),
			"leave": step("leave", func(cpu int) bool { return in[cpu] }, func(cpu, _ int) {
				for kind, at := range kicked[cpu] {
					if at != 0 {
						late(cpu, kind, now-(at-1))
					}
				}
				for _, w := range queue[cpu] {
					late(cpu, w.kind, now-w.since)
					expect = append(expect, fmt.Sprint(w.id, " on ", cpu))
				}
				in[cpu], queue[cpu], kicked[cpu], poked[cpu] = false, nil, [kinds]time.Duration{}, false
				c.Leave(cpu)
			}),
			"start": step("start", always, func(cpu, kind int) {
				ids++
				id := ids
				if in[cpu] {
					queue[cpu] = append(queue[cpu], waiting{id, kind, now})
					poke(cpu, kind)
				} else {
					want[cpu][kind].Calls++
					want[cpu][kind].AtOnce++
					expect = append(expect, fmt.Sprint(id, " on ", cpu))
				}
				if !c.Start(cpu, Kind(kind), func(cpu int) { ran = append(ran, fmt.Sprint(id, " on ", cpu)) }) {
					t.Fatal("refused")
				}
			}),
			"kick": step("kick", always, func(cpu, kind int) {
				if in[cpu] && kicked[cpu][kind] == 0 {
					kicked[cpu][kind] = now + 1
					poke(cpu, kind)
				}
				if got := c.Kick(cpu, Kind(kind)); got != in[cpu] {
					t.Fatalf("kicked: %v", got)
				}
			}),
			"run": step("run", func(cpu int) bool { return !in[cpu] }, func(cpu, kind int) {
				ids++
				id := ids
				want[cpu][kind].Calls++
				want[cpu][kind].AtOnce++
				expect = append(expect, fmt.Sprint(id, " on ", cpu))
				c.Run(Of(cpu, cpus+7), Kind(kind), func(cpu int) { ran = append(ran, fmt.Sprint(id, " on ", cpu)) })
			}),
			"stop": func(t *rapid.T) {
				var on Set
				for cpu := range cpus {
					if !in[cpu] {
						on.Add(cpu)
						want[cpu][Stop].Calls++
						want[cpu][Stop].AtOnce++
					}
				}
				stopped := false
				if c.Stop(on, func() { stopped = true }); !stopped {
					t.Fatal("nothing was done")
				}
			},
			"time": func(t *rapid.T) {
				d := time.Duration(rapid.IntRange(1, 7).Draw(t, "ns"))
				clock.Advance(d)
				now += d
			},
			"": func(t *rapid.T) {
				if !slices.Equal(ran, expect) || !slices.Equal(pokes.poked, wake) {
					t.Fatalf("ran %q and poked %v, want %q and %v", ran, pokes.poked, expect, wake)
				}
				for cpu := range cpus {
					for kind := range kinds {
						got := c.Stats(cpu, kind)
						got.Latency.P50, got.Latency.P99 = 0, 0
						// Nothing is asked for at time 0.
						if w := want[cpu][kind]; got.Latency.Max > w.Latency.Max || got.Latency.Max < w.Latency.Max-1 {
							t.Fatalf("CPU %d, %v: %+v, want %+v", cpu, kind, got, w)
						} else if got.Latency.Max = w.Latency.Max; got != w {
							t.Fatalf("CPU %d, %v: %+v, want %+v", cpu, kind, got, w)
						}
					}
				}
			},
		})
	})
}

// machineRoom is CPUs on which tasks execute, each a goroutine, until they are
// poked.
type machineRoom struct {
	c     *Calls
	pokes []chan struct{}
	// inside is set while application code executes.
	inside []atomic.Bool
	// fns counts the functions that run for a CPU.
	fns []atomic.Int32
}

func (m *machineRoom) Poke(cpu int) {
	select {
	case m.pokes[cpu] <- struct{}{}:
	default: // It will return at once.
	}
}

// task enters and leaves until stop is closed. It returns by itself now and then,
// or, if it is a lazy one, only when it is poked.
func (m *machineRoom) task(t *testing.T, cpu int, lazy bool, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		m.c.Enter(cpu)
		m.inside[cpu].Store(true)
		if n := m.fns[cpu].Load(); n != 0 {
			t.Errorf("%d functions run on CPU %d", n, cpu)
		}
		for spin := rand.IntN(100); ; spin-- {
			select {
			case <-m.pokes[cpu]:
				spin = 0
			case <-stop:
				spin = 0
			default:
				if lazy {
					spin = 1
				}
				runtime.Gosched()
			}
			if spin <= 0 {
				break
			}
		}
		m.inside[cpu].Store(false)
		m.c.Leave(cpu)
	}
}

// fn is what is called.
func (m *machineRoom) fn(t *testing.T, count *atomic.Int64) func(cpu int) {
	return func(cpu int) {
		if m.inside[cpu].Load() {
			t.Errorf("CPU %d executes application code", cpu)
		}
		if n := m.fns[cpu].Add(1); n != 1 {
			t.Errorf("%d functions run on CPU %d", n, cpu)
		}
		runtime.Gosched()
		m.fns[cpu].Add(-1)
		count.Add(1)
	}
}

// TestCallsRace has many callers call CPUs on which tasks come and go.
func TestCallsRace(t *testing.T) {
	const cpus, callers = 4, 6
	rounds := 400
	if testing.Short() {
		rounds = 50
	}
	m := &machineRoom{inside: make([]atomic.Bool, cpus), fns: make([]atomic.Int32, cpus)}
	for range cpus {
		m.pokes = append(m.pokes, make(chan struct{}, 1))
	}
	m.c = NewCalls(cpus, ktime.Real, m)
	stop := make(chan struct{})
	var tasks, all sync.WaitGroup
	for cpu := range cpus - 1 { // On the last one nobody ever executes.
		tasks.Go(func() { m.task(t, cpu, cpu == 0, stop) })
	}
	var asked, ran, started, startedRan, stopped atomic.Int64
	for range callers {
		all.Go(func() {
			for range rounds {
				on := Of(rand.IntN(cpus), rand.IntN(cpus))
				switch rand.IntN(4) {
				case 0:
					before := ran.Load()
					m.c.Run(on, Flush, m.fn(t, &ran))
					if n := ran.Load(); n < before+int64(on.Len()) {
						t.Errorf("it returned before it had run: %d, was %d", n, before)
					}
					asked.Add(int64(on.Len()))
				case 1:
					if m.c.Start(on.Next(0), Flush, m.fn(t, &startedRan)) {
						started.Add(1)
					}
				case 2:
					m.c.Kick(on.Next(0), Resched)
				case 3:
					m.c.Stop(on, func() {
						on.All(func(cpu int) bool {
							if m.inside[cpu].Load() {
								t.Errorf("CPU %d does not stand still", cpu)
							}
							return true
						})
						runtime.Gosched()
						stopped.Add(1)
					})
				}
			}
		})
	}
	all.Wait()
	m.c.Run(First(cpus), Flush, func(int) {}) // Behind all that was started.
	close(stop)
	tasks.Wait()
	if asked.Load() != ran.Load() || started.Load() != startedRan.Load() || stopped.Load() == 0 {
		t.Errorf("asked %d, ran %d; started %d, ran %d; stopped %d", asked.Load(), ran.Load(), started.Load(), startedRan.Load(), stopped.Load())
	}
	var calls, rest uint64
	for cpu := range cpus {
		for kind := range kinds {
			st := m.c.Stats(cpu, kind)
			calls += st.Calls
			rest += st.AtOnce + st.Latency.Count
			if cpu == cpus-1 && st.Pokes != 0 {
				t.Errorf("a CPU without tasks was poked: %+v", st)
			}
		}
		if s := m.c.cpus[cpu].state.Load(); s != 0 {
			t.Errorf("state of CPU %d is %d in the end", cpu, s)
		}
	}
	if rest != calls {
		t.Errorf("of %d calls %d ended", calls, rest)
	}
}

// TestCallsWithin calls from what is called.
func TestCallsWithin(t *testing.T) {
	c := NewCalls(2, ktime.Real, &noter{})
	var order []string
	c.Run(Of(0), Flush, func(int) {
		c.Start(0, Flush, func(int) { order = append(order, "second") })
		c.Start(1, Flush, func(int) { order = append(order, "other") })
		order = append(order, "first")
	})
	if want := []string{"other", "first", "second"}; !slices.Equal(order, want) {
		t.Errorf("in order %q, want %q", order, want)
	}
}

// TestCallsKeepOut has a task enter while something runs for its CPU that a stop
// has come and gone over.
func TestCallsKeepOut(t *testing.T) {
	c := NewCalls(1, ktime.Real, &noter{})
	runs, end := make(chan struct{}), make(chan struct{})
	var ended atomic.Bool
	go c.Run(Of(0), Flush, func(int) {
		close(runs)
		<-end
		ended.Store(true)
	})
	<-runs
	c.Stop(Of(0), func() {})
	entered := make(chan bool)
	go func() {
		c.Enter(0)
		entered <- ended.Load()
	}()
	select {
	case <-entered:
		t.Error("application code executes while the CPU is called")
	case <-time.After(20 * time.Millisecond):
		if close(end); !<-entered {
			t.Error("it entered too early")
		}
	}
}

// TestCallsPanic has what is called panic: nobody waits for it for ever, and the
// CPU goes on.
func TestCallsPanic(t *testing.T) {
	c := NewCalls(1, ktime.Real, &noter{})
	c.Enter(0)
	c.Start(0, Flush, func(int) { panic("oops") })
	ran := false
	c.Start(0, Flush, func(int) { ran = true })
	func() {
		defer func() {
			if recover() != "oops" {
				t.Error("it did not panic")
			}
		}()
		c.Leave(0)
	}()
	if c.Enter(0); !ran {
		t.Error("what was behind it was lost")
	}
	c.Leave(0)
	func() {
		defer func() { recover() }()
		c.Stop(Of(0), func() { panic("oops") })
	}()
	c.Enter(0) // Nothing holds it.
	for name, f := range map[string]func(){"enter twice": func() { c.Enter(0) }, "leave twice": func() { c.Leave(0); c.Leave(0) }} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no complaint", name)
				}
			}()
			f()
		}()
		if c.cpus[0].state.Load()&inApp == 0 {
			c.Enter(0)
		}
	}
}

func TestCallsAreBounded(t *testing.T) {
	c := NewCalls(1, ktime.Real, &noter{})
	c.Enter(0)
	ran := 0
	for i := range maxStarted + 10 {
		if got := c.Start(0, Flush, func(int) { ran++ }); got != (i < maxStarted) {
			t.Fatalf("call %d was taken: %v", i, got)
		}
	}
	if c.Leave(0); ran != maxStarted {
		t.Errorf("%d ran", ran)
	}
	if !c.Start(0, Flush, func(int) { ran++ }) {
		t.Error("afterwards there is no room")
	}
}

// TestCallsAllocateNothing is of what every switch to application code does, and
// of kicks.
func TestCallsAllocateNothing(t *testing.T) {
	c := NewCalls(1, ktime.Real, quietPoker{})
	if n := testing.AllocsPerRun(1000, func() {
		c.Enter(0)
		c.Leave(0)
		c.Enter(0)
		c.Kick(0, Resched)
		c.Kick(0, Resched)
		c.Leave(0)
		c.Kick(0, Resched)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

type quietPoker struct{}

func (quietPoker) Poke(int) {}

func BenchmarkEnterLeave(b *testing.B) {
	c := NewCalls(1, ktime.Real, quietPoker{})
	b.ReportAllocs()
	for b.Loop() {
		c.Enter(0)
		c.Leave(0)
	}
}

func BenchmarkKick(b *testing.B) {
	c := NewCalls(1, ktime.Real, quietPoker{})
	b.ReportAllocs()
	for b.Loop() {
		c.Enter(0)
		c.Kick(0, Resched)
		c.Leave(0)
	}
}

func BenchmarkRunIdle(b *testing.B) {
	c := NewCalls(1, ktime.Real, quietPoker{})
	b.ReportAllocs()
	for b.Loop() {
		c.Run(Of(0), Flush, func(int) {})
	}
}
