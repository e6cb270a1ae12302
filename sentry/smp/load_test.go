package smp

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// TestLoad compares with the same in floating point: the decays are rounded, as
// those of Linux are.
func TestLoad(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l Load
		var want [3]float64
		for _, active := range rapid.SliceOf(rapid.IntRange(0, 200)).Draw(t, "active") {
			n := rapid.IntRange(1, 20).Draw(t, "intervals")
			l.Tick(active, n)
			for i, minutes := range []float64{1, 5, 15} {
				decay := math.Exp(-5 * float64(n) / (60 * minutes))
				want[i] = want[i]*decay + float64(active)*(1-decay)
			}
			for i, avg := range l.Averages() {
				if got := float64(avg) / (1 << LoadShift); math.Abs(got-want[i]) > 0.04*want[i]+0.2 {
					t.Fatalf("average %d is %v, want %v", i, got, want[i])
				}
			}
		}
		active := rapid.IntRange(0, 50).Draw(t, "last")
		l.Tick(active, 1<<30) // It ends soon.
		for i, avg := range l.Averages() {
			if got := float64(avg) / (1 << LoadShift); math.Abs(got-float64(active)) > 0.1 {
				t.Fatalf("after a long time average %d is %v, want %d", i, got, active)
			}
		}
	})
}
