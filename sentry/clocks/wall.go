package clocks

import (
	"math"
	"math/bits"
)

// Wall is how an agent's CLOCK_REALTIME goes by the clocks of the kernel. One that is
// merely ahead goes by the kernel's CLOCK_REALTIME, and is set when somebody sets that.
// One that has a rate goes by CLOCK_MONOTONIC, which nobody sets: a step of the host's
// clock would be one of a thousand steps of it.
type Wall struct {
	rate Rate
	// It shows so much when the kernel's clock shows base.
	base, shows int64
}

// Ahead returns a clock that is ahead of the kernel's CLOCK_REALTIME.
func Ahead(by Shift) Wall { return Wall{rate: Normal, shows: int64(by)} }

// From returns a clock that shows so much now, when the kernel's show realtime and
// monotonic, and that goes so fast from now on.
func From(rate Rate, realtime, monotonic, shows int64) Wall {
	if rate == Normal {
		return Ahead(Shift(Shift(shows).Inside(-realtime)))
	}
	return Wall{rate: rate, base: monotonic, shows: shows}
}

// Rate is how fast the clock goes.
func (w Wall) Rate() Rate { return w.rate }

// Steady says that the clock goes by CLOCK_MONOTONIC: what is called the kernel's clock
// below is that.
func (w Wall) Steady() bool { return w.rate != Normal }

// Inside returns what the clock shows when the kernel's shows ns, rounded down. What is
// beyond what a clock can show is the last or the first that it can.
func (w Wall) Inside(ns int64) int64 {
	if !w.Steady() {
		return Shift(w.shows).Inside(ns)
	}
	if ns >= w.base {
		return add(w.shows, scaled(uint64(ns)-uint64(w.base), w.rate, Normal, false))
	}
	return sub(w.shows, scaled(uint64(w.base)-uint64(ns), w.rate, Normal, true))
}

// Outside returns what the kernel's clock shows when this one has come to show ns: the
// first moment of which Inside is ns or later. The last moment that a clock can show is
// never: it stays that.
func (w Wall) Outside(ns int64) int64 {
	switch {
	case ns == math.MaxInt64:
		return ns
	case !w.Steady():
		return Shift(w.shows).Outside(ns)
	case ns >= w.shows:
		return add(w.base, scaled(uint64(ns)-uint64(w.shows), Normal, w.rate, true))
	}
	return sub(w.base, scaled(uint64(w.shows)-uint64(ns), Normal, w.rate, false))
}

// Until returns the moment of the kernel's clock until which a program waits that waits
// until ns: a moment that has passed is one that a timer can be set to.
func (w Wall) Until(ns int64) int64 { return max(w.Outside(ns), 1) }

// scaled returns n*by/of, rounded up or down, or what is more than any clock can show.
func scaled(n uint64, by, of Rate, up bool) uint64 {
	hi, lo := bits.Mul64(n, uint64(by))
	if hi >= uint64(of) {
		return math.MaxUint64
	}
	q, rest := bits.Div64(hi, lo, uint64(of))
	if up && rest > 0 && q < math.MaxUint64 {
		q++
	}
	return q
}

// add returns t+d, or the last moment.
func add(t int64, d uint64) int64 {
	if d > uint64(math.MaxInt64)-uint64(t) { // How far that is, whatever t's sign is.
		return math.MaxInt64
	}
	return int64(uint64(t) + d)
}

// sub returns t-d, or the first moment.
func sub(t int64, d uint64) int64 {
	if d > uint64(t)-(1<<63) {
		return math.MinInt64
	}
	return int64(uint64(t) - d)
}
