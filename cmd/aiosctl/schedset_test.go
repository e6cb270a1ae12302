package main

import (
	"slices"
	"strings"
	"testing"
)

// TestSchedSetSaysWhatHolds now, and completes its keys.
func TestSchedSetSaysWhatHolds(t *testing.T) {
	b := newBench(t)
	if got := b.run("sched", "set", "web", "quota=0.5"); got != 0 {
		t.Fatalf("%d %s", got, b.errOut.String())
	}
	golden(t, "sched_set", b.out.Bytes())
	if got := newBench(t).run("sched", "set", "wev", "quota=0.5"); got == 0 {
		t.Error("there is no such agent")
	}
	b = newBench(t)
	if got := b.run("hint", "web"); got != 0 || b.out.String() != "batch\n" {
		t.Errorf("%d %q %q", got, b.out.String(), b.errOut.String())
	}
	b = newBench(t)
	if got := b.run("hint", "--help"); got != 0 || !strings.Contains(b.out.String(), "waiting-for-model") || !strings.Contains(b.out.String(), "an eighth of the weight") {
		t.Errorf("%d %q", got, b.out.String())
	}
	for typed, want := range map[string]string{
		"": "weight=", "weight=3,": "weight=3,quota=", "weight=3,qu": "weight=3,quota=", "class=": "class=idle", "weight=3,cpus=": "weight=3,cpus=all",
	} {
		if got := completeCPU(typed); !slices.Contains(got, want) {
			t.Errorf("%q: %q", typed, got)
		}
	}
}
