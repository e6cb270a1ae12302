package ktime

import (
	"sync/atomic"
	"time"
)

// Jumping is a clock that can be set, for tests: all that it tells jumps, the
// monotonic reading too, which is more than the clock of a host does. Timers
// are those of the clock beneath.
type Jumping struct {
	Clock
	offset atomic.Int64
}

// NewJumping returns a clock that agrees with c until it is set.
func NewJumping(c Clock) *Jumping { return &Jumping{Clock: c} }

// Jump sets the clock forward, or back.
func (j *Jumping) Jump(d time.Duration) { j.offset.Add(int64(d)) }

// Now implements Clock.Now.
func (j *Jumping) Now() time.Time { return j.Clock.Now().Add(time.Duration(j.offset.Load())) }

// Since implements Clock.Since.
func (j *Jumping) Since(t time.Time) time.Duration { return j.Now().Sub(t) }
