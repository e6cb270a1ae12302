package sentry

import (
	"fmt"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/mm"
	"gvisor.dev/gvisor/pkg/sentry/usage"

	"aios.dev/aios/ktime"
)

// memoryWatch keeps agents below their memory limits. gVisor accounts memory
// by agent but limits none, so the watch looks: every watchEvery, if the
// kernel's memory file has grown since, it adds up what each agent's processes
// have resident, and where that exceeds the limit it counts the agent's pages
// and kills it if they do too. An agent can exceed its limit by what it
// touches in watchEvery.
//
// Every thoroughly-th look counts the pages of each agent that could be above
// its limit, since memory can also be held without being mapped: in files of
// /dev/shm, in memfds, in pipes.
type memoryWatch struct {
	s *Kernel

	mu     sync.Mutex
	agents map[*Agent]struct{} // +checklocks:mu
	// Nil while there is nobody to watch.
	timer ktime.Timer // +checklocks:mu
	// Size of the memory file at the last look.
	last  uint64 // +checklocks:mu
	looks int    // +checklocks:mu
}

const (
	watchEvery = 50 * time.Millisecond
	thoroughly = 10
	// watchGrowth is how much the memory file must grow before agents are
	// looked at, in bytes.
	watchGrowth = 4 << 20
)

func (w *memoryWatch) init(s *Kernel) {
	w.s = s
	w.agents = make(map[*Agent]struct{}) // +checklocksignore: the kernel boots.
}

func (w *memoryWatch) add(a *Agent) {
	if a.limits.MemoryBytes == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.agents[a] = struct{}{}
	if w.timer == nil {
		w.timer = w.s.cfg.Clock.AfterFunc(watchEvery, w.tick)
	}
}

func (w *memoryWatch) remove(a *Agent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.agents, a)
}

// tick looks at the agents and arms the next look.
func (w *memoryWatch) tick() {
	w.look()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = nil
	if len(w.agents) > 0 {
		w.timer = w.s.cfg.Clock.AfterFunc(watchEvery, w.tick)
	}
}

func (w *memoryWatch) look() {
	total, err := w.s.k.MemoryFile().TotalUsage()
	if err != nil {
		return
	}
	w.mu.Lock()
	w.looks++
	thorough := w.looks%thoroughly == 0
	var agents []*Agent
	if thorough || total > w.last+watchGrowth {
		for a := range w.agents {
			if total > a.limits.MemoryBytes { // Or it cannot be above its limit.
				agents = append(agents, a)
			}
		}
		w.last = total
	}
	w.last = min(w.last, total)
	w.mu.Unlock()
	if !thorough {
		all := agents
		agents = nil
		for _, a := range all {
			if w.resident(a) > a.limits.MemoryBytes {
				agents = append(agents, a)
			}
		}
	}
	w.refresh(agents...)
	for _, a := range agents {
		if memoryOf(a) > a.limits.MemoryBytes {
			a.kill("it used more than its memory limit of " + inUnits(a.limits.MemoryBytes))
		}
	}
}

// resident adds up the agent's address spaces, shared pages as often as they
// are mapped: an upper bound that is cheap.
func (w *memoryWatch) resident(a *Agent) uint64 {
	seen := make(map[*mm.MemoryManager]bool)
	var sum uint64
	for _, tg := range a.ns.pid.ThreadGroups() {
		leader := tg.Leader()
		if leader == nil {
			continue
		}
		leader.WithMuLocked(func(t *kernel.Task) {
			if m := t.MemoryManager(); m != nil && !seen[m] {
				seen[m] = true
				sum += m.ResidentSetSize()
			}
		})
	}
	return sum
}

// refresh brings the accounts of the agents up to date.
func (w *memoryWatch) refresh(agents ...*Agent) {
	ids := make(map[uint32]struct{}, len(agents))
	for _, a := range agents {
		ids[a.memID] = struct{}{}
	}
	if len(ids) > 0 {
		// The error says that a checkpoint is in progress: then the
		// accounts stand still.
		w.s.k.MemoryFile().UpdateUsage(ids)
	}
}

// memoryOf returns the bytes that are accounted to a.
func memoryOf(a *Agent) uint64 { return usage.MemoryAccounting.TotalPerCg(a.memID) }

// inUnits is n bytes in the largest unit that leaves no fraction.
func inUnits(n uint64) string {
	for _, u := range []struct {
		name  string
		bytes uint64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.bytes && n%u.bytes == 0 {
			return fmt.Sprintf("%d %s", n/u.bytes, u.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}
