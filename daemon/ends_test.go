package daemon

import (
	"context"
	"testing"
	"time"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/control"
	"aios.dev/aios/event"
	"aios.dev/aios/event/hub"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/ktime"
	"aios.dev/aios/recovery"
)

// TestEndWithoutAnEvent: a kernel process that reported the end of an agent, and
// died before it had said so on the bus, leaves that to the daemon. Ends that
// it has said are not said twice.
func TestEndWithoutAnEvent(t *testing.T) {
	d := newSystem(t, shortDir(t), ktime.Real)
	sub, err := d.events.Subscribe(hub.Options{Topics: []string{"agent.exit"}, Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	dom := d.newDomain("one")
	for _, id := range []string{"a00000000000a", "a00000000000b", "a00000000000c"} {
		r := newRecord(id, &apiv1.SpawnRequest{}, "one", d.clock.Now())
		if err := d.reserve(nil, r); err != nil {
			t.Fatal(err)
		}
		r.finish("exited", toExit(control.Exit{Code: 7}), d.clock.Now())
	}
	dom.events.end("a00000000000a", 1)
	dom.events.end("a00000000000b", 1)
	dom.events.end("a00000000000b", -1)
	dom.events.end("a00000000000c", -1) // It overtook the report, which never came.
	dom.sayEnds()
	dom.sayEnds()
	d.events.Emit(event.Event{Type: event.AgentExit, Agent: "a00000000000f", Payload: &eventv1.AgentExit{}})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var got []string
	for {
		e, _, err := sub.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if e.Agent == "a00000000000f" {
			break
		}
		got = append(got, e.Agent)
		if p := e.Payload.(*eventv1.AgentExit); p.Code != 7 || e.Domain != "one" {
			t.Errorf("%+v", e)
		}
	}
	if len(got) != 1 || got[0] != "a00000000000a" {
		t.Errorf("said the ends of %v", got)
	}
}

// TestOldEnds: what an earlier daemon wrote down and nobody said is said once.
func TestOldEnds(t *testing.T) {
	d := newSystem(t, shortDir(t), ktime.Real)
	records := map[string]*record{}
	for _, id := range []string{"a00000000000a", "a00000000000b"} {
		r := newRecord(id, &apiv1.SpawnRequest{}, "gone", d.clock.Now())
		r.finish("exited", toExit(control.Exit{Code: 7}), d.clock.Now())
		records[id] = r
	}
	d.emit(event.AgentExit, "a00000000000b", "gone", &eventv1.AgentExit{Code: 7})
	count := func() map[string]int {
		out := map[string]int{}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		sub, err := d.events.Subscribe(hub.Options{Topics: []string{"agent.exit"}, Name: "test", From: 1, Past: true})
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Close()
		for {
			e, _, err := sub.Next(ctx)
			if err != nil {
				return out
			}
			out[e.Agent]++
		}
	}
	for range 2 {
		d.sayOldEnds(records)
		if got := count(); got["a00000000000a"] != 1 || got["a00000000000b"] != 1 {
			t.Errorf("said %v", got)
		}
	}
}

// TestRestartOvertakenByItsEnd: an agent that ends for the last time before it is
// said that it was started again is known to have failed.
func TestRestartOvertakenByItsEnd(t *testing.T) {
	d := newSystem(t, shortDir(t), ktime.Real)
	spec := &apiv1.SpawnRequest{Name: "flaky", Restart: &apiv1.RestartPolicy{When: "always", Restarts: 1}}
	old := newRecord("a00000000000a", spec, "one", d.clock.Now())
	old.wish = d.newWish(spec, nil)
	for range 2 {
		old.finish("exited", toExit(control.Exit{Code: 3}), d.clock.Now())
		d.endedByItself(old)
		old.wish.begun()
	}
	d.toldRestarted(old, old, "")
	if l := d.health.List(); len(l) != 1 || l[0].Level != recovery.Failed {
		t.Errorf("%+v", l)
	}
}
