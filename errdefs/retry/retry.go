// Package retry tries again what the code of an error says may succeed when it
// is tried again.
//
// The table of package errdefs decides whether and how often; an error that
// carries a delay of its own decides how long to wait at least. A Policy can
// only ask for less. Between two attempts nothing is held: no lock, no
// goroutine, one timer.
//
// Units: durations are of the monotonic clock of the ktime.Clock that is
// passed in. The package keeps no state and must import nothing of AIOS but
// errdefs and ktime.
package retry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// defaultMaxDelay is the longest wait between two attempts when the Policy
// names none.
const defaultMaxDelay = 10 * time.Second

// Policy bounds what the table allows. The zero value takes the table as it
// is.
type Policy struct {
	// Attempts is the most often the function is called; 0: as often as the
	// code of the latest error allows.
	Attempts int
	// MaxDelay bounds the growing wait between two attempts; 0: 10 s. A wait
	// that an error asks for itself is never shortened.
	MaxDelay time.Duration
	// Budget bounds the whole time from the first call to the start of the
	// last; 0: none.
	Budget time.Duration
	// Rand returns numbers in [0,1) that spread the waits of many callers;
	// nil: those of math/rand/v2.
	Rand func() float64
}

// Do calls f until it succeeds, and returns nil; or until its error says that
// trying again does not help, or ctx, the table or the policy end it. The error
// is then the latest one of f, with what ended it if f was called more than
// once; the end of ctx during a wait is CANCELLED or TIMEOUT.
//
// f must be safe to repeat. It is always called at least once.
func Do(ctx context.Context, clock ktime.Clock, p Policy, f func(context.Context) error) error {
	start := clock.Now()
	for attempt := 1; ; attempt++ {
		err := f(ctx)
		if err == nil {
			return nil
		}
		rule := errdefs.RetryOf(err)
		if rule.When != errdefs.AtOnce && rule.When != errdefs.AfterDelay {
			return gaveUp(err, attempt, "trying again does not help")
		}
		if limit := p.limit(rule); attempt >= limit {
			return gaveUp(err, attempt, "no more are allowed")
		}
		wait := p.wait(rule, attempt)
		if p.Budget > 0 && clock.Since(start)+wait > p.Budget {
			return gaveUp(err, attempt, fmt.Sprintf("the next would be later than %s after the first", p.Budget))
		}
		if cerr := pause(ctx, clock, wait); cerr != nil {
			return ended(cerr, err, attempt)
		}
	}
}

// limit is how many calls are allowed in all after an error with that rule.
func (p Policy) limit(r errdefs.Retry) int {
	limit := r.Limit + 1
	if p.Attempts > 0 {
		limit = min(limit, p.Attempts)
	}
	return limit
}

// wait is the time between the attempt with that number and the next: at least
// what the rule says, and less than twice that, doubled with each attempt.
func (p Policy) wait(r errdefs.Retry, attempt int) time.Duration {
	if r.When == errdefs.AtOnce {
		return 0
	}
	top := p.MaxDelay
	if top <= 0 {
		top = defaultMaxDelay
	}
	random := p.Rand
	if random == nil {
		random = rand.Float64
	}
	ceiling := r.Delay
	for range attempt {
		if ceiling >= top {
			break
		}
		ceiling *= 2
	}
	ceiling = max(min(ceiling, top), r.Delay)
	return r.Delay + time.Duration(random()*float64(ceiling-r.Delay))
}

// pause waits for d or the end of ctx, and returns the reason of the latter.
func pause(ctx context.Context, clock ktime.Clock, d time.Duration) error {
	if ctx.Err() != nil || d <= 0 {
		return context.Cause(ctx)
	}
	woken := make(chan struct{})
	timer := clock.AfterFunc(d, func() { close(woken) })
	defer timer.Stop()
	select {
	case <-woken:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// gaveUp says that f was called more than once.
func gaveUp(err error, attempts int, why string) error {
	if attempts == 1 {
		return err
	}
	return errdefs.Wrap(err, errdefs.CodeOf(err), fmt.Sprintf("give up after %d attempts, as %s", attempts, why))
}

// ended says that the caller did not want to wait any longer.
func ended(cerr, last error, attempts int) error {
	code := errdefs.Cancelled
	if errors.Is(cerr, context.DeadlineExceeded) {
		code = errdefs.Timeout
	}
	return errdefs.New(code, fmt.Sprintf("attempt %d failed (%s), and then", attempts, last), errdefs.Op("try again"),
		errdefs.Fix("%s", errdefs.FixOf(last)), errdefs.Cause(cerr))
}
