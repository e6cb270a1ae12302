package sched

import (
	"sync/atomic"
	"time"
)

// What a task does since it was last metered; the lowest bit of meter.mark.
const (
	inKernel = 0
	inApp    = 1
)

// use is the CPU time of a group's tasks, as programs are told of it. It is
// metered without a lock, apart from what the scheduler charges.
type use struct {
	user, system atomic.Int64 // nanoseconds
}

// meter is until when a task's CPU time has been metered, and in its lowest bit
// whether it runs application code since. It means nothing before the task first
// has a CPU.
type meter struct {
	mark         atomic.Int64
	user, system atomic.Int64 // nanoseconds
}

// Enters says that the task runs application code from now on, on the CPU that it
// has, if it has one. It reports whether it must return at once, because it was
// told to ask again meanwhile.
func (t *Task) Enters() (again bool) {
	if t.cpu >= 0 {
		t.s.calls.Enter(t.cpu)
		t.entered = t.cpu + 1
	}
	t.meterTo(inApp)
	return t.yield.Load()
}

// Returns says that the kernel works for it from now on.
func (t *Task) Returns() {
	t.meterTo(inKernel)
	if t.entered > 0 {
		t.s.calls.Leave(t.entered - 1)
		t.entered = 0
	}
}

func (t *Task) meterTo(next int64) {
	now := t.s.Now()
	t.book(t.mark.Swap(now<<1|next), now)
}

// Skip says that the task has waited for a CPU and got none: that is not metered.
func (t *Task) Skip() { t.restart(t.s.Now()) }

// restart has the task metered from now on.
func (t *Task) restart(now int64) { t.mark.Store(now<<1 | inKernel) }

// settle meters the task for somebody else.
func (t *Task) settle(now int64) {
	for {
		old := t.mark.Load()
		if t.mark.CompareAndSwap(old, now<<1|old&1) {
			t.book(old, now)
			return
		}
	}
}

func (t *Task) book(mark, now int64) {
	d := now - mark>>1
	if d <= 0 {
		return
	}
	if mark&1 == inApp {
		t.user.Add(d)
		t.owner.use.user.Add(d)
	} else {
		t.system.Add(d)
		t.owner.use.system.Add(d)
	}
}

// Used returns the task's CPU time.
func (t *Task) Used() (user, system time.Duration) {
	return duration(t.user.Load()), duration(t.system.Load())
}
