package sched

import (
	"testing"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// TestFitsSaysWhatSetParamsWould and changes nothing.
func TestFitsSaysWhatSetParamsWould(t *testing.T) {
	s := New(Config{CPUs: 2, Clock: ktime.Real})
	a, b := s.NewGroup("a"), s.NewGroup("b")
	reserve := func(share float64) Params {
		p := Defaults()
		p.Weight = 7
		p.Reserved = Reservation{Runtime: int64(share * 1e8), Deadline: 1e8, Period: 1e8}
		return p
	}
	if err := a.SetParams(reserve(0.5)); err != nil {
		t.Fatal(err)
	}
	for _, share := range []float64{0.1, 0.5, 0.74, 0.76, 0.95} {
		was := b.Params()
		fits := b.Fits(reserve(share))
		if b.Params() != was {
			t.Fatalf("it has changed: %+v", b.Params())
		}
		does := b.SetParams(reserve(share))
		if (fits == nil) != (does == nil) || errdefs.CodeOf(fits) != errdefs.CodeOf(does) {
			t.Errorf("%.2f: it is said to fit: %v; it does: %v", share, fits, does)
		}
		if err := b.SetParams(Defaults()); err != nil {
			t.Fatal(err)
		}
	}
	bad := Defaults()
	bad.Period = time.Hour
	if err := b.Fits(bad); errdefs.CodeOf(err) != errdefs.InvalidArgument {
		t.Error(err)
	}
}
