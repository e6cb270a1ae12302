package recovery

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

var errDown = errors.New("connection refused")

func fail() error    { return errDown }
func succeed() error { return nil }

func TestBreakerOpensTriesAndCloses(t *testing.T) {
	clock := ktime.NewFake(time.Unix(1000, 0))
	var changes []BreakerChange
	b := NewBreaker(BreakerConfig{
		Name: "registry", Clock: clock, Failures: 3, Cooldown: time.Second, MaxCooldown: 3 * time.Second,
		OnChange: func(c BreakerChange) { changes = append(changes, c) },
	})
	called := 0
	call := func(f func() error) error {
		return b.Do(func() error { called++; return f() })
	}
	call(fail)
	call(fail)
	call(succeed) // The row begins anew.
	call(fail)
	call(fail)
	if b.Status().State != Closed || len(changes) != 0 {
		t.Fatalf("open after two failures in a row: %+v", b.Status())
	}
	call(fail)
	if s := b.Status(); s.State != Open || s.RetryIn != time.Second || s.Opened != 1 || !errors.Is(s.Err, errDown) {
		t.Fatalf("after three: %+v", s)
	}
	before := called
	err := call(succeed)
	if called != before || errdefs.CodeOf(err) != errdefs.BreakerOpen || errdefs.DelayOf(err) != time.Second ||
		!strings.Contains(err.Error(), "connection refused") {
		t.Fatalf("an open breaker: called %d more, %v", called-before, err)
	}
	// Each trial that fails makes it wait longer, up to the most.
	for _, wait := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second} {
		clock.Advance(wait - 1)
		if err := call(fail); errdefs.CodeOf(err) != errdefs.BreakerOpen {
			t.Fatalf("tried before %v had passed: %v", wait, err)
		}
		clock.Advance(1)
		if err := call(fail); !errors.Is(err, errDown) {
			t.Fatalf("not tried after %v: %v", wait, err)
		}
	}
	clock.Advance(3 * time.Second)
	done, err := b.Allow()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Allow(); errdefs.CodeOf(err) != errdefs.BreakerOpen {
		t.Fatalf("two trials at once: %v", err)
	}
	done(nil)
	done(errDown) // Once is enough.
	if err := call(succeed); err != nil || b.Status().State != Closed {
		t.Fatalf("not closed: %v, %+v", err, b.Status())
	}
	if len(changes) != 2 || changes[0].To != Open || changes[0].Failures != 3 || changes[1].To != Closed || changes[1].Refused != 5 {
		t.Fatalf("changes %+v", changes)
	}
}

func TestBreakerBlamesNotTheCaller(t *testing.T) {
	clock := ktime.NewFake(time.Unix(1000, 0))
	b := NewBreaker(BreakerConfig{Name: "x", Clock: clock, Failures: 1, Cooldown: time.Second})
	b.Do(func() error { return context.Canceled })
	if s := b.Status(); s.State != Closed {
		t.Fatalf("a caller that went away opened it: %+v", s)
	}
	b.Do(fail)
	clock.Advance(time.Second)
	b.Do(func() error { return context.Canceled })
	if err := b.Do(succeed); err != nil {
		t.Fatalf("after a trial whose caller went away: %v", err)
	}
	func() {
		defer func() { recover() }()
		b.Do(func() error { panic("in the dependency") })
	}()
	if s := b.Status(); s.State != Open {
		t.Fatalf("a panic is no failure: %+v", s)
	}
}

func TestBreakerTrialThatHangs(t *testing.T) {
	clock := ktime.NewFake(time.Unix(1000, 0))
	b := NewBreaker(BreakerConfig{Name: "x", Clock: clock, Failures: 1, Cooldown: time.Second, MaxCooldown: 10 * time.Second})
	b.Do(fail)
	clock.Advance(time.Second)
	hung, err := b.Allow()
	if err != nil {
		t.Fatal(err)
	}
	clock.Advance(10 * time.Second)
	if err := b.Do(succeed); err != nil {
		t.Fatalf("a trial that hangs keeps it open: %v", err)
	}
	hung(errDown)
	if s := b.Status(); s.State != Closed || s.Failures != 0 {
		t.Fatalf("the old trial counted: %+v", s)
	}
}

// TestBreakerModel: whatever happens, no call is made before its time, and never
// more than one while it tries; it opens exactly after a row of failures.
func TestBreakerModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		clock := ktime.NewFake(time.Unix(1000, 0))
		limit := rapid.IntRange(1, 5).Draw(t, "failures")
		opens, closes := 0, 0
		b := NewBreaker(BreakerConfig{Name: "x", Clock: clock, Failures: limit, Cooldown: time.Second, MaxCooldown: 8 * time.Second,
			OnChange: func(c BreakerChange) {
				if c.To == Open {
					opens++
				} else {
					closes++
				}
			}})
		open, row, cooldown := false, 0, time.Second
		var until time.Time
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "advance") {
				clock.Advance(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond)
				continue
			}
			bad := rapid.Bool().Draw(t, "bad")
			called := false
			b.Do(func() error {
				called = true
				if bad {
					return errDown
				}
				return nil
			})
			if want := !open || !clock.Now().Before(until); called != want {
				t.Fatalf("called %v, want %v (%+v)", called, want, b.Status())
			}
			switch {
			case !called:
			case !bad:
				open, row, cooldown = false, 0, time.Second
			case open:
				cooldown = min(2*cooldown, 8*time.Second)
				until = clock.Now().Add(cooldown)
			default:
				if row++; row == limit {
					open, until = true, clock.Now().Add(cooldown)
				}
			}
			if (b.Status().State == Open) != open {
				t.Fatalf("state %v, model open=%v", b.Status().State, open)
			}
		}
		want := 0
		if open {
			want = 1
		}
		if opens-closes != want {
			t.Fatalf("%d times opened, %d closed, open=%v", opens, closes, open)
		}
	})
}
