package recovery

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/ktime"
)

func TestBudgetBacksOff(t *testing.T) {
	clock := ktime.NewFake(time.Unix(1000, 0))
	b := NewBudget(BudgetConfig{
		Clock: clock, Restarts: 6, Window: time.Hour, First: time.Second, Longest: 5 * time.Second, Stable: time.Minute,
		Rand: func() float64 { return 0 },
	}, BudgetState{})
	b.Started()
	for i, want := range []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second} {
		wait, ok := b.Ended()
		if !ok || wait != want {
			t.Fatalf("restart %d: %v %v, want %v", i, wait, ok, want)
		}
		clock.Advance(wait)
		b.Started()
	}
	if wait, ok := b.Ended(); ok {
		t.Fatalf("a seventh restart after %v", wait)
	}
	// What is kept in a file goes on where it was.
	again := NewBudget(BudgetConfig{Clock: clock, Restarts: 6, Window: time.Hour}, b.State())
	if again.Left() != 0 {
		t.Fatalf("%d left after a restart of the daemon", again.Left())
	}
	clock.Advance(time.Hour)
	if _, ok := b.Ended(); !ok || b.Left() != 5 || b.State().Total != 7 {
		t.Fatalf("after the window: %+v", b.State())
	}
	// A stable time makes it forget.
	b.Started()
	clock.Advance(time.Minute)
	if wait, ok := b.Ended(); !ok || wait != 0 || b.Left() != 5 {
		t.Fatalf("after a stable time: %v %v, %d left", wait, ok, b.Left())
	}
}

// TestBudgetModel: in no window are there more restarts than allowed, and waits
// stay within their bounds.
func TestBudgetModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		clock := ktime.NewFake(time.Unix(1000, 0))
		limit := rapid.IntRange(1, 5).Draw(t, "limit")
		const window, longest, stable = time.Minute, 8 * time.Second, time.Hour // Never stable.
		b := NewBudget(BudgetConfig{Clock: clock, Restarts: limit, Window: window, First: time.Second, Longest: longest, Stable: stable}, BudgetState{})
		var taken []time.Time
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			clock.Advance(time.Duration(rapid.IntRange(0, 20000).Draw(t, "ms")) * time.Millisecond)
			b.Started()
			wait, ok := b.Ended()
			recent := 0
			for _, at := range taken {
				if clock.Since(at) < window {
					recent++
				}
			}
			if ok != (recent < limit) {
				t.Fatalf("allowed %v with %d of %d taken", ok, recent, limit)
			}
			if wait < 0 || wait > longest || !ok && wait != 0 {
				t.Fatalf("wait %v", wait)
			}
			if ok {
				taken = append(taken, clock.Now())
			}
		}
		if got := b.State().Total; got != uint64(len(taken)) {
			t.Fatalf("total %d, want %d", got, len(taken))
		}
	})
}

func TestWatchdog(t *testing.T) {
	clock := ktime.NewFake(time.Unix(1000, 0))
	var got []Expiry
	w := NewWatchdogs(WatchdogConfig{Clock: clock, Tick: time.Second, OnChange: func(e Expiry) { got = append(got, e) }})
	dog := w.Add("hub", 5*time.Second)
	quiet := w.Add("sink", 3*time.Second)
	resume := quiet.Pause()
	for range 20 {
		clock.Advance(time.Second)
		dog.Feed()
	}
	if len(got) != 0 {
		t.Fatalf("fed, and expired: %+v", got)
	}
	clock.Advance(5 * time.Second)
	if len(got) != 0 { // The tick that saw the last feed begins anew.
		t.Fatalf("expired early: %+v", got)
	}
	clock.Advance(time.Second)
	if want := []Expiry{{Name: "hub", Late: true, Unfed: 5 * time.Second, Times: 1}}; !slices.Equal(got, want) || !slices.Equal(w.Late(), want) {
		t.Fatalf("got %+v", got)
	}
	clock.Advance(10 * time.Second)
	if len(got) != 1 {
		t.Fatalf("told twice: %+v", got)
	}
	dog.Feed()
	clock.Advance(time.Second)
	if len(got) != 2 || got[1].Late || got[1].Unfed != 15*time.Second {
		t.Fatalf("the recovery: %+v", got)
	}
	resume()
	clock.Advance(4 * time.Second)
	if len(got) != 3 || got[2].Name != "sink" {
		t.Fatalf("resumed and not fed: %+v", got)
	}
	quiet.Remove()
	dog.Remove()
	clock.Advance(time.Minute)
	w.Close()
	clock.Advance(time.Minute)
	if len(got) != 3 || len(w.Late()) != 0 {
		t.Fatalf("after the end: %+v", got)
	}
	var none *Watchdog
	none.Feed()
	none.Pause()()
	none.Remove()
}

