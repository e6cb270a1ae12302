package e2e

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
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

// TestClockReads has a program read clocks where the system calls for it are
// refused: a read needs none, and is right.
func TestClockReads(t *testing.T) {
	onEach(t, func(t *testing.T, in *install) {
		dir := in.program(t, "reads")
		profile := filepath.Join(in.share(t, map[string][]byte{"p.json": []byte(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
			{"names": ["clock_gettime", "gettimeofday", "time"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}`)}), "p.json")
		r := in.agent(t, "--seccomp", profile, "--mount", dir+":/t", "--", "/t/reads")
		seconds, err := strconv.ParseInt(strings.TrimSpace(string(r.stdout)), 10, 64)
		if r.status != 0 || err != nil {
			t.Fatalf("%s", r)
		}
		if d := time.Since(time.Unix(seconds, 0)); d < -time.Second || d > time.Minute {
			t.Errorf("the clock inside is off by %v", d)
		}
	})
}
