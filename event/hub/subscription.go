package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	"aios.dev/aios/event/filter"
	"aios.dev/aios/event/journal"
)

// Options say what a subscriber wants.
type Options struct {
	Name   string
	Topics []string // patterns; see event.Select
	Floor  event.Severity
	// Allowed, unless nil, is asked whether the subscriber may see an event.
	Allowed func(*event.Event) bool
	Filter  *filter.Filter
	Sampler *filter.Sampler
	Limiter *filter.Limiter
	// Capacity is how many events wait for the subscriber, and Policy what
	// becomes of more.
	Capacity int
	Policy   event.Policy
	// From, unless zero, is the cursor of the first event of the past.
	From uint64
	// Past ends the subscription where the journal ends.
	Past bool
	// Durable names a subscription that is remembered. It begins at From, or
	// now, when it is new, and where it was acknowledged otherwise.
	Durable string
}

// Subscription gives a subscriber its events. Next belongs to one goroutine.
type Subscription struct {
	hub    *Hub
	o      Options
	set    event.Set
	live   *event.Subscription // nil while only the journal is read
	reader *journal.Reader     // nil when it is not read any more
	// The journal is read up to this cursor and what follows comes from live; 0
	// while that is not known.
	until uint64
	told  uint64 // of what live lost
	gaps  uint64
	// Of a durable subscription.
	progress *progress
}

// Subscribe begins a subscription. It must be closed.
func (h *Hub) Subscribe(o Options) (*Subscription, error) {
	set, err := event.Select(o.Topics)
	if err != nil {
		return nil, err
	}
	s := &Subscription{hub: h, o: o, set: set}
	if o.Durable != "" {
		if err := s.resume(); err != nil {
			return nil, err
		}
	}
	if s.o.From != 0 || s.o.Past {
		s.reader = h.journal.Read(max(s.o.From, 1))
		return s, nil
	}
	return s, s.goLive()
}

// resume finds the place of a durable subscription.
func (s *Subscription) resume() error {
	h, name := s.hub, s.o.Durable
	if err := Kept(s.o.Topics); err != nil {
		return errdefs.Wrap(err, errdefs.InvalidArgument, "subscribe")
	}
	h.durableMu.Lock()
	defer h.durableMu.Unlock()
	if h.reading[name] != nil {
		return errdefs.New(errdefs.AlreadyExists, "somebody reads this subscription already", errdefs.Op("subscribe"),
			errdefs.Resource("%s", name), errdefs.Fix("end the other reader, or choose another name"))
	}
	p, ok := h.cursors.Get(name)
	if !ok {
		from := s.o.From
		if from == 0 {
			from = h.journal.Last() + 1
		}
		spec, err := json.Marshal(s.o.Topics)
		if err != nil {
			return errdefs.Wrap(err, errdefs.Internal, "subscribe")
		}
		if p, err = h.cursors.Create(name, from, spec); err != nil {
			return err
		}
	}
	s.progress = &progress{delivered: p.Next - 1, seen: p.Next - 1, ackedTo: p.Next - 1}
	h.reading[name] = s.progress
	s.o.From = p.Next
	return nil
}

// goLive listens to what happens, from here on.
func (s *Subscription) goLive() (err error) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	s.live, err = h.bus.Subscribe(event.Options{
		Name: s.o.Name, Topics: s.o.Topics, Floor: s.o.Floor, Keep: s.admits, Capacity: s.o.Capacity, Policy: s.o.Policy,
	})
	s.until = h.journal.Last() + 1
	return err
}

// Retopic makes the subscription, of what happens, one to other topics.
func (s *Subscription) Retopic(topics []string) error { return s.live.Retopic(topics) }

// admits reports whether the subscriber is to see an event of its topics. It
// may be called by two goroutines.
func (s *Subscription) admits(e *event.Event) bool {
	g := filter.Gate{Floor: s.o.Floor, Keep: s.o.Allowed, Filter: s.o.Filter}
	name := ""
	if s.o.Filter != nil && e.Agent != "" {
		name = s.hub.cfg.Names(e.Agent)
	}
	return g.Admit(e, name, nil) == filter.Pass
}

