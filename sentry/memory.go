package sentry

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/mm"
	"gvisor.dev/gvisor/pkg/sentry/usage"

	"aios.dev/aios/abi"
	"aios.dev/aios/account"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/ktime"
)

// How agents are kept below their memory limits. gVisor accounts memory by
// agent but limits none: pages appear in the host's kernel when they are first
// touched. So what an agent has is looked at, and if that is too much, done
// what the agent's policy says (oom.go):
//
//   - By its own tasks, when they have done what could have used up half of the
//     room below the limit: each page fault can take a huge page, each read, write
//     or short mapping its length. The task that looks does not grow meanwhile, and
//     the nearer the limit, the sooner the next look.
//   - By the watch, from time to time, sooner while the kernel's memory grows
//     fast: for memory that is taken in other ways.
//
// And a call that asks at once for more than an agent could ever touch is
// refused (accountGuard).

// memoryAccount is what is known of one agent's memory between looks.
type memoryAccount struct {
	// growth is by how many bytes the agent can have grown since the last
	// look, room how much calls for the next.
	growth atomic.Int64
	room   atomic.Int64
	// rest is what the last count found that is not anonymous memory of a
	// process, in bytes, and what reads and writes can have added since.
	rest atomic.Int64
	// returning is what it counts and is nobody's any more: gVisor gives it back.
	returning atomic.Uint64
	// kernel is what the kernel process itself needs for the agent.
	kernel overhead
	// made is what the agent's calls can have left on the kernel's heap since that
	// was looked at, and heap what of the heap is charged to it (heap.go).
	made atomic.Uint64
	heap atomic.Uint64
	// soon is until when the watch looks often, in nanoseconds since the
	// kernel was started.
	soon atomic.Int64
	// counted is what the last count found, and file how large the memory file
	// was then: the agent has not grown by more than that has, unless others have
	// become smaller.
	counted atomic.Uint64
	file    atomic.Uint64
	// silent is set while the agent could come over its limit without a fault or
	// a call: in memory that is mapped in its tasks' address spaces already.
	silent atomic.Bool

	mu sync.Mutex
	// notBefore and never bound what counting costs: what is not needed waits for
	// the one, and all for the other.
	notBefore time.Time // +checklocks:mu
	never     time.Time // +checklocks:mu
}

const (
	// faultBytes is the most that a page fault makes resident.
	faultBytes = hostarch.HugePageSize
	// eagerBytes is how long a mapping of anonymous memory may be whose pages
	// gVisor has ready before they are touched: then there is no fault to count.
	eagerBytes = hostarch.HugePageSize
	// lookRoom is the least room that calls for a look, in bytes.
	lookRoom = 256 << 10
	// A look that took a while is not repeated for lookRatio times as long,
	// or lookPause.
	lookRatio = 4
	lookPause = 5 * time.Millisecond
	// soonFor is for how long a big mapping has the agent looked at often.
	soonFor = 100 * time.Millisecond
	// mapFloor is what any agent may map in one call, in bytes: runtimes
	// reserve so much before they use it.
	mapFloor = 128 << 20
)

// setMemoryLimit bounds the agent's memory from now on; account.Unlimited is
// no bound. An agent that has more already is killed.
func (a *Agent) setMemoryLimit(bytes uint64) {
	if bytes == a.memoryLimit() && bytes != account.Unlimited {
		return // To look costs more than all else that follows from a grant.
	}
	m := &a.account.memory
	if a.mustBe(abi.StateRunning, abi.StatePaused, abi.StateTemplate) == nil {
		a.s.emit(a, event.MemoryLimit, &eventv1.MemoryLimit{Before: a.memoryLimit(), After: bytes, Used: a.account.ledger.Used(account.Memory)})
	}
	a.account.ledger.SetLimits(account.Memory, softLimit(bytes), bytes)
	m.mu.Lock()
	defer m.mu.Unlock()
	if bytes == account.Unlimited {
		m.room.Store(math.MaxInt64)
		a.s.watch.remove(a)
		return
	}
	a.lookLocked()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state != abi.StateStarting && !a.state.Final() { // One that is being made is watched once it is.
		a.s.watch.add(a)
	}
}

// memoryLimit is what setMemoryLimit set.
func (a *Agent) memoryLimit() uint64 {
	_, hard := a.account.ledger.Limits(account.Memory)
	return hard
}