// TestWatchdogsSleepWithoutDogs: an empty set has no timer, one that gets its
// first watchdog late does not count the time before.
func TestWatchdogsSleepWithoutDogs(t *testing.T) {
	clock := &counting{Fake: ktime.NewFake(time.Unix(1000, 0))}
	var got []Expiry
	w := NewWatchdogs(WatchdogConfig{Clock: clock, Tick: time.Second, OnChange: func(e Expiry) { got = append(got, e) }})
	clock.Advance(time.Hour)
	if clock.timers != 0 {
		t.Fatalf("an empty set has set %d timers", clock.timers)
	}
	dog := w.Add("agent", 3*time.Second)
	clock.Advance(3 * time.Second)
	if len(got) != 0 {
		t.Fatalf("the time before counted: %+v", got)
	}
	dog.Idle()
	dog.Idle()
	clock.Advance(time.Minute)
	if list := w.List(); len(got) != 0 || len(list) != 1 || !list[0].Waits {
		t.Fatalf("idle: %+v, %+v", got, list)
	}
	dog.Busy()
	clock.Advance(4 * time.Second)
	if len(got) != 1 || !got[0].Late {
		t.Fatalf("busy and not fed: %+v", got)
	}
	if want := []WatchdogStatus{{Name: "agent", Timeout: 3 * time.Second, Unfed: 3 * time.Second, Late: true, Times: 1}}; !slices.Equal(w.List(), want) {
		t.Fatalf("list %+v", w.List())
	}
	dog.Remove()
	clock.Advance(time.Second)
	was := clock.timers
	clock.Advance(time.Minute)
	if clock.timers != was {
		t.Fatal("it looks on after the last was removed")
	}
}

// counting is a clock that counts timers.
type counting struct {
	*ktime.Fake
	timers int
}

func (c *counting) AfterFunc(d time.Duration, f func()) ktime.Timer {
	c.timers++
	return c.Fake.AfterFunc(d, f)
}

// sleeper is a clock whose timers come late when the host has slept.
type sleeper struct {
	*ktime.Fake
	slept time.Duration
}

func (s *sleeper) Now() time.Time                  { return s.Fake.Now().Add(s.slept) }
func (s *sleeper) Since(t time.Time) time.Duration { return s.Now().Sub(t) }

func TestWatchdogSleeps(t *testing.T) {
	clock := &sleeper{Fake: ktime.NewFake(time.Unix(1000, 0))}
	expired := 0
	w := NewWatchdogs(WatchdogConfig{Clock: clock, Tick: time.Second, OnChange: func(Expiry) { expired++ }})
	defer w.Close()
	w.Add("kernel", 5*time.Second)
	clock.Advance(time.Second)
	for _, jump := range []time.Duration{time.Hour, -2 * time.Hour} {
		clock.slept += jump
		clock.Advance(time.Second)
		if expired != 0 {
			t.Fatalf("a jump of %v expired it", jump)
		}
	}
	clock.Advance(5 * time.Second)
	if expired != 1 {
		t.Fatal("it does not expire after the jumps")
	}
}

// TestWatchdogModel: one that is fed within its timeout, as the ticks see it,
// never expires; one that is not always does.
func TestWatchdogModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		clock := ktime.NewFake(time.Unix(1000, 0))
		late := map[string]bool{}
		w := NewWatchdogs(WatchdogConfig{Clock: clock, Tick: time.Second, OnChange: func(e Expiry) {
			if late[e.Name] == e.Late {
				t.Fatalf("told twice of the same: %+v", e)
			}
			late[e.Name] = e.Late
		}})
		defer w.Close()
		const timeout = 4 // ticks
		var dogs [3]*Watchdog
		var unfed [3]int
		for i := range dogs {
			dogs[i] = w.Add(fmt.Sprint(i), timeout*time.Second)
			unfed[i] = -1 // Counts as fed.
		}
		for range rapid.IntRange(1, 60).Draw(t, "ticks") {
			for i := range dogs {
				if rapid.IntRange(0, 3).Draw(t, "feed") == 0 {
					dogs[i].Feed()
					unfed[i] = -1
				}
				unfed[i]++
			}
			clock.Advance(time.Second)
			for i := range dogs {
				if want := unfed[i] >= timeout; late[fmt.Sprint(i)] != want {
					t.Fatalf("watchdog %d: late %v after %d ticks", i, !want, unfed[i])
				}
			}
		}
	})
}

func BenchmarkFeed(b *testing.B) {
	w := NewWatchdogs(WatchdogConfig{Clock: ktime.Real, Tick: time.Second})
	defer w.Close()
	d := w.Add("x", time.Minute)
	b.ReportAllocs()
	for b.Loop() {
		d.Feed()
	}
}

func TestHealth(t *testing.T) {
	clock := ktime.NewFake(time.Unix(1000, 0))
	var got []string
	var h *Health
	h = NewHealth(clock, func(c HealthChange) {
		got = append(got, fmt.Sprintf("%s %v>%v %v", c.Name, c.From, c.Level, c.For))
		if c.Name == "disk" && c.Level == Failed {
			h.Set(Component{Name: "journal", Level: Degraded, Reason: "no space"}) // From within.
		}
	})
	h.Set(Component{Name: "disk"})
	h.Set(Component{Name: "disk"})
	clock.Advance(time.Minute)
	h.Set(Component{Name: "disk", Level: Failed, Reason: "full", Fix: "free some"})
	clock.Advance(time.Minute)
	h.Set(Component{Name: "disk", Level: Failed, Reason: "still full"})
	if h.Worst() != Failed {
		t.Fatal("the worst is", h.Worst())
	}
	list := h.List()
	if len(list) != 2 || list[0].Name != "disk" || list[0].Reason != "still full" || list[0].Since != time.Unix(1060, 0) {
		t.Fatalf("list %+v", list)
	}
	h.Set(Component{Name: "disk"})
	h.Remove("journal")
	h.Remove("journal")
	want := []string{"disk ok>failed 1m0s", "journal ok>degraded 0s", "disk failed>ok 1m0s", "journal degraded>ok 1m0s"}
	if !slices.Equal(got, want) || h.Worst() != OK {
		t.Fatalf("changes %q", got)
	}
}
