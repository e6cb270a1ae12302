package recovery

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// BreakerState is what a breaker does with a call.
type BreakerState uint8

// States of a breaker.
const (
	Closed   BreakerState = iota // calls are made
	HalfOpen                     // one call is made, to try
	Open                         // calls are refused
)

// String returns "closed", "half-open" or "open".
func (s BreakerState) String() string {
	switch s {
	case Closed:
		return "closed"
	case HalfOpen:
		return "half-open"
	case Open:
		return "open"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Defaults of a breaker.
const (
	DefaultFailures    = 5
	DefaultCooldown    = time.Second
	DefaultMaxCooldown = time.Minute
)

// BreakerConfig describes a breaker. Only Name and Clock must be given.
type BreakerConfig struct {
	// Name is of the dependency, for people.
	Name  string
	Clock ktime.Clock
	// Failures is how many calls must fail in a row to open it; 0: DefaultFailures.
	Failures int
	// Cooldown is how long it is open before one call is tried; it doubles
	// with each trial that fails, up to MaxCooldown. 0: the defaults.
	Cooldown, MaxCooldown time.Duration
	// Blames says whether an error is the dependency's fault; nil: every error
	// but the end of the caller's own context.
	Blames func(error) bool
	// OnChange hears of it when the breaker opens and when it closes.
	OnChange func(BreakerChange)
}

// BreakerChange says that a breaker opened (To is Open) or closed.
type BreakerChange struct {
	Name string
	To   BreakerState
	// Err is the failure that opened it; nil when it closed.
	Err error
	// Failures is how many calls had failed in a row.
	Failures int
	// Refused is how many calls it had refused since it opened.
	Refused uint64
	// RetryIn is when a call is tried again; 0 when it closed.
	RetryIn time.Duration
	// Lasted is how long it was open, when it closed.
	Lasted time.Duration
}

// BreakerStatus is a breaker as it stands.
type BreakerStatus struct {
	Name     string
	State    BreakerState
	Failures int           // in a row
	Opened   uint64        // how many times it opened
	Refused  uint64        // calls, ever
	Since    time.Time     // when it came into this state
	RetryIn  time.Duration // when open: until a call is tried
	Err      error         // the latest failure while it is not closed
}

// Breaker stands before a dependency. After a row of failures it opens: calls
// are refused at once. After a while one call is let through to try; if it
// succeeds the breaker closes.
type Breaker struct {
	cfg BreakerConfig
	out outbox[BreakerChange]

	mu       sync.Mutex
	state    BreakerState  // +checklocks:mu
	failures int           // +checklocks:mu
	cooldown time.Duration // +checklocks:mu
	since    time.Time     // +checklocks:mu
	opened   uint64        // +checklocks:mu
	refused  uint64        // +checklocks:mu
	// What refused was when it opened, and when that was.
	refusedBefore uint64    // +checklocks:mu
	openedAt      time.Time // +checklocks:mu
	err           error     // +checklocks:mu
	// Counts changes of state: what began before one says nothing after it.
	generation uint64 // +checklocks:mu
}

// NewBreaker returns a closed breaker.
func NewBreaker(cfg BreakerConfig) *Breaker {
	if cfg.Failures <= 0 {
		cfg.Failures = DefaultFailures
	}
	if cfg.Cooldown <= 0 {
		cfg.Cooldown = DefaultCooldown
	}
	if cfg.MaxCooldown <= 0 {
		cfg.MaxCooldown = DefaultMaxCooldown
	}
	cfg.MaxCooldown = max(cfg.MaxCooldown, cfg.Cooldown)
	if cfg.Blames == nil {
		cfg.Blames = func(err error) bool { return !errors.Is(err, context.Canceled) }
	}
	b := &Breaker{cfg: cfg, cooldown: cfg.Cooldown, since: cfg.Clock.Now()}
	b.out.f = cfg.OnChange
	return b
}

// Do calls f unless the breaker refuses, and returns what f returned. A panic
// of f counts as a failure and goes on.
func (b *Breaker) Do(f func() error) error {
	done, err := b.Allow()
	if err != nil {
		return err
	}
	result := error(errdefs.New(errdefs.Internal, "the call panicked"))
	defer func() { done(result) }()
	result = f()
	return result
}

// Allow asks whether a call may be made: if so the caller makes it and then
// calls done with its outcome, once. If not, the error is BREAKER_OPEN and says
// when to try again.
func (b *Breaker) Allow() (done func(error), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch b.state {
	case Open:
		if left := b.cooldown - b.cfg.Clock.Since(b.since); left > 0 {
			return nil, b.refuse(left)
		}
		b.become(HalfOpen)
	case HalfOpen: // Somebody else tries, and may hang.
		if left := b.cfg.MaxCooldown - b.cfg.Clock.Since(b.since); left > 0 {
			return nil, b.refuse(min(left, b.cooldown))
		}
		b.become(HalfOpen)
	}
	generation := b.generation
	var once sync.Once
	return func(err error) {
		once.Do(func() {
			b.ended(generation, err)
			b.out.flush()
		})
	}, nil
}

// refuse counts a refusal.
//
// +checklocks:b.mu
func (b *Breaker) refuse(left time.Duration) error {
	b.refused++
	detail := "calls are not made for now"
	if b.err != nil {
		detail = "after failures in a row, calls are not made for now; the latest: " + b.err.Error()
	}
	return errdefs.New(errdefs.BreakerOpen, detail, errdefs.Op(b.cfg.Name), errdefs.Delay(left))
}

// ended takes the outcome of a call that was allowed in a generation.
func (b *Breaker) ended(generation uint64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if generation != b.generation {
		return
	}
	bad := err != nil && b.cfg.Blames(err)
	switch {
	case !bad && b.state == HalfOpen && err != nil:
		// It says nothing of the dependency: the next call tries, at once.
		b.become(Open)
		b.since = b.since.Add(-b.cooldown)
	case !bad && b.state == HalfOpen:
		b.become(Closed)
		b.out.put(BreakerChange{
			Name: b.cfg.Name, To: Closed, Failures: b.failures, Refused: b.refused - b.refusedBefore, Lasted: b.cfg.Clock.Since(b.openedAt),
		})
		b.failures, b.cooldown, b.err = 0, b.cfg.Cooldown, nil
	case !bad:
		if err == nil {
			b.failures = 0
		}
	case b.state == HalfOpen:
		b.failures++
		b.err = err
		b.cooldown = min(2*b.cooldown, b.cfg.MaxCooldown)
		b.become(Open)
	default:
		b.failures++
		if b.failures < b.cfg.Failures {
			return
		}
		b.err = err
		b.opened++
		b.refusedBefore = b.refused
		b.become(Open)
		b.openedAt = b.since
		b.out.put(BreakerChange{Name: b.cfg.Name, To: Open, Err: err, Failures: b.failures, RetryIn: b.cooldown})
	}
}

// become changes the state.
//
// +checklocks:b.mu
func (b *Breaker) become(s BreakerState) {
	b.state, b.since = s, b.cfg.Clock.Now()
	b.generation++
}

// Status returns the breaker as it stands.
func (b *Breaker) Status() BreakerStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := BreakerStatus{
		Name: b.cfg.Name, State: b.state, Failures: b.failures, Opened: b.opened, Refused: b.refused, Since: b.since, Err: b.err,
	}
	if b.state == Open {
		s.RetryIn = max(0, b.cooldown-b.cfg.Clock.Since(b.since))
	}
	return s
}
