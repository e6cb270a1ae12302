package irq

import (
	"sync"
	"sync/atomic"
	"time"
)

// Source is one that interrupts. A nil Source counts nothing, and puts nothing
// off.
type Source struct {
	c    *Controller
	name string
	id   uint64
	// By line and CPU.
	counts  []atomic.Uint64
	dropped [LineCount]atomic.Uint64
	flows   [LineCount]flow
	closed  atomic.Bool
}

// Why a bottom half is put off.
const (
	gateMasked uint32 = 1 << iota
	gateRouted
	gateThrottled
)

// flow is what is known of one source on one line.
type flow struct {
	gate atomic.Uint32
	// Put off since the throttle began.
	deferred atomic.Uint64

	mu sync.Mutex
	// How many there were when the measurement began, and when that was.
	base  uint64 // +checklocks:mu
	since int64  // +checklocks:mu
	// A storm rages, since began; calm is for how long it has not been one,
	// hold for how long it must not be for it to be over.
	storm bool          // +checklocks:mu
	began int64         // +checklocks:mu
	calm  time.Duration // +checklocks:mu
	hold  time.Duration // +checklocks:mu
	// When the last storm was over, 0 for never.
	ended int64 // +checklocks:mu
}

// checkEvery is how many interrupts of a source on a CPU come between two looks
// at their rate; a power of two.
const checkEvery = 64

// NewSource returns a source of that name, which its storms are told with.
func (c *Controller) NewSource(name string) *Source {
	s := &Source{c: c, name: name, counts: make([]atomic.Uint64, int(LineCount)*c.cfg.CPUs)}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.id = c.nextID
	c.nextID++
	for l := range LineCount {
		s.flows[l].gate.Store(c.lines[l].gate.Load())
	}
	c.sources[s] = struct{}{}
	return s
}

// Name is what the source was made with.
func (s *Source) Name() string { return s.name }

// Raise is the top half of an interrupt: it counts. It reports whether the
// bottom half may go on where the caller is; if not, it is to be scheduled.
func (s *Source) Raise(l Line) (now bool) {
	if s == nil {
		return true
	}
	cpu := s.c.cpu()
	s.c.lines[l].onCPU[cpu].n.Add(1)
	n := s.counts[int(l)*s.c.cfg.CPUs+cpu].Add(1)
	if n%checkEvery == 0 {
		s.measure(l)
	}
	f := &s.flows[l]
	gate := f.gate.Load()
	if gate == 0 {
		return true
	}
	if gate&gateThrottled != 0 {
		f.deferred.Add(1)
	}
	s.c.lines[l].deferred.Add(1)
	return false
}

// Observe notes how long after its top half a bottom half began, for lines
// whose bottom halves are no Work.
func (s *Source) Observe(l Line, late time.Duration) {
	if s != nil {
		s.c.lines[l].late.Add(int64(late))
	}
}

// Drop counts something that an interrupt was about and that was thrown away.
func (s *Source) Drop(l Line) {
	if s != nil {
		s.dropped[l].Add(1)
		s.c.lines[l].dropped.Add(1)
	}
}

// Coalesce returns how long to wait so that what comes now happens together with
// what else comes within a tick: nothing, unless the line is throttled.
func (s *Source) Coalesce(l Line) time.Duration {
	if s == nil || s.flows[l].gate.Load()&gateThrottled == 0 {
		return 0
	}
	return pollEvery - time.Duration(s.c.now())%pollEvery
}

// Counts returns how many interrupts of a line the source had, by CPU.
func (s *Source) Counts(l Line) []uint64 {
	out := make([]uint64, s.c.cfg.CPUs)
	for i := range out {
		out[i] = s.counts[int(l)*s.c.cfg.CPUs+i].Load()
	}
	return out
}

// Dropped returns how often Drop was called for a line.
func (s *Source) Dropped(l Line) uint64 { return s.dropped[l].Load() }

// total is how many interrupts there were on all CPUs.
func (s *Source) total(l Line) (n uint64) {
	for i := range s.c.cfg.CPUs {
		n += s.counts[int(l)*s.c.cfg.CPUs+i].Load()
	}
	return n
}

// Close forgets the source: its storms are over, and what it put off is not
// done. What it counted stays in the sums.
func (s *Source) Close() {
	if s == nil || s.closed.Swap(true) {
		return
	}
	c := s.c
	c.mu.Lock()
	delete(c.sources, s)
	var over []Throttle
	for l := range LineCount {
		if t, ok := c.calmDown(s, l); ok {
			over = append(over, t)
		}
		c.lines[l].release(s)
	}
	c.mu.Unlock()
	c.tell(over)
}