// moved notes that a task of a has moved bytes in or out.
func (a *Agent) moved(bytes uint64) {
	m := &a.account.memory
	if m.room.Load() == math.MaxInt64 || bytes == 0 {
		return
	}
	n := int64(min(bytes, math.MaxInt64/2))
	m.rest.Add(n)
	m.kernel.stirred.Store(true)
	a.grow(n)
}

// grow notes that a can have grown by n bytes, and looks at it if that calls
// for it. It is called on a task's goroutine without locks.
func (a *Agent) grow(n int64) {
	m := &a.account.memory
	if room := m.room.Load(); room == math.MaxInt64 || m.growth.Add(n) < room {
		return
	}
	defer a.stalled(&a.pressure.memory)()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.growth.Load() < m.room.Load() {
		return // Another task has looked.
	}
	if now := a.s.cfg.Clock.Now(); now.Before(m.notBefore) && (now.Before(m.never) || !a.mayBeNear()) {
		return
	}
	a.lookLocked()
}

// mayBeNear reports whether the agent may have come near its limit since it was
// counted, for all that is known without counting.
func (a *Agent) mayBeNear() bool {
	m := &a.account.memory
	size, err := a.s.k.MemoryFile().TotalUsage()
	return err != nil || m.counted.Load()+size-min(size, m.file.Load()) > reclaimFrom(a.memoryLimit())
}

// lookLocked finds out what a has, first roughly, and kills it if that is too
// much.
//
// +checklocks:a.account.memory.mu
func (a *Agent) lookLocked() {
	m := &a.account.memory
	limit := a.memoryLimit()
	if limit == account.Unlimited || a.killed.Load() != nil {
		return
	}
	m.growth.Store(0)
	most := a.s.watch.resident(a) + uint64(m.rest.Load()) + a.swapped()
	m.silent.Store(most > limit)
	if most > limit {
		start := a.s.cfg.Clock.Now()
		most = a.countLocked()
		now := a.s.cfg.Clock.Now()
		m.notBefore, m.never = now.Add(min(lookRatio*now.Sub(start), lookPause)), now.Add(min(now.Sub(start), lookPause))
	}
	if most > limit && a.dropAhead() { // They can be made again, and it cannot.
		most = a.countLocked()
	}
	if a.reclaims(most, limit) && most > limit {
		m.room.Store(lookRoom) // It is stopped for that, at once.
		return
	}
	if most > limit {
		a.outOfMemory(most, limit)
		m.room.Store(lookRoom) // For who goes on.
		return
	}
	a.oom.began = 0
	m.room.Store(int64(max((limit-most)/2, lookRoom)))
}

// swapped is what of the agent's memory is mapped by no process, for it was swapped
// out or may be.
func (a *Agent) swapped() uint64 {
	sw := a.swap.Load()
	if sw == nil {
		return 0
	}
	return uint64(max(sw.cached.Load()+sw.slabs.Load(), 0))
}

// countLocked counts a's pages.
//
// +checklocks:a.account.memory.mu
func (a *Agent) countLocked() uint64 {
	m := &a.account.memory
	before := m.rest.Load()
	if size, err := a.s.k.MemoryFile().TotalUsage(); err == nil {
		m.file.Store(size)
	}
	a.s.watch.refresh(a)
	stats, total := usage.MemoryAccounting.CopyPerCg(a.memID)
	m.returning.Store(stats.System)
	m.kernel.recent(a)
	total += a.beside()
	m.rest.Add(int64(total-min(stats.Anonymous, total)) - before)
	m.counted.Store(total)
	a.account.ledger.Measure(account.Memory, total)
	return total
}

// accountGuard refuses what an agent could never touch without being killed:
// Linux in its usual mode refuses what exceeds all the machine's memory, and
// the agent's machine is as large as its limit. Address space that is only
// reserved counts when it is touched.
type accountGuard struct{ a *Agent }

