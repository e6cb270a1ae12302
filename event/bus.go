package event

import (
	"cmp"
	"math/bits"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/ktime"
)

// Config is what a bus is made of.
type Config struct {
	// Domain and Source are stamped on events that have none.
	Domain, Source string
	Clock          ktime.Clock
	// CPUs is the number of shards, and Capacity how many events wait in all
	// of them together until they are merged. Zero stands for one CPU, and for
	// DefaultCapacity.
	CPUs, Capacity int
	// OnWanted hears, one call at a time, which types somebody listens to,
	// whenever that changes. It must not subscribe or close a subscription. An
	// event of a type is only made for sure once it has returned.
	OnWanted func(Set)
}

// DefaultCapacity is how many events wait in the rings of a bus.
const DefaultCapacity = 16384

// window is how many tickets are merged in one go.
const window = 1024

// Bus takes events and gives them to its subscriptions. A nil Bus takes
// nothing.
type Bus struct {
	cfg    Config
	start  time.Time
	shards []*shard
	// Of whoever runs on the same CPU, most of the time.
	local sync.Pool
	next  atomic.Uint32

	// What any subscription wants, and what those to events of every agent do.
	wanted      [len(Set{})]atomic.Uint64
	wantedOfAll [len(Set{})]atomic.Uint64
	_           [64]byte
	// Numbers what is published; more than it is merged.
	tickets atomic.Uint64
	_       [64]byte
	// The merging goroutine sleeps, or is about to.
	idle atomic.Bool
	// A subscription was disconnected for being slow.
	ended atomic.Bool
	wake  chan struct{}

	merge   sync.Mutex
	seq     uint64             // +checklocks:merge
	upTo    uint64             // +checklocks:merge
	batch   []Event            // +checklocks:merge
	order   []ticketed         // +checklocks:merge
	counted [severities]uint64 // +checklocks:merge
	touched []*Subscription    // +checklocks:merge

	counts [typeCount]atomic.Uint64
	routes
	// What was dropped and announced. Whoever reads may compare it.
	announced atomic.Uint64

	mu      sync.Mutex
	subs    []*Subscription // +checklocks:mu
	running bool            // +checklocks:mu
	// How many subscriptions want a type, and how many of those to events of
	// every agent.
	wants      [typeCount]int // +checklocks:mu
	wantsOfAll [typeCount]int // +checklocks:mu
}

// ticketed is a place in the batch.
type ticketed struct {
	ticket uint64
	index  int
}

// New returns a bus.
func New(cfg Config) *Bus {
	cfg.CPUs = max(cfg.CPUs, 1)
	if cfg.Capacity <= 0 {
		cfg.Capacity = DefaultCapacity
	}
	if cfg.Clock == nil {
		cfg.Clock = ktime.Real
	}
	b := &Bus{cfg: cfg, start: cfg.Clock.Now(), wake: make(chan struct{}, 1)}
	per := 1 << bits.Len(uint(max(cfg.Capacity/cfg.CPUs, 2)-1))
	for range cfg.CPUs {
		b.shards = append(b.shards, &shard{limit: int64(per)})
	}
	b.local.New = func() any { return b.shards[int(b.next.Add(1))%len(b.shards)] }
	b.ofAll.Store(new([typeCount][]*Subscription))
	return b
}

// Source is that of events that have none.
func (b *Bus) Source() string { return b.cfg.Source }

// Now is the time as events have it: unix time, and the bus's monotonic clock.
func (b *Bus) Now() (wall, mono int64) {
	now := b.cfg.Clock.Now()
	return now.UnixNano(), int64(now.Sub(b.start))
}

// Enabled reports whether anybody listens to a type. If not, no event of it
// needs to be made.
func (b *Bus) Enabled(t Type) bool {
	return b != nil && t < typeCount && b.wanted[t/64].Load()&(1<<(t%64)) != 0
}

// EnabledFor reports whether anybody listens to a type of events of an agent.
func (b *Bus) EnabledFor(t Type, agent string) bool {
	if !b.Enabled(t) {
		return false
	}
	return b.wantedOfAll[t/64].Load()&(1<<(t%64)) != 0 || b.of(agent).has(t)
}

// Publish gives an event to whoever listens. Source, domain, times and severity
// are filled in where they are zero, the number always. It never blocks.
func (b *Bus) Publish(e Event) {
	if !b.EnabledFor(e.Type, e.Agent) {
		return
	}
	if e.Wall == 0 || e.Mono == 0 {
		wall, mono := b.Now()
		if e.Wall == 0 {
			e.Wall = wall
		}
		if e.Mono == 0 {
			e.Mono = mono
		}
	}
	if e.Severity == 0 || e.Severity > Critical {
		e.Severity = table[e.Type].Severity
	}
	s := b.local.Get().(*shard)
	s.put(&e, b.tickets.Add(1))
	b.local.Put(s)
	if b.idle.Load() && b.idle.CompareAndSwap(true, false) {
		b.rouse()
	}
}

// rouse wakes the merging goroutine.
func (b *Bus) rouse() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Relay gives events that were numbered elsewhere to whoever listens, in this
// order, and as they are. It may be called beside Publish.
func (b *Bus) Relay(events []Event) {
	b.merge.Lock()
	defer b.merge.Unlock()
	for len(events) > 0 {
		n := min(len(events), window)
		b.batch = append(b.batch[:0], events[:n]...)
		for i := range b.batch {
			b.counts[b.batch[i].Type].Add(1)
			b.offer(i, ^uint64(0))
		}
		b.deliver()
		events = events[n:]
	}
}

