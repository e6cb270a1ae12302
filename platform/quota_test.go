package platform

import (
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/context"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"
	"pgregory.net/rapid"

	"aios.dev/aios/ktime"
)

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
		g.SetQuota(Unlimited)
		wg.Wait()
	}
}

// TestQuotaHolds lets one and several tasks compute under quotas. The tasks
// need no CPU of the machine, so that what they get is the quota's doing.
func TestQuotaHolds(t *testing.T) {
	for _, tc := range []struct {
		milli uint64
		tasks int
		want  float64
	}{{100, 1, .1}, {500, 1, .5}, {2000, 1, 1}, {100, 6, .1}, {500, 6, .5}, {1500, 6, 1.5}, {2000, 6, 2}, {Unlimited, 3, 3}} {
		t.Run(fmt.Sprint(tc.tasks, "tasks", tc.want, "CPUs"), func(t *testing.T) {
			t.Parallel()
			g := NewCrowd(NewProcessors(8, ktime.Real), 4, time.Millisecond)
			g.SetQuota(tc.milli)
			_, stop := spin(g, tc.tasks)
			defer stop()
			time.Sleep(1050 * time.Millisecond)
			u := g.Usage()
			g.mu.Lock()
			g.rollLocked()
			// What whole periods have used. A task that was interrupted
			// late, on a busy machine, is behind in this one.
			paid := float64(g.use.user.Load() + g.use.system.Load() - g.use.spent.Load())
			got := paid / float64(g.quota.began)
			g.mu.Unlock()
			if tc.milli == Unlimited {
				got = u.User.Seconds() / 1.05
			}
			if got < .75*tc.want || tc.want < float64(tc.tasks) && got > 1.001*tc.want {
				t.Errorf("%.3f CPUs were used", got)
			}
			if stops := u.Stops > 0; stops != (tc.want < float64(tc.tasks)) {
				t.Errorf("%+v", u)
			}
		})
	}
}

func TestQuotaChangesLive(t *testing.T) {
	g := NewCrowd(NewProcessors(8, ktime.Real), 4, time.Millisecond)
	_, stop := spin(g, 3)
	defer stop()
	used := func(d time.Duration) float64 {
		before := g.Usage()
		start := time.Now()
		time.Sleep(d)
		after := g.Usage()
		return (after.User + after.System - before.User - before.System).Seconds() / time.Since(start).Seconds()
	}
	time.Sleep(300 * time.Millisecond) // What was used without a quota is not owed.
	for _, tc := range []struct {
		milli uint64
		want  float64
	}{{300, .3}, {0, 0}, {1000, 1}, {Unlimited, 3}, {200, .2}} {
		g.SetQuota(tc.milli)
		if got := g.Quota(); got != tc.milli {
			t.Errorf("the quota is %d, not %d", got, tc.milli)
		}
		time.Sleep(20 * time.Millisecond)
		if got := used(700 * time.Millisecond); got < .6*tc.want || got > 1.5*tc.want+.02 {
			t.Errorf("with a quota of %d: %.3f CPUs", tc.milli, got)
		}
	}
}

// TestInterruptEndsAStop: a task of a stopped crowd looks at its signals at
// once, and does not run.
func TestInterruptEndsAStop(t *testing.T) {
	s := &spinner{}
	g := NewCrowd(NewProcessors(2, ktime.Real), 2, time.Hour)
	g.SetQuota(0)
	c := crowded(s, g, 1)[0]
	for range 3 {
		returned := make(chan error)
		go func() {
			_, _, err := c.Switch(context.Background(), nil, nil, -1)
			returned <- err
		}()
		for !c.place.queued.Load() {
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
	if _, _, err := c.Switch(context.Background(), nil, nil, -1); err != gvplatform.ErrContextInterrupt {
		t.Errorf("a task without a place ran: %v", err)
	}
	if u := g.Usage(); u.User > time.Second {
		t.Errorf("a stopped crowd used %v", u.User)
	}
}

// TestQuotaInAnyOrder lets tasks live at random while quotas change at random:
// when all is over nobody has a place, and nobody waited for ever.
func TestQuotaInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 4).Draw(t, "limit")
		lives := rapid.SliceOfN(rapid.SliceOfN(rapid.SampledFrom([]string{"run", "sleep", "interrupted"}), 1, 12), 1, 8).Draw(t, "lives")
		quotas := rapid.SliceOfN(rapid.SampledFrom([]uint64{0, 1, 20, 500, 3000, Unlimited}), 0, 8).Draw(t, "quotas")
		g := NewCrowd(NewProcessors(2, ktime.Real), limit, 50*time.Microsecond)
		var wg sync.WaitGroup
		for i, c := range crowded(&spinner{}, g, len(lives)) {
			wg.Go(func() {
				for _, what := range lives[i] {
					switch what {
					case "run":
						done := ktime.Real.AfterFunc(100*time.Microsecond, c.Interrupt)
						c.Switch(context.Background(), nil, nil, -1)
						done.Stop()
					case "sleep":
						c.PrepareSleep()
					case "interrupted":
						c.Interrupt()
						c.Switch(context.Background(), nil, nil, -1)
					}
				}
				c.Release()
			})
		}
		for _, q := range quotas {
			g.SetQuota(q)
			time.Sleep(100 * time.Microsecond)
			if u := g.Usage(); u.User < 0 || u.System < 0 || u.Stopped < 0 {
				t.Fatalf("%+v", u)
			}
		}
		g.SetQuota(Unlimited)
		wg.Wait()
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.held != 0 || !g.queue.empty() || !g.holders.empty() || g.cpus.busy.Load() != 0 {
			t.Fatalf("%d places are held by nobody, %d CPUs used", g.held, g.cpus.busy.Load())
		}
	})
}

// TestProcessorsAreShared compares with a model that shares the CPUs evenly.
func TestProcessorsAreShared(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		clock := ktime.NewFake(time.Unix(0, 0))
		n := rapid.IntRange(1, 4).Draw(t, "n")
		c := NewProcessors(n, clock)
		var busy int
		var want float64
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			switch {
			case busy > 0 && rapid.Bool().Draw(t, "done"):
				c.done()
				busy--
			default:
				c.want()
				busy++
			}
			d := rapid.Int64Range(0, int64(time.Second)).Draw(t, "ns")
			clock.Advance(time.Duration(d))
			want += float64(d) * min(1, float64(n)/float64(max(busy, 1)))
			if got := float64(c.time()); math.Abs(got-want) > 100 {
				t.Fatalf("%d tasks on %d CPUs: the clock shows %v, want %v", busy, n, got, want)
			}
		}
	})
}
