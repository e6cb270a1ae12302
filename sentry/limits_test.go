package sentry

import (
	"strings"
	"testing"

	"aios.dev/aios/control"
)

func tasks(n uint32) func(*control.SpawnRequest) {
	return func(r *control.SpawnRequest) { r.Limits.Tasks = n }
}

// TestForkBombIsBounded fills one agent with processes; it is refused more,
// and its neighbours, which have the same limit, still fork.
func TestForkBombIsBounded(t *testing.T) {
	bomb := spawn(t, []string{"sh", "-c", "(while :; do sleep 1000 & done); exec sleep 1000"}, tasks(40))
	eventually(t, func() bool { return inspect(t, bomb.id).Tasks >= 38 })
	for range 3 {
		out, errout, exit := spawn(t, []string{"sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0 & done; wait; echo fine"}, tasks(40)).output()
		if out != "fine\n" || exit.Code != 0 {
			t.Errorf("a neighbour of a fork bomb: stdout %q stderr %q exit %+v", out, errout, exit)
		}
	}
	t.Logf("%d", inspect(t, bomb.id).Tasks)
	if n := inspect(t, bomb.id).Tasks; n > 42 {
		t.Errorf("the agent has %d tasks, its limit is 40", n)
	}
}

func TestForkBeyondTheLimit(t *testing.T) {
	_, errout, exit := spawn(t, []string{"sh", "-c", "for i in 1 2 3 4 5 6; do sleep 1000 & done"}, tasks(4)).output()
	if exit.Code == 0 || !strings.Contains(errout, "can't fork") {
		t.Fatalf("stderr %q exit %+v", errout, exit)
	}
}
