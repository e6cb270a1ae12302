package event

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"time"

	eventv1 "aios.dev/aios/event/v1"
)

// TestOrderAndCounts publishes from many goroutines, faster than one slow
// subscriber reads: every number that the subscription does not see was counted
// as lost, and numbers ascend.
func TestOrderAndCounts(t *testing.T) {
	t.Parallel()
	for _, policy := range []Policy{DropOldest, DropNewest} {
		b := New(Config{Domain: "d", Source: "s", CPUs: 4, Capacity: 64})
		all, err := b.Subscribe(Options{Topics: []string{"*"}, Capacity: 8, Policy: policy})
		if err != nil {
			t.Fatal(err)
		}
		const writers, each = 8, 5000
		done := make(chan struct{})
		var last, announced uint64
		go func() {
			defer close(done)
			for {
				e, err := all.Next(t.Context())
				if err != nil {
					return
				}
				if e.Seq <= last {
					t.Errorf("event %d came after event %d", e.Seq, last)
				}
				last = e.Seq
				if p, ok := e.Payload.(*eventv1.BusLost); ok {
					announced += p.Count
				}
			}
		}()
		var wg sync.WaitGroup
		for range writers {
			wg.Go(func() {
				for i := range each {
					typ := AgentSpawn
					if i%3 == 0 {
						typ = KernelPanic
					}
					b.Publish(Event{Type: typ})
				}
			})
		}
		wg.Wait()
		published := uint64(writers * each)
		deadline := time.Now().Add(10 * time.Second)
		for {
			st := b.Stats()
			var lost uint64
			for _, n := range st.Lost {
				lost += n
			}
			s := st.Subscriptions[0]
			if merged := st.Merged - st.Topics["bus.lost"]; merged+lost == published && s.Waiting == 0 && s.Delivered+s.Lost == st.Merged {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("of %d events %d were merged and %d lost; the subscription: %+v of %d", published, merged, lost, s, st.Merged)
			}
			time.Sleep(time.Millisecond)
		}
		all.Close(nil)
		<-done
		var lost uint64
		for _, n := range b.Stats().Lost {
			lost += n
		}
		if announced > lost {
			t.Errorf("%d events were announced as lost, of %d", announced, lost)
		}
	}
}

func TestDisconnect(t *testing.T) {
	t.Parallel()
	b := New(Config{Source: "s"})
	s, err := b.Subscribe(Options{Topics: []string{"agent.*"}, Capacity: 2, Policy: Disconnect})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		b.Publish(Event{Type: AgentExit})
		b.Publish(Event{Type: KernelPanic})
	}
	for b.Stats().Merged < 3 || len(b.Stats().Subscriptions) > 0 {
		time.Sleep(time.Millisecond)
	}
	for seq := range uint64(2) {
		if e, err := s.Next(context.Background()); err != nil || e.Seq != seq+1 || e.Type != AgentExit {
			t.Fatalf("got %+v, %v; want event %d", e, err, seq+1)
		}
	}
	if _, err := s.Next(context.Background()); !errors.Is(err, ErrFellBehind) {
		t.Fatalf("got %v", err)
	}
	if s.Lost() != 1 || b.Enabled(AgentExit) {
		t.Errorf("%d lost; enabled: %v", s.Lost(), b.Enabled(AgentExit))
	}
}

// TestSince: a subscription does not see what was published before it.
func TestSince(t *testing.T) {
	t.Parallel()
	b := New(Config{Source: "s"})
	for i := range 200 {
		first, err := b.Subscribe(Options{Topics: []string{"*"}})
		if err != nil {
			t.Fatal(err)
		}
		b.Publish(Event{Type: AgentExit, Agent: "before"})
		second, err := b.Subscribe(Options{Topics: []string{"*"}})
		if err != nil {
			t.Fatal(err)
		}
		first.Close(nil)
		b.Publish(Event{Type: AgentExit, Agent: "after"})
		if e, err := second.Next(t.Context()); err != nil || e.Agent != "after" {
			t.Fatalf("round %d: got %+v, %v", i, e, err)
		}
		second.Close(nil)
		if _, err := second.Next(t.Context()); !errors.Is(err, ErrClosed) {
			t.Fatalf("a closed subscription: %v", err)
		}
	}
}

func BenchmarkPublish(b *testing.B) {
	b.Run("nobody", func(b *testing.B) {
		bus := New(Config{Source: "s", CPUs: 2})
		for b.Loop() {
			if bus.Enabled(AgentExit) {
				bus.Publish(Event{Type: AgentExit})
			}
		}
	})
	// As fast as it goes, and no faster than a subscriber has to bear.
	for name, perSecond := range map[string]float64{"unbounded": 0, "paced": 2.5e6} {
		b.Run(name, func(b *testing.B) { publish(b, perSecond) })
	}
}

// publish publishes to one subscriber, at a pace unless that is 0.
func publish(b *testing.B, perSecond float64) {
	b.ReportAllocs()
	bus := New(Config{Source: "s", CPUs: 2, Capacity: 1 << 16})
	s, err := bus.Subscribe(Options{Topics: []string{"agent.*"}, Capacity: 1 << 16})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close(nil)
	var got uint64
	done := make(chan struct{})
	go func() {
		defer close(done)
		batch := make([]Event, 256)
		for {
			n, err := s.Read(batch)
			if err != nil {
				return
			}
			if got += uint64(n); n == 0 {
				<-s.Ready()
			}
		}
	}()
	began, published := time.Now(), uint64(0)
	for b.Loop() {
		bus.Publish(Event{Type: AgentExit, Wall: 1, Mono: 1})
		if published++; perSecond > 0 && published%64 == 0 {
			for time.Since(began).Seconds()*perSecond < float64(published) {
				runtime.Gosched()
			}
		}
	}
	b.StopTimer()
	for { // What is on its way is not lost.
		st := bus.Stats()
		arrived := st.Topics[AgentExit.Topic()]
		for _, n := range st.Lost {
			arrived += n
		}
		if arrived == published && st.Subscriptions[0].Waiting == 0 {
			break
		}
		runtime.Gosched()
	}
	s.Close(nil)
	<-done
	b.ReportMetric(float64(published)/b.Elapsed().Seconds()/1e6, "M/s")
	b.ReportMetric(float64(got)/b.Elapsed().Seconds()/1e6, "Mgot/s")
	b.ReportMetric(100*float64(published-got)/float64(published), "%lost")
}
