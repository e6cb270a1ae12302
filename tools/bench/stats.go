package main

import (
	"context"
	"slices"
	"time"
)

// median returns the middle of the samples, the mean of the two middle ones
// when their count is even; 0 for none.
func median(samples []float64) float64 {
	n := len(samples)
	if n == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(samples))
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// percentile returns the smallest sample that at least p percent of the
// samples do not exceed; 0 for none.
func percentile(samples []float64, p int) float64 {
	n := len(samples)
	if n == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[max(0, (n*p+99)/100-1)]
}

// contender is one party of a comparison. run performs the measured thing once
// and returns its figures by name.
type contender struct {
	name string
	run  func(ctx context.Context) (map[string]float64, error)
}

// elapsed is the figure that timed returns, in milliseconds.
const elapsed = "elapsed"

// timed turns an action into a contender that is measured from outside.
func timed(name string, action func(ctx context.Context) error) contender {
	return contender{name, func(ctx context.Context) (map[string]float64, error) {
		began := time.Now()
		if err := action(ctx); err != nil {
			return nil, err
		}
		return map[string]float64{elapsed: milliseconds(time.Since(began))}, nil
	}}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// samples are all figures of a comparison: by figure, by contender.
type samples map[string]map[string][]float64

// patience is how long one run of a contender may take before it counts as
// failed.
const patience = 3 * time.Minute

// interleave runs every contender once per round; who goes first rotates. The
// first, uncounted round warms everything up. A contender that fails leaves
// the comparison, and fail hears why.
func interleave(ctx context.Context, rounds int, contenders []contender, fail func(name string, err error)) samples {
	out := samples{}
	active := slices.Clone(contenders)
	for round := -1; round < rounds && ctx.Err() == nil; round++ {
		var failed []string
		for i := range active {
			c := active[(i+round+1)%len(active)]
			limited, cancel := context.WithTimeout(ctx, patience)
			figures, err := c.run(limited)
			cancel()
			if err != nil {
				fail(c.name, err)
				failed = append(failed, c.name)
				continue
			}
			if round < 0 {
				continue
			}
			for figure, value := range figures {
				if out[figure] == nil {
					out[figure] = map[string][]float64{}
				}
				out[figure][c.name] = append(out[figure][c.name], value)
			}
		}
		active = slices.DeleteFunc(active, func(c contender) bool { return slices.Contains(failed, c.name) })
		for _, byName := range out {
			for _, name := range failed {
				delete(byName, name)
			}
		}
	}
	return out
}
