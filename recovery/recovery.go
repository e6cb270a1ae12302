// Package recovery decides when something is to be given up, tried again or
// started anew. It does none of it itself: it reports through callbacks.
//
// Key types:
//
//   - Watchdogs watches over things that say in time that they go on.
//   - Breaker stands before a dependency that may be down, and after a row of
//     failures refuses calls to it for a while instead of making them.
//   - Budget says whether and when something that ended may be started again:
//     so many times in so long, each time later.
//   - Health is what is known of the components of a system, and what to do.
//
// The circuit breaker is not github.com/sony/gobreaker: that one reads the
// host's clock itself, so that neither tests nor a fake clock decide when it
// tries again, and calls back with its lock held.
//
// Lock order: the lock of each value is a leaf. Callbacks run with no lock
// held, one at a time for one value, and in the order of what they report. They
// run on the goroutine that caused them, and may call back into the value.
//
// Units: durations are of the monotonic clock of the ktime.Clock that is passed
// in.
//
// The package imports nothing of AIOS but errdefs and ktime: no bus, no log.
package recovery

import "sync"

// outbox calls a function for values, in order and without the lock under
// which they came to be. Its zero value calls nothing.
type outbox[T any] struct {
	f func(T)

	mu sync.Mutex
	// What was not reported yet. It is bounded by what callbacks and the
	// goroutines that wait for them can cause while one callback runs.
	queue []T // +checklocks:mu
	// Somebody reports.
	busy bool // +checklocks:mu
}

// put notes v; the caller holds the lock that orders values and calls flush
// after it has released it.
func (o *outbox[T]) put(v T) {
	if o.f == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.queue = append(o.queue, v)
}

// flush reports what was noted, unless somebody else is at it.
func (o *outbox[T]) flush() {
	if o.f == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.busy {
		return
	}
	o.busy = true
	for len(o.queue) > 0 {
		v := o.queue[0]
		o.queue = o.queue[1:]
		o.mu.Unlock()
		o.f(v)
		o.mu.Lock()
	}
	o.queue, o.busy = nil, false
}