// run merges while there are subscriptions.
func (b *Bus) run() {
	for {
		if b.ended.CompareAndSwap(true, false) {
			b.reap()
		}
		if b.pass() {
			continue
		}
		// Whoever publishes from here on sees that it has to wake us.
		b.idle.Store(true)
		if b.pass() {
			b.idle.Store(false)
			continue
		}
		<-b.wake
		b.idle.Store(false)
		b.mu.Lock()
		if len(b.subs) == 0 {
			b.running = false
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
	}
}

// pass merges the events up to a ticket; it reports false when there was
// nothing to do.
func (b *Bus) pass() bool {
	b.merge.Lock()
	defer b.merge.Unlock()
	// What was published before an event has a lower ticket and is in a ring
	// by now, if that event's ticket is no higher than upTo.
	b.upTo = min(b.tickets.Load(), b.upTo+window)
	b.batch, b.order = b.batch[:0], b.order[:0]
	for _, s := range b.shards {
		b.take(s)
	}
	lost := b.announceLost()
	if len(b.batch) == 0 {
		return lost || b.upTo < b.tickets.Load()
	}
	byTicket := func(x, y ticketed) int { return cmp.Compare(x.ticket, y.ticket) }
	if !slices.IsSortedFunc(b.order, byTicket) {
		slices.SortFunc(b.order, byTicket)
	}
	for _, o := range b.order {
		b.route(o.index, o.ticket)
	}
	b.deliver()
	return true
}

// take moves what a shard holds into the batch.
//
// +checklocks:b.merge
func (b *Bus) take(s *shard) {
	before := len(b.batch)
	for i := range s.rings {
		r := s.rings[i].Load()
		if r == nil {
			continue
		}
		for {
			b.batch = append(b.batch, Event{})
			ticket, got := r.pop(&b.batch[len(b.batch)-1], b.upTo)
			if got != popped {
				b.batch = b.batch[:len(b.batch)-1]
			}
			if got == writing {
				// Behind it may be what was published before events that this pass
				// finds on other CPUs.
				runtime.Gosched()
				continue
			}
			if got == empty {
				break
			}
			b.order = append(b.order, ticketed{ticket, len(b.batch) - 1})
		}
	}
	s.held.Add(int64(before - len(b.batch)))
}

// announceLost gives numbers to what the rings dropped, and says so with an
// event. It reports whether anything was.
//
// +checklocks:b.merge
func (b *Bus) announceLost() bool {
	var now [severities]uint64
	for _, s := range b.shards {
		for i := range s.lost {
			now[i] += s.lost[i].Load()
		}
	}
	if now == b.counted {
		return false
	}
	p := &eventv1.BusLost{Where: "ring", Name: b.cfg.Domain, BySeverity: make(map[string]uint64), LostSource: b.cfg.Source, FirstSeq: b.seq + 1}
	for i := range now {
		if n := now[i] - b.counted[i]; n > 0 {
			p.Count += n
			p.BySeverity[Severity(i).String()] = n
		}
	}
	b.counted = now
	b.seq += p.Count
	p.LastSeq = b.seq
	wall, mono := b.Now()
	b.batch = append(b.batch, Event{Type: BusLost, Severity: Warning, Wall: wall, Mono: mono, Payload: p})
	b.route(len(b.batch)-1, ^uint64(0))
	b.announced.Add(p.Count)
	b.rouseAll()
	return true
}

// route numbers an event of the batch and notes it for who wants it.
//
// +checklocks:b.merge
func (b *Bus) route(index int, ticket uint64) {
	e := &b.batch[index]
	b.seq++
	e.Seq = b.seq
	if e.Source == "" {
		e.Source = b.cfg.Source
	}
	if e.Domain == "" {
		e.Domain = b.cfg.Domain
	}
	b.counts[e.Type].Add(1)
	b.offer(index, ticket)
}

// offer notes an event of the batch for who wants it.
//
// +checklocks:b.merge
func (b *Bus) offer(index int, ticket uint64) {
	e := &b.batch[index]
	for _, s := range b.ofAll.Load()[e.Type] {
		b.stage(s, e, index, ticket)
	}
	if r := b.of(e.Agent); r.has(e.Type) {
		for _, l := range r.listeners {
			if l.types.Has(e.Type) {
				b.stage(l.s, e, index, ticket)
			}
		}
	}
}

// +checklocks:b.merge
func (b *Bus) stage(s *Subscription, e *Event, index int, ticket uint64) {
	if ticket > s.from && e.Severity >= s.opts.Floor && (s.opts.Keep == nil || s.opts.Keep(e)) {
		if len(s.staged) == 0 {
			b.touched = append(b.touched, s)
		}
		s.staged = append(s.staged, index)
	}
}

// deliver queues what route noted.
//
// +checklocks:b.merge
func (b *Bus) deliver() {
	for _, s := range b.touched {
		s.queue(b.batch)
		s.staged = s.staged[:0]
	}
	b.touched = b.touched[:0]
	clear(b.batch)
}