// MayMap implements memoryGuard.MayMap.
func (g accountGuard) MayMap(t *kernel.Task, bytes uint64) bool {
	if n := g.a.account.mappings.Load(); n != account.Unlimited && g.a.mappings() >= n {
		g.a.account.ledger.Refuse(account.Memory)
		return false
	}
	const sysMmap = 9
	if t.Arch().SyscallNo() == sysMmap && t.Arch().SyscallArgs()[3].Int()&(linux.MAP_POPULATE|linux.MAP_LOCKED) != 0 && !g.a.mayPopulate(bytes) {
		g.a.account.ledger.Refuse(account.Memory)
		return false
	}
	limit := g.a.memoryLimit()
	if bytes <= eagerBytes {
		g.a.grow(int64(bytes))
	}
	if bytes <= mapFloor || bytes <= limit {
		if bytes/2 > uint64(g.a.account.memory.room.Load()) {
			g.a.s.watch.hurry(g.a)
		}
		return true
	}
	if t.Arch().SyscallNo() == unix.SYS_IOCTL {
		return true // A region, whose owner was charged for it.
	}
	if args := t.Arch().SyscallArgs(); t.Arch().SyscallNo() == sysMmap {
		prot, flags := args[2].Int(), args[3].Int()
		if prot&linux.PROT_WRITE == 0 || flags&linux.MAP_NORESERVE != 0 {
			return true
		}
		if flags&linux.MAP_SHARED != 0 && flags&linux.MAP_ANONYMOUS == 0 {
			return true
		}
	}
	g.a.account.ledger.Refuse(account.Memory)
	return false
}

// setMappingLimit bounds how many mappings the agent's address spaces have
// together, from the next one on.
func (a *Agent) setMappingLimit(n uint64) { a.account.mappings.Store(n) }

// mappings counts those of every address space of the agent.
func (a *Agent) mappings() uint64 {
	ctx := a.s.k.SupervisorContext()
	var n uint64
	for _, m := range a.spaces() {
		m.ReadMapsDataInto(ctx, func(_, _ hostarch.Addr, _ hostarch.AccessType, _ string, _ uint64, _, _ uint32, _ uint64, _ string) {
			n++
		})
		m.DecUsers(ctx)
	}
	return n
}

// spaces returns the agent's address spaces, each once, to be given back with
// DecUsers.
func (a *Agent) spaces() []*mm.MemoryManager {
	seen := make(map[*mm.MemoryManager]bool)
	var out []*mm.MemoryManager
	for _, t := range a.ns.pid().Tasks() {
		t.WithMuLocked(func(t *kernel.Task) {
			if m := t.MemoryManager(); m != nil && !seen[m] && m.IncUsers() {
				seen[m] = true
				out = append(out, m)
			}
		})
	}
	return out
}

// memoryWatch looks at agents that have a limit and may have grown. Every
// watchThorough it counts the pages of each that could be above its limit.
type memoryWatch struct {
	s *Kernel

	mu     sync.Mutex
	agents map[*Agent]struct{} // +checklocks:mu
	// Nil while there is nobody to watch.
	timer ktime.Timer // +checklocks:mu
	// Size of the memory file at the last look, and the least since agents
	// were looked at.
	size, last uint64    // +checklocks:mu
	counted    time.Time // +checklocks:mu
	// Until when there is to be one soon look after the other; as memoryAccount.soon.
	soon int64 // +checklocks:mu
	// hurried says that the next look is a soon one. It is set with mu held.
	hurried atomic.Bool
}

const (
	watchEvery    = 50 * time.Millisecond
	watchSoon     = 5 * time.Millisecond // while memory grows fast
	watchThorough = 500 * time.Millisecond
	// An agent that can grow unseen is looked at before it can have touched what it
	// has left, in bytes per millisecond, but no more often than watchNext.
	watchNext    = time.Millisecond
	unseenGrowth = 4 << 20
	// watchGrowth is how much the memory file must grow before agents are
	// looked at, in bytes.
	watchGrowth = 4 << 20
)

func (w *memoryWatch) init(s *Kernel) {
	w.s = s
	w.agents = make(map[*Agent]struct{}) // +checklocksignore: the kernel boots.
}

// add has a looked at if it has a limit.
func (w *memoryWatch) add(a *Agent) {
	if a.memoryLimit() == account.Unlimited {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.agents[a] = struct{}{}
	if w.timer == nil {
		w.timer = w.s.cfg.Clock.AfterFunc(watchEvery, w.tick)
	}
}

// hurry has a looked at often for a while: a single call may be about to fill
// what it has mapped.
func (w *memoryWatch) hurry(a *Agent) {
	until := int64(w.s.cfg.Clock.Since(w.s.started) + soonFor)
	a.account.memory.soon.Store(until)
	w.mu.Lock()
	w.soon = max(w.soon, until)
	w.mu.Unlock()
	w.lookSoon()
}

// lookSoon has the next look be a soon one.
func (w *memoryWatch) lookSoon() {
	if w.hurried.Load() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer == nil || w.hurried.Swap(true) {
		return
	}
	if w.timer.Stop() { // Else there is a look now, and what follows it comes soon.
		w.timer = w.s.cfg.Clock.AfterFunc(watchSoon, w.tick)
	}
}

// runs is told that a task of an agent runs that did not.
func (a *Agent) runs() {
	if a.account.memory.silent.Load() {
		a.s.watch.lookSoon()
	}
}

func (w *memoryWatch) remove(a *Agent) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.agents, a)
}

