package event

import (
	"runtime"
	"testing"
	"time"

	eventv1 "aios.dev/aios/event/v1"
)

// TestOrderBehindAWriter has a publisher stand still in the middle of its
// write. What was published behind it in the same ring keeps its place before
// what another CPU published later.
func TestOrderBehindAWriter(t *testing.T) {
	b := New(Config{Source: "s", CPUs: 2})
	sub, err := b.Subscribe(Options{Topics: []string{"agent.signal"}})
	if err != nil {
		t.Fatal(err)
	}
	for !b.idle.Load() {
		runtime.Gosched() // The bus's own goroutine goes to sleep, and stays there.
	}

	publish := func(cpu int, sig int32) {
		b.shards[cpu].put(&Event{Type: AgentSignal, Severity: Info, Payload: &eventv1.AgentSignal{Signal: sig}}, b.tickets.Add(1))
	}
	publish(0, 0) // Makes the ring.
	r := b.shards[0].rings[Info].Load()
	var first Event
	if _, got := r.pop(&first, ^uint64(0)); got != popped {
		t.Fatal("the event is not in the ring of its CPU")
	}
	// The writer has its place, and has not written yet.
	ticket := b.tickets.Add(1)
	p := r.tail.Load()
	if !r.tail.CompareAndSwap(p, p+1) {
		t.Fatal("somebody else writes to the ring")
	}
	publish(0, 2)
	publish(1, 3)

	merged := make(chan struct{})
	go func() {
		b.pass()
		close(merged)
	}()
	select {
	case <-merged: // It did not wait; what it made of that is seen below.
	case <-time.After(20 * time.Millisecond):
	}
	s := &r.slots[p&r.mask]
	s.ticket.Store(ticket)
	s.event = Event{Type: AgentSignal, Severity: Info, Payload: &eventv1.AgentSignal{Signal: 1}}
	s.turn.Store(r.lap(p) + 1)
	<-merged
	b.pass()

	for want := int32(1); want <= 3; want++ {
		e, ok := sub.TryNext()
		if !ok {
			t.Fatalf("there is no event %d", want)
		}
		if got := e.Payload.(*eventv1.AgentSignal).Signal; got != want {
			t.Fatalf("event %d came where %d belongs", got, want)
		}
	}
	sub.Close(nil)
}
