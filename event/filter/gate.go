package filter

import (
	"fmt"
	"math"
	"time"

	"golang.org/x/time/rate"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	"aios.dev/aios/ktime"
)

// Verdict is what a Gate says of an event.
type Verdict uint8

// Verdicts.
const (
	Pass     Verdict = iota
	Filtered         // the floor, or the expression
	Sampled          // it is not the one of many
	Limited          // there were too many this second
)

// Gate is all that decides about an event whose topic a subscriber wants. The
// zero value lets everything pass.
type Gate struct {
	Floor event.Severity
	// Keep, when set, is asked before the filter: whether the subscriber may
	// see the event at all.
	Keep    func(*event.Event) bool
	Filter  *Filter
	Sampler *Sampler
	Limiter *Limiter
}

// Admit decides about an event. match, when it is not nil, is what the filter
// says, for a caller that asked already.
func (g *Gate) Admit(e *event.Event, agentName string, match func() bool) Verdict {
	if e.Severity < g.Floor || g.Keep != nil && !g.Keep(e) {
		return Filtered
	}
	if g.Filter != nil {
		var ok bool
		if match != nil {
			ok = match()
		} else {
			ok, _ = g.Filter.Match(e, agentName)
		}
		if !ok {
			return Filtered
		}
	}
	if g.Sampler != nil && !g.Sampler.take() {
		return Sampled
	}
	if g.Limiter != nil && !g.Limiter.take() {
		return Limited
	}
	return Pass
}

// Sampler lets a share of the events through, evenly.
type Sampler struct {
	share, due float64
}

// NewSampler returns a sampler of a share, more than 0 and at most 1; of 1 it
// is nil, which is none.
func NewSampler(share float64) (*Sampler, error) {
	if !(share > 0 && share <= 1) {
		return nil, errdefs.New(errdefs.InvalidArgument, fmt.Sprintf("a share of %v of the events cannot be taken", share),
			errdefs.Op("sample events"), errdefs.Fix("name a share above 0 and up to 1: 0.01 is one in a hundred"))
	}
	if share == 1 {
		return nil, nil
	}
	return &Sampler{share: share, due: 1 - share}, nil
}

// take reports whether the next event is one of those. The first is.
func (s *Sampler) take() bool {
	s.due += s.share
	if s.due < 1-1e-12 {
		return false
	}
	s.due--
	return true
}

// Limiter lets so many events through in a second.
type Limiter struct {
	clock ktime.Clock
	l     *rate.Limiter
}

// NewLimiter returns a limiter to a rate per second; up to burst events, one
// second's if it is 0, may come at once.
func NewLimiter(perSecond float64, burst int, clock ktime.Clock) (*Limiter, error) {
	if !(perSecond > 0) || math.IsInf(perSecond, 0) || burst < 0 {
		return nil, errdefs.New(errdefs.InvalidArgument, fmt.Sprintf("events cannot be limited to %v a second, %d at once", perSecond, burst),
			errdefs.Op("limit events"), errdefs.Fix("name a rate above 0, for example 10"))
	}
	if burst == 0 {
		burst = int(min(max(math.Ceil(perSecond), 1), math.MaxInt32))
	}
	return &Limiter{clock: clock, l: rate.NewLimiter(rate.Limit(perSecond), burst)}, nil
}

func (l *Limiter) take() bool { return l.l.AllowN(l.clock.Now(), 1) }

// Every is the time between events at the rate.
func (l *Limiter) Every() time.Duration {
	return time.Duration(float64(time.Second) / float64(l.l.Limit()))
}
