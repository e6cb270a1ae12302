package retry

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// hasty is a clock on which every wait is over as soon as it begins; it keeps
// the waits.
type hasty struct {
	*ktime.Fake
	waits []time.Duration
}

func newHasty() *hasty { return &hasty{Fake: ktime.NewFake(time.Unix(0, 0))} }

func (h *hasty) AfterFunc(d time.Duration, f func()) ktime.Timer {
	h.waits = append(h.waits, d)
	t := h.Fake.AfterFunc(d, f)
	h.Fake.Advance(d)
	return t
}

func sum(ds []time.Duration) time.Duration {
	var s time.Duration
	for _, d := range ds {
		s += d
	}
	return s
}

// TestDoObeys draws scripts of errors and policies and checks every promise
// that Do makes.
func TestDoObeys(t *testing.T) {
	all := errdefs.Codes()
	rapid.Check(t, func(t *rapid.T) {
		clock := newHasty()
		seed := rapid.Uint64().Draw(t, "seed")
		rng := rand.New(rand.NewPCG(seed, seed))
		p := Policy{
			Attempts: rapid.IntRange(0, 6).Draw(t, "attempts"),
			MaxDelay: time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "max")),
			Budget:   time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "budget")),
			Rand:     rng.Float64,
		}
		script := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) error {
			if rapid.IntRange(0, 9).Draw(t, "success") == 0 {
				return nil
			}
			// Mostly what may be tried again; else scripts would end at once.
			code := rapid.SampledFrom([]errdefs.Code{errdefs.RateLimited, errdefs.HostIO, errdefs.DomainDied, errdefs.Timeout}).Draw(t, "retryable")
			if rapid.IntRange(0, 4).Draw(t, "any") == 0 {
				code = rapid.SampledFrom(all).Draw(t, "code")
			}
			return errdefs.New(code, "no", errdefs.Delay(time.Duration(rapid.Int64Range(0, int64(30*time.Second)).Draw(t, "delay"))))
		}), 1, 12).Draw(t, "script")

		calls, highest := 0, 0
		var last error
		err := Do(context.Background(), clock, p, func(context.Context) error {
			last = nil
			if calls < len(script) {
				last = script[calls]
			}
			calls++
			highest = max(highest, errdefs.RetryOf(last).Limit+1)
			return last
		})

		if (err == nil) != (last == nil) || errdefs.CodeOf(err) != errdefs.CodeOf(last) {
			t.Fatalf("the last call returned %v, Do returned %v", last, err)
		}
		if p.Attempts > 0 && calls > p.Attempts || last != nil && calls > highest {
			t.Errorf("%d calls; the policy allows %d, the codes %d", calls, p.Attempts, highest)
		}
		if total := sum(clock.waits); p.Budget > 0 && total > p.Budget {
			t.Errorf("waited %s of %s", total, p.Budget)
		}
		waits := clock.waits
		for i := range calls - 1 {
			r := errdefs.RetryOf(script[i])
			switch r.When {
			case errdefs.AtOnce:
				continue
			case errdefs.AfterDelay:
			default:
				t.Fatalf("tried again after %v", script[i])
			}
			top := p.MaxDelay
			if top == 0 {
				top = defaultMaxDelay
			}
			if w := waits[0]; w < r.Delay || w > max(top, r.Delay) || w > r.Delay<<(i+1) {
				t.Errorf("attempt %d: waited %s after %+v", i+1, w, r)
			}
			waits = waits[1:]
		}
		if len(waits) != 0 {
			t.Errorf("waited %v for nothing", waits)
		}
	})
}

func TestWaitsGrowAndSpread(t *testing.T) {
	rule := errdefs.Retry{When: errdefs.AfterDelay, Delay: 100 * time.Millisecond, Limit: 5}
	for _, tc := range []struct {
		random float64
		want   []time.Duration
	}{
		{0, []time.Duration{100, 100, 100, 100}},
		{0.5, []time.Duration{150, 250, 300, 300}},
	} {
		p := Policy{MaxDelay: 500 * time.Millisecond, Rand: func() float64 { return tc.random }}
		for i, want := range tc.want {
			if got := p.wait(rule, i+1); got != want*time.Millisecond {
				t.Errorf("random %v, attempt %d: %s, want %s", tc.random, i+1, got, want*time.Millisecond)
			}
		}
	}
	// However many attempts there were, nothing overflows.
	huge := errdefs.Retry{When: errdefs.AfterDelay, Delay: 1}
	if got := (Policy{Rand: func() float64 { return 0.999 }}).wait(huge, 1<<30); got <= 0 || got > defaultMaxDelay {
		t.Errorf("waits %s", got)
	}
}

func TestWhatEndedItIsSaid(t *testing.T) {
	fail := func(context.Context) error { return errdefs.New(errdefs.RateLimited, "slow down", errdefs.Fix("wait")) }
	err := Do(context.Background(), newHasty(), Policy{Attempts: 3}, fail)
	if !strings.HasPrefix(err.Error(), "give up after 3 attempts, as no more are allowed: slow down") || errdefs.FixOf(err) != "wait" {
		t.Errorf("%v, fix %q", err, errdefs.FixOf(err))
	}
	err = Do(context.Background(), newHasty(), Policy{Attempts: 3, Budget: time.Millisecond}, fail)
	if err.Error() != "slow down" {
		t.Errorf("one attempt: %v", err)
	}
}

func TestTheEndOfTheContextEndsTheWait(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	calls := 0
	// On a clock that stands still only the context can end it.
	err := Do(ctx, ktime.NewFake(time.Unix(0, 0)), Policy{}, func(context.Context) error {
		calls++
		time.AfterFunc(10*time.Millisecond, cancel)
		return errdefs.New(errdefs.HostIO, "no")
	})
	if errdefs.CodeOf(err) != errdefs.Cancelled || !errors.Is(err, context.Canceled) || calls != 1 {
		t.Errorf("%d calls: %v", calls, err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), 0)
	defer cancel()
	err = Do(ctx, newHasty(), Policy{}, func(context.Context) error { return errdefs.DomainDied })
	if errdefs.CodeOf(err) != errdefs.Timeout {
		t.Errorf("past the deadline: %v", err)
	}
}
