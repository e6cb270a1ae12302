package ktime

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestExactModel(t *testing.T) {
	type entry struct {
		timer ExactTimer
		rank  int
		at    time.Duration
		order int // in which it was started; 0: it is not
	}
	rapid.Check(t, func(t *rapid.T) {
		clock := NewFake(time.Unix(1e9, 0))
		e := NewExact(clock)
		all := make([]entry, 12)
		started := 0
		var got []int
		var restart []time.Duration
		for i := range all {
			a := &all[i]
			a.rank = rapid.IntRange(0, 2).Draw(t, "rank")
			a.timer.Init(e, a.rank, func() {
				if a.order == 0 {
					t.Fatalf("timer %d ended though it was stopped", i)
				}
				if late := e.Now() - a.at; late < 0 || late > 0 && a.at > 0 && late != 1 {
					t.Fatalf("timer %d ended %v late", i, late)
				}
				got = append(got, a.order)
				a.order = 0
				if len(restart) > 0 {
					started++
					a.at, a.order = e.Now()+max(1, restart[0]), started
					restart = restart[1:]
					a.timer.ResetAt(a.at)
				}
			})
		}
		pick := func(t *rapid.T) *entry { return &all[rapid.IntRange(0, len(all)-1).Draw(t, "timer")] }
		few := func(t *rapid.T) time.Duration { return time.Duration(rapid.IntRange(1, 5).Draw(t, "d")) }
		t.Repeat(map[string]func(*rapid.T){
			"start": func(t *rapid.T) {
				a := pick(t)
				started++
				d := few(t)
				a.at, a.order = e.Now()+d, started
				a.timer.ResetAt(a.at)
			},
			"stop": func(t *rapid.T) {
				a := pick(t)
				if got := a.timer.Stop(); got != (a.order != 0) {
					t.Fatalf("Stop reports %v for a timer that was started: %v", got, a.order != 0)
				}
				a.order = 0
			},
			"again": func(t *rapid.T) { restart = append(restart, few(t)) },
			"advance": func(t *rapid.T) {
				end := e.Now() + few(t)
				var want []entry
				for i := range all {
					if all[i].order != 0 && all[i].at <= end {
						want = append(want, entry{rank: all[i].rank, at: all[i].at, order: all[i].order})
					}
				}
				slices.SortFunc(want, func(a, b entry) int {
					switch {
					case a.at != b.at:
						return int(a.at - b.at)
					case a.rank != b.rank:
						return a.rank - b.rank
					}
					return a.order - b.order
				})
				first := started
				got = got[:0]
				clock.Advance(end - e.Now())
				got = slices.DeleteFunc(got, func(order int) bool { return order > first }) // Started in between.
				if len(got) != len(want) {
					t.Fatalf("%d timers ended, not %d", len(got), len(want))
				}
				for i := range want {
					if got[i] != want[i].order {
						t.Fatalf("they ended as %v, not as %v", got, want)
					}
				}
			},
		})
	})
}

// TestExactFunctionsInTheWay: a function that takes long keeps nothing from
// ending that ends later.
func TestExactFunctionsInTheWay(t *testing.T) {
	e := NewExact(Real)
	begun, done := make(chan struct{}), make(chan struct{})
	var first, second, closed ExactTimer
	first.Init(e, 0, func() {
		close(begun)
		<-done
	})
	second.Init(e, 0, func() { close(done) })
	first.ResetAt(0)
	<-begun
	second.ResetAt(e.Now() + time.Millisecond)
	<-done
	closed.Init(e, 0, func() { t.Error("it ended after Close") })
	fake := NewFake(time.Unix(1, 0))
	e = NewExact(fake)
	closed.Init(e, 0, closed.f)
	closed.ResetAt(time.Second)
	e.Close()
	fake.Advance(time.Minute)
}

func BenchmarkExact(b *testing.B) {
	for _, n := range crowds {
		ds := spread(n)
		timers := make([]ExactTimer, n)
		clock := NewFake(time.Unix(1e9, 0))
		e := NewExact(clock)
		for i := range timers {
			timers[i].Init(e, 0, func() {})
			timers[i].ResetAt(e.Now() + ds[i])
		}
		var t ExactTimer
		t.Init(e, 0, func() {})
		b.Run(fmt.Sprintf("start+stop/others=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				t.ResetAt(e.Now() + ds[i])
				t.Stop()
				if i++; i == n {
					i = 0
				}
			}
		})
		b.Run(fmt.Sprintf("expire/of=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				for i := range timers {
					timers[i].ResetAt(e.Now() + ds[i])
				}
				clock.Advance(2 * time.Hour)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/timer")
		})
	}
}
