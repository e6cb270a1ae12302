package smp

import (
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// fakeHost allows what it is told to.
type fakeHost struct {
	mu      sync.Mutex
	allowed Set   // guarded by mu
	err     error // guarded by mu
	looks   chan struct{}
}

func (h *fakeHost) allow(s Set, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.allowed, h.err = s, err
}

func (h *fakeHost) look() (Set, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case h.looks <- struct{}{}:
	default:
	}
	return h.allowed, h.err
}

func TestWatch(t *testing.T) {
	host := &fakeHost{allowed: Of(0, 1)}
	w, err := NewWatch(ktime.NewFake(time.Unix(1000, 0)), time.Second, host.look)
	if err != nil {
		t.Fatal(err)
	}
	var first, second []string
	w.OnChange(func(s Set) { first = append(first, s.String()) })
	w.Look()
	host.allow(Of(1), nil)
	if w.Look(); w.Allowed() != Of(1) {
		t.Errorf("allowed %v", w.Allowed())
	}
	w.OnChange(func(s Set) { second = append(second, s.String()) })
	// Neither a failure nor nonsense is a change.
	host.allow(Of(0, 1), errors.New("no"))
	w.Look()
	host.allow(Set{}, nil)
	w.Look()
	host.allow(Of(1), nil)
	w.Look()
	host.allow(Of(0, 1, 5), nil)
	w.Look()
	if !slices.Equal(first, []string{"0-1", "1", "0-1,5"}) || !slices.Equal(second, []string{"1", "0-1,5"}) {
		t.Errorf("heard %q and %q", first, second)
	}

	host.allow(Set{}, nil)
	if _, err := NewWatch(ktime.Real, time.Second, host.look); errdefs.CodeOf(err) != errdefs.HostFeature {
		t.Errorf("no CPU at all: %v", err)
	}
}

// TestWatchLooks has a watch look by its clock, until it is closed.
func TestWatchLooks(t *testing.T) {
	host := &fakeHost{allowed: Of(0), looks: make(chan struct{}, 1)}
	clock := ktime.NewFake(time.Unix(1000, 0))
	w, err := NewWatch(clock, time.Second, host.look)
	if err != nil {
		t.Fatal(err)
	}
	<-host.looks
	heard := make(chan Set, 10)
	w.OnChange(func(s Set) { heard <- s })
	<-heard
	w.Start()
	for n := range 5 {
		want := First(n + 2)
		host.allow(want, nil)
		for len(heard) == 0 {
			clock.Advance(time.Second) // It may not have set its timer yet.
			select {
			case <-host.looks:
			case <-time.After(time.Millisecond):
			}
		}
		if got := <-heard; got != want {
			t.Errorf("look %d: %v, want %v", n, got, want)
		}
	}
	w.Close()
}

// TestAllowed asks the real host, on a thread that may use one CPU only.
func TestAllowed(t *testing.T) {
	before, err := Allowed()
	if err != nil || before.Empty() {
		t.Fatal(before, err)
	}
	last := -1
	before.All(func(cpu int) bool {
		last = cpu
		return true
	})
	got := make(chan Set)
	w, err := NewWatch(ktime.Real, time.Millisecond, Allowed)
	if err != nil || w.Allowed() != before {
		t.Fatal(w.Allowed(), err)
	}
	go func() {
		runtime.LockOSThread() // It ends with the goroutine.
		var mask unix.CPUSet
		mask.Set(last)
		if err := unix.SchedSetaffinity(0, &mask); err != nil {
			t.Error(err)
		}
		w.Look()
		got <- w.Allowed()
	}()
	if s := <-got; s != Of(last) {
		t.Errorf("a thread that may use CPU %d says %v", last, s)
	}
}
