package sched

import (
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"aios.dev/aios/ktime"
	"aios.dev/aios/sentry/smp"
)

// thread is a task with a goroutine of its own, as the platform has them.
type thread struct {
	t     *Task
	wake  chan struct{}
	poked atomic.Bool
	waits atomic.Bool
}

func (th *thread) Granted() { th.wake <- struct{}{} }
func (th *thread) Preempt() {}

// poke interrupts it, as the kernel does.
func (th *thread) poke() {
	th.poked.Store(true)
	if th.waits.Load() && th.t.Withdraw() {
		th.wake <- struct{}{}
	}
}

// await returns whether it has a CPU.
func (th *thread) await() bool {
	th.waits.Store(true)
	a := th.t.Ask(&th.poked)
	if a == Wait {
		<-th.wake
	}
	th.waits.Store(false)
	th.poked.Store(false)
	return th.t.Has()
}

// TestConcurrently has tasks come and go, and everything change meanwhile, on
// goroutines; no CPU is given to two, and in the end nobody is left waiting.
// An hour of it is part of `make soak`; AIOS_SOAK=10m goes on for ten minutes.
func TestConcurrently(t *testing.T) {
	const cpus, groups, threads = 3, 4, 6
	span := time.Second
	if text := os.Getenv("AIOS_SOAK"); text != "" && text != "0" {
		var err error
		if span, err = time.ParseDuration(text); err != nil {
			span = time.Hour
		}
	}
	s := New(Config{CPUs: cpus, Clock: ktime.Real})
	var (
		gs    []*Group
		all   []*thread
		stop  atomic.Bool
		wg    sync.WaitGroup
		runs  atomic.Int64
		inUse atomic.Int64
	)
	for i := range groups {
		g := s.NewGroup(fmt.Sprint(i))
		gs = append(gs, g)
		for j := range threads {
			th := &thread{wake: make(chan struct{}, 1)}
			th.t = g.NewTask(th, fmt.Sprint(i, j))
			all = append(all, th)
		}
	}
	for i, th := range all {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for !stop.Load() {
				if th.await() {
					if n := inUse.Add(1); n > cpus {
						t.Errorf("%d tasks have one of %d CPUs", n, cpus)
					}
					th.t.Enters()
					for range r.IntN(2000) {
						if th.t.Must() {
							break
						}
					}
					th.t.Returns()
					inUse.Add(-1)
					runs.Add(1)
				}
				switch r.IntN(6) {
				case 0:
					th.t.Yield()
				case 1:
					th.t.Lend(all[r.IntN(len(all))].t, uintptr(r.IntN(3)))
					th.t.Leave()
					th.t.Reclaim()
				case 2, 3:
					th.t.Leave()
				case 4:
					th.t.PassOn(uintptr(r.IntN(3)), all[r.IntN(len(all))].t)
				}
			}
			th.t.Close()
		})
	}
	r := rand.New(rand.NewPCG(1, 2))
	set := func() (out smp.Set) {
		for c := range cpus {
			if r.IntN(3) > 0 {
				out.Add(c)
			}
		}
		return out
	}
	for began := time.Now(); time.Since(began) < span; {
		g, th := gs[r.IntN(groups)], all[r.IntN(len(all))]
		switch r.IntN(8) {
		case 0:
			p := Defaults()
			p.Weight, p.Idle = 1+uint64(r.IntN(300)), r.IntN(4) == 0
			if r.IntN(3) == 0 {
				p.MilliCPU, p.Period = uint64(100+r.IntN(2000)), 2*time.Millisecond
			}
			if r.IntN(3) == 0 {
				p.Reserved = Reservation{Runtime: 1e6, Deadline: 5e6, Period: 5e6}
			}
			p.CPUs = set()
			g.SetParams(p)
		case 1:
			a := Attr{Policy: Policy(r.IntN(4)), Nice: r.IntN(40) - 20}
			if a.Policy == Deadline {
				a.Reserved = Reservation{Runtime: 2e5, Deadline: 5e6, Period: 5e6}
			}
			th.t.SetAttr(a)
		case 2:
			th.t.SetCPUs(set())
		case 3:
			s.SetOnline(set())
		case 4:
			g.SetHint(Hint(r.IntN(hints)))
		case 5:
			g.State()
			s.State()
		default:
			th.poke()
		}
		if err := s.Check(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(r.IntN(200)) * time.Microsecond)
	}
	// Those that wait for a quota get on.
	for _, g := range gs {
		p := Defaults()
		p.Reserved = g.Params().Reserved
		if err := g.SetParams(p); err != nil {
			t.Error(err)
		}
	}
	stop.Store(true)
	for _, th := range all { // Those whose reservation is used up wait for its period.
		th.poke()
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("somebody waits for ever: %+v", s.State())
	}
	if err := s.Check(); err != nil {
		t.Error(err)
	}
	st := s.State()
	for _, c := range st.CPUs {
		if c.Task != nil {
			t.Errorf("CPU %d is held by nobody", c.ID)
		}
	}
	if st.Waiting != 0 || runs.Load() < 1000 {
		t.Errorf("%d wait, %d runs: %+v", st.Waiting, runs.Load(), st)
	}
}
