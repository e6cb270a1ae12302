package platform

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"
	"pgregory.net/rapid"

	"aios.dev/aios/ktime"
	"aios.dev/aios/sentry/sched"
)

// spinner is a platform whose programs compute until they are interrupted, or
// until their own time is up, and count how many of them do so at once.
type spinner struct {
	gvplatform.Platform
	now, most atomic.Int32
}

func (s *spinner) NewContext(context.Context) gvplatform.Context {
	return &spinning{s: s, kick: make(chan struct{}, 1), done: make(chan struct{})}
}

type spinning struct {
	gvplatform.Context
	s     *spinner
	kick  chan struct{} // an interrupt
	done  chan struct{} // the program's own end
	turns atomic.Int32
}

func (c *spinning) Switch(context.Context, gvplatform.MemoryManager, *arch.Context64, int32) (*linux.SignalInfo, hostarch.AccessType, error) {
	n := c.s.now.Add(1)
	for {
		m := c.s.most.Load()
		if n <= m || c.s.most.CompareAndSwap(m, n) {
			break
		}
	}
	defer c.s.now.Add(-1)
	c.turns.Add(1)
	select {
	case <-c.kick:
		return nil, hostarch.NoAccess, gvplatform.ErrContextInterrupt
	case <-c.done:
		return nil, hostarch.NoAccess, nil
	}
}

func (c *spinning) Interrupt() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

func (c *spinning) PrepareSleep() {}
func (c *spinning) Release()      {}

// scheduler returns one of n CPUs.
func scheduler(n int) *sched.Scheduler {
	return sched.New(sched.Config{CPUs: n, Clock: ktime.Real})
}

// alone returns a crowd that has n CPUs for itself.
func alone(n int) *Crowd { return NewCrowd(scheduler(n).NewGroup("alone")) }

// setQuota changes a crowd's quota, and nothing else.
func setQuota(g *Crowd, milli uint64) {
	p := g.Group().Params()
	p.MilliCPU = milli
	if err := g.Group().SetParams(p); err != nil {
		panic(err)
	}
}

// crowded returns n contexts of one crowd.
func crowded(s *spinner, g *Crowd, n int) []*taskContext {
	p := Wrap(s, Hooks{FirstSwitch: func(context.Context) *Crowd { return g }})
	out := make([]*taskContext, n)
	for i := range out {
		out[i] = p.NewContext(nil).(*taskContext)
	}
	return out
}

// run is what the kernel does with a task that only computes: Switch again
// until the program is done. Every third turn it sleeps.
func run(c *taskContext) {
	for i := 0; ; i++ {
		if _, _, err := c.Switch(context.Background(), nil, noRegisters, -1); err == nil {
			c.Release()
			return
		}
		if i%3 == 2 {
			c.PrepareSleep()
		}
	}
}

// spin starts n tasks of g that compute for ever. stop ends them.
func spin(g *Crowd, n int) (cs []*taskContext, stop func()) {
	var wg sync.WaitGroup
	cs = crowded(&spinner{}, g, n)
	for _, c := range cs {
		wg.Go(func() { run(c) })
	}
	return cs, func() {
		for _, c := range cs {
			close(c.Context.(*spinning).done)
		}
		setQuota(g, sched.Unlimited)
		wg.Wait()
	}
}

// settled checks that nobody has a CPU, or waits for one.
func settled(t interface{ Errorf(string, ...any) }, s *sched.Scheduler) {
	if err := s.Check(); err != nil {
		t.Errorf("%v", err)
	}
	st := s.State()
	for _, c := range st.CPUs {
		if c.Task != nil {
			t.Errorf("CPU %d is held by nobody", c.ID)
		}
	}
	if st.Waiting != 0 {
		t.Errorf("%d tasks that are gone wait", st.Waiting)
	}
}

func TestTasksTakeTurns(t *testing.T) {
	const cpus, tasks = 3, 20
	s, sc := &spinner{}, scheduler(cpus)
	cs := crowded(s, NewCrowd(sc.NewGroup("g")), tasks)
	var wg sync.WaitGroup
	for _, c := range cs {
		wg.Go(func() { run(c) })
	}
	// Each gets several turns although none ever ends its own.
	for _, c := range cs {
		inner := c.Context.(*spinning)
		for deadline := time.Now().Add(20 * time.Second); inner.turns.Load() < 4; {
			if time.Now().After(deadline) {
				t.Fatal("a task starves")
			}
			time.Sleep(time.Millisecond)
		}
	}
	for _, c := range cs {
		close(c.Context.(*spinning).done)
	}
	wg.Wait()
	if most := s.most.Load(); most > cpus {
		t.Errorf("%d tasks ran at once, not %d", most, cpus)
	}
	settled(t, sc)
}

// TestWeights has crowds share CPUs that no machine needs to have.
func TestWeights(t *testing.T) {
	sc := scheduler(2)
	var crowds []*Crowd
	for i, weight := range []uint64{100, 300, 400} {
		g := sc.NewGroup(fmt.Sprint(i))
		p := sched.Defaults()
		p.Weight = weight
		if err := g.SetParams(p); err != nil {
			t.Fatal(err)
		}
		crowds = append(crowds, NewCrowd(g))
		_, stop := spin(crowds[i], 3)
		defer stop()
	}
	time.Sleep(2 * time.Second)
	var got [3]float64
	total := 0.0
	for i, c := range crowds {
		got[i] = c.Group().State().Service.Seconds()
		total += got[i]
	}
	for i, want := range []float64{.125, .375, .5} {
		if share := got[i] / total; math.Abs(share-want) > 0.03 {
			t.Errorf("crowd %d got %.3f of the CPUs, want %.3f", i, share, want)
		}
	}
}

