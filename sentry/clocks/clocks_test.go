package clocks

import (
	"math"
	"math/rand/v2"
	"testing"
)

const (
	second = int64(1_000_000_000)
	year   = 365 * 24 * 3600 * second
)

// TestShift has what is said of the kernel's clock and of the agent's be the same
// moments, in the same order, for as long as clocks can show.
func TestShift(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	edges := []int64{0, 1, -1, second, year, 10 * year, 290 * year, math.MaxInt64, math.MaxInt64 - 1, math.MinInt64, math.MinInt64 + 1}
	any := func() int64 {
		if r.IntN(3) == 0 {
			return edges[r.IntN(len(edges))]
		}
		return r.Int64() - r.Int64()
	}
	for range 200_000 {
		s, x, y := Shift(any()), any(), any()
		if x > y {
			x, y = y, x
		}
		if s.Inside(x) > s.Inside(y) || s.Outside(x) > s.Outside(y) {
			t.Fatalf("shifted by %d, %d and %d change places", s, x, y)
		}
		if in := s.Inside(x); in != math.MaxInt64 && in != math.MinInt64 && s != math.MinInt64 && s.Outside(in) != x {
			t.Fatalf("%d is %d inside, shifted by %d, and that is %d outside", x, in, s, s.Outside(in))
		}
		if out := s.Outside(x); out != math.MaxInt64 && out != math.MinInt64 && s.Inside(out) != x {
			t.Fatalf("%d is %d outside, shifted by %d, and that is %d inside", x, out, s, s.Inside(out))
		}
		if s.Outside(math.MaxInt64) != math.MaxInt64 || s.Until(x) < 1 {
			t.Fatalf("shifted by %d, never is %d, and %d is waited for until %d", s, s.Outside(math.MaxInt64), x, s.Until(x))
		}
	}
	for _, s := range []Shift{Shift(50 * year), Shift(-50 * year), 0, 7} {
		if now := 56 * year; s.Inside(now) != now+int64(s) || s.Outside(s.Inside(now)) != now {
			t.Errorf("shifted by %d: %d", s, s.Inside(now))
		}
	}
}

// TestParams has them be written as they are read.
func TestParams(t *testing.T) {
	p := Params{Line{1, 2, 3, 4}, Line{5, -6, 7, 8}, 9, Line{10, 11, -12, 13}}
	var b [Bytes]byte
	p.Encode(b[:])
	if got := Decode(b[:]); got != p {
		t.Errorf("%+v were read as %+v", p, got)
	}
	if own := p.Own(Ahead(100), 1000); own != (Params{Line{1, 2, 1003, 4}, Line{5, -6, 107, 8}, 9, Line{10, 11, 988, 13}}) {
		t.Errorf("shifted they are %+v", own)
	}
}

// TestNeverBackwards has clocks be measured anew, a little wrong each time, and be
// read all the time.
func TestNeverBackwards(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		frequency := uint64(1_000_000_000 + r.Int64N(4_000_000_000))
		truth := Line{1, r.Int64N(1 << 50), r.Int64N(1 << 60), frequency}
		shown, cycles := truth, truth.BaseCycles
		last := shown.At(cycles)
		for range 50 {
			for range 20 {
				cycles += r.Int64N(int64(frequency) / 20)
				now := shown.At(cycles)
				if now < last {
					t.Fatalf("%d came after %d", now, last)
				}
				if off := now - truth.At(cycles); off > 3*second || off < -3*second {
					t.Fatalf("it is off by %d", off)
				}
				last = now
			}
			// Seldom a second wrong, mostly microseconds.
			wrong := r.Int64N(20_000) - 10_000
			if r.IntN(10) == 0 {
				wrong = r.Int64N(2*second) - second
			}
			measured := Line{1, cycles - r.Int64N(1000), 0, frequency + uint64(r.Int64N(2000)) - 1000}
			measured.BaseRef = truth.At(measured.BaseCycles) + wrong
			shown = measured.After(shown, cycles)
			if shown.At(cycles) < last {
				t.Fatalf("measured anew, %d came after %d", shown.At(cycles), last)
			}
		}
		// Measured right, it is right soon.
		shown = truth.After(shown, cycles)
		late := cycles + 10*int64(frequency)
		if again := truth.After(shown, late).At(late); again-truth.At(late) > 1000 {
			t.Fatalf("it stays off by %d", again-truth.At(late))
		}
	}
}

// TestSetBackwards has CLOCK_REALTIME go back when it is set, and no other.
func TestSetBackwards(t *testing.T) {
	old := Params{Monotonic: Line{1, 0, 100 * second, 1e9}, Realtime: Line{1, 0, 100 * second, 1e9}}
	next := Params{Monotonic: Line{1, 0, 90 * second, 1e9}, Realtime: Line{1, 0, 90 * second, 1e9}}
	if got := next.After(old, second, Ahead(0), true); got.Realtime.At(second) != 91*second || got.Monotonic.At(second) != 101*second {
		t.Errorf("set: %+v", got)
	}
	if !next.Stepped(old, second) || old.Stepped(next, second) || next.Stepped(Params{}, second) {
		t.Error("it is not known that the host's was set")
	}
	next.Realtime.BaseRef = 100*second - 1000
	if next.Stepped(old, second) {
		t.Error("measured anew, it is taken to be set")
	}
	if got := next.After(old, second, Ahead(0), false).Realtime.At(second); got != 101*second {
		t.Errorf("measured anew it shows %d", got)
	}
	if got := next.After(old, second, Ahead(0), true).Realtime.At(second); got != 101*second-1000 {
		t.Errorf("set it shows %d", got)
	}
	unready := Params{}
	if got := unready.After(old, second, Ahead(0), false); got.Monotonic.Ready != 0 || got.Realtime.Ready != 0 {
		t.Errorf("not ready: %+v", got)
	}
}
