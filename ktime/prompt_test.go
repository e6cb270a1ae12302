package ktime

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func prompt(t testing.TB) *Prompt {
	t.Helper()
	p, err := NewPrompt(Real)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// TestPrompt starts timers in any order, stops some, and has others start new
// ones: they end in order, none too early, none twice, none that was stopped.
func TestPrompt(t *testing.T) {
	p := prompt(t)
	began := p.Now()
	var mu sync.Mutex
	var got []int
	done := make(chan bool)
	at := func(ms int) func() {
		return func() {
			if p.Since(began) < time.Duration(ms)*time.Millisecond {
				t.Errorf("%d ms ended after %v", ms, p.Since(began))
			}
			mu.Lock()
			got = append(got, ms)
			mu.Unlock()
		}
	}
	for _, ms := range []int{30, 10, 50, 20, 40} {
		p.AfterFunc(time.Duration(ms)*time.Millisecond, at(ms))
	}
	stopped := p.AfterFunc(15*time.Millisecond, at(15))
	p.AfterFunc(25*time.Millisecond, func() {
		p.AfterFunc(10*time.Millisecond, at(35))
		p.AfterFunc(100*time.Millisecond, func() { close(done) })
	})
	if !stopped.Stop() || stopped.Stop() {
		t.Error("a timer is stopped once")
	}
	<-done
	if want := []int{10, 20, 30, 35, 40, 50}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestPromptConcurrently has many start and stop timers: each function is called
// if and only if its timer was not stopped.
func TestPromptConcurrently(t *testing.T) {
	p := prompt(t)
	var called, stopped atomic.Int64
	var wg sync.WaitGroup
	const workers, each = 8, 500
	for range workers {
		wg.Go(func() {
			for i := range each {
				timer := p.AfterFunc(time.Duration(i%7)*100*time.Microsecond, func() { called.Add(1) })
				if i%3 == 0 && timer.Stop() {
					stopped.Add(1)
				}
			}
		})
	}
	wg.Wait()
	for deadline := time.Now().Add(10 * time.Second); called.Load()+stopped.Load() != workers*each; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d called and %d stopped of %d", called.Load(), stopped.Load(), workers*each)
		}
	}
}

// BenchmarkLate shows by how much timers of 2.5 ms are late, of the runtime and of
// a Prompt.
func BenchmarkLate(b *testing.B) {
	for _, c := range []struct {
		name  string
		clock Clock
	}{{"runtime", Real}, {"prompt", prompt(b)}} {
		b.Run(c.name, func(b *testing.B) {
			var late []time.Duration
			for b.Loop() {
				done := make(chan time.Duration)
				began := time.Now()
				c.clock.AfterFunc(2500*time.Microsecond, func() { done <- time.Since(began) - 2500*time.Microsecond })
				late = append(late, <-done)
			}
			slices.Sort(late)
			b.ReportMetric(float64(late[len(late)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(late[len(late)*99/100].Microseconds()), "p99-µs")
		})
	}
}
