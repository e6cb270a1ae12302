package sched

import (
	"fmt"
	"testing"

	"aios.dev/aios/ktime"
)

// ready is a task of a benchmark, which is always where it should be.
type ready struct{}

func (ready) Granted() {}
func (ready) Preempt() {}

// BenchmarkPick has the task on a CPU make way for the next of many: it is
// charged, put back into the queue, and the next is chosen.
func BenchmarkPick(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := New(Config{CPUs: 1, Clock: ktime.Real})
			for i := range n {
				g := s.NewGroup(fmt.Sprint(i))
				p := Defaults()
				p.Weight = uint64(50 + i%450)
				if err := g.SetParams(p); err != nil {
					b.Fatal(err)
				}
				t := g.NewTask(ready{}, i)
				t.Ask(nil)
			}
			// Not the timer's work: there is always something that it is set for.
			s.mu.Lock()
			if s.timer != nil {
				s.timer.Stop()
			}
			s.timerAt, s.timer = 0, stopped{}
			s.mu.Unlock()
			b.ReportAllocs()
			for b.Loop() {
				t := s.cpus[0].task
				t.yield.Store(true)
				t.Ask(nil)
			}
		})
	}
}

// stopped is a timer that does not run.
type stopped struct{}

func (stopped) Stop() bool { return true }

// BenchmarkUncontended has a task leave its CPU and get it back, and nobody else
// want it.
func BenchmarkUncontended(b *testing.B) {
	s := New(Config{CPUs: 2, Clock: ktime.Real})
	t := s.NewGroup("g").NewTask(ready{}, 0)
	b.ReportAllocs()
	for b.Loop() {
		t.Ask(nil)
		t.Leave()
	}
}

// TestUncontendedAllocatesNothing holds the part of the figures that does not
// hang on the machine.
func TestUncontendedAllocatesNothing(t *testing.T) {
	s := New(Config{CPUs: 2, Clock: ktime.Real})
	task := s.NewGroup("g").NewTask(ready{}, 0)
	if n := testing.AllocsPerRun(1000, func() {
		task.Ask(nil)
		task.Enters()
		task.Returns()
		task.Leave()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
