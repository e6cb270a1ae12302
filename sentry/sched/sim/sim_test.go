package sim

import (
	"fmt"
	"testing"
	"time"
)

// TestRandom runs random worlds; a failure names its seed.
func TestRandom(t *testing.T) {
	for seed := range uint64(300) {
		if _, err := Random(seed, 200*time.Millisecond); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// TestSeedsThatFailed runs the worlds in which bugs were found.
func TestSeedsThatFailed(t *testing.T) {
	for _, seed := range []uint64{1795907442114001936, 1795907457897249321, 1795907532548304160, 0x18ec5887937353c7, 1795962758819580547, 1796014376285304900} {
		if _, err := Random(seed, 50*time.Millisecond); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
}

// TestSameSeedSameWorld checks that a seed can be replayed.
func TestSameSeedSameWorld(t *testing.T) {
	for seed := range uint64(20) {
		a, errA := Random(seed, 100*time.Millisecond)
		b, errB := Random(seed, 100*time.Millisecond)
		if a != b || fmt.Sprint(errA) != fmt.Sprint(errB) {
			t.Fatalf("seed %d: %+v, %v and then %+v, %v", seed, a, errA, b, errB)
		}
	}
}
