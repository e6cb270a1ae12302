package account

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"

	"aios.dev/aios/ktime"
)

// Bucket meters something that may happen so many times a second. It holds
// tokens for one burst; Take may go into debt, and says how long to wait until
// the debt is paid. What has been taken stays taken, so that whoever is
// interrupted while waiting waits all the longer the next time.
//
// It is the generic cell rate algorithm: the only state is the time at which
// everything taken so far will have been paid for.
type Bucket struct {
	clock ktime.Clock
	epoch time.Time
	rate  atomic.Uint64 // per second
	burst time.Duration // how far ahead of the rate one may be
	paid  atomic.Int64  // nanoseconds after epoch
}

// maxDebt bounds a wait: nobody waits longer than this for what has been taken
// so far.
const maxDebt = time.Hour

// NewBucket returns a full bucket. rate may be Unlimited; burst is how long a
// quiet time may be made up for.
func NewBucket(clock ktime.Clock, rate uint64, burst time.Duration) *Bucket {
	b := &Bucket{clock: clock, epoch: clock.Now(), burst: burst}
	b.rate.Store(rate)
	b.paid.Store(math.MinInt64)
	return b
}

// Rate returns the rate.
func (b *Bucket) Rate() uint64 { return b.rate.Load() }

// SetRate changes the rate. Debt is kept: at the new rate it takes the more or
// the less time. A rate of zero lets nothing through.
func (b *Bucket) SetRate(rate uint64) {
	old := b.rate.Swap(rate)
	now := b.now()
	for {
		paid := b.paid.Load()
		if paid <= now {
			return
		}
		next := now + int64(maxDebt)
		switch {
		case rate == Unlimited:
			next = now
		case old != 0 && rate != 0:
			next = now + scale(uint64(paid-now), old, rate)
		case rate != 0:
			next = now // Nothing was owed at a rate; it was only refused.
		}
		if b.paid.CompareAndSwap(paid, next) {
			return
		}
	}
}

// Take takes n tokens and returns how long to wait before going on.
func (b *Bucket) Take(n uint64) time.Duration {
	rate := b.rate.Load()
	if rate == Unlimited || n == 0 {
		return 0
	}
	now := b.now()
	cost := int64(maxDebt)
	if rate != 0 {
		cost = scale(n, uint64(time.Second), rate)
	}
	for {
		paid := b.paid.Load()
		next := min(max(paid, now-int64(b.burst))+cost, now+int64(maxDebt))
		if b.paid.CompareAndSwap(paid, next) {
			return max(0, time.Duration(next-now))
		}
	}
}

// Owed returns how long it takes to pay for what has been taken so far.
func (b *Bucket) Owed() time.Duration {
	if b.rate.Load() == Unlimited {
		return 0
	}
	paid, now := b.paid.Load(), b.now()
	if paid <= now { // Long before epoch, perhaps.
		return 0
	}
	return time.Duration(paid - now)
}

func (b *Bucket) now() int64 { return int64(b.clock.Since(b.epoch)) }

// scale returns n·mul/div, rounded up, and at most maxDebt.
func scale(n, mul, div uint64) int64 {
	hi, lo := bits.Mul64(n, mul)
	lo, carry := bits.Add64(lo, div-1, 0)
	hi += carry
	if hi >= div {
		return int64(maxDebt)
	}
	q, _ := bits.Div64(hi, lo, div)
	return int64(min(q, uint64(maxDebt)))
}
