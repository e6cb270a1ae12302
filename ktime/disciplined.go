package ktime

import (
	"slices"
	"sync/atomic"
	"time"
)

// SlewRate is how much faster or slower a Disciplined clock runs while it is
// slewed: 500 parts in a million, as NTP has it. It takes 2,000 s for a second.
const SlewRate = 500e-6

// Disciplined is a clock with an offset to the one beneath it, usually that of
// the host, which it leaves alone. The offset is changed at once, or bit by bit
// so that time neither jumps nor runs backwards. Timers are those of the clock
// beneath, and what Since measures is by that clock too: a step between two
// readings is not counted as time that passed.
type Disciplined struct {
	Clock
	past atomic.Pointer[[]stretch] // the oldest first; never empty
}

// stretch is the rule from a moment on: the offset goes from one value to another.
type stretch struct {
	begin    time.Time // by the clock beneath
	from, to time.Duration
}

// stretchesKept bounds what is remembered of the past.
const stretchesKept = 64

// NewDisciplined returns a clock that agrees with c.
func NewDisciplined(c Clock) *Disciplined {
	d := &Disciplined{Clock: c}
	d.past.Store(&[]stretch{{begin: c.Now()}})
	return d
}

// at is the offset when so much has passed since s began.
func (s *stretch) at(passed time.Duration) time.Duration {
	most := time.Duration(float64(max(0, passed)) * SlewRate)
	return s.from + min(max(s.to-s.from, -most), most)
}

// Beneath returns the clock that d disciplines.
func (d *Disciplined) Beneath() Clock { return d.Clock }

func (d *Disciplined) newest() *stretch {
	past := *d.past.Load()
	return &past[len(past)-1]
}

// Offset returns what is added to the clock beneath now, and what will be once
// the clock is not slewed any more.
func (d *Disciplined) Offset() (now, then time.Duration) {
	s := d.newest()
	return s.at(d.Clock.Since(s.begin)), s.to
}

// Step changes the offset at once.
func (d *Disciplined) Step(offset time.Duration) { d.Steer(offset, offset) }

// Slew changes the offset bit by bit.
func (d *Disciplined) Slew(offset time.Duration) {
	now, _ := d.Offset()
	d.Steer(now, offset)
}

// Steer has the offset be one value now and go to another bit by bit: two clocks
// over the same one that are steered alike agree.
func (d *Disciplined) Steer(now, then time.Duration) {
	for {
		old := d.past.Load()
		past := append(slices.Clone(*old), stretch{begin: d.Clock.Now(), from: now, to: then})
		if len(past) > stretchesKept {
			past = forget(past)
		}
		if d.past.CompareAndSwap(old, &past) {
			return
		}
	}
}

// forget removes the stretch that differs least from the one before it, and never
// the first nor the last: a clock that is slewed every minute for days still
// knows of the steps, and of how it began.
func forget(past []stretch) []stretch {
	least, which := time.Duration(never), 1
	for i := 1; i < len(past)-1; i++ {
		apart := past[i].to - past[i-1].to
		if apart = max(apart, -apart); apart < least {
			least, which = apart, i
		}
	}
	return slices.Delete(past, which, which+1)
}

// Now implements Clock.Now.
func (d *Disciplined) Now() time.Time {
	now := d.Clock.Now()
	s := d.newest()
	return now.Add(s.at(now.Sub(s.begin)))
}

// Since implements Clock.Since. Where a step back has a reading stand for two
// moments, it is the later one.
func (d *Disciplined) Since(t time.Time) time.Duration {
	past := *d.past.Load()
	i := len(past) - 1
	for i > 0 && t.Before(past[i].begin.Add(past[i].from)) {
		i--
	}
	s := &past[i]
	shown := float64(t.Sub(s.begin.Add(s.from)))
	if s.to < s.from {
		shown /= 1 - SlewRate
	} else {
		shown /= 1 + SlewRate
	}
	return d.Clock.Since(t.Add(-s.at(time.Duration(shown))))
}

// Steady returns c without what it is ahead of the clock beneath: for those who
// measure all the time, and stamp nothing that is seen. Its timers are those of c.
func Steady(c Clock) Clock {
	beneath := c
	for {
		d, ok := beneath.(interface{ Beneath() Clock })
		if !ok {
			break
		}
		beneath = d.Beneath()
	}
	if beneath == c {
		return c
	}
	return steady{beneath, c}
}

type steady struct {
	Clock
	timers Clock
}

// AfterFunc implements Clock.AfterFunc.
func (s steady) AfterFunc(d time.Duration, f func()) Timer { return s.timers.AfterFunc(d, f) }