// passes applies what lets one of many events through.
func (s *Subscription) passes(e *event.Event) bool {
	g := filter.Gate{Sampler: s.o.Sampler, Limiter: s.o.Limiter}
	return g.Admit(e, "", nil) == filter.Pass
}

// Missed says that a subscriber did not get events that were for it, or might
// have been.
type Missed struct {
	Count uint64
	Why   string
}

// errCaughtUp ends what is read of the past.
var errCaughtUp = io.EOF

// Next returns the next event, or how many were missed in front of it. It
// returns io.EOF at the end of the past, if only that was asked for, the reason
// when the subscription was ended, and the cause when ctx ends.
func (s *Subscription) Next(ctx context.Context) (event.Event, *Missed, error) {
	for s.reader != nil {
		e, missed, err := s.past(ctx)
		switch {
		case err == errCaughtUp && !s.o.Past:
			s.reader.Close()
			s.reader = nil
		case err != nil || missed != nil:
			return e, missed, err
		case s.passes(&e):
			s.progress.deliver(e.Cursor)
			return e, nil, nil
		}
	}
	for {
		if lost := s.live.Lost(); lost > s.told {
			n := lost - s.told
			s.told = lost
			return event.Event{}, &Missed{n, "the subscriber was too slow"}, nil
		}
		e, err := s.live.Next(ctx)
		if err != nil || s.passes(&e) {
			return e, nil, err
		}
	}
}

// past returns the next event of the journal, and errCaughtUp where live goes
// on. A durable subscription never does.
func (s *Subscription) past(ctx context.Context) (event.Event, *Missed, error) {
	for {
		if s.until != 0 && s.reader.Next() >= s.until {
			return event.Event{}, nil, errCaughtUp
		}
		written, changed := s.hub.journal.Written()
		rec, gap, err := s.reader.Read()
		switch {
		case err == nil && gap == nil:
			e, ok := decode(rec)
			if ok && s.set.Has(e.Type) && e.Severity >= s.o.Floor && s.admits(&e) {
				return e, nil, nil
			}
			continue
		case err == nil:
			if s.o.Durable != "" {
				if err := s.hub.cursors.Missed(s.o.Durable, gap.Lost); err != nil {
					return event.Event{}, nil, err
				}
			}
			if gap.Lost == 0 {
				continue
			}
			s.gaps += gap.Lost
			return event.Event{}, &Missed{gap.Lost, gap.Why}, nil
		case !errors.Is(err, io.EOF):
			return event.Event{}, nil, err
		}
		last := s.hub.journal.Last()
		switch {
		case s.o.Past && written >= last:
			return event.Event{}, nil, io.EOF
		case s.o.Durable == "" && s.until == 0 && !s.o.Past:
			if err := s.goLive(); err != nil {
				return event.Event{}, nil, err
			}
			continue
		}
		if err := s.passOver(); err != nil {
			return event.Event{}, nil, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return event.Event{}, nil, context.Cause(ctx)
		}
	}
}

// Close ends the subscription. A durable one is kept.
func (s *Subscription) Close() {
	if s.reader != nil {
		s.reader.Close()
	}
	if s.live != nil {
		s.live.Close(nil)
	}
	if s.o.Durable != "" {
		s.hub.durableMu.Lock()
		delete(s.hub.reading, s.o.Durable)
		s.hub.durableMu.Unlock()
	}
}

// Ack acknowledges everything up to a cursor for a durable subscription.
func (h *Hub) Ack(name string, cursor uint64) error {
	if cursor > h.journal.Last() {
		return errdefs.New(errdefs.InvalidArgument, fmt.Sprintf("cursor %d was not given out yet", cursor), errdefs.Op("acknowledge"))
	}
	h.durableMu.Lock()
	p := h.reading[name]
	h.durableMu.Unlock()
	return h.cursors.Ack(name, p.acked(cursor))
}

// Forget ends a durable subscription for good.
func (h *Hub) Forget(name string) error { return h.cursors.Remove(name) }

// Position returns where a durable subscription is, and how many records of the
// journal are behind that; not all of them are for it.
func (h *Hub) Position(name string) (p journal.Position, behind uint64, ok bool) {
	if p, ok = h.cursors.Get(name); ok {
		behind = max(h.journal.Last()+1, p.Next) - p.Next
	}
	return p, behind, ok
}
