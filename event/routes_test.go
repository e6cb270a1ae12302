package event

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	eventv1 "aios.dev/aios/event/v1"
)

// settle waits until everything that was published is with its subscribers.
func settle(t rapid.TB, b *Bus) {
	sub, err := b.Subscribe(Options{Topics: []string{"daemon.stop"}})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close(nil)
	b.Publish(Event{Type: DaemonStop, Agent: "settle"})
	for {
		if _, ok := sub.TryNext(); ok {
			return
		}
		<-sub.Ready()
	}
}

// TestRoutes has subscriptions to types and agents come, change and go, and
// compares what each gets, and what the bus says is listened to, with what a
// plain loop over all of them says.
func TestRoutes(t *testing.T) {
	t.Parallel()
	topics := []string{"agent.exit", "agent.exec", "file.open", "net.*", "*"}
	agents := []string{"", "a", "b", "c"}
	rapid.Check(t, func(t *rapid.T) {
		type plain struct {
			s      *Subscription
			topics []string
			agents []string
			want   []string
		}
		b := New(Config{Source: "s", Capacity: 256})
		var subs []*plain
		wants := func(p *plain, typ Type, agent string) bool {
			return (len(p.agents) == 0 || slices.Contains(p.agents, agent)) &&
				slices.ContainsFunc(p.topics, func(pattern string) bool { return Match(pattern, typ.Topic()) })
		}
		draw := func(t *rapid.T) []string {
			return rapid.SliceOfNDistinct(rapid.SampledFrom(topics), 1, 3, rapid.ID).Draw(t, "topics")
		}
		t.Repeat(map[string]func(*rapid.T){
			"subscribe": func(t *rapid.T) {
				p := &plain{topics: draw(t), agents: rapid.SliceOfNDistinct(rapid.SampledFrom(agents[1:]), 0, 2, rapid.ID).Draw(t, "agents")}
				var err error
				if p.s, err = b.Subscribe(Options{Topics: p.topics, Agents: p.agents}); err != nil {
					t.Fatal(err)
				}
				subs = append(subs, p)
			},
			"retopic": func(t *rapid.T) {
				if len(subs) == 0 {
					t.Skip()
				}
				p := rapid.SampledFrom(subs).Draw(t, "which")
				settle(t, b)
				p.topics = draw(t)
				if err := p.s.Retopic(p.topics); err != nil {
					t.Fatal(err)
				}
			},
			"close": func(t *rapid.T) {
				if len(subs) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(subs)-1).Draw(t, "which")
				subs[i].s.Close(nil)
				subs = slices.Delete(subs, i, i+1)
			},
			"publish": func(t *rapid.T) {
				typ := rapid.SampledFrom([]Type{AgentExit, AgentExec, FileOpen, NetConnect}).Draw(t, "type")
				agent := rapid.SampledFrom(agents).Draw(t, "agent")
				anybody := false
				for _, p := range subs {
					if wants(p, typ, agent) {
						p.want = append(p.want, typ.Topic()+" "+agent)
						anybody = true
					}
				}
				if got := b.EnabledFor(typ, agent); got != anybody {
					t.Fatalf("%s of %q is listened to: %v", typ.Topic(), agent, got)
				}
				b.Publish(Event{Type: typ, Agent: agent})
			},
			"": func(t *rapid.T) {
				for typ := range Type(typeCount) {
					anybody := slices.ContainsFunc(subs, func(p *plain) bool {
						return slices.ContainsFunc(p.topics, func(pattern string) bool { return typ != 0 && Match(pattern, typ.Topic()) })
					})
					if b.Enabled(typ) != anybody {
						t.Fatalf("%s is enabled: %v", typ.Topic(), !anybody)
					}
				}
			},
			"read": func(t *rapid.T) {
				settle(t, b)
				for _, p := range subs {
					var got []string
					for e, ok := p.s.TryNext(); ok; e, ok = p.s.TryNext() {
						if e.Agent != "settle" {
							got = append(got, e.Topic()+" "+e.Agent)
						}
					}
					if !slices.Equal(got, p.want) {
						t.Fatalf("to %v of %v: got %v, want %v", p.topics, p.agents, got, p.want)
					}
					p.want = nil
				}
			},
		})
		for _, p := range subs {
			p.s.Close(nil)
		}
		if b.agents.Load() != 0 || slices.ContainsFunc(b.ofAll.Load()[:], func(l []*Subscription) bool { return len(l) > 0 }) {
			t.Fatal("routes are left")
		}
	})
}

