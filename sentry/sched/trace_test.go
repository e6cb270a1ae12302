package sched

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// sound looks whether a trace tells something that can be: who has a CPU got it
// while nobody had it, and leaves it; who waits got none; and no switch is missing.
func sound(t testing.TB, tr *Trace) {
	t.Helper()
	const (
		neither = iota
		waits
		runs
	)
	state, where, has := make(map[uint32]int), make(map[uint32]int16), make(map[int16]uint32)
	last, switches := tr.Begin, uint64(0)
	for i, e := range tr.Entries {
		if err := tr.Check(e, last); err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
		last = e.At
		if e.Before && e.At != tr.Begin {
			t.Fatalf("entry %d was before, and not at the beginning: %+v", i, e)
		}
		was := state[e.Who]
		ok := true
		switch e.Kind {
		case TraceWait:
			ok, state[e.Who] = was == neither, waits
		case TraceGone:
			ok, state[e.Who] = was == waits, neither
		case TraceRun:
			_, taken := has[e.CPU]
			ok, state[e.Who] = was != runs && !taken, runs
			has[e.CPU], where[e.Who] = e.Who, e.CPU
			if !e.Before {
				switches++
			}
		case TraceLeave:
			ok, state[e.Who] = was == runs && where[e.Who] == e.CPU && has[e.CPU] == e.Who, neither
			delete(has, e.CPU)
		}
		if !ok {
			t.Fatalf("entry %d, %+v, of a task in state %d, CPUs %v", i, e, was, has)
		}
	}
	if tr.Dropped == 0 && switches != tr.Switches {
		t.Errorf("it has %d switches of %d", switches, tr.Switches)
	}
	for _, task := range tr.Tasks {
		if task.Name == "" {
			t.Errorf("a task has no name: %+v", task)
		}
	}
}

func nameOf(id any) TaskName { return TaskName{PID: 1, TID: 2, Name: fmt.Sprint("task ", id)} }

// quiet is a Runner that nobody is behind.
type quiet struct{}

func (quiet) Granted() {}
func (quiet) Preempt() {}

// TestTrace has two tasks take turns on one CPU, and a quota be used up.
func TestTrace(t *testing.T) {
	clock := ktime.NewFake(time.Unix(1000, 0))
	s := New(Config{CPUs: 1, Clock: clock})
	if s.StopTrace() != nil {
		t.Error("nothing was traced")
	}
	ga, gb := s.NewGroup("A"), s.NewGroup("B")
	a, b, gone := ga.NewTask(quiet{}, "a"), gb.NewTask(quiet{}, "b"), gb.NewTask(quiet{}, "gone")
	p := Defaults()
	p.MilliCPU = 100
	if err := gb.SetParams(p); err != nil {
		t.Fatal(err)
	}
	if a.Ask(nil) != Go || b.Ask(nil) != Wait {
		t.Fatal("there is one CPU")
	}
	cfg := TraceConfig{Limit: 1000, Name: nameOf}
	if err := s.StartTrace(cfg); err != nil {
		t.Fatal(err)
	}
	if err := s.StartTrace(cfg); errdefs.CodeOf(err) != errdefs.WrongState || errdefs.FixOf(err) == "" {
		t.Errorf("a second one: %v", err)
	}
	clock.Advance(time.Millisecond)
	if gone.Ask(nil) != Wait || !gone.Withdraw() {
		t.Fatal("it waits")
	}
	gone.Close() // It is named now or never.
	a.Leave()
	clock.Advance(2 * time.Millisecond)
	b.Must()
	clock.Advance(time.Second / 100)
	b.Ask(nil)
	clock.Advance(time.Second)
	tr := s.StopTrace()
	sound(t, tr)
	var kinds []TraceKind
	for _, e := range tr.Entries {
		kinds = append(kinds, e.Kind)
	}
	for _, k := range []TraceKind{TraceWait, TraceRun, TraceLeave, TraceGone, TraceThrottled, TraceResumed} {
		if !slices.Contains(kinds, k) {
			t.Errorf("there is no entry of kind %d: %v", k, kinds)
		}
	}
	if e := tr.Entries[0]; !e.Before || tr.Tasks[e.Who].Name != "task a" && tr.Tasks[e.Who].Name != "task b" {
		t.Errorf("%+v", e)
	}
	run := slices.IndexFunc(tr.Entries, func(e TraceEntry) bool { return e.Kind == TraceRun && !e.Before })
	if e := tr.Entries[run]; tr.Tasks[e.Who].Name != "task b" || e.Took != 1e6 || tr.Groups[tr.Tasks[e.Who].Group] != "B" || e.At != tr.Begin+1e6 {
		t.Errorf("%+v %+v", e, tr)
	}
	if s.StopTrace() != nil {
		t.Error("it has ended")
	}
}

