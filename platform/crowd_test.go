package platform

import (
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
		if _, _, err := c.Switch(context.Background(), nil, nil, -1); err == nil {
			c.Release()
			return
		}
		if i%3 == 2 {
			c.PrepareSleep()
		}
	}
}

func TestCrowdTakesTurns(t *testing.T) {
	const limit, tasks = 3, 20
	s := &spinner{}
	cs := crowded(s, NewCrowd(NewProcessors(2, ktime.Real), limit, time.Millisecond), tasks)
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
	if most := s.most.Load(); most > limit {
		t.Errorf("%d tasks ran at once, not %d", most, limit)
	}
}

func TestInterruptEndsAWait(t *testing.T) {
	s := &spinner{}
	g := NewCrowd(NewProcessors(2, ktime.Real), 1, time.Hour)
	cs := crowded(s, g, 2)
	ended := make(chan struct{})
	go func() { run(cs[0]); close(ended) }()
	for s.now.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	returned := make(chan error)
	go func() {
		_, _, err := cs[1].Switch(context.Background(), nil, nil, -1)
		returned <- err
	}()
	for !cs[1].place.queued.Load() {
		time.Sleep(time.Millisecond)
	}
	cs[1].Interrupt()
	if err := <-returned; err != gvplatform.ErrContextInterrupt {
		t.Errorf("the interrupted task got %v", err)
	}
	// One that was interrupted beforehand does not begin to wait.
	cs[1].Interrupt()
	if _, _, err := cs[1].Switch(context.Background(), nil, nil, -1); err != gvplatform.ErrContextInterrupt {
		t.Errorf("the task that was interrupted before got %v", err)
	}
	close(cs[0].Context.(*spinning).done)
	<-ended
	if g.held != 0 || !g.queue.empty() || !g.holders.empty() {
		t.Errorf("%d places are held by nobody", g.held)
	}
}

// TestCrowdInAnyOrder lets many tasks enter, sleep, exit and be interrupted at
// random, and checks that no place is lost and none given twice.
func TestCrowdInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 4).Draw(t, "limit")
		lives := rapid.SliceOfN(rapid.SliceOfN(rapid.SampledFrom([]string{"run", "sleep", "interrupted"}), 1, 12), 1, 10).Draw(t, "lives")
		s := &spinner{}
		g := NewCrowd(NewProcessors(2, ktime.Real), limit, 50*time.Microsecond)
		var wg sync.WaitGroup
		for i, c := range crowded(s, g, len(lives)) {
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
		wg.Wait()
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.held != 0 || !g.queue.empty() || !g.holders.empty() {
			t.Fatalf("%d places are held by nobody", g.held)
		}
	})
}