func TestInterruptEndsAWait(t *testing.T) {
	s, sc := &spinner{}, scheduler(1)
	cs := crowded(s, NewCrowd(sc.NewGroup("g")), 2)
	ended := make(chan struct{})
	go func() { run(cs[0]); close(ended) }()
	for s.now.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	returned := make(chan error, 1)
	again := func() {
		_, _, err := cs[1].Switch(context.Background(), nil, noRegisters, -1)
		returned <- err
	}
	go again()
	for sc.State().Waiting == 0 || !cs[1].place.waits.Load() {
		select {
		case <-returned: // It had its turn before it could be seen to wait.
			cs[1].PrepareSleep()
			go again()
		default:
		}
	}
	cs[1].Interrupt()
	if err := <-returned; err != gvplatform.ErrContextInterrupt {
		t.Errorf("the interrupted task got %v", err)
	}
	cs[1].PrepareSleep()
	// One that was interrupted beforehand does not begin to wait.
	cs[1].Interrupt()
	if _, _, err := cs[1].Switch(context.Background(), nil, noRegisters, -1); err != gvplatform.ErrContextInterrupt {
		t.Errorf("the task that was interrupted before got %v", err)
	}
	cs[1].PrepareSleep()
	close(cs[0].Context.(*spinning).done)
	<-ended
	settled(t, sc)
}

// TestAnyOrder lets many tasks enter, sleep, exit and be interrupted at random,
// while quotas change, and checks that no CPU is lost and none given twice.
func TestAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cpus := rapid.IntRange(1, 4).Draw(t, "cpus")
		lives := rapid.SliceOfN(rapid.SliceOfN(rapid.SampledFrom([]string{"run", "sleep", "interrupted"}), 1, 12), 1, 10).Draw(t, "lives")
		quotas := rapid.SliceOfN(rapid.SampledFrom([]uint64{0, 1, 20, 500, 3000, sched.Unlimited}), 0, 8).Draw(t, "quotas")
		sc := scheduler(cpus)
		g := NewCrowd(sc.NewGroup("g"))
		var wg sync.WaitGroup
		for i, c := range crowded(&spinner{}, g, len(lives)) {
			wg.Go(func() {
				for _, what := range lives[i] {
					switch what {
					case "run":
						done := ktime.Real.AfterFunc(100*time.Microsecond, c.Interrupt)
						c.Switch(context.Background(), nil, noRegisters, -1)
						done.Stop()
					case "sleep":
						c.PrepareSleep()
					case "interrupted":
						c.Interrupt()
						c.Switch(context.Background(), nil, noRegisters, -1)
					}
				}
				c.Release()
			})
		}
		for _, q := range quotas {
			setQuota(g, q)
			time.Sleep(100 * time.Microsecond)
			if u := g.Group().Usage(); u.User < 0 || u.System < 0 || u.Stopped < 0 {
				t.Fatalf("%+v", u)
			}
		}
		setQuota(g, sched.Unlimited)
		wg.Wait()
		settled(t, sc)
	})
}

// TestQuotaHolds lets one and several tasks compute under quotas. The tasks
// need no CPU of the machine, so that what they get is the quota's doing.
func TestQuotaHolds(t *testing.T) {
	for _, tc := range []struct {
		milli uint64
		tasks int
		want  float64
	}{{100, 1, .1}, {500, 1, .5}, {2000, 1, 1}, {100, 6, .1}, {500, 6, .5}, {1500, 6, 1.5}, {2000, 6, 2}, {sched.Unlimited, 3, 3}} {
		t.Run(fmt.Sprint(tc.tasks, "tasks", tc.want, "CPUs"), func(t *testing.T) {
			t.Parallel()
			g := alone(4)
			setQuota(g, tc.milli)
			_, stop := spin(g, tc.tasks)
			defer stop()
			time.Sleep(time.Second)
			st := g.Group().State()
			// A task that was interrupted late, on a busy machine, pays for it
			// in the next period.
			late := max(-st.Left, 0)
			got := (st.Service - late).Seconds()
			if got < .75*tc.want || tc.want < float64(tc.tasks) && got > 1.12*tc.want {
				t.Errorf("%.3f CPUs were used: %+v", got, st)
			}
			if stops := st.Usage.Stops > 0; stops != (tc.want < float64(tc.tasks)) {
				t.Errorf("%+v", st.Usage)
			}
		})
	}
}

// TestInterruptEndsAStop: a task of a stopped crowd looks at its signals at
// once, and does not run.
func TestInterruptEndsAStop(t *testing.T) {
	g := alone(2)
	setQuota(g, 0)
	c := crowded(&spinner{}, g, 1)[0]
	for range 3 {
		returned := make(chan error)
		go func() {
			_, _, err := c.Switch(context.Background(), nil, noRegisters, -1)
			returned <- err
		}()
		for !c.place.waits.Load() {
			time.Sleep(time.Millisecond)
		}
		start := time.Now()
		c.Interrupt()
		if err := <-returned; err != gvplatform.ErrContextInterrupt {
			t.Errorf("the interrupted task got %v", err)
		}
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("an interrupt took %v", d)
		}
	}
	// An interrupt that the inner context has forgotten gives no free run.
	c.place.poked.Store(true)
	if _, _, err := c.Switch(context.Background(), nil, noRegisters, -1); err != gvplatform.ErrContextInterrupt {
		t.Errorf("a task without a CPU ran: %v", err)
	}
	if u := g.Group().Usage(); u.User > time.Second {
		t.Errorf("a stopped crowd used %v", u.User)
	}
}
