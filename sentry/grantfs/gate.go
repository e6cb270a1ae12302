package grantfs

import (
	"sync"
	"sync/atomic"
)

// shards is over how many counters concurrent operations are spread.
const shards = 8

// A gate counts the operations that are under way, so that whoever takes rights
// away can wait for those that began with them.
//
// There are two sets of counters. Operations count themselves in the set named
// by phase; drain changes the phase, so that the set it waits for is entered no
// more and empties. An operation must look at the rights after it has entered:
// one that entered late, in the old set, then sees the new rights, and need not
// be waited for. The idea is that of sleepable read-copy-update in Linux.
type gate struct {
	phase    atomic.Uint32
	draining atomic.Bool
	counts   [shards]counter

	mu   sync.Mutex // held by drain
	wake chan struct{}
}

// A counter has a cache line to itself.
type counter struct {
	in [2]atomic.Int64
	_  [48]byte
}

// A pass is what an operation that entered must give back.
type pass = *atomic.Int64

func (g *gate) init() { g.wake = make(chan struct{}, 1) }

// enter begins an operation. hint spreads the load.
func (g *gate) enter(hint uint32) pass {
	p := &g.counts[hint%shards].in[g.phase.Load()&1]
	p.Add(1)
	return p
}

// leave ends it.
func (g *gate) leave(p pass) {
	if p.Add(-1) == 0 && g.draining.Load() {
		select {
		case g.wake <- struct{}{}:
		default:
		}
	}
}

// drain returns when every operation that had entered before the call has left.
// Operations go on entering meanwhile.
func (g *gate) drain() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.draining.Store(true)
	defer g.draining.Store(false)
	old := g.phase.Load() & 1
	g.await(1 - old) // Whoever read the phase before the last drain changed it.
	g.phase.Store(1 - old)
	g.await(old)
}

func (g *gate) await(phase uint32) {
	for i := range g.counts {
		for g.counts[i].in[phase].Load() != 0 {
			<-g.wake
		}
	}
}
