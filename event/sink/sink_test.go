package sink

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	"aios.dev/aios/event/hub"
	"aios.dev/aios/event/journal"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/ktime"
	"aios.dev/aios/recovery"
)

var errDown = failed("it is down", "start it")

const batched = "name: s\nwebhook: {url: 'http://127.0.0.1:1', mode: batched, batch: 10}\ntopics: [agent.exit]"

// TestNothingIsLost: whatever the receiver does, and however often the sink is
// ended and started again, the receiver gets every event that it does not
// refuse, and gets them in their order; what it refuses is counted.
func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		h := openHub(t, t.TempDir())
		clock := &hasty{now: time.Unix(1e9, 0)}
		refuse := rapid.IntRange(0, 9).Draw(rt, "refused") // of each ten
		fails := rapid.SliceOfN(rapid.IntRange(0, 3), 1, 40).Draw(rt, "failures")
		to := &fake{}
		to.answer = func(n int, batch []message) error {
			if fails[n%len(fails)] == 0 && n < 400 {
				return errDown
			}
			for _, m := range batch {
				if refuse > 5 && strings.HasSuffix(m.id, strconv.Itoa(refuse)) {
					return refused("it is too large", "make it smaller")
				}
			}
			return nil
		}
		sp := spec(t, batched+"\nrefused: skip\nfrom: oldest")
		w := new(told)
		o := w.options(h, clock)
		o.connect = func() (target, error) { return to, nil }
		total, skipped := 0, uint64(0)
		for range rapid.IntRange(1, 4).Draw(rt, "lives") {
			s := Start(sp, o)
			for range rapid.IntRange(0, 60).Draw(rt, "events") {
				total++
				emit(h, total)
			}
			if rapid.Bool().Draw(rt, "waits") {
				until(t, "it has caught up", func() bool { _, behind, ok := h.Position("sink:s"); return ok && behind == 0 })
			}
			s.Stop()
			skipped += s.Status().Skipped
		}
		s := Start(sp, o)
		// What it tells of itself is in the journal too, and not for it.
		until(t, "it has caught up", func() bool { _, behind, ok := h.Position("sink:s"); return ok && behind == 0 })
		s.Stop()
		skipped += s.Status().Skipped

		got := to.taken()
		var first []string // in order, without what came again
		for _, id := range got {
			if !slices.Contains(first, id) {
				first = append(first, id)
			}
		}
		var want []string
		wantSkipped := 0
		for i, n := 1, 0; n < total; i++ {
			id := "d1-" + strconv.Itoa(i)
			if e := eventOf(t, h, id); e == nil || e.Type != event.AgentExit {
				continue
			}
			n++
			if refuse > 5 && strings.HasSuffix(id, strconv.Itoa(refuse)) {
				wantSkipped++
				continue
			}
			want = append(want, id)
		}
		if !slices.Equal(first, want) {
			rt.Fatalf("of %d events it got\n%v, and not\n%v", total, first, want)
		}
		if skipped < uint64(wantSkipped) {
			rt.Fatalf("%d were counted as passed over, %d were", skipped, wantSkipped)
		}
		if to.most > 10 {
			rt.Fatalf("%d at once", to.most)
		}
	})
}

