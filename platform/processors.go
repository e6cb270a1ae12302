package platform

import (
	"sync"
	"sync/atomic"
	"time"

	"aios.dev/aios/ktime"
)

// Processors is the CPUs that the tasks of all crowds share, and the clock by
// which their use is measured.
//
// How much of a CPU a task gets is known to the host alone; what can be seen
// from here is when it wants one. While no more tasks want a CPU than there
// are, each has one and the clock runs as real time does. While more do, it
// runs slower in that proportion, as if the CPUs were shared evenly. What other
// programs of the host take is not seen: then a task is charged more than it
// got.
//
// Reading the clock takes no lock.
type Processors struct {
	n     int64
	clock ktime.Clock
	epoch time.Time
	busy  atomic.Int64 // tasks that want a CPU

	mu sync.Mutex
	// lag is how far the clock was behind real time at since, when demand
	// tasks began to want a CPU. They change under mu, with seq odd meanwhile.
	seq                atomic.Uint64
	lag, since, demand atomic.Int64
}

// NewProcessors returns n CPUs that nobody uses.
func NewProcessors(n int, clock ktime.Clock) *Processors {
	return &Processors{n: int64(max(n, 1)), clock: clock, epoch: clock.Now()}
}

// now is real time, in nanoseconds.
func (c *Processors) now() int64 { return int64(c.clock.Since(c.epoch)) }

// time is the CPU time, in nanoseconds, of a task that always wanted a CPU.
func (c *Processors) time() int64 {
	now := c.now()
	return now - c.lagAt(now)
}

func (c *Processors) lagAt(now int64) int64 {
	for {
		seq := c.seq.Load()
		lag, since, demand := c.lag.Load(), c.since.Load(), c.demand.Load()
		if seq&1 == 0 && c.seq.Load() == seq {
			if demand > c.n && now > since {
				lag += int64(float64(now-since) * float64(demand-c.n) / float64(demand))
			}
			return lag
		}
	}
}

// want says that one more task wants a CPU.
func (c *Processors) want() {
	if c.busy.Add(1) > c.n {
		c.changed()
	}
}

// done says that a task wants none any more.
func (c *Processors) done() {
	if c.busy.Add(-1) >= c.n {
		c.changed()
	}
}

func (c *Processors) changed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	lag := c.lagAt(now)
	c.seq.Add(1)
	c.lag.Store(lag)
	c.since.Store(now)
	c.demand.Store(c.busy.Load())
	c.seq.Add(1)
}
