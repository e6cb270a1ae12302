package ktime

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// counted counts the timers that are asked of a clock.
type counted struct {
	Clock
	asked atomic.Int64
}

func (c *counted) AfterFunc(d time.Duration, f func()) Timer {
	c.asked.Add(1)
	return c.Clock.AfterFunc(d, f)
}

// modelTimer is a timer as anybody would write it down.
type modelTimer struct {
	wheel   WheelTimer
	started bool
	from    time.Time
	d       time.Duration
}

// latest is the latest moment at which it may end.
func (m *modelTimer) latest(tick time.Duration) time.Time {
	return m.from.Add(m.d + 2*tick + m.d/63*8)
}

// anyDuration draws durations of every magnitude, so that each level of a wheel
// gets its share, and some that go round.
func anyDuration(t *rapid.T) time.Duration {
	top := rapid.Int64Range(0, 55).Draw(t, "magnitude")
	return time.Duration(rapid.Int64Range(-1, 1<<top).Draw(t, "d"))
}

func TestWheelModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tick := time.Duration(1) << rapid.IntRange(0, 30).Draw(t, "tick")
		clock := NewFake(time.Unix(1e9, 0))
		w := NewWheel(clock, tick)
		timers := make([]modelTimer, 20)
		depth := 0
		var restart []time.Duration // what functions of timers do
		for i := range timers {
			m := &timers[i]
			m.wheel.Init(w, func() {
				now := clock.Now()
				if depth++; depth != 1 {
					t.Fatalf("two functions are called at once")
				}
				defer func() { depth-- }()
				switch {
				case !m.started:
					t.Fatalf("timer %d ended though it was stopped", i)
				case now.Before(m.from.Add(m.d)):
					t.Fatalf("timer %d of %v ended %v early", i, m.d, m.from.Add(m.d).Sub(now))
				case now.After(m.latest(tick)):
					t.Fatalf("timer %d of %v ended %v late", i, m.d, now.Sub(m.from.Add(m.d)))
				}
				m.started = false
				if len(restart) > 0 {
					m.started, m.from, m.d = true, now, restart[0]
					restart = restart[1:]
					m.wheel.Reset(m.d)
				}
			})
		}
		pick := func(t *rapid.T) *modelTimer { return &timers[rapid.IntRange(0, len(timers)-1).Draw(t, "timer")] }
		t.Repeat(map[string]func(*rapid.T){
			"start": func(t *rapid.T) {
				m := pick(t)
				m.started, m.from, m.d = true, clock.Now(), anyDuration(t)
				m.wheel.Reset(m.d)
			},
			"stop": func(t *rapid.T) {
				m := pick(t)
				if got := m.wheel.Stop(); got != m.started {
					t.Fatalf("Stop reports %v for a timer that was started: %v", got, m.started)
				}
				m.started = false
			},
			"again": func(t *rapid.T) { restart = append(restart, anyDuration(t)) },
			"advance": func(t *rapid.T) {
				clock.Advance(max(0, anyDuration(t)))
			},
			"": func(t *rapid.T) {
				for i := range timers {
					if m := &timers[i]; m.started && clock.Now().After(m.latest(tick)) {
						t.Fatalf("timer %d of %v did not end", i, m.d)
					}
				}
			},
		})
	})
}

// TestWheelRests: a wheel asks its clock for what it needs, and no more.
func TestWheelRests(t *testing.T) {
	fake := NewFake(time.Unix(1e9, 0))
	clock := &counted{Clock: fake}
	w := NewWheel(clock, time.Millisecond)
	ended := 0
	var long, short WheelTimer
	long.Init(w, func() { ended++ })
	short.Init(w, func() { ended++ })
	long.Reset(time.Hour)
	for range 10000 {
		short.Reset(time.Minute)
		fake.Advance(time.Millisecond)
	}
	if !short.Stop() || short.Stop() {
		t.Error("Stop does not report whether it was started")
	}
	fake.Advance(2 * time.Hour)
	if ended != 1 {
		t.Errorf("%d timers ended, not 1", ended)
	}
	// One for each slot that the short one was in.
	if n := clock.asked.Load(); n > 64 {
		t.Errorf("the clock was asked for %d timers", n)
	}
	// A timer that is started after a long rest is as exact as any.
	from := fake.Now()
	short.Init(w, func() { long.f = nil; ended = int(fake.Since(from) / time.Millisecond) })
	short.Reset(10 * time.Millisecond)
	fake.Advance(time.Second)
	if ended < 10 || ended > 11 {
		t.Errorf("it took %d ms", ended)
	}
}

