package e2e

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// TestTimers has a program examine what Linux promises of sleeping and of
// timers, on this host first and then in an agent: sleeps, timers as files,
// timers that send signals, interval timers of every kind.
func TestTimers(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		dir := in.program(t, "timers")
		want, err := exec.Command(filepath.Join(dir, "timers")).Output()
		if err != nil {
			t.Fatalf("on this host: %v\n%s", err, want)
		}
		if r := in.agent(t, "--mount", dir+":/t", "--", "/t/timers"); r.status != 0 || string(r.stdout) != string(want) {
			t.Errorf("on this host:\n%s\nin an agent: %s", want, r)
		}
	})
}
