package daemon

import (
	"encoding/json"
	"os"
	"testing"
	"time"

	"aios.dev/aios/control"
	"aios.dev/aios/event/alert"
	"aios.dev/aios/ktime"
)

// TestRestoredAlertsOutlastASlowStart: an alert about a counter that fired under
// an earlier daemon goes on, however long this one takes to find the domains; one
// about an agent that is not there any more is over.
func TestRestoredAlertsOutlastASlowStart(t *testing.T) {
	clock := ktime.NewFake(time.Unix(1e9, 0))
	d := newSystem(t, shortDir(t), clock)
	const there, gone = "a00000000000a", "a00000000000b"
	k := startKernel(t, d, "default")
	k.agents = append(k.agents, control.AgentStatus{ID: there, State: "running"})
	if err := d.create(newRecord(there, spawnRequest("web"), "default", clock.Now())); err != nil {
		t.Fatal(err)
	}
	c := alert.Config{
		Name: "keep", By: "agent", Severity: "warning", Threshold: &alert.Threshold{Counter: "tasks", Above: new(alert.Number), Every: 100 * time.Millisecond},
	}
	rule, key, err := c.Compile()
	if err != nil {
		t.Fatal(key, err)
	}
	var s savedAlerts
	for _, id := range []string{there, gone} {
		s.Firing = append(s.Firing, savedAlert{
			Rule: "keep", Print: rule.Print(), Key: id, Agent: id, Domain: "default", Since: clock.Now(), Value: 1, Told: true, Correlation: "of " + id,
		})
	}
	raw, err := json.Marshal(s)
	if err == nil {
		err = os.WriteFile(d.paths.Events+"/alerts.json", raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := d.openAlerts([]*alert.Rule{rule}); err != nil {
		t.Fatal(err)
	}
	a := d.alerts
	t.Cleanup(a.stop)
	firing := func() (of []string) {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, id := range []string{there, gone} {
			if act := a.active[alertKey{"keep", id}]; act != nil {
				of = append(of, act.correlation)
			}
		}
		return of
	}
	clock.Advance(time.Second)
	if got := firing(); len(got) != 2 {
		t.Errorf("before the domains are known %q fire", got)
	}
	d.recover()
	a.recovered()
	clock.Advance(time.Second)
	if got := firing(); len(got) != 1 || got[0] != "of "+there {
		t.Errorf("then %q fire", got)
	}
	// It is sampled from then on.
	k.set(func() { k.agents = nil })
	clock.Advance(time.Second)
	if got := firing(); len(got) != 0 {
		t.Errorf("in the end %q fire", got)
	}
}