// TestBytes bounds what waits by its size.
func TestBytes(t *testing.T) {
	t.Parallel()
	b := New(Config{Source: "s"})
	s, err := b.Subscribe(Options{Topics: []string{"agent.exec"}, Bytes: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(nil)
	size := func(n int) Event {
		return Event{Type: AgentExec, Payload: &eventv1.AgentExec{Path: strings.Repeat("x", n)}}
	}
	for range 20 {
		b.Publish(size(990))
	}
	settle(t, b)
	if st := b.Stats().Subscriptions[0]; st.Waiting != 10 || st.Lost != 10 {
		t.Errorf("of 20 events of 1,000 bytes %d wait and %d are lost", st.Waiting, st.Lost)
	}
	if e, err := s.Next(t.Context()); err != nil || e.Seq != 11 || e.Missed != 10 {
		t.Errorf("the first is %d, %d missing: %v", e.Seq, e.Missed, err)
	}
	b.Publish(size(100_000)) // It waits alone.
	settle(t, b)
	if e, err := s.Next(t.Context()); err != nil || len(e.Payload.(*eventv1.AgentExec).Path) != 100_000 || e.Missed != 9 {
		t.Errorf("the large one: %d missing, %v", e.Missed, err)
	}
	for range 3 { // What was read makes room.
		b.Publish(size(9000))
		settle(t, b)
		if e, err := s.Next(t.Context()); err != nil || e.Missed != 0 {
			t.Errorf("%d missing, %v", e.Missed, err)
		}
	}
}

// TestMissed: the events that a subscription drops are counted where they are
// missing, whatever the policy; all that was published is either there or
// counted.
func TestMissed(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		policy := rapid.SampledFrom([]Policy{DropOldest, DropNewest}).Draw(t, "policy")
		b := New(Config{Source: "s", Capacity: 256})
		s, err := b.Subscribe(Options{Topics: []string{"agent.exec"}, Policy: policy, Capacity: rapid.IntRange(1, 5).Draw(t, "capacity"), Bytes: 3000})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(nil)
		published, next := uint64(0), uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"publish": func(t *rapid.T) {
				for range rapid.IntRange(1, 10).Draw(t, "n") {
					// The number is in the correlation: the bus's own count others.
					b.Publish(Event{Type: AgentExec, Correlation: fmt.Sprint(published), Payload: &eventv1.AgentExec{Path: strings.Repeat("x", rapid.IntRange(0, 2000).Draw(t, "size"))}})
					published++
				}
				settle(t, b)
			},
			"read": func(t *rapid.T) {
				e, ok := s.TryNext()
				if !ok {
					if next += s.Missed(); next != published {
						t.Fatalf("nothing waits: %d of %d are accounted for", next, published)
					}
					return
				}
				next += e.Missed
				if e.Correlation != fmt.Sprint(next) {
					t.Fatalf("event %s comes where %d is due", e.Correlation, next)
				}
				next++
			},
		})
	})
}

// TestOnReady is called for what comes, what the bus drops, and the end.
func TestOnReady(t *testing.T) {
	t.Parallel()
	b := New(Config{Source: "s", Capacity: 4})
	var calls atomic.Int32
	called := make(chan struct{}, 100)
	s, err := b.Subscribe(Options{Topics: []string{"agent.exit"}, Agents: []string{"a"}, OnReady: func() {
		calls.Add(1)
		called <- struct{}{}
	}})
	if err != nil {
		t.Fatal(err)
	}
	wait := func(what string) {
		t.Helper()
		select {
		case <-called:
		case <-time.After(20 * time.Second):
			t.Fatal("no call for " + what)
		}
	}
	b.Publish(Event{Type: AgentExit, Agent: "b"})
	settle(t, b)
	if n := calls.Load(); n != 0 {
		t.Errorf("%d calls for events of others", n)
	}
	b.Publish(Event{Type: AgentExit, Agent: "a"})
	wait("an event")
	b.merge.Lock() // Nothing is taken out of the rings.
	for range 100 {
		b.Publish(Event{Type: AgentExit, Agent: "a"})
	}
	b.merge.Unlock()
	for b.Dropped() == 0 {
		wait("what was dropped")
	}
	s.Close(nil)
	for len(called) > 0 {
		<-called
	}
	before := calls.Load()
	s.Close(nil)
	if calls.Load() != before {
		t.Error("it was called for the second end")
	}
	if _, err := s.Next(t.Context()); err != ErrClosed {
		t.Errorf("after the end: %v", err)
	}
}
