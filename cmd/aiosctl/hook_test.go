package main

import (
	"bytes"
	"testing"
	"time"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/ktime"
)

func TestHooksAreShown(t *testing.T) {
	hooks := []*apiv1.HookStatus{
		{Name: "policy", Order: -1, Before: true, Operations: []string{"spawn", "exec"}, Command: []string{"/p"}, OnFailure: "refuse", Breaker: "open",
			RetryInNano: int64(1200 * time.Millisecond), Calls: 12, Vetoes: 3, Failures: 5, P50Nano: 2_000_000, P99Nano: 9_000_000, MaxNano: 1_500_000_000,
			Error: "it \x1b[2Jhangs", Fix: "give it more time", ErrorUnixNano: ago(time.Minute)},
		{Name: "told", Before: true, After: true, Operations: []string{"exit"}, Agents: []string{"web-*", "db"}, Breaker: "closed"},
	}
	var out bytes.Buffer
	a := &app{stdout: &out, clock: ktime.NewFake(clockAt), zone: time.UTC}
	if err := a.printHooks(hooks); err != nil {
		t.Fatal(err)
	}
	golden(t, "hook-ls", out.Bytes())
	out.Reset()
	if err := a.printJSON(views(hooks, viewHook)); err != nil {
		t.Fatal(err)
	}
	golden(t, "hook-ls-json", out.Bytes())
}
