package klog

import (
	"sync/atomic"
)

// Rates: how many records a call site, and a subsystem, may write at once and
// per second from then on.
const (
	siteBurst, sitePerSec           = 20, 10
	subsystemBurst, subsystemPerSec = 1000, 200
)

// sites is how many call sites are told apart. Those that fall on the same
// place share a limit.
const sites = 1 << 10

// limiter is a token bucket in one word: the time, in nanoseconds, at which it
// would be full. It takes no lock.
type limiter struct {
	full       atomic.Int64
	suppressed atomic.Uint32
}

// allow takes one token at the time now, and reports whether there was one.
func (l *limiter) allow(now int64, burst, perSec int64) bool {
	step := int64(1e9) / perSec
	for {
		old := l.full.Load()
		next := max(old, now) + step
		if next-now > burst*step {
			l.suppressed.Add(1)
			return false
		}
		if l.full.CompareAndSwap(old, next) {
			return true
		}
	}
}

// siteOf returns the limiter of the call at pc.
func (l *Log) siteOf(pc uintptr) *limiter {
	return &l.sites[uint64(pc)*0x9e3779b97f4a7c15>>(64-10)]
}
