package daemon

import (
	"context"
	"strings"
	"testing"
	"time"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/event"
	"aios.dev/aios/event/hub"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/ktime"
)

// TestPartThatHangs: a write that does not come to an end, as on a disk that
// hangs, is an event, and the health of the daemon says so until it does.
func TestPartThatHangs(t *testing.T) {
	clock := ktime.NewFake(time.Unix(1000, 0))
	d := newSystem(t, shortDir(t), clock)
	sub, err := d.events.Subscribe(hub.Options{Topics: []string{"watchdog.*", "health.*"}, Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	next := func(typ event.Type) event.Event {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for {
			e, _, err := sub.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if e.Type == typ {
				return e
			}
		}
	}
	writes := busy(d.dogs.trail)
	writes(true)
	for range int(dogTimeout/dogTick) + 2 {
		clock.Advance(dogTick)
	}
	p := next(event.WatchdogExpired).Payload.(*eventv1.WatchdogExpired)
	if p.Name != "writer of the audit trail" || p.Timeout != int64(dogTimeout) || !strings.Contains(p.Stack, "goroutine") {
		t.Errorf("%+v", p)
	}
	next(event.HealthDegraded)
	health := func() (component *apiv1.HealthComponent, dog *apiv1.HealthWatchdog) {
		resp, err := d.Health(t.Context(), &apiv1.HealthRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range resp.GetComponents() {
			if c.GetName() == "watchdog writer of the audit trail" {
				component = c
			}
		}
		for _, w := range resp.GetWatchdogs() {
			if w.GetName() == "writer of the audit trail" {
				dog = w
			}
		}
		return component, dog
	}
	if c, dog := health(); c.GetLevel() != "failed" || c.GetFix() == "" || !dog.GetLate() || dog.GetExpired() != 1 {
		t.Errorf("%v, %v", c, dog)
	}
	writes(false)
	clock.Advance(dogTick)
	next(event.HealthRestored)
	if c, dog := health(); c != nil || dog.GetLate() || !dog.GetWaits() {
		t.Errorf("%v, %v", c, dog)
	}
}
