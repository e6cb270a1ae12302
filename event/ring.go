package event

import (
	"sync/atomic"
)

// slot is one place of a ring. Its turn says whose it is: of the writer of
// position p when it is the lap of p, of the reader when it is that plus one. A
// lap is known by the position it began at, so that a new ring is all zeros:
// its memory is touched when it is first used, and not by the first event.
type slot struct {
	turn   atomic.Uint64
	ticket atomic.Uint64
	event  Event
}

// ring is a bounded queue for many writers and many readers, without locks:
// who finds a place taken, or its event not yet written, fails and does not
// wait.
type ring struct {
	slots []slot
	mask  uint64
	_     [64]byte
	tail  atomic.Uint64
	_     [64]byte
	head  atomic.Uint64
	_     [64]byte
}

// newRing returns a ring of size places, a power of two and not 1.
func newRing(size int) *ring {
	return &ring{slots: make([]slot, size), mask: uint64(size - 1)}
}

// lap returns where the lap of position p began.
func (r *ring) lap(p uint64) uint64 { return p &^ r.mask }

// push reports whether there was a place.
func (r *ring) push(e *Event, ticket uint64) bool {
	for {
		p := r.tail.Load()
		s := &r.slots[p&r.mask]
		switch turn, lap := s.turn.Load(), r.lap(p); {
		case turn == lap:
			if r.tail.CompareAndSwap(p, p+1) {
				s.ticket.Store(ticket)
				s.event = *e
				s.turn.Store(lap + 1)
				return true
			}
		case turn < lap:
			return false
		}
	}
}

// outcome is what came of taking an event out of a ring.
type outcome uint8

const (
	popped  outcome = iota
	empty           // there is none, or none of a ticket that low
	writing         // the oldest is just being written
)

// pop takes the oldest event, if its ticket is no higher than upTo, into e.
func (r *ring) pop(e *Event, upTo uint64) (ticket uint64, got outcome) {
	for {
		p := r.head.Load()
		s := &r.slots[p&r.mask]
		switch turn, lap := s.turn.Load(), r.lap(p); {
		case turn == lap+1:
			// Until head moves nobody writes here, so that the ticket is that of p
			// if the swap succeeds.
			if ticket = s.ticket.Load(); ticket > upTo {
				if r.head.Load() == p {
					return 0, empty
				}
				continue
			}
			if r.head.CompareAndSwap(p, p+1) {
				*e = s.event
				s.event.Payload = nil
				s.turn.Store(lap + r.mask + 1)
				return ticket, popped
			}
		case turn < lap+1:
			if r.tail.Load() != p {
				return 0, writing
			}
			return 0, empty
		}
	}
}

// shard holds what was published on one CPU.
type shard struct {
	// By severity; a ring is made when its first event comes.
	rings [severities]atomic.Pointer[ring]
	// How many events are in all rings, or on their way in or out.
	held  atomic.Int64
	limit int64
	// How many events of each severity were dropped.
	lost [severities]atomic.Uint64
	_    [64]byte
}

// put takes e, dropping the oldest of the lowest severity if the shard is
// full.
func (s *shard) put(e *Event, ticket uint64) {
	if s.held.Add(1) > s.limit && !s.drop(e.Severity) {
		s.held.Add(-1)
		s.lost[e.Severity].Add(1)
		return
	}
	r := s.rings[e.Severity].Load()
	if r == nil {
		s.rings[e.Severity].CompareAndSwap(nil, newRing(int(s.limit)))
		r = s.rings[e.Severity].Load()
	}
	if !r.push(e, ticket) {
		s.held.Add(-1)
		s.lost[e.Severity].Add(1)
	}
}

// drop makes room for an event of a severity; it reports false when whatever
// is there matters more.
func (s *shard) drop(severity Severity) bool {
	for low := Debug; low <= severity; low++ {
		r := s.rings[low].Load()
		if r == nil {
			continue
		}
		var old Event
		if _, got := r.pop(&old, ^uint64(0)); got == popped {
			s.held.Add(-1)
			s.lost[low].Add(1)
			return true
		}
	}
	return false
}
