package main

import (
	"context"
	"strings"
	"testing"
	"time"

	apiv1 "aios.dev/aios/api/v1"
)

// fakeClock answers for the recorder.
type fakeClock struct {
	apiv1.UnimplementedClockServer
	resp   *apiv1.TimeStatusResponse
	synced bool
}

func (f *fakeClock) TimeStatus(context.Context, *apiv1.TimeStatusRequest) (*apiv1.TimeStatusResponse, error) {
	return f.resp, nil
}

func (f *fakeClock) TimeSync(context.Context, *apiv1.TimeSyncRequest) (*apiv1.TimeStatusResponse, error) {
	f.synced = true
	return f.resp, nil
}

func TestTimeView(t *testing.T) {
	now := ago(0)
	slewed := &apiv1.TimeStatusResponse{
		NowUnixNano: now, OffsetNano: 31e6, TargetNano: 48e6, State: "synchronised", SinceUnixNano: ago(3 * time.Hour),
		Reference: "ntp1.example.com", Stratum: 2, JitterNano: 212_345, LastSyncUnixNano: ago(20 * time.Second), Steps: 1,
		IntervalNano: 64e9, StepNano: 128e6, LimitNano: 3600e9,
		Servers: []*apiv1.TimeServer{
			{Name: "ntp1.example.com", State: "agrees", Breaker: "closed", OffsetNano: 48e6, DelayNano: 9_876_543, UncertaintyNano: 6_543_210, JitterNano: 212_345,
				Stratum: 2, Reference: "192.0.2.9", LastAnswerUnixNano: ago(20 * time.Second), Asked: 170, Answered: 168, Failed: 2, Error: "no answer", ErrorUnixNano: ago(time.Hour)},
			{Name: "liar.example.com", State: "disagrees", Breaker: "closed", OffsetNano: -240e9, DelayNano: 1e6, UncertaintyNano: 1e6, Stratum: 1, Reference: ".GPS.",
				LastAnswerUnixNano: ago(20 * time.Second), Asked: 170, Answered: 170},
			{Name: "[2001:db8::1]:123", State: "silent", Breaker: "open", RetryInNano: 5e9, Asked: 9, Failed: 9, Error: "no answer within 2s", Fix: "name another", ErrorUnixNano: ago(time.Minute)},
		},
	}
	lost := &apiv1.TimeStatusResponse{
		NowUnixNano: now, State: "lost", SinceUnixNano: ago(time.Minute), Reason: "no time server answers", Fix: "look", Steps: 0,
		Servers: []*apiv1.TimeServer{{Name: "a", State: "refuses", Breaker: "closed", Asked: 1, Failed: 1, Error: "kiss of death \"DENY\"", Fix: "name another server", ErrorUnixNano: ago(time.Minute)}},
	}
	for _, c := range []struct {
		name, line string
		resp       *apiv1.TimeStatusResponse
		synced     bool
		status     int
	}{
		{"time", "time", slewed, false, 0}, {"time-json", "time -o json", slewed, false, 0}, {"time-lost", "time sync", lost, true, 0},
		{"time-host", "time", &apiv1.TimeStatusResponse{NowUnixNano: now, State: "host"}, false, 0},
		{"", "time -o yaml", slewed, false, 125}, {"", "time now", slewed, false, 125},
	} {
		b := newBench(t)
		b.time.resp = c.resp
		if got := b.run(strings.Fields(c.line)...); got != c.status || b.time.synced != c.synced {
			t.Errorf("%s: status %d, want %d, synced %v: %s", c.line, got, c.status, b.time.synced, b.errOut.String())
		}
		if c.name != "" {
			golden(t, c.name, b.out.Bytes())
		}
	}
}
