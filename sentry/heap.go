package sentry

import (
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
)

// What the kernel process keeps for an agent is added up where it can be found
// (buffers.go). Much of it cannot: the heads of messages, descriptors in flight,
// what epoll and inotify watch, timers, locks, names of files, pieces of mappings.
// All of that is on the heap of the process, and the heap as a whole is measured
// whenever garbage was collected. By how much it has grown is charged to the agents
// whose calls can have left something there: to each at most what its calls since
// the last time can have left, and if there are several, by far the most to the one
// who can have left by far the most. When the heap shrinks they have less again.
//
// So who has a great many small things runs out of memory like who has a few big
// ones. It is a bound, not a measure: up to heapFree and heapFreeAgent for each agent
// nobody is charged for, and of what remains an agent has what was found or
// what was charged, whichever is more.

const (
	// heapFree and heapFreeAgent are how much the heap may grow without anybody
	// being charged: what the kernel needs for itself, and for each agent.
	heapFree      = 96 << 20
	heapFreeAgent = 1 << 20
	// heapOften is after how much that an agent may have left it is looked at
	// whether the heap has grown, and heapGrown by how much it must have, beside a
	// quarter, for garbage to be collected at once.
	heapOften = 8 << 20
	heapGrown = 32 << 20
	// heapShare bounds what is charged, as a multiple of what the calls can have left.
	heapShare = 2
)

// heapWatch knows whose the heap is.
type heapWatch struct {
	s *Kernel
	// live is what was in use when garbage was collected last.
	live atomic.Uint64

	mu sync.Mutex
	// How often garbage had been collected at the last look.
	cycles uint64 // +checklocks:mu
	// What was in use then.
	last uint64 // +checklocks:mu
	// Of it what nobody is charged for.
	free uint64 // +checklocks:mu
	// Of it what was charged to agents that have ended.
	left uint64 // +checklocks:mu

	// forcing says that somebody has garbage collected.
	forcing atomic.Bool

	// Of tests, too: heapFree, heapFreeAgent and heapGrown.
	spare, each, enough atomic.Uint64
}

func (h *heapWatch) init(s *Kernel) {
	h.s = s
	h.mu.Lock()
	defer h.mu.Unlock()
	h.spare.Store(heapFree)
	h.each.Store(heapFreeAgent)
	h.enough.Store(heapGrown)
	sample := readHeap()
	h.last, h.cycles = sample.live, sample.cycles
	h.live.Store(sample.live)
}

// heapSample is what the runtime says of the heap.
type heapSample struct{ live, objects, cycles uint64 }

func readHeap() heapSample {
	s := [...]metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/cycles/total:gc-cycles"}}
	metrics.Read(s[:])
	return heapSample{live: s[0].Value.Uint64(), objects: s[1].Value.Uint64(), cycles: s[2].Value.Uint64()}
}

// look divides what the heap has grown by since garbage was collected last.
func (h *heapWatch) look() {
	now := readHeap()
	h.mu.Lock()
	defer h.mu.Unlock()
	if now.cycles == h.cycles {
		return
	}
	h.cycles = now.cycles
	h.live.Store(now.live)
	agents := h.s.allAgents()
	made := make([]uint64, len(agents))
	for i, a := range agents {
		made[i] = a.account.memory.made.Swap(0)
	}
	before := h.last
	h.last = now.live
	if now.live < before {
		h.shrink(agents, before-now.live)
		return
	}
	grown := now.live - before
	most := h.spare.Load() + uint64(len(agents))*h.each.Load()
	free := min(grown, most-min(h.free, most))
	h.free += free
	for i, n := range divide(grown-free, made) {
		agents[i].account.memory.heap.Add(n)
	}
}

// divide divides grown among those who can have made so much: in proportion to the
// squares, and to none more than heapShare times that.
func divide(grown uint64, made []uint64) []uint64 {
	out := make([]uint64, len(made))
	var sum float64
	for _, m := range made {
		sum += float64(m) * float64(m)
	}
	for i, m := range made {
		if m > 0 {
			out[i] = min(uint64(float64(grown)*(float64(m)*float64(m)/sum)), heapShare*m)
		}
	}
	return out
}

// shrink takes n bytes from what was charged: to those that have ended first.
//
// +checklocks:h.mu
func (h *heapWatch) shrink(agents []*Agent, n uint64) {
	gone := min(n, h.left)
	h.left -= gone
	n -= gone
	var sum uint64
	for _, a := range agents {
		sum += a.account.memory.heap.Load()
	}
	take := min(n, sum)
	for _, a := range agents {
		had := a.account.memory.heap.Load()
		if sum > 0 {
			a.account.memory.heap.Store(had - min(had, uint64(float64(take)*(float64(had)/float64(sum))+1)))
		}
	}
	h.free -= min(n-take, h.free)
}

// end is told that a has ended: its part of the heap will be free when garbage is
// collected.
func (h *heapWatch) end(a *Agent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.left += a.account.memory.heap.Swap(0)
	a.account.memory.made.Store(0)
}

// made notes that a call of a can have left n bytes on the heap. It is called on
// a task's goroutine without locks, and that waits while garbage is collected: it
// leaves no more meanwhile.
func (a *Agent) made(n uint64) {
	m := &a.account.memory
	if sum := m.made.Add(n); sum/heapOften == (sum-n)/heapOften {
		return
	}
	h := &a.s.heap
	now := readHeap()
	if live := h.live.Load(); now.objects < live+live/4+h.enough.Load() || !h.forcing.CompareAndSwap(false, true) {
		return
	}
	defer h.forcing.Store(false)
	defer a.stalled(&a.pressure.memory)()
	runtime.GC()
	h.look()
	for _, b := range a.s.allAgents() {
		if b.account.memory.heap.Load() > 0 {
			m := &b.account.memory
			m.mu.Lock()
			if b.killed.Load() == nil {
				b.countLocked()
				b.lookLocked()
			}
			m.mu.Unlock()
		}
	}
}
