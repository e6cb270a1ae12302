package irq

import (
	"sync"
	"sync/atomic"
	"time"
)

// Work is the bottom half of a source on a line.
type Work struct {
	src  *Source
	line Line
	// poll of a queued work, run of a threaded one.
	poll func(budget int) (more bool)
	run  func()
	// Made once, so that nothing is allocated when it is put off.
	start, release func()

	state atomic.Int32
	// raised is when it was scheduled, if it waits.
	raised atomic.Int64

	next   *Work // guarded by the lock of the list that it is in
	linked bool  // +checklocksignore: guarded by line.mu
}

// States of a Work.
const (
	idle    = iota
	waiting // for its worker, its goroutine, a tick, or the line to be unmasked
	running
	again // running, and scheduled since
)

const (
	// queueMax is how many works a worker's queue holds.
	queueMax = 1024
	// pollBudget is how much a bottom half does before others have a turn.
	pollBudget = 64
)

// NewWork returns the bottom half of a queued line. poll does at most budget of
// what there is to do, and reports whether there is more. It must not wait. It is
// never called by two at once.
func (s *Source) NewWork(l Line, poll func(budget int) (more bool)) *Work {
	w := &Work{src: s, line: l, poll: poll}
	w.start, w.release = w.begin, w.enqueue
	return w
}

// NewThread returns the bottom half of a threaded line: run is called on a
// goroutine of its own, once for all Schedules before it.
func (s *Source) NewThread(l Line, run func()) *Work {
	w := &Work{src: s, line: l, run: run}
	w.start, w.release = w.begin, w.enqueue
	return w
}

// Schedule has the bottom half run: soon, or when the line is unmasked. It does
// nothing for a work that waits already.
func (w *Work) Schedule() {
	for {
		switch w.state.Load() {
		case idle:
			if w.state.CompareAndSwap(idle, waiting) {
				w.raised.Store(w.src.c.now())
				w.dispatch()
				return
			}
		case running:
			if w.state.CompareAndSwap(running, again) {
				w.raised.Store(w.src.c.now())
				return
			}
		default:
			return
		}
	}
}

// Cancel takes back a Schedule of a threaded work, and reports whether it was in
// time: if so, the bottom half does not run for it.
func (w *Work) Cancel() bool { return w.state.CompareAndSwap(waiting, idle) }

// dispatch puts a waiting work where it waits.
func (w *Work) dispatch() {
	gate := w.src.flows[w.line].gate.Load()
	switch {
	case w.src.closed.Load() && w.run == nil:
		w.state.Store(idle)
	case gate&gateMasked != 0 && w.src.c.lines[w.line].hold(w):
	case gate&gateThrottled != 0:
		w.src.c.cfg.Clock.AfterFunc(pollEvery, w.release)
	default:
		w.enqueue()
	}
}

// enqueue has a waiting work run next, if its line is not masked.
func (w *Work) enqueue() {
	c := w.src.c
	l := &c.lines[w.line]
	switch {
	case w.src.flows[w.line].gate.Load()&gateMasked != 0 && l.hold(w):
	case w.run != nil:
		c.spawn(w.start)
	default:
		on := c.workerFor(w)
		if !on.push(w, l.priority.Load()) {
			l.overflows.Add(1)
			on.do(w)
		}
	}
}

// begin runs a threaded work.
func (w *Work) begin() {
	if !w.Cancel() {
		return // It was cancelled.
	}
	w.observe()
	w.run()
}

func (w *Work) observe() {
	w.src.Observe(w.line, time.Duration(w.src.c.now()-w.raised.Load()))
}

// budget is how much a queued work may do at a time. In a storm it is what the
// bound allows for the time between two ticks.
func (w *Work) budget() int {
	if w.src.flows[w.line].gate.Load()&gateThrottled == 0 {
		return pollBudget
	}
	limit := w.src.c.lines[w.line].limit.Load()
	return int(max(1, uint64(float64(limit)*pollEvery.Seconds())))
}

// workerFor returns the worker of a work: the same for as long as the line's
// route does not change.
func (c *Controller) workerFor(w *Work) *worker {
	if cpus := c.lines[w.line].route.Load(); cpus != nil {
		return c.workers[(*cpus)[w.src.id%uint64(len(*cpus))]]
	}
	return c.workers[w.src.id%uint64(len(c.workers))]
}

// worker does what is put off to its CPU. Its goroutine lives while there is
// something to do.
type worker struct {
	c    *Controller
	cpu  int
	loop func()

	mu     sync.Mutex
	queue  [priorities]list // +checklocks:mu
	length int              // +checklocks:mu
	alive  bool             // +checklocks:mu

	// What it does now, and since when; for the watchdog.
	doing atomic.Pointer[Work]
	since atomic.Int64
}

// list is works in a row.
type list struct{ first, last *Work }

func (l *list) push(w *Work) {
	w.next = nil
	if l.last == nil {
		l.first = w
	} else {
		l.last.next = w
	}
	l.last = w
}

func (l *list) pop() *Work {
	w := l.first
	if w != nil {
		if l.first = w.next; l.first == nil {
			l.last = nil
		}
		w.next = nil
	}
	return w
}

// push queues a work, and reports whether there was room.
func (k *worker) push(w *Work, priority uint32) bool {
	k.mu.Lock()
	if k.length >= queueMax {
		k.mu.Unlock()
		return false
	}
	k.queue[priority].push(w)
	k.length++
	wake := !k.alive
	k.alive = true
	k.mu.Unlock()
	if wake {
		k.c.spawn(k.loop)
	}
	return true
}

// run does what is queued, until nothing is.
func (k *worker) run() {
	for {
		w := k.pop()
		if w == nil {
			return
		}
		k.since.Store(k.c.now())
		k.doing.Store(w)
		k.do(w)
		k.doing.Store(nil)
	}
}

// pop returns the next work, the highest priority first; nil ends the worker.
func (k *worker) pop() *Work {
	k.mu.Lock()
	defer k.mu.Unlock()
	for p := priorities - 1; p >= 0; p-- {
		if w := k.queue[p].pop(); w != nil {
			k.length--
			return w
		}
	}
	k.alive = false
	return nil
}

// do runs a waiting work once, and puts it off again if there is more.
func (k *worker) do(w *Work) {
	if w.src.flows[w.line].gate.Load()&gateMasked != 0 && k.c.lines[w.line].hold(w) {
		return // It was masked while it was queued.
	}
	w.observe()
	w.state.Store(running)
	more := w.poll(w.budget())
	if more {
		w.raised.Store(k.c.now())
	} else if w.state.CompareAndSwap(running, idle) {
		return
	}
	w.state.Store(waiting)
	w.dispatch()
}

// Busy is a bottom half that a worker runs.
type Busy struct {
	CPU    int
	Line   Line
	Source *Source
	For    time.Duration
}

// BusyWorkers returns what workers do that takes longer than bound.
func (c *Controller) BusyWorkers(bound time.Duration) (out []Busy) {
	for _, k := range c.workers {
		since := k.since.Load()
		w := k.doing.Load()
		if w == nil || k.since.Load() != since {
			continue
		}
		if d := time.Duration(c.now() - since); d > bound {
			out = append(out, Busy{CPU: k.cpu, Line: w.line, Source: w.src, For: d})
		}
	}
	return out
}
