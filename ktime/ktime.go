// Package ktime is where AIOS reads the clock. Everything that waits, stamps
// or measures takes a Clock, so that tests own time; no other package calls
// time.Now (test/arch enforces it).
//
// A Clock has timers of its own, each of which it allocates. Who has many puts
// them into a set: Wheel for time-outs, which may end late, Exact for what has
// to end on time. The locks of both are leaves, but for that of the Clock.
package ktime

import (
	"sync"
	"time"
)

// Clock tells the time and wakes the caller later. Implementations are safe
// for concurrent use.
type Clock interface {
	// Now returns wall time with a monotonic reading.
	Now() time.Time
	// Since returns the time elapsed since t, by the monotonic clock.
	Since(t time.Time) time.Duration
	// AfterFunc calls f on its own goroutine once d has passed.
	AfterFunc(d time.Duration, f func()) Timer
}

// Timer is a pending AfterFunc.
type Timer interface {
	// Stop cancels the call; it reports false when the call has begun.
	Stop() bool
}

// Real is the host's clock.
var Real Clock = realClock{}

type realClock struct{}

func (realClock) Now() time.Time                            { return time.Now() }
func (realClock) Since(t time.Time) time.Duration           { return time.Since(t) }
func (realClock) AfterFunc(d time.Duration, f func()) Timer { return time.AfterFunc(d, f) }

// Watched returns a clock that is c, but that fired hears of every timer of it
// that expires, on the timer's goroutine and before what it is for: how late it
// is. What is called with no delay is no timer.
func Watched(c Clock, fired func(late time.Duration)) Clock {
	if c == Real {
		return &watchedReal{fired: fired}
	}
	return &watched{c, fired}
}

type watched struct {
	Clock
	fired func(time.Duration)
}

// watchedReal is watched for the clock that is read most.
type watchedReal struct {
	realClock
	fired func(time.Duration)
}

func (w *watched) AfterFunc(d time.Duration, f func()) Timer {
	return w.Clock.AfterFunc(d, report(w.Clock, d, w.fired, f))
}

// Beneath returns the clock that w is, but for timers.
func (w *watched) Beneath() Clock { return w.Clock }

func (w *watchedReal) AfterFunc(d time.Duration, f func()) Timer {
	return w.realClock.AfterFunc(d, report(w.realClock, d, w.fired, f))
}

// report returns f with a report that it is called.
func report(c Clock, d time.Duration, fired func(time.Duration), f func()) func() {
	if d <= 0 {
		return f
	}
	began := c.Now()
	return func() {
		fired(c.Since(began) - d)
		f()
	}
}

// Fake is a clock that moves only when told. The zero value is not usable;
// call NewFake.
type Fake struct {
	mu     sync.Mutex
	now    time.Time    // guarded by mu
	timers []*fakeTimer // guarded by mu, unordered
}

type fakeTimer struct {
	clock *Fake
	at    time.Time
	f     func()
}

// NewFake returns a clock that stands at start.
func NewFake(start time.Time) *Fake { return &Fake{now: start} }

// Now returns the time the clock stands at.
func (f *Fake) Now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// Since returns the fake time elapsed since t.
func (f *Fake) Since(t time.Time) time.Duration { return f.Now().Sub(t) }

// AfterFunc calls fn during the Advance that reaches now+d.
func (f *Fake) AfterFunc(d time.Duration, fn func()) Timer {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := &fakeTimer{clock: f, at: f.now.Add(d), f: fn}
	f.timers = append(f.timers, t)
	return t
}

// Stop cancels the timer.
func (t *fakeTimer) Stop() bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	for i, o := range t.clock.timers {
		if o == t {
			t.clock.timers = append(t.clock.timers[:i], t.clock.timers[i+1:]...)
			return true
		}
	}
	return false
}

// Advance moves the clock and runs, in order of time and on the caller's
// goroutine, every call that has become due.
func (f *Fake) Advance(d time.Duration) {
	f.mu.Lock()
	end := f.now.Add(d)
	for {
		next := -1
		for i, t := range f.timers {
			if !t.at.After(end) && (next < 0 || t.at.Before(f.timers[next].at)) {
				next = i
			}
		}
		if next < 0 {
			break
		}
		t := f.timers[next]
		f.timers = append(f.timers[:next], f.timers[next+1:]...)
		f.now = t.at
		f.mu.Unlock()
		t.f()
		f.mu.Lock()
	}
	f.now = end
	f.mu.Unlock()
}
