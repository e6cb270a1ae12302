package sim

import (
	"fmt"
	"math"
	"testing"
	"time"

	"aios.dev/aios/sentry/sched"
)

// TestHintsAreWhatTheyAreSaidToBe has an agent that computes say each hint, beside four
// that say none, and measures what docs/cpu.md promises of it: how long it runs at
// once, and what share it gets, which is never a larger one.
func TestHintsAreWhatTheyAreSaidToBe(t *testing.T) {
	const plain = 4
	measure := func(h sched.Hint) (share float64, asks, turn time.Duration) {
		w := New(1, 1, Costs{})
		for i := range plain {
			w.Add(group(t, w, fmt.Sprint(i), nil), "spin", spin)
		}
		g := group(t, w, "hinted", nil)
		g.SetHint(h)
		w.Add(g, "spin", spin)
		const d = 20 * time.Second
		run(t, w, d)
		s := g.State()
		return s.Service.Seconds() / d.Seconds(), s.Request, s.Service / time.Duration(s.Switches)
	}
	_, usual, _ := measure(sched.HintNone)
	for h, want := range map[sched.Hint]struct {
		weight float64
		asks   time.Duration
	}{
		sched.HintNone:        {1, usual},
		sched.HintInteractive: {1, 500 * time.Microsecond},
		sched.HintBatch:       {1, 4 * usual},
		sched.HintModel:       {1, usual},
		sched.HintTool:        {1, 2 * usual},
		sched.HintSpeculative: {1.0 / 8, 2 * usual},
	} {
		share, asks, turn := measure(h)
		t.Logf("%v: a share of %.4f, asks for %v, turns of %v", h, share, asks, turn)
		if fair := want.weight / (want.weight + plain); math.Abs(share-fair) > 0.02*fair {
			t.Errorf("%v: it got %.4f of the CPU, its share is %.4f", h, share, fair)
		}
		// Others become eligible meanwhile, or nobody else is when a short one ends.
		if asks != want.asks || turn < want.asks*2/3 || turn > want.asks*2 {
			t.Errorf("%v: it asks for %v and has turns of %v, not of %v", h, asks, turn, want.asks)
		}
	}
	if n := len(sched.Hints()); n != 6 {
		t.Errorf("there are %d hints: say here what each new one comes to", n)
	}
}
