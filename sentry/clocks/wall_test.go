package clocks

import (
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

// moments are those that a clock can show, the last and the first of them, too.
func moments() *rapid.Generator[int64] {
	return rapid.OneOf(rapid.Int64(), rapid.Int64Range(50*year, 70*year), rapid.SampledFrom([]int64{
		0, 1, -1, second, math.MaxInt64, math.MaxInt64 - 1, math.MinInt64, math.MinInt64 + 1,
	}))
}

func rates() *rapid.Generator[Rate] {
	return rapid.OneOf(rapid.SampledFrom([]Rate{Slowest, Normal, Normal + 1, Normal - 1, 60 * Normal, Fastest}),
		rapid.Custom(func(t *rapid.T) Rate { return Rate(rapid.Int64Range(int64(Slowest), int64(Fastest)).Draw(t, "rate")) }))
}

func walls(t *rapid.T) Wall {
	r := rates().Draw(t, "rate")
	if r == Normal {
		return Ahead(Shift(moments().Draw(t, "by")))
	}
	base := moments().Draw(t, "base")
	return From(r, base, base, moments().Draw(t, "shows"))
}

// exactly is Inside by arithmetic that has no bounds, rounded down.
func exactly(w Wall, ns int64) *big.Int {
	n := new(big.Int).Sub(big.NewInt(ns), big.NewInt(w.base))
	n.Mul(n, big.NewInt(int64(w.rate)))
	n.Div(n, big.NewInt(int64(Normal))) // Euclid's, and the divisor is positive: down.
	return n.Add(n, big.NewInt(w.shows))
}

func bounded(n *big.Int) int64 {
	switch {
	case n.Cmp(big.NewInt(math.MaxInt64)) > 0:
		return math.MaxInt64
	case n.Cmp(big.NewInt(math.MinInt64)) < 0:
		return math.MinInt64
	}
	return n.Int64()
}

// TestWall has what is said of the kernel's clock and of one with a rate be exact, in
// the same order, and the same moments.
func TestWall(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, x, y := walls(t), moments().Draw(t, "x"), moments().Draw(t, "y")
		if got, want := w.Inside(x), bounded(exactly(w, x)); got != want {
			t.Fatalf("%+v: %d is %d inside, not %d", w, x, got, want)
		}
		if x > y {
			x, y = y, x
		}
		if w.Inside(x) > w.Inside(y) || w.Outside(x) > w.Outside(y) {
			t.Fatalf("%+v: %d and %d change places", w, x, y)
		}
		if w.Outside(math.MaxInt64) != math.MaxInt64 || w.Until(x) < 1 {
			t.Fatalf("%+v: never is %d, and %d is waited for until %d", w, w.Outside(math.MaxInt64), x, w.Until(x))
		}
		// It ends when the clock shows that moment, and not before.
		end := w.Outside(x)
		if end == math.MaxInt64 || end == math.MinInt64 {
			return
		}
		if w.Inside(end) < x || w.Inside(end-1) >= x && x != math.MinInt64 {
			t.Fatalf("%+v: %d is waited for until it is %d, and at %d it is %d", w, x, w.Inside(end), end-1, w.Inside(end-1))
		}
		if off := uint64(w.Inside(end)) - uint64(x); off > uint64(w.rate/Normal)+1 {
			t.Fatalf("%+v: %d is waited for until it is %d later", w, x, off)
		}
	})
}

// TestRateChanges has a clock be given one rate after the other, and not jump.
func TestRateChanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := rapid.Int64Range(0, year).Draw(t, "now")
		w := From(rates().Draw(t, "rate"), now, now, 56*year)
		for range 20 {
			now += rapid.Int64Range(0, 3600*second).Draw(t, "later")
			next := From(rates().Draw(t, "rate"), now, now, w.Inside(now))
			if next.Inside(now) != w.Inside(now) {
				t.Fatalf("at %d it jumps from %d to %d", now, w.Inside(now), next.Inside(now))
			}
			if after := next.Inside(now + second); after-next.Inside(now) != int64(next.Rate()) {
				t.Fatalf("at %v it goes on by %d in a second", next.Rate(), after-next.Inside(now))
			}
			w = next
		}
	})
}

