package sink

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"aios.dev/aios/config"
	"aios.dev/aios/event"
	"aios.dev/aios/event/hub"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/ktime"
	"aios.dev/aios/recovery"
)

// hasty is a clock on which every wait is over as good as at once, and its time
// has passed.
type hasty struct {
	mu  sync.Mutex
	now time.Time // guarded by mu
}

func (h *hasty) Now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func (h *hasty) Since(t time.Time) time.Duration { return h.Now().Sub(t) }

func (h *hasty) AfterFunc(d time.Duration, f func()) ktime.Timer {
	h.mu.Lock()
	h.now = h.now.Add(d)
	h.mu.Unlock()
	time.AfterFunc(100*time.Microsecond, f)
	return over{}
}

type over struct{}

func (over) Stop() bool { return false }

func openHub(t testing.TB, dir string) *hub.Hub {
	t.Helper()
	h, err := hub.Open(hub.Config{Dir: dir, Source: "d1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// emit publishes the exit of an agent with a number.
func emit(h *hub.Hub, n int) {
	h.Emit(event.Event{Type: event.AgentExit, Agent: "a1", Domain: "default", Payload: &eventv1.AgentExit{Code: int32(n)}})
}

// told is what a sink says of itself.
type told struct {
	mu     sync.Mutex
	topics []string           // guarded by mu
	sinks  []*eventv1.Sink    // guarded by mu
	lost   []*eventv1.BusLost // guarded by mu
	states []Status           // guarded by mu
	change chan struct{}      // guarded by mu; closed when more is told
	hub    *hub.Hub           // what is told is published there, too
}

func (w *told) options(h *hub.Hub, clock ktime.Clock) Options {
	w.hub, w.change = h, make(chan struct{})
	return Options{
		Hub: h, Clock: clock, Log: slog.New(slog.DiscardHandler), Emit: w.emit,
		OnBreaker: func(ch recovery.BreakerChange) { w.emit(breakerType(ch), &eventv1.Breaker{Name: ch.Name}) },
		OnChange: func(st Status) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.states = append(w.states, st)
		},
	}
}

func breakerType(ch recovery.BreakerChange) event.Type {
	if ch.To == recovery.Open {
		return event.BreakerOpen
	}
	return event.BreakerClose
}

func (w *told) emit(typ event.Type, p event.Payload) {
	w.mu.Lock()
	w.topics = append(w.topics, typ.Topic())
	switch p := p.(type) {
	case *eventv1.Sink:
		w.sinks = append(w.sinks, p)
	case *eventv1.BusLost:
		w.lost = append(w.lost, p)
	}
	close(w.change)
	w.change = make(chan struct{})
	w.mu.Unlock()
	w.hub.Emit(event.Event{Type: typ, Payload: p})
}

func (w *told) all() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.topics...)
}

// spec makes a sink out of what a file would say of it.
func spec(t testing.TB, text string) *Spec {
	t.Helper()
	s, err := compile(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func compile(text string) (*Spec, error) {
	var all struct {
		Sinks []Config `yaml:"sinks"`
	}
	d, err := config.Parse("f", []byte("sinks:\n  - "+strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ")+"\n"))
	if err == nil {
		err = d.Decode(&all)
	}
	if err != nil {
		return nil, err
	}
	s, key, err := all.Sinks[0].Compile()
	return s, d.Fail(strings.TrimSuffix("sinks[0]."+key, "."), err)
}

// until waits for something that happens on its own.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not in time", what)
		}
	}
}

// fake is a receiver that does as it is told.
type fake struct {
	mu sync.Mutex
	// Decides about each request; nil takes all.
	answer func(n int, batch []message) error // guarded by mu
	asked  int                                // guarded by mu
	got    []string                           // guarded by mu: the IDs of what was taken
	most   int                                // guarded by mu: the largest batch
}

func (f *fake) send(_ context.Context, batch []message) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	f.most = max(f.most, len(batch))
	if f.answer != nil {
		if err := f.answer(f.asked, batch); err != nil {
			return err
		}
	}
	for _, m := range batch {
		f.got = append(f.got, m.id)
	}
	return nil
}

func (f *fake) close() {}

func (f *fake) taken() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.got...)
}

func (f *fake) set(answer func(n int, batch []message) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

// ids are those of the first n events of a hub's own.
func ids(from, to int) (out []string) {
	for i := from; i <= to; i++ {
		out = append(out, fmt.Sprintf("d1-%d", i))
	}
	return out
}
