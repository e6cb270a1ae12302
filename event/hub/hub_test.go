package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/event"
	"aios.dev/aios/event/filter"
	eventv1 "aios.dev/aios/event/v1"
)

func open(t testing.TB, dir, source string) *Hub {
	t.Helper()
	h, err := Open(Config{Dir: dir, Source: source})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// drain returns the IDs that a subscription gives until the past has ended.
func drain(t testing.TB, h *Hub, o Options) (ids []string) {
	t.Helper()
	o.Past = true
	s, err := h.Subscribe(o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for {
		e, missed, err := s.Next(t.Context())
		switch {
		case errors.Is(err, io.EOF):
			return ids
		case err != nil:
			t.Fatal(err)
		case missed != nil:
			t.Fatalf("missed %+v", missed)
		}
		ids = append(ids, e.ID())
	}
}

// TestEverythingOnceAndInOrder sends batches of several sources to hubs that
// follow each other on one journal, each batch perhaps more than once, as
// kernel processes do whose acknowledgement was lost. Each event is in the
// journal once, and those of a source are in order.
func TestEverythingOnceAndInOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		boots := rapid.IntRange(1, 3).Draw(rt, "boots")
		sent := make(map[string]uint64)  // numbered so far
		acked := make(map[string]uint64) // what the source may forget
		for boot := range boots {
			h := open(t, dir, fmt.Sprintf("d%d", boot))
			for range rapid.IntRange(1, 10).Draw(rt, "batches") {
				source := rapid.SampledFrom([]string{"k1", "k2", "k3"}).Draw(rt, "source")
				sent[source] += uint64(rapid.IntRange(0, 5).Draw(rt, "new"))
				first := acked[source] + 1 // All that was not acknowledged comes again.
				var batch []event.Event
				for seq := first; seq <= sent[source]; seq++ {
					batch = append(batch, event.Event{Seq: seq, Source: source, Type: event.AgentExit, Severity: event.Info, Wall: 1})
				}
				h.Take(batch)
				if rapid.Bool().Draw(rt, "acknowledged") {
					acked[source] = sent[source]
				}
			}
			if err := h.Close(); err != nil {
				rt.Fatal(err)
			}
		}
		h := open(t, dir, "last")
		defer h.Close()
		last := make(map[string]uint64)
		for _, id := range drain(t, h, Options{Topics: []string{"agent.exit"}}) {
			var seq uint64
			if _, err := fmt.Sscanf(id[3:], "%d", &seq); err != nil {
				rt.Fatal(id, err)
			}
			if seq != last[id[:2]]+1 {
				rt.Fatalf("after event %d of %s came %s", last[id[:2]], id[:2], id)
			}
			last[id[:2]] = seq
		}
		for source, n := range sent {
			if last[source] != n {
				rt.Fatalf("of %d events of %s %d are there", n, source, last[source])
			}
		}
	})
}

// TestPastThenLive: nothing is missing and nothing comes twice where the past
// meets what happens.
func TestPastThenLive(t *testing.T) {
	t.Parallel()
	h := open(t, t.TempDir(), "d1")
	defer h.Close()
	const n = 20000
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		for i := range n {
			h.Emit(event.Event{Type: event.AgentExit, Payload: &eventv1.AgentExit{Code: int32(i)}})
		}
	}()
	for h.Stats().Journal.Last < n/4 {
		time.Sleep(time.Millisecond)
	}
	s, err := h.Subscribe(Options{Topics: []string{"agent.exit"}, From: 1, Capacity: n})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for want := uint64(1); want <= n; want++ {
		e, missed, err := s.Next(t.Context())
		if err != nil || missed != nil || e.Seq != want {
			t.Fatalf("event %d: got %d, %+v, %v", want, e.Seq, missed, err)
		}
	}
	<-stop
}

// TestSlowSubscriber is told how many it missed.
func TestSlowSubscriber(t *testing.T) {
	t.Parallel()
	h := open(t, t.TempDir(), "d1")
	defer h.Close()
	s, err := h.Subscribe(Options{Topics: []string{"agent.*"}, Capacity: 10})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 100 {
		h.Emit(event.Event{Type: event.AgentExit})
	}
	if _, missed, err := s.Next(t.Context()); err != nil || missed == nil || missed.Count != 90 {
		t.Fatalf("got %+v, %v", missed, err)
	}
	for seq := uint64(91); seq <= 100; seq++ {
		if e, missed, err := s.Next(t.Context()); err != nil || missed != nil || e.Seq != seq {
			t.Fatalf("got %d, %+v, %v", e.Seq, missed, err)
		}
	}
}

// TestDurable: a subscriber that ended without an acknowledgement gets the same
// again, and one at a time reads.
func TestDurable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	h := open(t, dir, "d1")
	o := Options{Topics: []string{"agent.exit"}, Durable: "billing"}
	read := func(n int) (cursors []uint64) {
		t.Helper()
		s, err := h.Subscribe(o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if other, err := h.Subscribe(o); err == nil {
			other.Close()
			t.Error("two readers of one subscription")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for range n {
			e, missed, err := s.Next(ctx)
			if err != nil || missed != nil {
				t.Fatal(missed, err)
			}
			cursors = append(cursors, e.Cursor)
		}
		return cursors
	}
	read(0)
	for range 3 {
		h.Emit(event.Event{Type: event.AgentExit})
	}
	first := read(3)
	if again := read(3); fmt.Sprint(again) != fmt.Sprint(first) {
		t.Errorf("%v, and then %v", first, again)
	}
	if err := h.Ack("billing", first[1]); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	h = open(t, dir, "d2")
	defer h.Close()
	if rest := read(1); rest[0] != first[2] {
		t.Errorf("after a restart it goes on at %d, not %d", rest[0], first[2])
	}
	if err := h.Ack("billing", 1<<60); err == nil {
		t.Error("the future was acknowledged")
	}
	o.Topics = []string{"file.write"}
	o.Durable = "writes"
	if _, err := h.Subscribe(o); err == nil {
		t.Error("a durable subscription to what is not kept")
	}
}

// TestOnDemand: what is made on demand is asked for while somebody wants it.
func TestOnDemand(t *testing.T) {
	t.Parallel()
	wanted := make(chan []string, 10)
	h, err := Open(Config{Dir: t.TempDir(), Source: "d1", OnWanted: func(topics []string) { wanted <- topics }})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if _, err := h.Subscribe(Options{Topics: []string{"file.w*", "file.write"}}); err == nil {
		t.Error("file.w* is no pattern")
	}
	s, err := h.Subscribe(Options{Topics: []string{"file.write"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := <-wanted; fmt.Sprint(got) != "[file.write]" {
		t.Errorf("wanted: %v", got)
	}
	s.Close()
	if got := <-wanted; len(got) != 0 {
		t.Errorf("wanted still: %v", got)
	}
}

// BenchmarkSubscribers gives events to a thousand subscribers, each with a
// filter of its own.
func BenchmarkSubscribers(b *testing.B) {
	h := open(b, b.TempDir(), "d1")
	defer h.Close()
	for i := range 1000 {
		f, err := filter.Compile(fmt.Sprintf(`data.code == %d`, i))
		if err != nil {
			b.Fatal(err)
		}
		s, err := h.Subscribe(Options{Topics: []string{"agent.exit"}, Filter: f})
		if err != nil {
			b.Fatal(err)
		}
		defer s.Close()
	}
	i := 0
	for b.Loop() {
		h.Emit(event.Event{Type: event.AgentExit, Payload: &eventv1.AgentExit{Code: int32(i % 1000)}})
		i++
	}
	b.ReportMetric(1000*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mfilters/s")
}
