package sentry

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/ktime"
)

// book collects denials.
type book struct {
	mu  sync.Mutex
	got []Denial
}

func (b *book) tell(d Denial) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got = append(b.got, d)
}

func (b *book) sum() (n uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range b.got {
		n += d.Count
	}
	return n
}

func newDenials() (*denials, *book, *ktime.Fake) {
	clock := ktime.NewFake(time.Unix(1e9, 0))
	var (
		d denials
		b book
	)
	d.init(clock)
	d.tell = b.tell
	return &d, &b, clock
}

func TestDenialsAreCounted(t *testing.T) {
	d, b, clock := newDenials()
	mount := Denial{Agent: "a", Operation: "mount", Capability: "sys:mount", Errno: syscall.EPERM}
	d.note(mount)
	clock.Advance(0)
	if len(b.got) != 1 || b.got[0].Count != 1 {
		t.Fatalf("the first is not told at once: %+v", b.got)
	}
	for range 1000 {
		d.note(mount)
	}
	clock.Advance(denialsEvery / 2)
	if len(b.got) != 1 {
		t.Fatalf("told too soon: %+v", b.got)
	}
	clock.Advance(denialsEvery)
	if len(b.got) != 2 || b.got[1].Count != 1000 || b.got[1].Capability != "sys:mount" {
		t.Fatalf("a thousand more: %+v", b.got)
	}
	clock.Advance(10 * denialsEvery)
	d.note(mount)
	clock.Advance(0)
	if len(b.got) != 3 {
		t.Fatalf("the first after a quiet time is not told at once: %+v", b.got)
	}
}

func TestDenialsAreBounded(t *testing.T) {
	d, b, clock := newDenials()
	for i := range 10 * denialsPerAgent {
		d.note(Denial{Agent: "noisy", Operation: "execve", Object: fmt.Sprint(i)})
	}
	d.note(Denial{Agent: "quiet", Operation: "mount"})
	clock.Advance(0)
	if len(b.got) > denialsPerAgent+2 {
		t.Errorf("%d records", len(b.got))
	}
	if n := b.sum(); n != 10*denialsPerAgent+1 {
		t.Errorf("%d counted", n)
	}
	var quiet bool
	for _, d := range b.got {
		quiet = quiet || d.Agent == "quiet" && d.Operation == "mount"
	}
	if !quiet {
		t.Error("a noisy agent drowned a quiet one")
	}
}

func TestDenialsWithoutAListener(t *testing.T) {
	d, b, clock := newDenials()
	d.tell = nil
	d.note(Denial{Agent: "a"})
	clock.Advance(time.Minute)
	if len(b.got) != 0 || len(d.pending) != 0 {
		t.Errorf("told %+v, pending %v", b.got, d.pending)
	}
}

// TestEveryDenialIsCountedOnce lets agents be refused things while time
// passes: what is told adds up to what was noted.
func TestEveryDenialIsCountedOnce(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		d, b, clock := newDenials()
		var noted uint64
		r.Repeat(map[string]func(*rapid.T){
			"note": func(r *rapid.T) {
				n := rapid.IntRange(1, 100).Draw(r, "n")
				for i := range n {
					d.note(Denial{Agent: rapid.SampledFrom([]string{"a", "b"}).Draw(r, "agent"), Operation: "open", Object: fmt.Sprint(i)})
					noted++
				}
			},
			"advance": func(r *rapid.T) {
				clock.Advance(time.Duration(rapid.Int64Range(0, int64(2*denialsEvery)).Draw(r, "d")))
			},
		})
		clock.Advance(denialsEvery)
		if got := b.sum(); got != noted {
			r.Fatalf("%d noted, %d told", noted, got)
		}
		if len(d.pending) != 0 || len(d.kinds) != 0 || d.timer != nil {
			r.Fatalf("left over: %v %v", d.pending, d.kinds)
		}
	})
}
