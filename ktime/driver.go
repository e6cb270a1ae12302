package ktime

import (
	"math"
	"time"
)

// never is later than every time that a set of timers keeps.
const never = math.MaxInt64

// driver wakes a set of timers, in nanoseconds since the set was made. The set's
// lock guards it.
type driver struct {
	clock Clock
	epoch time.Time
	run   func()

	timer Timer // nil while none is set
	wake  int64 // when timer goes off; never while none is set
}

func (d *driver) init(clock Clock, run func()) {
	clock = Steady(clock)
	*d = driver{clock: clock, epoch: clock.Now(), run: run, wake: never}
}

func (d *driver) now() int64 { return max(0, int64(d.clock.Since(d.epoch))) }

// arm sees to it that the set runs no later than at. One that runs too early,
// since what it was to run for is gone, arms anew.
func (d *driver) arm(at int64) {
	if at >= d.wake {
		return
	}
	d.disarm() // If it has gone off already, the set runs once too often.
	d.wake = at
	d.timer = d.clock.AfterFunc(time.Duration(max(1, at-d.now())), d.run)
}

func (d *driver) disarm() {
	if d.timer != nil {
		d.timer.Stop()
	}
	d.ran()
}

// ran says that the set runs, so that no timer is set.
func (d *driver) ran() { d.timer, d.wake = nil, never }