// TestWheelAllocatesNothing: however many there are.
func TestWheelAllocatesNothing(t *testing.T) {
	w := NewWheel(NewFake(time.Unix(1e9, 0)), time.Millisecond)
	timers := make([]WheelTimer, 100_000)
	for i := range timers {
		timers[i].Init(w, func() {})
		timers[i].Reset(time.Duration(i) * time.Millisecond)
	}
	i := 0
	if n := testing.AllocsPerRun(len(timers)/2, func() {
		timers[i].Stop()
		timers[i].Reset(time.Hour)
		i++
	}); n != 0 {
		t.Errorf("%v allocations for stopping and starting one", n)
	}
}

// soon has an exact timer be told how long it is.
type soon struct {
	e *Exact
	*ExactTimer
}

func (s soon) Reset(d time.Duration) { s.ResetAt(s.e.Now() + d) }

// TestTimersRace has many goroutines start and stop the same timers by the real
// clock. In the end each has ended as often as it was started and not stopped.
func TestTimersRace(t *testing.T) {
	const timers, hands, turns = 50, 8, 2000
	type timer interface {
		Reset(time.Duration)
		Stop() bool
	}
	for name, make := range map[string]func(f func()) timer{
		"wheel": func() func(f func()) timer {
			w := NewWheel(Real, time.Millisecond)
			return func(f func()) timer {
				t := new(WheelTimer)
				t.Init(w, f)
				return t
			}
		}(),
		"exact": func() func(f func()) timer {
			e := NewExact(Real)
			return func(f func()) timer {
				t := new(ExactTimer)
				t.Init(e, 0, f)
				return soon{e, t}
			}
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			var all [timers]timer
			var mus [timers]sync.Mutex
			var started, ended [timers]atomic.Int64
			for i := range all {
				all[i] = make(func() { ended[i].Add(1) })
			}
			var wg sync.WaitGroup
			for seed := range hands {
				r := rand.New(rand.NewPCG(1, uint64(seed)))
				wg.Go(func() {
					for range turns {
						i := r.IntN(timers)
						mus[i].Lock() // A timer has one owner; the set has many.
						if all[i].Stop() {
							started[i].Add(-1)
						}
						if r.IntN(3) > 0 {
							started[i].Add(1)
							all[i].Reset(time.Duration(r.IntN(int(3 * time.Millisecond))))
						}
						mus[i].Unlock()
					}
				})
			}
			wg.Wait()
			for i := range all {
				deadline := time.Now().Add(20 * time.Second)
				for ended[i].Load() != started[i].Load() {
					if time.Now().After(deadline) {
						t.Fatalf("timer %d ended %d times, not %d", i, ended[i].Load(), started[i].Load())
					}
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
}

// spread are durations such as time-outs have.
func spread(n int) []time.Duration {
	r := rand.New(rand.NewPCG(2, 3))
	out := make([]time.Duration, n)
	for i := range out {
		out[i] = time.Second + time.Duration(r.Int64N(int64(time.Hour)))
	}
	return out
}

// What a timer costs must not depend on how many others there are.
var crowds = []int{1_000, 1_000_000}

func BenchmarkWheel(b *testing.B) {
	for _, n := range crowds {
		ds := spread(n)
		timers := make([]WheelTimer, n)
		clock := NewFake(time.Unix(1e9, 0))
		w := NewWheel(clock, time.Millisecond)
		for i := range timers {
			timers[i].Init(w, func() {})
			timers[i].Reset(ds[i])
		}
		var t WheelTimer
		t.Init(w, func() {})
		b.Run(fmt.Sprintf("start+stop/others=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				t.Reset(ds[i])
				t.Stop()
				if i++; i == n {
					i = 0
				}
			}
		})
		b.Run(fmt.Sprintf("restart/of=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				timers[i].Reset(ds[n-1-i])
				if i++; i == n {
					i = 0
				}
			}
		})
		b.Run(fmt.Sprintf("expire/of=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				for i := range timers {
					timers[i].Reset(ds[i])
				}
				clock.Advance(2 * time.Hour)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/timer")
		})
	}
}

// BenchmarkRuntime is the same by timers of the Go runtime.
func BenchmarkRuntime(b *testing.B) {
	for _, n := range crowds {
		ds := spread(n)
		timers := make([]Timer, n)
		for i := range timers {
			timers[i] = Real.AfterFunc(ds[i]+time.Hour, func() {})
		}
		b.Run(fmt.Sprintf("start+stop/others=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				Real.AfterFunc(ds[i], func() {}).Stop()
				if i++; i == n {
					i = 0
				}
			}
		})
		for _, t := range timers {
			t.Stop()
		}
	}
}
