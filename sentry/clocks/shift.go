// Package clocks is the arithmetic of clocks that an agent has of its own: how far
// each is ahead of the kernel's, how fast it goes, and what the VDSO of a program reads
// of it.
//
// Key types: Shift (between an agent's clock and the kernel's), Wall (the same of a
// CLOCK_REALTIME that may have a Rate) and Params (what is in the page that the VDSO
// reads, as gVisor lays it out).
//
// Moments and durations are nanoseconds, cycles those of the CPU's counter. The
// package has no locks and knows no agents.
package clocks

import "math"

// Shift is how many nanoseconds an agent's clock is ahead of the kernel's.
type Shift int64

// Inside returns what the agent's clock shows when the kernel's shows ns. What is
// beyond what a clock can show is the last or the first that it can.
func (s Shift) Inside(ns int64) int64 {
	out := ns + int64(s)
	switch {
	case s > 0 && out < ns:
		return math.MaxInt64
	case s < 0 && out > ns:
		return math.MinInt64
	}
	return out
}

// Outside returns what the kernel's clock shows when the agent's shows ns. The last
// moment that a clock can show is never: it stays that.
func (s Shift) Outside(ns int64) int64 {
	switch {
	case ns == math.MaxInt64:
		return ns
	case s == math.MinInt64:
		return math.MaxInt64
	}
	return (-s).Inside(ns)
}

// Until returns the moment of the kernel's clock until which a program waits that
// waits until ns: a moment that has passed is one that a timer can be set to.
func (s Shift) Until(ns int64) int64 { return max(s.Outside(ns), 1) }
