package main

import (
	"context"
	"strings"
	"testing"
	"time"

	apiv1 "aios.dev/aios/api/v1"
)

// fakeHealth answers for the recorder.
type fakeHealth struct {
	apiv1.UnimplementedHealthServer
	resp *apiv1.HealthResponse
}

func (f *fakeHealth) Health(context.Context, *apiv1.HealthRequest) (*apiv1.HealthResponse, error) {
	return f.resp, nil
}

func TestHealthView(t *testing.T) {
	worn := &apiv1.HealthResponse{
		Worst: "failed",
		Components: []*apiv1.HealthComponent{
			{Name: "daemon", Level: "ok", SinceUnixNano: ago(time.Hour)},
			{Name: "agent flaky", Level: "failed", Reason: "restart budget used up", Fix: "`aiosctl logs flaky` shows why", SinceUnixNano: ago(time.Minute)},
		},
		Watchdogs: []*apiv1.HealthWatchdog{
			{Of: "daemon", Name: "writer of the journal", TimeoutNanos: 15e9, Waits: true},
			{Of: "domain default", Name: "watch over memory", TimeoutNanos: 15e9, UnfedNanos: 21e9, Late: true, Expired: 1},
			{Of: "domain default", Name: "agent web", TimeoutNanos: 30e9, UnfedNanos: 2e9},
		},
		Breakers: []*apiv1.HealthBreaker{
			{Name: "start of kernel processes", State: "open", Failures: 5, Opened: 1, Refused: 3, RetryInNanos: 2e9, SinceUnixNano: ago(time.Second), Error: "no memory"},
		},
		Restarts: []*apiv1.HealthRestarts{
			{Of: "agent flaky", When: "on-failure", Count: 2, Ended: "restart budget used up"},
			{Of: "agent web", When: "always", Count: 3, Left: 7, NextUnixNano: ago(-4 * time.Second)},
			{Of: "domain default", When: "with such agents", Count: 1, Left: 9},
		},
	}
	well := &apiv1.HealthResponse{Worst: "ok", Components: worn.Components[:1]}
	for _, c := range []struct {
		name, line string
		resp       *apiv1.HealthResponse
		status     int
	}{
		{"health", "health", worn, 2}, {"health-wide", "health -o wide", worn, 2}, {"health-json", "health -o json", worn, 2},
		{"health-well", "health", well, 0},
		{"", "health", &apiv1.HealthResponse{Worst: "degraded"}, 1},
		{"", "health -o yaml", well, 125},
	} {
		b := newBench(t)
		b.health.resp = c.resp
		if got := b.run(strings.Fields(c.line)...); got != c.status {
			t.Errorf("%s: status %d, want %d: %s", c.line, got, c.status, b.errOut.String())
		}
		if c.name != "" {
			golden(t, c.name, []byte(b.out.String()+"--- standard error\n"+b.errOut.String()))
		}
	}
}
