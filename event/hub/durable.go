package hub

import (
	"slices"
	"sync"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
)

// progress is how far the reader of a durable subscription has come. A nil one
// is that of a subscription that is not durable, or that nobody reads.
//
// What is not for the subscriber is never delivered, and so never acknowledged.
// Once all is that was delivered, the position moves on over it: otherwise a
// subscriber of rare events would one day be told that it lost what it had never
// asked for.
type progress struct {
	mu sync.Mutex
	// The cursor of the last event that was delivered.
	delivered uint64 // +checklocks:mu
	// The last cursor that was looked at, when the reader last waited.
	seen uint64 // +checklocks:mu
	// Everything up to here was acknowledged.
	ackedTo uint64 // +checklocks:mu
}

// deliver notes that an event goes to the subscriber.
func (p *progress) deliver(cursor uint64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delivered = max(p.delivered, cursor)
}

// acked returns how far an acknowledgement reaches.
func (p *progress) acked(cursor uint64) uint64 {
	if p == nil {
		return cursor
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ackedTo = max(p.ackedTo, cursor)
	if p.ackedTo >= p.delivered {
		return max(cursor, p.seen)
	}
	return cursor
}

// passOver moves the position over what the reader has seen, if nothing is left
// to be acknowledged. The reader is about to wait.
func (s *Subscription) passOver() error {
	p := s.progress
	if p == nil {
		return nil
	}
	p.mu.Lock()
	p.seen = s.reader.Next() - 1
	done, seen := p.ackedTo >= p.delivered, p.seen
	p.mu.Unlock()
	if !done {
		return nil
	}
	return s.hub.cursors.Advance(s.o.Durable, seen+1)
}

// Kept returns an error if there is a pattern that stands for no events, or for
// such alone as are not kept, so that they cannot be delivered later.
func Kept(patterns []string) error {
	for _, p := range patterns {
		set, err := event.Select([]string{p})
		if err != nil {
			return err
		}
		kept := slices.ContainsFunc(event.Types(), func(i event.TypeInfo) bool { return set.Has(i.Type) && !i.OnDemand })
		if !kept {
			return errdefs.New(errdefs.InvalidArgument, "events of this topic are not kept, so that they cannot be delivered later",
				errdefs.Resource("%s", p), errdefs.Fix("name topics that are made always: `aiosctl events topics` lists them"))
		}
	}
	return nil
}
