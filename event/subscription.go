package event

import (
	"context"
	"slices"
	"sync"

	"aios.dev/aios/errdefs"
)

// Policy says what becomes of an event for which a subscription has no room.
// Whatever it is, nobody waits.
type Policy uint8

// Policies.
const (
	DropOldest Policy = iota // the oldest that waits makes room
	DropNewest               // what waits stays, the new one is dropped
	Disconnect               // the subscription ends; what waits can still be read
)

var policyNames = [...]string{"drop-oldest", "drop-newest", "disconnect"}

// String returns the name of the policy.
func (p Policy) String() string {
	if int(p) < len(policyNames) {
		return policyNames[p]
	}
	return "unknown"
}

// ParsePolicy returns the policy of a name; "" is DropOldest.
func ParsePolicy(name string) (Policy, error) {
	for i, n := range policyNames {
		if n == name || i == 0 && name == "" {
			return Policy(i), nil
		}
	}
	return 0, errdefs.New(errdefs.InvalidArgument, "there is no policy of this name", errdefs.Op("read policy"),
		errdefs.Resource("%s", name), errdefs.Fix("write one of drop-oldest, drop-newest, disconnect"))
}

// DefaultQueue is how many events wait for a subscriber that did not say how
// many may.
const DefaultQueue = 4096

// Options say what a subscription is for.
type Options struct {
	// Name is shown in statistics.
	Name string
	// Topics are patterns; see Select. Statistics show those of the beginning.
	Topics []string
	// Agents, unless there are none, are the IDs of those whose events it is
	// about: others are not made for its sake, and cost it nothing.
	Agents []string
	// Floor is the least severity that is let through.
	Floor Severity
	// Keep, if not nil, decides about each event of the topics. It is called by
	// one goroutine at a time, must not block, call the bus or keep the event.
	Keep func(*Event) bool
	// Capacity is how many events may wait; zero stands for DefaultQueue.
	Capacity int
	// Bytes bounds the payloads of what waits, as they travel; zero does not.
	// One event that is larger may wait alone.
	Bytes  int
	Policy Policy
	// OnReady, if not nil, is called when there is something to read, or the
	// subscription is over. It may be called once too often, by any goroutine,
	// with locks of the bus held: it must neither block nor call the bus.
	OnReady func()
}

// ErrClosed is what Next returns once a subscription was closed without a
// reason.
var ErrClosed error = errdefs.New(errdefs.Cancelled, "the subscription was closed", errdefs.Op("read events"))

// ErrFellBehind is what Next returns when the policy is Disconnect and the
// subscriber was too slow.
var ErrFellBehind error = errdefs.New(errdefs.RateLimited, "the subscriber fell behind, and its policy is to be disconnected",
	errdefs.Op("read events"), errdefs.Fix("read faster, ask for fewer events, or subscribe with the policy drop-oldest"))

// Subscription is a bounded queue of events. Its methods may be called by any
// goroutine.
type Subscription struct {
	bus   *Bus
	opts  Options
	types Set
	// from is the last ticket of what was published before.
	from  uint64
	ready chan struct{}
	// The places in the batch of what is for this subscription. Bus.merge
	// protects it.
	staged []int

	mu        sync.Mutex
	queued    []Event // +checklocks:mu
	head      int     // +checklocks:mu
	length    int     // +checklocks:mu
	bytes     int     // +checklocks:mu
	delivered uint64  // +checklocks:mu
	lost      uint64  // +checklocks:mu
	missed    uint64  // +checklocks:mu
	over      error   // +checklocks:mu
}

// Subscribe begins to listen: to what is published from now on.
func (b *Bus) Subscribe(o Options) (*Subscription, error) {
	types, err := Select(o.Topics)
	if err != nil {
		return nil, err
	}
	if o.Capacity <= 0 {
		o.Capacity = DefaultQueue
	}
	s := &Subscription{bus: b, opts: o, types: types, ready: make(chan struct{}, 1)}
	b.mu.Lock()
	defer b.mu.Unlock()
	s.from = b.tickets.Load()
	b.subs = append(b.subs, s)
	b.enlist(s)
	b.tellWanted()
	if !b.running {
		b.running = true
		go b.run()
	}
	return s, nil
}

