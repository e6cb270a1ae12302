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
	// throttleSoon is when an agent's first stop is told, throttleEvery how often
	// while there are more.
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
			s.emit(a, event.MemoryFaults, &eventv1.MemoryFaults{
				Faults: n, Total: total, Interval: int64(took), PerSecond: float64(n) / took.Seconds(),
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

// stops is what was told of an agent's quota of CPU.
type stops struct {
	// told is set while something is to be told.
	told  atomic.Bool
	timer ktime.WheelTimer
	// Until when it was told, and of what: they belong to who set told.
	since time.Time
	total time.Duration
}

// schedNotice is a hook of the scheduler, whose lock is held.
func (s *Kernel) schedNotice(g *sched.Group, n sched.Notice) {
	if n == sched.Throttled {
		if a := s.findAgent(g.Name()); a != nil {
			a.quotaUsedUp()
		}
	}
}

// quotaUsedUp has it told soon, and then every while until it happens no more.
func (a *Agent) quotaUsedUp() {
	if a.stops.told.CompareAndSwap(false, true) {
		a.stops.since = a.s.cfg.Clock.Now()
		a.stops.timer.Reset(throttleSoon)
	}
}

func (a *Agent) tellStops() {
	st := &a.stops
	now, total := a.s.cfg.Clock.Now(), a.crowd.Group().Usage().Stopped
	if total == st.total {
		st.told.Store(false)
		if a.crowd.Group().Usage().Stopped > total { // Meanwhile.
			a.quotaUsedUp()
		}
		return
	}
	a.s.emit(a, event.CPUThrottled, &eventv1.CPUThrottled{
		Throttled: int64(total - st.total), ThrottledTotal: int64(total), Interval: int64(now.Sub(st.since)), Quota: a.crowd.Group().Quota(),
	})
	st.since, st.total = now, total
	st.timer.Reset(throttleEvery)
}