// eventOf finds an event in the journal.
func eventOf(t *testing.T, h *hub.Hub, id string) *event.Event {
	t.Helper()
	s, err := h.Subscribe(hub.Options{Past: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for {
		e, _, err := s.Next(t.Context())
		if err != nil {
			return nil
		}
		if e.ID() == id {
			return &e
		}
	}
}

// TestOutage: the receiver is down for long, and the sink sends what happens to
// itself. That is two events for the sink and two for its breaker, however long.
func TestOutage(t *testing.T) {
	t.Parallel()
	h := openHub(t, t.TempDir())
	to := &fake{answer: func(int, []message) error { return errDown }}
	w := new(told)
	o := w.options(h, &hasty{now: time.Unix(1e9, 0)})
	o.connect = func() (target, error) { return to, nil }
	s := Start(spec(t, "name: s\nwebhook: {url: 'http://127.0.0.1:1'}\nfrom: oldest"), o)
	defer s.Stop()
	for i := range 20 {
		emit(h, i)
	}
	until(t, "many attempts", func() bool { return s.Status().Failures > 50 })
	st := s.Status()
	if !st.Failed || st.Breaker.State == recovery.Closed || st.Behind < 20 || !strings.Contains(st.Err, "it is down") || st.Fix != "start it" || st.Delivered != 0 {
		t.Errorf("%+v", st)
	}
	if got := w.all(); !slices.Equal(got, []string{"breaker.open", "sink.failed"}) {
		t.Errorf("it said %v", got)
	}
	to.set(nil)
	until(t, "everything has been sent", func() bool { return s.Status().Behind == 0 && !s.Status().Failed })
	if got := w.all(); !slices.Equal(got, []string{"breaker.open", "sink.failed", "breaker.close", "sink.restored"}) {
		t.Errorf("it said %v", got)
	}
	if got := to.taken(); !slices.Equal(got, ids(1, 24)) {
		t.Errorf("the receiver got %v", got)
	}
	p := w.sinks[1]
	if p.GetLasted() <= 0 || p.GetName() != "s" || p.GetKind() != "webhook" || p.GetTarget() != "http://127.0.0.1:1" {
		t.Errorf("%v", p)
	}
	if w.states[0].Failed != true || w.states[1].Failed != false {
		t.Errorf("%+v", w.states)
	}
}

// TestFlapping: a receiver that takes one event for every few that it fails at
// does not make the sink produce more than it sends.
func TestFlapping(t *testing.T) {
	t.Parallel()
	h := openHub(t, t.TempDir())
	to := &fake{answer: func(n int, _ []message) error {
		if n%7 == 0 {
			return nil
		}
		return errDown
	}}
	w := new(told)
	o := w.options(h, &hasty{now: time.Unix(1e9, 0)})
	o.connect = func() (target, error) { return to, nil }
	s := Start(spec(t, "name: s\nwebhook: {url: 'http://127.0.0.1:1', mode: batched}\nfrom: oldest"), o)
	defer s.Stop()
	for i := range 10 {
		emit(h, i)
	}
	until(t, "many attempts", func() bool { return s.Status().Failures > 300 })
	st := s.Status()
	if n := len(w.all()); uint64(n) > st.Failures {
		t.Errorf("%d events about itself in %d attempts", n, st.Failures)
	}
	if st.Behind > 20 {
		t.Errorf("it falls behind by what it says of itself: %+v", st)
	}
}

// TestRefusedWaits: by default an event that is refused is not passed over, and
// holds up those behind it, but not those in front.
func TestRefusedWaits(t *testing.T) {
	t.Parallel()
	h := openHub(t, t.TempDir())
	poison := func(_ int, batch []message) error {
		if slices.ContainsFunc(batch, func(m message) bool { return m.id == "d1-5" }) {
			return refused("it is not JSON", "send something else")
		}
		return nil
	}
	to := &fake{answer: poison}
	w := new(told)
	o := w.options(h, &hasty{now: time.Unix(1e9, 0)})
	o.connect = func() (target, error) { return to, nil }
	for i := range 10 {
		emit(h, i)
	}
	s := Start(spec(t, batched+"\nfrom: oldest"), o)
	defer s.Stop()
	until(t, "it has failed", func() bool { return s.Status().Failed })
	if got := to.taken(); !slices.Equal(got, ids(1, 4)) {
		t.Errorf("it got %v", got)
	}
	to.set(nil)
	until(t, "all is sent", func() bool { return s.Status().Behind == 0 })
	if got := to.taken(); !slices.Equal(got, ids(1, 10)) {
		t.Errorf("it got %v", got)
	}
	if st := s.Status(); st.Skipped != 0 || st.Lost != 0 {
		t.Errorf("%+v", st)
	}
}

// TestRefusedIsTold: what was passed over is told once somebody takes events.
func TestRefusedIsTold(t *testing.T) {
	t.Parallel()
	h := openHub(t, t.TempDir())
	to := &fake{answer: func(_ int, batch []message) error {
		if slices.ContainsFunc(batch, func(m message) bool { return m.topic == "agent.exit" }) {
			return refused("not these", "send something else")
		}
		return nil
	}}
	w := new(told)
	o := w.options(h, &hasty{now: time.Unix(1e9, 0)})
	o.connect = func() (target, error) { return to, nil }
	s := Start(spec(t, "name: s\nwebhook: {url: 'http://127.0.0.1:1', mode: batched}\nfrom: oldest\nrefused: skip"), o)
	defer s.Stop()
	for i := range 10 {
		emit(h, i)
	}
	until(t, "all are passed over", func() bool { return s.Status().Skipped == 10 && s.Status().Behind == 0 })
	if len(w.all()) != 0 || s.Status().Failed {
		t.Errorf("it said %v: the receiver is well", w.all())
	}
	h.Emit(event.Event{Type: event.DaemonStop, Payload: &eventv1.DaemonStop{}})
	until(t, "it is told", func() bool { return slices.Equal(w.all(), []string{"bus.lost"}) })
	until(t, "all is sent", func() bool { return s.Status().Behind == 0 })
	if p := w.lost[0]; p.GetCount() != 10 || p.GetWhere() != "sink" || p.GetName() != "s" {
		t.Errorf("%v", p)
	}
	if got := to.taken(); len(got) != 2 {
		t.Errorf("it got %v", got)
	}
}

// TestTrimmed: what the journal has deleted before it was sent is counted.
func TestTrimmed(t *testing.T) {
	t.Parallel()
	h, err := hub.Open(hub.Config{Dir: t.TempDir(), Source: "d1", Journal: journal.Options{SegmentBytes: 2048, KeepBytes: 8192}})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	to := &fake{answer: func(int, []message) error { return errDown }}
	w := new(told)
	o := w.options(h, &hasty{now: time.Unix(1e9, 0)})
	o.connect = func() (target, error) { return to, nil }
	s := Start(spec(t, batched), o)
	until(t, "it is known", func() bool { _, _, ok := h.Position("sink:s"); return ok })
	emit(h, 0)
	until(t, "it has failed", func() bool { return s.Status().Failed })
	s.Stop()
	const more = 2000
	for i := range more {
		emit(h, i+1)
		if i%100 == 0 { // Not faster than the disk.
			last := h.Stats().Journal.Last
			until(t, "it is written", func() bool { return h.Kept(last) })
		}
	}
	to.set(nil)
	s = Start(s.Spec(), o)
	defer s.Stop()
	until(t, "all is sent", func() bool { return s.Status().Behind == 0 })
	st := s.Status()
	if st.Lost == 0 || st.Delivered == 0 {
		t.Fatalf("%+v", st)
	}
	// The journal has what the sink said as well; nothing else is missing.
	own := uint64(len(w.all()))
	if n := st.Lost + st.Delivered; n < more+1 || n > more+1+own {
		t.Errorf("%d delivered and %d lost, of %d and %d of its own", st.Delivered, st.Lost, more+1, own)
	}
	if !slices.Contains(w.all(), "bus.lost") {
		t.Errorf("it said %v", w.all())
	}
}

// TestChoice: topics, filter, severity, sample and rate choose.
func TestChoice(t *testing.T) {
	t.Parallel()
	h := openHub(t, t.TempDir())
	fixed := ktime.NewFake(time.Unix(1e9, 0))
	begin := func(name, choice string) (*Sink, *fake) {
		to := new(fake)
		o := new(told).options(h, fixed)
		o.connect = func() (target, error) { return to, nil }
		s := Start(spec(t, "name: "+name+"\nwebhook: {url: 'http://127.0.0.1:1'}\n"+choice), o)
		t.Cleanup(s.Stop)
		until(t, "it is known", func() bool { _, _, ok := h.Position("sink:" + name); return ok })
		return s, to
	}
	choices := map[string]int{
		"topics: [agent.*]":                      20,
		"topics: [agent.*, daemon.stop]":         21,
		"filter: 'data.code == 7'":               1,
		"severity: warning":                      1,
		"topics: [agent.*]\nsample: 0.25":        5,
		"topics: [agent.*]\nrate: 3":             3,
		"topics: [domain.*]":                     1,
		"filter: 'agent == \"a1\"'\nsample: 1":   20,
		"filter: 'agent == \"nobody\"'\nrate: 9": 0,
	}
	all := make(map[string]func())
	n := 0
	for choice, want := range choices {
		n++
		s, to := begin("s"+strconv.Itoa(n), choice)
		all[choice] = func() {
			until(t, choice+" has caught up", func() bool { return s.Status().Behind == 0 })
			if got := len(to.taken()); got != want {
				t.Errorf("%s: %d events, not %d", choice, got, want)
			}
		}
	}
	for i := range 20 {
		emit(h, i)
	}
	h.Emit(event.Event{Type: event.DaemonStop, Payload: &eventv1.DaemonStop{}})
	h.Emit(event.Event{Type: event.DomainCrash, Payload: &eventv1.DomainCrash{}})
	for _, check := range all {
		check()
	}
}

// TestNotTwice: two sinks of one name do not send the same.
func TestNotTwice(t *testing.T) {
	t.Parallel()
	h := openHub(t, t.TempDir())
	o := new(told).options(h, ktime.Real)
	o.connect = func() (target, error) { return new(fake), nil }
	one := Start(spec(t, batched), o)
	until(t, "it is known", func() bool { _, _, ok := h.Position("sink:s"); return ok })
	two := Start(spec(t, batched), o)
	until(t, "the second is refused", func() bool { return strings.Contains(two.Status().Err, "somebody reads") })
	one.Stop()
	two.Stop()
}

func TestEndsWhileItWaits(t *testing.T) {
	t.Parallel()
	h := openHub(t, t.TempDir())
	stuck := ktime.NewFake(time.Unix(1e9, 0))
	to := &fake{answer: func(int, []message) error { return errDown }}
	o := new(told).options(h, stuck)
	o.connect = func() (target, error) { return to, nil }
	s := Start(spec(t, batched+"\nfrom: oldest"), o)
	emit(h, 1)
	until(t, "it waits for others", func() bool {
		stuck.Advance(linger)
		return s.Status().Failures > 0
	})
	s.Stop() // The clock stands: it does not wait for the next attempt.
	o.connect = func() (target, error) { return nil, errors.New("no") }
	s = Start(s.Spec(), o)
	until(t, "it cannot begin", func() bool { return s.Status().Err == "no" })
	s.Stop()
}

func TestAnErrorKeepsItsDelay(t *testing.T) {
	err := failed("busy", "wait", errdefs.Delay(time.Minute))
	if errdefs.DelayOf(err) != time.Minute || errdefs.RetryOf(err).Delay != time.Minute {
		t.Errorf("%v", errdefs.RetryOf(err))
	}
}
