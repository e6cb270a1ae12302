package main

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	apiv1 "aios.dev/aios/api/v1"
)

func (f *fakeClock) AgentClock(_ context.Context, m *apiv1.AgentClockRequest) (*apiv1.AgentClockResponse, error) {
	g, err := find(m.GetAgent())
	if err != nil {
		return nil, err
	}
	offset := m.GetOffsetNano()
	if m.WallUnixNano != nil {
		offset = m.GetWallUnixNano() - clockAt.UnixNano()
	}
	return &apiv1.AgentClockResponse{
		Agent: g.Id, Name: g.Name, Domain: g.Domain, Clock: &apiv1.OwnClock{OffsetNano: offset, MonotonicNano: int64(90 * time.Minute), RatePpb: m.GetRatePpb()},
		Was: &apiv1.OwnClock{}, RealtimeUnixNano: clockAt.UnixNano() + offset, UptimeNano: int64(5400 * time.Second),
	}, nil
}

// TestClock shows an agent's clock, and sets it.
func TestClock(t *testing.T) {
	for _, test := range []struct {
		file string
		args []string
	}{
		{"clock", []string{"clock", "web"}},
		{"clock_set", []string{"clock", "set", "web", "offset=-30d"}},
		{"clock_rate", []string{"clock", "set", "web", "offset=1h,rate=1.0005"}},
		{"clock_wall", []string{"clock", "set", "web", "wall=2030-01-01T00:00:00Z", "-o", "json"}},
	} {
		b := newBench(t)
		if got := b.run(test.args...); got != 0 {
			t.Fatalf("%q: %d %s", test.args, got, b.errOut.String())
		}
		golden(t, test.file, b.out.Bytes())
	}
	if got := newBench(t).run("clock", "wev"); got == 0 {
		t.Error("there is no such agent")
	}
}

// TestOwnClockKeys has what --clock says be read, and what it cannot say be refused.
func TestOwnClockKeys(t *testing.T) {
	c, err := parseOwnClock("--clock", "wall=2030-01-01T00:00:00Z,rate=0.25,monotonic=1d")
	if err != nil || c.GetRatePpb() != 250_000_000 || c.GetWallUnixNano() != 1893456000e9 || c.GetMonotonicNano() != int64(day) {
		t.Errorf("%v %v", c, err)
	}
	for _, text := range []string{"rate=0", "rate=-1", "rate=1001", "rate=", "rate=fast", "rate=1,rate=2", "offset=1h,wall=2030-01-01T00:00:00Z", "speed=1"} {
		if c, err := parseOwnClock("--clock", text); err == nil {
			t.Errorf("%s is %v", text, c)
		}
	}
	for _, text := range []string{"monotonic=1h", "rate=2,monotonic=1h", "rate=0"} {
		if newBench(t).run("clock", "set", "web", text) == 0 {
			t.Errorf("%s was set", text)
		}
	}
	if got := clockText(&apiv1.OwnClock{OffsetNano: int64(day), RatePpb: 60_000_000_000}); got != "offset=+1d, rate=60" {
		t.Errorf("it is told as %s", got)
	}
}

// TestOffsets has lengths of time be read as they are written.
func TestOffsets(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "+0": 0, "36h": 36 * time.Hour, "-30d": -30 * day, "1d12h30m": 36*time.Hour + 30*time.Minute, "+5ms": 5 * time.Millisecond,
		"-1d1ns": -day - 1, "400d": 400 * day,
	} {
		if got, err := parseOffset("--clock", text, text); err != nil || got != int64(want) {
			t.Errorf("%s: %v %v", text, time.Duration(got), err)
		}
	}
	for nano, want := range map[time.Duration]string{
		0: "0", 36 * time.Hour: "+1d12h", -30 * day: "-30d", 90 * time.Second: "+1m30s", time.Hour + time.Second: "+1h0m1s", 30 * time.Minute: "+30m", -5 * time.Millisecond: "-5ms",
	} {
		if got := offsetText(int64(nano)); got != want {
			t.Errorf("%v is written %q, not %q", nano, got, want)
		}
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 10_000 {
		n := r.Int64N(200*365*int64(day)) - 100*365*int64(day)
		if r.IntN(2) == 0 {
			n -= n % int64(time.Minute)
		}
		if got, err := parseOffset("", "", offsetText(n)); err != nil || got != n {
			t.Fatalf("%d is written %q, and that is read as %d, %v", n, offsetText(n), got, err)
		}
	}
}