// Retopic makes the subscription one to other topics, from now on.
func (s *Subscription) Retopic(topics []string) error {
	types, err := Select(topics)
	if err != nil {
		return err
	}
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	s.bus.dismiss(s)
	s.types = types // Only enlist and dismiss read it.
	s.bus.enlist(s)
	s.bus.tellWanted()
	return nil
}

// reap forgets subscriptions that ended.
func (b *Bus) reap() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subs = slices.DeleteFunc(b.subs, func(s *Subscription) bool {
		s.mu.Lock()
		over := s.over != nil
		s.mu.Unlock()
		if over {
			b.dismiss(s) // +checklocksignore: reap has locked.
		}
		return over
	})
	b.tellWanted()
}

// remove forgets one subscription.
func (b *Bus) remove(s *Subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.Index(b.subs, s)
	if i < 0 { // It was reaped.
		return
	}
	b.subs = slices.Delete(b.subs, i, i+1)
	b.dismiss(s)
	b.tellWanted()
}

// queue takes what was staged. The bus holds merge.
func (s *Subscription) queue(batch []Event) {
	s.mu.Lock()
	for _, i := range s.staged {
		if s.over != nil {
			break
		}
		e := &batch[i]
		if s.opts.Bytes > 0 {
			e.weigh()
		}
		if !s.fits(e) && s.opts.Policy != DropOldest {
			s.lost++
			s.missed++
			if s.opts.Policy == Disconnect {
				s.over = ErrFellBehind
				s.bus.ended.Store(true)
			}
			continue
		}
		for !s.fits(e) {
			s.dropOldest()
		}
		if s.length == len(s.queued) {
			s.grow()
		}
		at := &s.queued[(s.head+s.length)%len(s.queued)]
		*at = *e
		at.Missed, s.missed = s.missed, 0
		s.length++
		s.bytes += int(e.weight)
	}
	s.signal()
	s.mu.Unlock()
	s.call()
}

// fits reports whether there is room for e.
//
// +checklocks:s.mu
func (s *Subscription) fits(e *Event) bool {
	return s.length < s.opts.Capacity && (s.opts.Bytes == 0 || s.length == 0 || s.bytes+int(e.weight) <= s.opts.Bytes)
}

// dropOldest drops the oldest event. The one behind it, or the next that comes,
// says so.
//
// +checklocks:s.mu
func (s *Subscription) dropOldest() {
	old := &s.queued[s.head]
	s.lost++
	missed := old.Missed + 1
	s.bytes -= int(old.weight)
	*old = Event{}
	s.head = (s.head + 1) % len(s.queued)
	s.length--
	if s.length > 0 {
		s.queued[s.head].Missed += missed
	} else {
		s.missed += missed
	}
}

// grow makes room for more, up to the capacity.
//
// +checklocks:s.mu
func (s *Subscription) grow() {
	bigger := make([]Event, min(max(2*len(s.queued), 16), s.opts.Capacity))
	n := copy(bigger, s.queued[s.head:])
	copy(bigger[n:], s.queued[:s.head])
	s.queued, s.head = bigger, 0
}

func (s *Subscription) signal() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

func (s *Subscription) call() {
	if s.opts.OnReady != nil {
		s.opts.OnReady()
	}
}

// Ready gives a value when there is something to read, or the subscription is
// over. It may give one too many.
func (s *Subscription) Ready() <-chan struct{} { return s.ready }

