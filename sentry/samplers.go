package sentry

import (
	"sync"
	"sync/atomic"
	"time"

	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/ktime"
	"aios.dev/aios/netstack"
	"aios.dev/aios/sentry/irq"
	"aios.dev/aios/sentry/sched"
)

// samplers tell of what goes on all the time: rates, and samples. Those that
// are made on demand cost nothing while nobody listens.
type samplers struct {
	mu     sync.Mutex
	faults ktime.Timer // +checklocks:mu
	// Page faults of agents at the last look, and when that was.
	seen map[*Agent]uint64 // +checklocks:mu
	last time.Time         // +checklocks:mu
}

// Intervals of what is told of agents.
const (
	faultsEvery = time.Second
	// throttleSoon is when it is told that an agent was first held back, and
	// throttleEvery how often while it is so again.
	throttleSoon  = time.Second
	throttleEvery = 10 * time.Second
)

// eventsWanted hears which types somebody listens to.
func (s *Kernel) eventsWanted(wanted event.Set) {
	if s.stacks != nil {
		s.stacks.Tap(wanted.Has(event.NetPacket))
	}
	s.samplers.mu.Lock()
	defer s.samplers.mu.Unlock()
	p := &s.samplers
	switch on := wanted.Has(event.MemoryFaults); {
	case on && p.faults == nil:
		p.seen, p.last = make(map[*Agent]uint64), s.cfg.Clock.Now()
		for _, a := range s.liveAgents() {
			p.seen[a] = a.crowd.Faults()
		}
		p.faults = s.cfg.Clock.AfterFunc(faultsEvery, s.tellFaults)
	case !on && p.faults != nil:
		p.faults.Stop()
		p.faults, p.seen = nil, nil
	}
}

// liveAgents returns the agents that have not ended.
func (s *Kernel) liveAgents() (out []*Agent) {
	s.byID.Range(func(_, v any) bool {
		out = append(out, v.(*Agent))
		return true
	})
	return out
}

// tellFaults tells how many page faults every agent took since the last look.
func (s *Kernel) tellFaults() {
	p := &s.samplers
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.faults == nil {
		return // Nobody listens any more.
	}
	now := s.cfg.Clock.Now()
	took := now.Sub(p.last)
	p.last = now
	seen := make(map[*Agent]uint64, len(p.seen))
	for _, a := range s.liveAgents() {
		total := a.crowd.Faults()
		seen[a] = total
		if n := total - p.seen[a]; n > 0 && took > 0 {
			k := a.faultUse()
			s.emit(a, event.MemoryFaults, &eventv1.MemoryFaults{
				Faults: n, Total: total, Interval: int64(took), PerSecond: float64(n) / took.Seconds(),
				Minor: k.Minor, Major: k.Major, Cow: k.COW, Protection: k.Protection,
			})
		}
	}
	p.seen = seen
	p.faults = s.cfg.Clock.AfterFunc(faultsEvery, s.tellFaults)
}

// packetSeen is a hook of the network stacks. Locks of a stack are held.
func (s *Kernel) packetSeen(src *irq.Source, p netstack.Packet) {
	direction := "out"
	if p.In {
		direction = "in"
	}
	s.emit(s.findAgent(src.Name()), event.NetPacket, &eventv1.NetPacket{
		Direction: direction, Network: p.Network, Protocol: p.Protocol, From: p.From, To: p.To, Length: uint32(p.Length),
		Hops: uint32(p.Hops), Flags: p.Flags, Sampled: uint32(min(p.Sampled, 1<<32-1)), Interface: p.Interface,
	})
}

// telling has something that happens often told soon, and then every while, until
// it happens no more.
type telling struct {
	// told is set while something is to be told.
	told  atomic.Bool
	timer ktime.WheelTimer
	// Until when it was told, and of what: they belong to who set told.
	since time.Time
	total uint64
}

// soon says that it has happened.
func (t *telling) soon(a *Agent) {
	if t.told.CompareAndSwap(false, true) {
		t.since = a.s.cfg.Clock.Now()
		t.timer.Reset(throttleSoon)
	}
}

// tell is what the timer does: total is all of it so far, and emit tells how much
// there was in an interval.
func (t *telling) tell(a *Agent, total func() uint64, emit func(more, interval uint64)) {
	now, sum := a.s.cfg.Clock.Now(), total()
	if sum == t.total {
		t.told.Store(false)
		if total() > sum { // Meanwhile.
			t.soon(a)
		}
		return
	}
	emit(sum-t.total, uint64(now.Sub(t.since)))
	t.since, t.total = now, sum
	t.timer.Reset(throttleEvery)
}

// tellings is what is told of an agent's CPU time.
type tellings struct {
	stops, missed, overrun telling
}

func (a *Agent) initTellings() {
	g := a.crowd.Group()
	init := func(t *telling, total func() uint64, emit func(more, interval uint64)) {
		t.timer.Init(a.s.wheel, func() { t.tell(a, total, emit) })
	}
	init(&a.tellings.stops, func() uint64 { return uint64(g.Usage().Stopped) }, func(more, interval uint64) {
		a.s.emit(a, event.CPUThrottled, &eventv1.CPUThrottled{
			Throttled: int64(more), ThrottledTotal: int64(a.tellings.stops.total + more), Interval: int64(interval), Quota: g.Quota(),
		})
	})
	promise := func(typ event.Type, times uint64, total uint64, interval uint64, short time.Duration) {
		r := g.Params().Reserved
		a.s.emit(a, typ, &eventv1.CPUPromise{
			Times: times, TimesTotal: total, Interval: int64(interval), Short: int64(short), Runtime: r.Runtime, Period: r.Period,
		})
	}
	missed, overrun := &a.tellings.missed, &a.tellings.overrun
	init(missed, func() uint64 { return g.Kept().Missed }, func(more, interval uint64) {
		promise(event.CPUMissed, more, missed.total+more, interval, g.TakeShort())
	})
	init(overrun, func() uint64 { return g.Kept().Overruns }, func(more, interval uint64) {
		promise(event.CPUOverrun, more, overrun.total+more, interval, 0)
	})
}

// besides returns what tells the scheduler how much more CPU time the host has counted
// than tasks were served; nil if nothing does.
func (s *Kernel) besides() func(time.Duration) (time.Duration, bool) {
	if s.cfg.HostCPU == nil {
		return nil
	}
	return func(served time.Duration) (time.Duration, bool) {
		used, err := s.cfg.HostCPU()
		if err != nil { // The lock of the scheduler is held.
			go s.log.boot.Warn("quotas are kept by the scheduler's own reckoning from now on", "err", err)
			return 0, false
		}
		return used - served, true
	}
}

// schedNotice is a hook of the scheduler, whose lock is held.
func (s *Kernel) schedNotice(g *sched.Group, n sched.Notice) {
	a := s.findAgent(g.Name())
	if a == nil {
		return
	}
	switch n {
	case sched.Throttled:
		a.tellings.stops.soon(a)
	case sched.Missed:
		a.tellings.missed.soon(a)
	case sched.Overrun:
		a.tellings.overrun.soon(a)
	}
}
