package trap

import (
	"sync/atomic"
	"time"
)

// Ladder counts how often a rule was used, to tell when it escalates. Its zero
// value is ready. The window is one that jumps: what a rule allows within its
// time may happen twice around the jump, never more often.
type Ladder struct {
	// Window in the upper half, count in the lower.
	state atomic.Uint64
}

// Climb counts one use of r at now, a time since any fixed moment, and returns
// the action to take.
func (l *Ladder) Climb(r Rule, now time.Duration) Action {
	if r.After == 0 {
		return r.Action
	}
	window := uint64(now/r.Within) & (1<<32 - 1)
	for {
		old := l.state.Load()
		next := old + 1
		if old>>32 != window {
			next = window<<32 | 1
		} else if next&(1<<32-1) == 0 {
			next = old // It stays where it is.
		}
		if !l.state.CompareAndSwap(old, next) {
			continue
		}
		if uint32(next) > r.After {
			return r.Then
		}
		return r.Action
	}
}
