package account

import (
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/ktime"
)

// TestBucketKeepsItsRate lets a caller take what it likes and wait as told:
// over any span it gets no more than rate times span and one burst, and, when
// it never rests, no less than the rate.
func TestBucketKeepsItsRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		clock := ktime.NewFake(time.Unix(0, 0))
		rate := rapid.Uint64Range(1, 10_000_000_000).Draw(t, "rate")
		burst := time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "burst"))
		b := NewBucket(clock, rate, burst)
		clock.Advance(time.Minute) // The burst is no larger for it.
		start := clock.Now()
		var taken float64
		rested := false
		for range rapid.IntRange(1, 50).Draw(t, "takes") {
			// Of at most a minute's worth, so that no debt is cut off.
			n := rapid.Uint64Range(1, max(1, rate*60)).Draw(t, "n")
			taken += float64(n)
			wait := b.Take(n)
			if wait > time.Minute+time.Second {
				t.Fatalf("take of %d at %d/s: wait %v", n, rate, wait)
			}
			if rapid.Bool().Draw(t, "rest") {
				wait += time.Millisecond
				rested = true
			}
			clock.Advance(wait)
		}
		span := clock.Since(start).Seconds()
		if most := float64(rate) * (span + burst.Seconds() + 1e-9); taken > most*(1+1e-9)+1 {
			t.Fatalf("took %v in %vs at %d/s, burst %v", taken, span, rate, burst)
		}
		// Every take is rounded up to a nanosecond.
		if least := float64(rate) * (span - 50e-9); !rested && taken < least*(1-1e-9)-1 {
			t.Fatalf("took only %v in %vs at %d/s", taken, span, rate)
		}
	})
}

func TestBucketChangesItsRate(t *testing.T) {
	clock := ktime.NewFake(time.Unix(0, 0))
	b := NewBucket(clock, 1000, 0)
	if wait := b.Take(2000); wait != 2*time.Second {
		t.Errorf("2000 at 1000/s: %v", wait)
	}
	b.SetRate(4000) // 2000 are owed.
	if wait := b.Take(4000); wait != 1500*time.Millisecond {
		t.Errorf("6000 at 4000/s: %v", wait)
	}
	b.SetRate(Unlimited)
	if wait := b.Take(1 << 60); wait != 0 {
		t.Errorf("without a limit: %v", wait)
	}
	b.SetRate(0)
	if wait := b.Take(1); wait != maxDebt {
		t.Errorf("at rate 0: %v", wait)
	}
	b.SetRate(1000) // What was refused is not owed.
	if wait := b.Take(1000); wait != time.Second {
		t.Errorf("after rate 0: %v", wait)
	}
	if wait := b.Take(Unlimited); wait != maxDebt {
		t.Errorf("more than can be: %v", wait)
	}
}

// TestBucketTogether has many takers at once: nothing taken is lost.
func TestBucketTogether(t *testing.T) {
	const takers, takes = 8, 1000
	clock := ktime.NewFake(time.Unix(0, 0))
	b := NewBucket(clock, 1000, 0)
	var wg sync.WaitGroup
	for range takers {
		wg.Go(func() {
			for range takes {
				b.Take(1)
			}
		})
	}
	wg.Wait()
	if owed := b.Owed(); owed != takers*takes*time.Millisecond {
		t.Errorf("owed %v", owed)
	}
	if wait := b.Take(1); wait != (takers*takes+1)*time.Millisecond {
		t.Errorf("wait %v", wait)
	}
	clock.Advance(time.Hour)
	if owed := b.Owed(); owed != 0 {
		t.Errorf("an hour later %v are owed", owed)
	}
}

func TestTakeAllocatesNothing(t *testing.T) {
	b := NewBucket(ktime.Real, 1<<40, time.Second)
	if n := testing.AllocsPerRun(1000, func() { b.Take(4096) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkTake(b *testing.B) {
	k := NewBucket(ktime.Real, 1<<40, time.Second)
	b.ReportAllocs()
	for b.Loop() {
		k.Take(4096)
	}
}