// Read takes events that wait, as many as fit into events, and returns how
// many. It does not wait. When the subscription is over and nothing is left it
// returns why.
func (s *Subscription) Read(events []Event) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for n < len(events) && s.length > 0 {
		run := min(len(events)-n, s.length, len(s.queued)-s.head)
		part := s.queued[s.head : s.head+run]
		copy(events[n:], part)
		if s.opts.Bytes > 0 {
			for i := range part {
				s.bytes -= int(part[i].weight)
			}
		}
		clear(part)
		s.head = (s.head + run) % len(s.queued)
		s.length -= run
		n += run
	}
	s.delivered += uint64(n)
	if s.length > 0 || s.over != nil {
		s.signal()
	}
	if n == 0 && len(events) > 0 {
		return 0, s.over
	}
	return n, nil
}

// TryNext takes the oldest event that waits, if there is one.
func (s *Subscription) TryNext() (Event, bool) {
	var one [1]Event
	n, _ := s.Read(one[:])
	return one[0], n == 1
}

// Next takes the oldest event and waits for one if there is none. It fails when
// ctx ends, and with the reason when the subscription is over.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	var one [1]Event
	for {
		switch n, err := s.Read(one[:]); {
		case n == 1:
			return one[0], nil
		case err != nil:
			return Event{}, err
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			return Event{}, context.Cause(ctx)
		}
	}
}

// Lost is how many events that were for this subscription it dropped.
func (s *Subscription) Lost() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// Close ends the subscription, with a reason for whoever reads it (ErrClosed
// if nil). What waits is dropped and counted: once Close has returned nobody
// reads another event.
func (s *Subscription) Close(reason error) {
	if reason == nil {
		reason = ErrClosed
	}
	s.mu.Lock()
	first := s.over == nil
	if first {
		s.over = reason
	}
	s.lost += uint64(s.length)
	s.queued, s.head, s.length, s.bytes = nil, 0, 0, 0
	s.signal()
	s.mu.Unlock()
	if first {
		s.bus.remove(s)
		s.bus.rouse()
		s.call()
	}
}

// Missed returns how many events are missing behind the last that was read, if
// nothing waits, and forgets it: the next will not say so any more.
func (s *Subscription) Missed() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.length > 0 {
		return 0
	}
	n := s.missed
	s.missed = 0
	return n
}

// Counts returns how many events were delivered, and how many that were for the
// subscription it has dropped.
func (s *Subscription) Counts() (delivered, lost uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.delivered, s.lost
}

// Stats are the counts of a bus.
type Stats struct {
	// Published is what Publish took, Merged what got a number from it.
	Published, Merged uint64
	// Lost is what the rings dropped, by severity.
	Lost [Critical + 1]uint64
	// Topics counts what was merged.
	Topics        map[string]uint64
	Subscriptions []SubscriptionStats
}

// SubscriptionStats are the counts of a subscription.
type SubscriptionStats struct {
	Name      string
	Topics    []string
	Floor     Severity
	Policy    Policy
	Waiting   int
	Delivered uint64
	Lost      uint64
}

// Stats returns the counts.
func (b *Bus) Stats() Stats {
	st := Stats{Topics: make(map[string]uint64)}
	for t := range b.counts {
		if n := b.counts[t].Load(); n > 0 {
			st.Topics[Type(t).Topic()] = n
			st.Merged += n
		}
	}
	for _, shard := range b.shards {
		for i := range shard.lost {
			st.Lost[i] += shard.lost[i].Load()
		}
	}
	st.Published = b.tickets.Load()
	b.mu.Lock()
	subs := append([]*Subscription(nil), b.subs...)
	b.mu.Unlock()
	for _, s := range subs {
		s.mu.Lock()
		st.Subscriptions = append(st.Subscriptions, SubscriptionStats{
			Name: s.opts.Name, Topics: s.opts.Topics, Floor: s.opts.Floor, Policy: s.opts.Policy,
			Waiting: s.length, Delivered: s.delivered, Lost: s.lost,
		})
		s.mu.Unlock()
	}
	return st
}

// CloseAll ends every subscription, for one reason.
func (b *Bus) CloseAll(reason error) {
	b.mu.Lock()
	subs := slices.Clone(b.subs)
	b.mu.Unlock()
	for _, s := range subs {
		s.Close(reason)
	}
}
