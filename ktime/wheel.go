package ktime

import (
	"math/bits"
	"sync"
	"time"
)

// Wheel keeps coarse timers, such as time-outs that are nearly always stopped
// before they end: to start and to stop one costs the same whether there are ten
// or a million, and allocates nothing, since a timer is part of what it is for.
// The price is that a timer ends late, never early: by at most a tick if it is
// shorter than 63 ticks, and by at most 8/63 of its duration if it is longer.
// What has to end exactly belongs into an Exact.
//
// It is the hierarchical wheel of G. Varghese and T. Lauck (Hashed and
// Hierarchical Timing Wheels, SOSP 1987), in the form that Linux gave it in
// kernel/time/timer.c: each level has 64 slots and is eight times as coarse as
// the one below, and a timer stays in the slot that it was put into instead of
// moving down level by level. A word for each level says which slots hold
// something, so that the next one is found without walking, and an idle wheel
// does not tick.
//
// Functions of timers are called one after the other on the goroutine of the
// wheel, without a lock: they may start and stop timers, and must not block.
type Wheel struct {
	tick int64

	mu  sync.Mutex // a leaf
	drv driver
	// clk is the first tick whose slots have not been emptied.
	clk int64
	// pending has a bit for every slot of a level that may hold something.
	pending [wheelLevels]uint64
	slots   [wheelLevels * wheelSlots]WheelTimer // heads of rings
	due     WheelTimer                           // head of what has ended and was not called yet
	// The wheel is at work on some goroutine, and is to look again before it
	// rests.
	running, again bool
}

const (
	wheelSlots  = 64
	wheelShift  = 3 // a level is so many bits coarser than the one below
	wheelLevels = 7
	// wheelReach is the longest time that can be told apart, in ticks. A timer
	// that is longer goes round more than once.
	wheelReach = (wheelSlots-1)<<((wheelLevels-1)*wheelShift) - 1
)

// WheelTimer is a timer of a Wheel, made to be part of another structure. Init
// makes it usable. It is a Timer, and one of gVisor's network stacks.
type WheelTimer struct {
	w *Wheel
	f func()
	// Under the wheel's mu; next is nil unless it is started.
	next, prev *WheelTimer
	at         int64 // in ticks
}

// NewWheel returns a wheel without timers.
func NewWheel(clock Clock, tick time.Duration) *Wheel {
	w := &Wheel{tick: int64(tick)}
	w.drv.init(clock, w.run)
	for i := range w.slots {
		w.slots[i].close()
	}
	w.due.close()
	return w
}

// Init has t be a timer of w that calls f when it ends. It must not be started.
func (t *WheelTimer) Init(w *Wheel, f func()) { t.w, t.f = w, f }

// Reset starts t, or starts it anew: it ends once d has passed from now.
func (t *WheelTimer) Reset(d time.Duration) {
	w := t.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unlink(t)
	now := w.drv.now()
	end := now + int64(max(0, d))
	if end < now {
		end = never - w.tick // It overflows: that is never.
	}
	t.at = (end + w.tick - 1) / w.tick
	w.clk = max(w.clk, min(now/w.tick, w.first())) // Nothing ended meanwhile.
	if at := w.link(t); !w.running {
		w.drv.arm(at)
	}
}

// Stop ends t without calling its function. It reports false if t was not
// started, or the call has begun.
func (t *WheelTimer) Stop() bool {
	if t.w == nil {
		return false
	}
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	return t.w.unlink(t)
}

// close makes a ring of t alone.
func (t *WheelTimer) close() { t.next, t.prev = t, t }

// link puts t into the slot where it ends, and returns when that is, in
// nanoseconds since the wheel was made.
//
// +checklocks:w.mu
func (w *Wheel) link(t *WheelTimer) int64 {
	at := min(max(t.at, w.clk), w.clk+wheelReach)
	level, shift := 0, 0
	for at-w.clk >= (wheelSlots-1)<<shift {
		level++
		shift += wheelShift
	}
	slot := (at + 1<<shift - 1) >> shift
	w.pending[level] |= 1 << (slot % wheelSlots)
	head := &w.slots[level*wheelSlots+int(slot%wheelSlots)]
	t.next, t.prev = head, head.prev
	head.prev.next = t
	head.prev = t
	return slot << shift * w.tick
}

// unlink takes t out of where it is, and reports whether it was anywhere. The
// bit of a slot that it leaves empty stays: at worst the wheel runs for nothing.
//
// +checklocks:w.mu
func (w *Wheel) unlink(t *WheelTimer) bool {
	if t.next == nil {
		return false
	}
	t.next.prev, t.prev.next = t.prev, t.next
	t.next, t.prev = nil, nil
	return true
}

// first returns the first tick at which a slot that may hold something ends.
//
// +checklocks:w.mu
func (w *Wheel) first() int64 {
	first := int64(never)
	for level, set := range w.pending {
		if set == 0 {
			continue
		}
		shift := level * wheelShift
		from := (w.clk + 1<<shift - 1) >> shift // the first slot that was not emptied
		n := bits.TrailingZeros64(bits.RotateLeft64(set, -int(from%wheelSlots)))
		first = min(first, (from+int64(n))<<shift)
	}
	return first
}

// collect moves what ends at tick clk to what is due, and goes to the next.
//
// +checklocks:w.mu
func (w *Wheel) collect(clk int64) {
	for level := 0; level < wheelLevels; level++ {
		slot := clk >> (level * wheelShift) % wheelSlots
		w.pending[level] &^= 1 << slot
		if head := &w.slots[level*wheelSlots+int(slot)]; head.next != head {
			first, last := head.next, head.prev
			head.close()
			first.prev, last.next = w.due.prev, &w.due
			w.due.prev.next = first
			w.due.prev = last
		}
		if clk>>(level*wheelShift)&(1<<wheelShift-1) != 0 {
			break // The slots above end later.
		}
	}
	w.clk = clk + 1
}

// run calls the functions of what has ended.
func (w *Wheel) run() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running {
		w.again = true
		return
	}
	w.running, w.again = true, true
	for w.again {
		w.again = false
		for first := w.first(); first <= w.drv.now()/w.tick; first = w.first() {
			w.collect(first)
			w.callDue()
		}
	}
	w.running = false
	w.drv.ran()
	if first := w.first(); first != never {
		w.drv.arm(first * w.tick)
	}
}

// callDue calls the functions of what is due, without the lock.
//
// +checklocks:w.mu
func (w *Wheel) callDue() {
	for w.due.next != &w.due {
		t := w.due.next
		w.unlink(t)
		if t.at >= w.clk {
			w.link(t) // It goes round once more.
			continue
		}
		f := t.f
		w.mu.Unlock()
		f()
		w.mu.Lock()
	}
}
