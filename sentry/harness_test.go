package sentry

import (
	"testing"
	"time"

	"aios.dev/aios/control"
)

// eventually polls until ok holds.
func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to pass")
		}
	}
}

func inspect(t testing.TB, id string) control.AgentStatus {
	t.Helper()
	st, err := theKernel.Inspect(control.AgentRequest{ID: id})
	if err != nil {
		t.Fatal(err)
	}
	return st
}
