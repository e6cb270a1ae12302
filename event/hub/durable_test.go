package hub

import (
	"context"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
)

// errWaits ends a reader that would wait.
var errWaits = errors.New("it waits")

// next returns the next event, or nil when the subscription waits for one.
func next(t interface{ Fatal(...any) }, s *Subscription) *event.Event {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errWaits) // Who has something at hand does not look at it.
	e, missed, err := s.Next(ctx)
	switch {
	case errors.Is(err, errWaits):
		return nil
	case err != nil || missed != nil:
		t.Fatal(err, missed)
	}
	return &e
}

// written waits until the journal has everything.
func written(h *Hub) {
	for {
		to, changed := h.journal.Written()
		if to == h.journal.Last() {
			return
		}
		<-changed
	}
}

// TestWhatIsNotWantedIsPassedOver: a durable subscriber of rare events, which
// acknowledges all that it gets, is never behind; whatever happens, it gets
// every event that was not acknowledged.
func TestWhatIsNotWantedIsPassedOver(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		h := open(t, t.TempDir(), "d")
		defer h.Close()
		o := Options{Topics: []string{"agent.exit"}, Durable: "rare"}
		s, err := h.Subscribe(o)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { s.Close() }()
		var got, wanted []uint64 // cursors of this reader, and of all that is not acknowledged
		acked := func() bool { return len(wanted) == 0 }
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			switch rapid.IntRange(0, 4).Draw(rt, "step") {
			case 0:
				h.Emit(event.Event{Type: event.AgentSpawn, Payload: &eventv1.AgentSpawn{}})
			case 1:
				h.Emit(event.Event{Type: event.AgentExit, Payload: &eventv1.AgentExit{}})
				wanted = append(wanted, h.journal.Last())
			case 2:
				written(h)
				if e := next(rt, s); e != nil {
					got = append(got, e.Cursor)
				} else if len(got) != len(wanted) {
					rt.Fatalf("it waits, having got %v of %v", got, wanted)
				} else if _, behind, _ := h.Position("rare"); acked() && behind != 0 {
					rt.Fatalf("it is %d behind and has acknowledged everything", behind)
				}
			case 3:
				if len(got) > 0 {
					n := rapid.IntRange(1, len(got)).Draw(rt, "acknowledged")
					if err := h.Ack("rare", got[n-1]); err != nil {
						rt.Fatal(err)
					}
					got, wanted = got[n:], wanted[n:]
				}
			case 4: // The reader dies, and another goes on.
				s.Close()
				if s, err = h.Subscribe(o); err != nil {
					rt.Fatal(err)
				}
				got = nil
			}
			for i, c := range got {
				if wanted[i] != c {
					rt.Fatalf("it got %v, and not %v", got, wanted)
				}
			}
		}
	})
}

func TestKept(t *testing.T) {
	for _, good := range [][]string{nil, {"*"}, {"agent.*", "file.*", "net.connect"}} {
		if err := Kept(good); err != nil {
			t.Errorf("%v: %v", good, err)
		}
	}
	for _, bad := range [][]string{{"file.open"}, {"agent.*", "net.packet"}, {"no.such"}} {
		if err := Kept(bad); errdefs.CodeOf(err) != errdefs.InvalidArgument || errdefs.FixOf(err) == "" {
			t.Errorf("%v: %v", bad, err)
		}
	}
}
