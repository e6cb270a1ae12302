package ktime

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestDisciplined: whatever is done to the clock, it shows the offset that it was
// given, slews no faster than it says, and measures what has passed.
func TestDisciplined(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		host := NewFake(time.Unix(1_700_000_000, 0))
		c := NewDisciplined(host)
		var now, then time.Duration // the offset, by a plain reckoning
		type reading struct{ host, seen time.Time }
		var readings []reading
		steps := 0
		near := func(a, b time.Duration) bool { return max(a-b, b-a) <= time.Microsecond }
		offset := func(t *rapid.T) time.Duration {
			return time.Duration(rapid.IntRange(-5_000, 5_000).Draw(t, "offset")) * time.Millisecond
		}
		t.Repeat(map[string]func(*rapid.T){
			"step": func(t *rapid.T) {
				if steps == stretchesKept-1 {
					t.Skip("more than it remembers")
				}
				o := offset(t)
				if o < now { // What was read is ambiguous from here on.
					readings = nil
				}
				steps++
				now, then = o, o
				c.Step(o)
			},
			"slew": func(t *rapid.T) {
				if steps == stretchesKept-1 {
					t.Skip("more than it remembers")
				}
				steps++
				then = offset(t)
				c.Slew(then)
			},
			"pass": func(t *rapid.T) {
				d := time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "d"))
				before := c.Now()
				host.Advance(d)
				if most := time.Duration(float64(d) * SlewRate); then > now {
					now = min(then, now+most)
				} else {
					now = max(then, now-most)
				}
				if c.Now().Before(before) {
					t.Fatalf("time runs backwards, by %v", before.Sub(c.Now()))
				}
			},
			"read": func(*rapid.T) { readings = append(readings, reading{host.Now(), c.Now()}) },
			"": func(t *rapid.T) {
				if got := c.Now().Sub(host.Now()); !near(got, now) {
					t.Fatalf("the offset is %v, not %v", got, now)
				}
				if a, b := c.Offset(); !near(a, now) || b != then {
					t.Fatalf("it says that its offset is %v and becomes %v, not %v and %v", a, b, now, then)
				}
				for _, r := range readings {
					if got, want := c.Since(r.seen), host.Since(r.host); !near(got, want) {
						t.Fatalf("%v have passed, not %v", got, want)
					}
				}
			},
		})
	})
}

// TestDisciplinedTimers are those of the clock beneath.
func TestDisciplinedTimers(t *testing.T) {
	host := NewFake(time.Unix(1_700_000_000, 0))
	c := NewDisciplined(host)
	fired := false
	c.AfterFunc(time.Second, func() { fired = true })
	c.Step(time.Hour)
	if fired {
		t.Error("a step has a timer end")
	}
	host.Advance(time.Second)
	if !fired {
		t.Error("the timer did not end")
	}
}

// TestDisciplinedForLong: a clock that is slewed to and fro for days measures what
// began before, and knows of its steps.
func TestDisciplinedForLong(t *testing.T) {
	host := NewFake(time.Unix(1_700_000_000, 0))
	c := NewDisciplined(host)
	began, hostBegan := c.Now(), host.Now()
	c.Step(10 * time.Minute)
	host.Advance(time.Minute)
	stepped, hostStepped := c.Now(), host.Now()
	var late, hostLate time.Time
	for i := range 10_000 {
		c.Slew(10*time.Minute + time.Duration(i%7)*time.Millisecond)
		host.Advance(time.Minute)
		if i == 5000 {
			late, hostLate = c.Now(), host.Now()
		}
	}
	for what, r := range map[string][2]time.Time{
		"from the beginning": {began, hostBegan}, "from the step": {stepped, hostStepped}, "in between": {late, hostLate},
	} {
		got, want := c.Since(r[0]), host.Since(r[1])
		if off := got - want; off < -20*time.Millisecond || off > 20*time.Millisecond {
			t.Errorf("%s %v have passed, not %v", what, got, want)
		}
	}
	if n := len(*c.past.Load()); n > stretchesKept {
		t.Errorf("%d stretches are kept", n)
	}
}

// TestSetsOfTimersGoByTheClockBeneath: a lease is as long as it was given for,
// whoever sets the clock.
func TestSetsOfTimersGoByTheClockBeneath(t *testing.T) {
	host := NewFake(time.Unix(1_700_000_000, 0))
	c := NewDisciplined(host)
	heard := 0
	watched := Watched(c, func(time.Duration) { heard++ })
	e, w := NewExact(watched), NewWheel(watched, time.Millisecond)
	ended := 0
	var exact ExactTimer
	var coarse WheelTimer
	exact.Init(e, 0, func() { ended++ })
	coarse.Init(w, func() { ended++ })
	exact.ResetAt(e.Now() + time.Minute)
	coarse.Reset(10 * time.Millisecond)
	c.Step(time.Hour)
	host.Advance(time.Second)
	if ended != 1 {
		t.Errorf("after a second %d timers have ended, not 1", ended)
	}
	if now := e.Now(); now != time.Second {
		t.Errorf("%v have passed", now)
	}
	if now := Steady(watched).Now(); now != host.Now() || Steady(host) != Clock(host) {
		t.Errorf("the steady clock is %v ahead", now.Sub(host.Now()))
	}
	c.Step(-time.Hour)
	host.Advance(59 * time.Second)
	if ended != 2 || heard != 2 {
		t.Errorf("after a minute %d timers have ended, not 2, and %d were heard of", ended, heard)
	}
}