// tick looks at the agents and arms the next look.
func (w *memoryWatch) tick() {
	w.s.dogs.memory.Busy()
	w.mu.Lock()
	w.hurried.Store(false)
	w.mu.Unlock()
	next := w.look()
	w.s.dogs.memory.Idle()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hurried.Load() { // While it looked.
		next = min(next, watchSoon)
	}
	w.hurried.Store(next <= watchSoon)
	w.timer = nil
	if len(w.agents) > 0 {
		w.timer = w.s.cfg.Clock.AfterFunc(next, w.tick)
	}
}

// look looks at the agents if the kernel's memory has grown, and returns when
// to look again.
func (w *memoryWatch) look() time.Duration {
	w.s.heap.look()
	total, err := w.s.k.MemoryFile().TotalUsage()
	if err != nil {
		return watchEvery
	}
	if w.s.shortOf(total) {
		w.s.dropAheads()
	}
	now := w.s.cfg.Clock.Now()
	since := int64(now.Sub(w.s.started))
	w.mu.Lock()
	hurry := since < w.soon
	grown := total - min(total, w.size)
	w.size = total
	thorough := now.Sub(w.counted) >= watchThorough
	if thorough {
		w.counted = now
	}
	var agents []*Agent
	next := watchSoon
	grew := total > w.last+watchGrowth
	for a := range w.agents {
		m := &a.account.memory
		silent := m.silent.Load() && a.crowd.Group().Active() > 0
		if silent {
			hurry = true
			next = min(next, a.unseenFor(total))
		}
		if total+a.beside() <= a.memoryLimit() {
			continue // It cannot be above it.
		}
		if thorough || grew && (since < m.soon.Load() || m.growth.Load() > 0 || silent) && a.mayBeNear() {
			agents = append(agents, a)
		}
	}
	if thorough || grew {
		w.last = total
	}
	w.last = min(w.last, total)
	w.mu.Unlock()
	for _, a := range agents {
		m := &a.account.memory
		m.mu.Lock()
		if thorough && a.killed.Load() == nil {
			a.countLocked()
		}
		a.lookLocked()
		m.mu.Unlock()
	}
	if hurry || len(agents) > 0 && grown > watchGrowth {
		return next
	}
	return watchEvery
}

// unseenFor is how long the agent may be unseen, when all memory of the domain is of
// that size: watchNext to watchSoon.
func (a *Agent) unseenFor(size uint64) time.Duration {
	m := &a.account.memory
	left := a.memoryLimit()
	left -= min(left, m.counted.Load()+size-min(size, m.file.Load()))
	return min(max(time.Duration(left/unseenGrowth)*time.Millisecond, watchNext), watchSoon)
}

// resident adds up the agent's address spaces, shared pages as often as they
// are mapped: an upper bound that is cheap.
func (w *memoryWatch) resident(a *Agent) uint64 {
	seen := make(map[*mm.MemoryManager]bool)
	var sum uint64
	for _, t := range a.ns.pid().Tasks() {
		t.WithMuLocked(func(t *kernel.Task) {
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

// beside is what is charged to a beside its pages: regions of its own, what a merge
// needs, copies that were made ahead, and what the kernel process needs for it, as it
// was measured last: whoever asks may hold what measuring locks.
func (a *Agent) beside() uint64 {
	m := &a.account.memory
	return a.fabric.charged.Load() + a.kept.Load() + m.forKernel() + a.ahead.bytes.Load()
}

// forKernel is what the kernel process needs for it: what was found, or what of the
// heap is charged to it.
func (m *memoryAccount) forKernel() uint64 { return max(m.kernel.last.Load(), m.heap.Load()) }

// memoryOf returns the bytes that are accounted to a.
func memoryOf(a *Agent) uint64 {
	return usage.MemoryAccounting.TotalPerCg(a.memID) + a.beside()
}

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
