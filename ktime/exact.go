package ktime

import (
	"sync"
	"time"
)

// Exact keeps timers that end as exactly as the clock can tell, in order: for
// what holds until a moment and not a moment longer, such as leases and tokens.
// It is a heap, so that to start or to stop a timer costs more the more there
// are, though slowly (log n). A timer is part of what it is for; only the heap
// itself is allocated, as it grows.
//
// Functions of timers are called without a lock: they may start and stop timers.
// Those of timers that have ended by the same moment are called one after the
// other; what ends later does not wait for them.
type Exact struct {
	mu     sync.Mutex // a leaf
	drv    driver
	heap   []*ExactTimer
	seq    uint64
	closed bool
}

// ExactTimer is a timer of an Exact, made to be part of another structure. Init
// makes it usable.
type ExactTimer struct {
	e *Exact
	f func()
	// Under the set's mu.
	at    int64
	rank  int
	seq   uint64
	index int // in the heap, counted from 1; 0 if it is not there
	due   bool
}

// NewExact returns a set without timers.
func NewExact(clock Clock) *Exact {
	e := &Exact{}
	e.drv.init(clock, e.run)
	return e
}

// Now returns the time that has passed since the set was made, by which its
// timers go.
func (e *Exact) Now() time.Duration { return e.drv.clock.Since(e.drv.epoch) }

// Init has t be a timer of e that calls f when it ends. Of timers that end at
// the same moment those of the lowest rank come first, and among these the one
// that was started first. It must not be started.
func (t *ExactTimer) Init(e *Exact, rank int, f func()) { t.e, t.rank, t.f = e, rank, f }

// ResetAt starts t, or starts it anew: it ends at a moment of the set's time.
func (t *ExactTimer) ResetAt(at time.Duration) {
	e := t.e
	e.mu.Lock()
	defer e.mu.Unlock()
	if t.index == 0 {
		e.heap = append(e.heap, t)
		t.index = len(e.heap)
	}
	e.seq++
	t.at, t.seq, t.due = int64(at), e.seq, false
	e.down(e.up(t.index))
	e.arm()
}

// Stop ends t without calling its function. It reports false if t was not
// started, or the call has begun.
func (t *ExactTimer) Stop() bool {
	if t.e == nil {
		return false
	}
	t.e.mu.Lock()
	defer t.e.mu.Unlock()
	was := t.due || t.index > 0
	t.due = false
	if t.index > 0 {
		t.e.remove(t)
	}
	return was
}

// Close has nothing end any more.
func (e *Exact) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	e.drv.disarm()
}

// arm has the set run when the first timer ends.
//
// +checklocks:e.mu
func (e *Exact) arm() {
	if len(e.heap) > 0 && !e.closed {
		e.drv.arm(e.heap[0].at)
	}
}

// ended is a timer as it was when it ended.
type ended struct {
	t   *ExactTimer
	seq uint64
}

// run calls the functions of what has ended.
func (e *Exact) run() {
	var few [8]ended
	for _, d := range e.take(few[:0]) {
		if f := e.call(d); f != nil {
			f()
		}
	}
}

// take appends what has ended, and has the set run when the next one does.
func (e *Exact) take(out []ended) []ended {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.drv.ran()
	now := e.drv.now()
	for len(e.heap) > 0 && e.heap[0].at <= now && !e.closed {
		t := e.heap[0]
		e.remove(t)
		t.due = true
		out = append(out, ended{t, t.seq})
	}
	e.arm()
	return out
}

// call returns the function of a timer that has ended, unless that was stopped
// or started anew meanwhile.
func (e *Exact) call(d ended) func() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !d.t.due || d.t.seq != d.seq {
		return nil
	}
	d.t.due = false
	return d.t.f
}

// remove takes t out of the heap.
//
// +checklocks:e.mu
func (e *Exact) remove(t *ExactTimer) {
	i, last := t.index, len(e.heap)
	e.swap(i, last)
	e.heap[last-1] = nil
	e.heap = e.heap[:last-1]
	t.index = 0
	if i < last {
		e.down(e.up(i))
	}
}

// before reports whether i ends before j. Both count from 1, as below.
func (e *Exact) before(i, j int) bool {
	a, b := e.heap[i-1], e.heap[j-1]
	if a.at != b.at {
		return a.at < b.at
	}
	if a.rank != b.rank {
		return a.rank < b.rank
	}
	return a.seq < b.seq
}

func (e *Exact) swap(i, j int) {
	h := e.heap
	h[i-1], h[j-1] = h[j-1], h[i-1]
	h[i-1].index, h[j-1].index = i, j
}

// up moves i up to its place, and returns that.
func (e *Exact) up(i int) int {
	for ; i > 1 && e.before(i, i/2); i /= 2 {
		e.swap(i, i/2)
	}
	return i
}

// down moves i down to its place.
func (e *Exact) down(i int) {
	for {
		c := 2 * i
		if c > len(e.heap) {
			return
		}
		if c < len(e.heap) && e.before(c+1, c) {
			c++
		}
		if !e.before(c, i) {
			return
		}
		e.swap(i, c)
		i = c
	}
}