// TestRatedPage has the VDSO read a clock that has a rate, and that is measured anew, a
// little wrong each time, and given another rate now and then: it is never backwards,
// and as wrong as the kernel's, as many times as it goes fast.
func TestRatedPage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		frequency := uint64(rapid.Int64Range(1_000_000_000, 5_000_000_000).Draw(t, "frequency"))
		truth := Line{1, 7, 3 * second, frequency}
		cycles := truth.BaseCycles
		turn := func(shows int64) Wall {
			now := truth.At(cycles)
			return From(rates().Draw(t, "rate"), now, now, shows)
		}
		wall := turn(56 * year)
		var shown Params
		var last int64
		for range 30 {
			if rapid.IntRange(0, 4).Draw(t, "change") == 0 {
				wall = turn(wall.Inside(truth.At(cycles)))
			}
			wrong := rapid.Int64Range(-2000, 2000).Draw(t, "wrong")
			measured := Line{1, cycles, truth.At(cycles) + wrong, frequency + uint64(wrong+2000)/2 - 1000}
			p := Params{Monotonic: measured, Realtime: measured}.Own(wall, 0)
			shown = p.After(shown, cycles, wall, false)
			for range 5 {
				now := shown.Realtime.At(cycles)
				if now < last {
					t.Fatalf("%v times as fast, %d came after %d", wall.Rate(), now, last)
				}
				if off := now - wall.Inside(truth.At(cycles)); off < -int64(scaled(6000, wall.rate, Normal, true)) {
					t.Fatalf("%v times as fast, it is %d behind", wall.Rate(), -off)
				}
				last = now
				cycles += rapid.Int64Range(0, int64(frequency)/5).Draw(t, "cycles")
			}
		}
		// Measured right, it is right in the end, within what is lost of the frequency: a
		// microsecond of what goes 1000 times as fast is a second of what goes 0.001 times.
		for range 20 {
			right := Line{1, cycles, truth.At(cycles), frequency}
			shown = Params{Monotonic: right, Realtime: right}.Own(wall, 0).After(shown, cycles, wall, false)
			cycles += int64(frequency) * 21 / 20
		}
		if off, most := shown.Realtime.At(cycles)-wall.Inside(truth.At(cycles)), int64(scaled(2000, wall.rate, Normal, true)); off < -most || off > most {
			t.Fatalf("%v times as fast, it stays off by %d", wall.Rate(), off)
		}
	})
}

// TestParseRate reads what people write, exactly, and says why it does not.
func TestParseRate(t *testing.T) {
	for text, want := range map[string]Rate{
		"1": Normal, "60": 60 * Normal, "1.0005": Normal + 500_000, "0.001": Slowest, "1000": Fastest, "1000.000": Fastest, "0.999999999": Normal - 1,
		"1.1": 1_100_000_000, "007": 7 * Normal, "1.0000000010": Normal + 1, "0.1": Normal / 10, "999.999999999": Fastest - 1,
	} {
		if got, why := ParseRate(text); got != want || why != "" {
			t.Errorf("%s: %d %s", text, got, why)
		}
	}
	const stands, none = "a clock neither stands still nor runs backwards", "not a number such as 60 or 1.0005"
	for text, want := range map[string]string{
		"0": stands, "0.000": stands, "-1": stands, "-0.5": stands, "": none, "-": none, "1e3": none, "+1": none, "1.": none, ".5": none, "1,5": none,
		"x": none, "NaN": none, "0x10": none, "1.5.2": none, "60x": none, "1.00000000001": "finer than a billionth", "1000.000000001": "more than 1000 times as fast",
		"99999999999999999999": "more than 1000 times as fast", "0.000999999": "less than 0.001 times as fast",
	} {
		if got, why := ParseRate(text); got != 0 || why != want {
			t.Errorf("%q: %d %q, not %q", text, got, why, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		if r := rates().Draw(t, "rate"); !r.Valid() {
			t.Fatalf("%d is no rate", r)
		} else if got, why := ParseRate(r.String()); got != r {
			t.Fatalf("%d is written %s, and that is read as %d %s", r, r, got, why)
		}
	})
}
