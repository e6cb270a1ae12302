package irq

import (
	"time"
)

// A storm is more interrupts of one source on one line than the line's bound
// allows, over stormWindow. While it lasts the bottom halves are done in
// batches. It is over when the rate has been below half the bound for stormCalm;
// for twice as long as the time before, up to stormCalmMax, if the last storm was
// over less than stormAgain ago.
const (
	stormWindow  = 100 * time.Millisecond
	stormCalm    = time.Second
	stormCalmMax = 30 * time.Second
	stormAgain   = 10 * time.Second
	// pollEvery is how often a throttled line is served.
	pollEvery = time.Millisecond
)

// Storm tells that one began.
type Storm struct {
	Source    *Source
	Line      Line
	CPU       int
	PerSecond float64
	Limit     uint64
}

// Throttle tells that bottom halves are done in batches, or no longer.
type Throttle struct {
	Source *Source
	Line   Line
	Lifted bool
	Limit  uint64
	// Deferred is how many were put off, Lasted for how long; when Lifted.
	Deferred uint64
	Lasted   time.Duration
}

// stormy is a storm that rages.
type stormy struct {
	s *Source
	l Line
}

// measure looks at the rate of a line, and begins a storm if it is one.
//
// +checklocksignore: the analysis does not know TryLock.
func (s *Source) measure(l Line) {
	limit := s.c.lines[l].limit.Load()
	f := &s.flows[l]
	if limit == 0 || !f.mu.TryLock() {
		return // Somebody else looks.
	}
	now, total := s.c.now(), s.total(l)
	took, n := time.Duration(now-f.since), total-f.base
	begins := false
	switch {
	case f.storm:
	case f.since == 0:
		f.since, f.base = now, total
	case float64(n) > float64(limit)*stormWindow.Seconds() && overLimit(n, took, limit):
		begins = true
	case took >= stormWindow:
		f.since, f.base = now, total
	}
	if !begins {
		f.mu.Unlock()
		return
	}
	f.storm, f.began, f.calm = true, now, 0
	f.hold = min(max(f.hold, stormCalm), stormCalmMax)
	if f.ended == 0 || time.Duration(now-f.ended) > stormAgain {
		f.hold = stormCalm
	} else {
		f.hold = min(2*f.hold, stormCalmMax)
	}
	f.since, f.base = now, total
	f.mu.Unlock()
	storm := Storm{Source: s, Line: l, CPU: s.c.cpu(), PerSecond: perSecond(n, took), Limit: limit}
	// Whoever raised the interrupt may hold locks.
	s.c.cfg.Clock.AfterFunc(0, func() { s.c.stormBegins(storm) })
}

func perSecond(n uint64, took time.Duration) float64 {
	return float64(n) / max(took, time.Microsecond).Seconds()
}

func overLimit(n uint64, took time.Duration, limit uint64) bool {
	return perSecond(n, took) > float64(limit)
}

// stormBegins throttles the line for its source, and watches for the end.
func (c *Controller) stormBegins(storm Storm) {
	s, l := storm.Source, storm.Line
	c.mu.Lock()
	if s.closed.Load() {
		c.mu.Unlock()
		return
	}
	c.stormy = append(c.stormy, stormy{s, l})
	c.lines[l].storms.Add(1)
	throttles := l.Info().Throttle != ""
	if throttles {
		s.flows[l].deferred.Store(0)
		setGate(&s.flows[l].gate, gateThrottled, true)
	}
	if c.watch == nil {
		c.watch = c.cfg.Clock.AfterFunc(stormWindow, c.look)
	}
	c.mu.Unlock()
	if c.cfg.OnStorm != nil {
		c.cfg.OnStorm(storm)
	}
	if throttles && c.cfg.OnThrottle != nil {
		c.cfg.OnThrottle(Throttle{Source: s, Line: l, Limit: storm.Limit})
	}
}

// look sees which storms are over.
func (c *Controller) look() {
	var over []Throttle
	c.mu.Lock()
	c.watch = nil
	now := c.now()
	for _, st := range append([]stormy(nil), c.stormy...) {
		f, limit, total := &st.s.flows[st.l], c.lines[st.l].limit.Load(), st.s.total(st.l)
		f.mu.Lock()
		took := time.Duration(now - f.since)
		if limit == 0 || perSecond(total-f.base, took) < float64(limit)/2 {
			f.calm += took
		} else {
			f.calm = 0
		}
		f.since, f.base = now, total
		ends := limit == 0 || f.calm >= f.hold
		f.mu.Unlock()
		if ends {
			if t, ok := c.calmDown(st.s, st.l); ok {
				over = append(over, t)
			}
		}
	}
	if len(c.stormy) > 0 {
		c.watch = c.cfg.Clock.AfterFunc(stormWindow, c.look)
	}
	c.mu.Unlock()
	c.tell(over)
}

// calmDown ends a storm, and reports whether there is anything to tell of it.
//
// +checklocks:c.mu
func (c *Controller) calmDown(s *Source, l Line) (t Throttle, ok bool) {
	f := &s.flows[l]
	for i, st := range c.stormy {
		if st.s == s && st.l == l {
			c.stormy = append(c.stormy[:i], c.stormy[i+1:]...)
			break
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.storm {
		return t, false
	}
	now := c.now()
	t = Throttle{
		Source: s, Line: l, Lifted: true, Limit: c.lines[l].limit.Load(), Deferred: f.deferred.Load(), Lasted: time.Duration(now - f.began),
	}
	f.storm, f.ended, f.calm = false, now, 0
	setGate(&f.gate, gateThrottled, false)
	return t, l.Info().Throttle != ""
}

func (c *Controller) tell(over []Throttle) {
	if c.cfg.OnThrottle == nil {
		return
	}
	for _, t := range over {
		c.cfg.OnThrottle(t)
	}
}