// TestTraceIsBounded and says what found no room.
func TestTraceIsBounded(t *testing.T) {
	s := New(Config{CPUs: 1, Clock: ktime.NewFake(time.Unix(1000, 0))})
	a := s.NewGroup("A").NewTask(quiet{}, "a")
	if err := s.StartTrace(TraceConfig{Limit: 10, Name: nameOf}); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		a.Ask(nil)
		a.Leave()
	}
	tr := s.StopTrace()
	if sound(t, tr); len(tr.Entries) != 10 || tr.Dropped != 90 || tr.Switches != 50 {
		t.Errorf("%d entries, %d dropped, %d switches", len(tr.Entries), tr.Dropped, tr.Switches)
	}
}

// TestTracesConcurrently traces, again and again, tasks that come and go.
func TestTracesConcurrently(t *testing.T) {
	s := New(Config{CPUs: 3, Clock: ktime.Real})
	var stop atomic.Bool
	var wg sync.WaitGroup
	for i := range 12 {
		g := s.NewGroup(fmt.Sprint("g", i%4))
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 7))
			th := &thread{wake: make(chan struct{}, 1), t: new(Task)}
			for n := 0; !stop.Load(); n++ { // The memory of a task is that of the next.
				g.Init(th.t, th, fmt.Sprint(i, "-", n))
				for range 1 + r.IntN(20) {
					if th.await() {
						th.t.Enters()
						for range r.IntN(3000) {
							if th.t.Must() {
								break
							}
						}
						th.t.Returns()
					}
					switch r.IntN(4) {
					case 0:
						th.t.Yield()
					case 1:
						th.t.Leave()
					}
				}
				th.t.Close()
			}
		})
		wg.Go(func() {
			for r := rand.New(rand.NewPCG(uint64(i), 8)); !stop.Load(); {
				p := Defaults()
				if p.Period = time.Millisecond; r.IntN(3) == 0 {
					p.MilliCPU = 200
				}
				g.SetParams(p)
				time.Sleep(time.Millisecond)
			}
		})
	}
	traced, entries, dropped := 0, 0, uint64(0)
	for began := time.Now(); time.Since(began) < time.Second; traced++ {
		limit := 1 << 20
		if traced%3 == 0 {
			limit = 30
		}
		if err := s.StartTrace(TraceConfig{Limit: limit, Name: nameOf}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
		var two sync.WaitGroup
		var got [2]*Trace
		for i := range got { // Who is second finds nothing.
			two.Go(func() { got[i] = s.StopTrace() })
		}
		two.Wait()
		tr := got[0]
		if (tr == nil) == (got[1] == nil) {
			t.Fatal("one trace has ended twice, or not at all")
		}
		if tr == nil {
			tr = got[1]
		}
		if sound(t, tr); t.Failed() {
			break
		}
		entries, dropped = entries+len(tr.Entries), dropped+tr.Dropped
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%d traces, %d entries, %d dropped", traced, entries, dropped)
	if entries == 0 || dropped == 0 {
		t.Error("nothing happened")
	}
}
