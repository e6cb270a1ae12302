// Command sim runs random worlds of the scheduler's simulator until one goes
// wrong or the time is up, and says with which seed. `make sim` is how it is
// called.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"aios.dev/aios/ktime"
	"aios.dev/aios/sentry/sched/sim"
)

func main() {
	seed := flag.Uint64("seed", 0, "run this world alone, and say what came of it")
	first := flag.Uint64("first", uint64(ktime.Real.Now().UnixNano()), "the first of the seeds that are tried")
	span := flag.Duration("for", time.Minute, "how long to try seeds")
	length := flag.Duration("length", 50*time.Millisecond, "how long a world is stirred; then it settles for as long as it needs")
	flag.Parse()
	if *seed != 0 {
		r, err := sim.Random(*seed, *length)
		fmt.Printf("%+v\n", r)
		if err != nil {
			fmt.Fprintf(os.Stderr, "seed %d: %v\n", *seed, err)
			os.Exit(1)
		}
		return
	}
	var (
		next, events atomic.Uint64
		failed       atomic.Bool
		wg           sync.WaitGroup
	)
	next.Store(*first)
	began := ktime.Real.Now()
	for range runtime.NumCPU() {
		wg.Go(func() {
			for !failed.Load() && ktime.Real.Since(began) < *span {
				s := next.Add(1)
				r, err := sim.Random(s, *length)
				events.Add(uint64(r.Steps))
				if err != nil {
					failed.Store(true)
					fmt.Fprintf(os.Stderr, "seed %d: %v\nrun it again with: make sim SEED=%d\n", s, err, s)
				}
			}
		})
	}
	wg.Wait()
	took := ktime.Real.Since(began)
	n := next.Load() - *first
	fmt.Printf("%d worlds in %v, %.0f in a second, %.1f million events\n", n, took.Round(time.Millisecond), float64(n)/took.Seconds(), float64(events.Load())/1e6)
	if failed.Load() {
		os.Exit(1)
	}
}
