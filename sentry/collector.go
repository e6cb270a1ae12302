package sentry

import (
	"math"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"aios.dev/aios/control"
)

// Collecting garbage takes a third of the CPU time of a boot, and nearly as much of a
// checkpoint, when all that is made is needed and agents wait. So a kernel process
// starts without (control.BootEnv), and has none collected while it saves itself;
// but when the heap has grown a lot meanwhile.

// collector says whether garbage is collected.
type collector struct {
	mu    sync.Mutex
	holds int // +checklocks:mu
}

// gc is the collector of the process.
var gc collector

// hold has no garbage collected until what it returns is called.
func (c *collector) hold() (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.holds++; c.holds == 1 {
		debug.SetMemoryLimit(goMemory() + control.BootHeap)
		debug.SetGCPercent(-1)
	}
	return sync.OnceFunc(c.release)
}

func (c *collector) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.holds--; c.holds == 0 {
		debug.SetGCPercent(100)
		debug.SetMemoryLimit(math.MaxInt64)
	}
}

// collectAfter is how long after a boot garbage is collected as usual.
const collectAfter = 500 * time.Millisecond

// booted ends what control.BootEnv began, when the agents that it was for have
// started.
func (s *Kernel) booted() {
	release := gc.hold()
	s.cfg.Clock.AfterFunc(collectAfter, func() { go release() })
}

// goMemory is how much memory the Go runtime has of the host, as its limit counts it.
func goMemory() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64() - sample[1].Value.Uint64())
}
