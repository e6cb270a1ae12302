package sntp

import (
	"slices"
	"time"
)

// claim is what a server says: the offset lies within low and high.
type claim struct{ low, high time.Duration }

// agree returns where the most claims overlap, and how many do. Of several such
// places it is the first.
func agree(claims []claim) (low, high time.Duration, count int) {
	type edge struct {
		at   time.Duration
		ends bool
	}
	edges := make([]edge, 0, 2*len(claims))
	for _, c := range claims {
		edges = append(edges, edge{c.low, false}, edge{c.high, true})
	}
	slices.SortFunc(edges, func(a, b edge) int {
		switch {
		case a.at != b.at:
			return int(min(1, max(-1, a.at-b.at)))
		case a.ends == b.ends:
			return 0
		case a.ends:
			return 1 // Claims that touch overlap.
		}
		return -1
	})
	depth := 0
	for i, e := range edges {
		if e.ends {
			depth--
			continue
		}
		if depth++; depth > count {
			low, count = e.at, depth
			high = edges[i+1].at // It ends there, or another begins and replaces this.
		}
	}
	return low, high, count
}

// mean weighs what servers say that agree, the certain ones more.
func mean(samples []*sample, now time.Time) time.Duration {
	var sum, weights float64
	for _, s := range samples {
		w := 1 / float64(s.by(now.Sub(s.at)))
		sum += w * float64(s.offset)
		weights += w
	}
	return time.Duration(sum / weights)
}
