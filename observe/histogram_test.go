package observe

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestHistogram compares with all numbers, sorted.
func TestHistogram(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Int64Range(0, 1<<rapid.IntRange(1, 39).Draw(t, "bits")), 1, 300).Draw(t, "all")
		var h Histogram
		for _, n := range all {
			h.Add(n)
		}
		slices.Sort(all)
		l := h.Latency()
		if l.Count != uint64(len(all)) || l.Max != time.Duration(all[len(all)-1]) {
			t.Fatalf("%+v of %v", l, all)
		}
		for per100, got := range map[int]time.Duration{50: l.P50, 99: l.P99} {
			want := all[(len(all)*per100+99)/100-1]
			if int64(got) < want || float64(got) > float64(want)*1.125+1 {
				t.Fatalf("quantile %d is %d, want %d to an eighth above", per100, got, want)
			}
		}
	})
}
