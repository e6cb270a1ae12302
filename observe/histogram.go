// Package observe is the instruments that the rest of the tree measures itself
// with.
//
// Key type: Histogram, how long things took, in nanoseconds.
//
// It exports nothing by itself, and imports only the standard library.
package observe

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Each power of two has so many buckets, so that a quantile is at most one part
// in eight too high. What is above the last power counts as that.
const (
	subBits    = 3
	subBuckets = 1 << subBits
	maxPower   = 40 // about 18 minutes
	buckets    = (maxPower - subBits + 2) * subBuckets
)

// Histogram is how long things took. It may be used concurrently, takes no lock
// and allocates nothing.
type Histogram struct {
	count [buckets]atomic.Uint64
	max   atomic.Int64
}

func bucketOf(n int64) int {
	v := uint64(max(n, 0))
	if v < subBuckets {
		return int(v)
	}
	power := min(bits.Len64(v)-1, maxPower)
	sub := min(v>>(power-subBits), 2*subBuckets-1) & (subBuckets - 1)
	return (power-subBits+1)*subBuckets + int(sub)
}

// topOf is the highest number that a bucket holds.
func topOf(bucket int) int64 {
	if bucket < subBuckets {
		return int64(bucket)
	}
	power := bucket/subBuckets + subBits - 1
	sub := int64(bucket % subBuckets)
	return (subBuckets+sub+1)<<(power-subBits) - 1
}

// Add counts something that took n nanoseconds.
func (h *Histogram) Add(n int64) {
	h.count[bucketOf(n)].Add(1)
	for {
		old := h.max.Load()
		if n <= old || h.max.CompareAndSwap(old, n) {
			return
		}
	}
}

// Latency says how long things took.
type Latency struct {
	Count         uint64
	P50, P99, Max time.Duration
}

// Counts is what a histogram has counted up to one moment: pairs of a bucket and
// how much is in it, without empty ones. The buckets of all histograms are the same.
type Counts []uint64

// Counts returns what has been counted so far.
func (h *Histogram) Counts() (c Counts) {
	for i := range h.count {
		if n := h.count[i].Load(); n > 0 {
			c = append(c, uint64(i), n)
		}
	}
	return c
}

// Since says how long what came after an earlier moment took. Max is to an eighth.
func (c Counts) Since(old Counts) Latency {
	var at [buckets]uint64
	add := func(c Counts, sign uint64) {
		for ; len(c) >= 2; c = c[2:] {
			if c[0] < buckets {
				at[c[0]] += sign * c[1]
			}
		}
	}
	add(c, 1)
	add(old, ^uint64(0))
	var most time.Duration
	for i := range at {
		if at[i] > 1<<62 { // It was begun anew.
			return c.Since(nil)
		}
		if at[i] > 0 {
			most = time.Duration(topOf(i))
		}
	}
	return latency(&at, most)
}

// Latency returns what has been counted so far.
func (h *Histogram) Latency() Latency {
	var at [buckets]uint64
	for i := range at {
		at[i] = h.count[i].Load()
	}
	return latency(&at, time.Duration(h.max.Load()))
}

func latency(at *[buckets]uint64, most time.Duration) Latency {
	l := Latency{Max: most}
	for _, n := range at {
		l.Count += n
	}
	quantile := func(per100 uint64) time.Duration {
		want := (l.Count*per100 + 99) / 100
		var seen uint64
		for i, n := range at {
			if seen += n; seen >= want && n > 0 {
				return min(time.Duration(topOf(i)), l.Max)
			}
		}
		return l.Max
	}
	if l.Count > 0 {
		l.P50, l.P99 = quantile(50), quantile(99)
	}
	return l
}
