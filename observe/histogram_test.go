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
		cut := rapid.IntRange(0, len(all)).Draw(t, "cut")
		var early, whole Histogram
		for i, n := range all {
			if i < cut {
				early.Add(n)
			}
			whole.Add(n)
		}
		since := whole.Counts().Since(early.Counts())
		if since.Count != uint64(len(all)-cut) {
			t.Fatalf("%d since then, want %d", since.Count, len(all)-cut)
		}
		if cut < len(all) {
			rest := all[cut:]
			if want := rest[(len(rest)*99+99)/100-1]; int64(since.P99) < want || float64(since.P99) > float64(want)*1.125+1 {
				t.Fatalf("of what came since, quantile 99 is %d, want %d to an eighth above", since.P99, want)
			}
			if again := early.Counts().Since(whole.Counts()); again != early.Counts().Since(nil) {
				t.Fatalf("less than before: %+v", again)
			}
		}
		for per100, got := range map[int]time.Duration{50: l.P50, 99: l.P99} {
			want := all[(len(all)*per100+99)/100-1]
			if int64(got) < want || float64(got) > float64(want)*1.125+1 {
				t.Fatalf("quantile %d is %d, want %d to an eighth above", per100, got, want)
			}
		}
	})
}
