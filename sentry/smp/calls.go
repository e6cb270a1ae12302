package smp

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"aios.dev/aios/ktime"
	"aios.dev/aios/observe"
)

// Kind is what a CPU is called for.
type Kind uint8

// The kinds of calls.
const (
	// Resched: the task there has to make way.
	Resched Kind = iota
	// Flush: what was true when the task there last left the kernel no longer is.
	Flush
	// Stop: CPUs have to stand still together.
	Stop
	kinds
)

// String returns the name of the kind.
func (k Kind) String() string { return [...]string{"resched", "flush", "stop"}[min(k, Stop)] }

// Poker has tasks return from application code.
type Poker interface {
	// Poke has the task return that executes application code on a CPU, or is
	// about to: one that has been through Calls.Enter and does not execute yet
	// must return at once, too. It must not block, or call Calls.
	Poke(cpu int)
}

// Calls is how the CPUs of a domain call each other: the interrupts between
// processors of this kernel. What a CPU is called for runs while it executes no
// application code. If it does not anyway, that is at once, on the caller; else
// the task there is poked, and runs it when it has returned.
//
// What is called for must not block, and must not wait for a call itself. It may
// call without waiting.
//
// Lock order: stops before callCPU.mu. Nothing is held while functions run and
// CPUs are poked, but stops while the function of a Stop runs.
type Calls struct {
	clock ktime.Clock
	epoch time.Time
	poker Poker
	cpus  []callCPU
	stops sync.Mutex
}

// The state of a CPU.
const (
	inApp uint32 = 1 << iota // it executes application code
	work                     // who enters or leaves must look closer
)

// maxStarted is how many calls that nobody waits for can be outstanding on a CPU.
const maxStarted = 1024

// callCPU is one CPU.
type callCPU struct {
	// state is changed under mu, but for inApp while there is no work.
	state atomic.Uint32

	mu sync.Mutex
	// change is signalled when running ends, or held.
	change sync.Cond
	queue  []*call // +checklocks:mu
	// running says that somebody runs what is in the queue.
	running bool // +checklocks:mu
	// held is how many Stops keep it out of application code.
	held int // +checklocks:mu
	// arrived, if any, is what waits for it to leave application code.
	arrived *sync.WaitGroup // +checklocks:mu
	// kicked is when it was kicked and has not left since; 0 if it was not.
	kicked [kinds]int64 // +checklocks:mu
	// poked says that it was poked and has not left since.
	poked bool // +checklocks:mu

	stats [kinds]struct {
		calls, atOnce, pokes atomic.Uint64
		late                 observe.Histogram
	}
}

// call is something to be run on one CPU.
type call struct {
	fn   func(cpu int)
	kind Kind
	at   int64           // when it was asked for
	done *sync.WaitGroup // nil if nobody waits
}

// NewCalls returns the calls of n CPUs that execute no application code.
func NewCalls(n int, clock ktime.Clock, poker Poker) *Calls {
	c := &Calls{clock: clock, epoch: clock.Now(), poker: poker, cpus: make([]callCPU, n)}
	for i := range c.cpus {
		c.cpus[i].change.L = &c.cpus[i].mu
	}
	return c
}

// now is the time, in nanoseconds, and never 0.
func (c *Calls) now() int64 { return max(1, int64(c.clock.Since(c.epoch))) }

// Enter is called by a task that executes application code on a CPU from now on.
// It returns when nothing forbids that. Nobody else may have entered and not left.
func (c *Calls) Enter(cpu int) {
	if p := &c.cpus[cpu]; !p.state.CompareAndSwap(0, inApp) {
		c.enter(p, cpu)
	}
}

func (c *Calls) enter(p *callCPU, cpu int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state.Load()&inApp != 0 {
		panic(fmt.Sprintf("two tasks execute on CPU %d", cpu))
	}
	for p.running || p.held > 0 || len(p.queue) > 0 {
		if len(p.queue) > 0 && !p.running { // Somebody panicked.
			c.drainLocked(p, cpu)
		} else {
			p.change.Wait()
		}
	}
	p.state.Store(inApp)
}

// Inside reports whether a task executes application code on a CPU.
func (c *Calls) Inside(cpu int) bool { return c.cpus[cpu].state.Load()&inApp != 0 }

// Leave is called by a task that has entered when it has returned from application
// code. It runs what the CPU was called for meanwhile.
func (c *Calls) Leave(cpu int) {
	if p := &c.cpus[cpu]; !p.state.CompareAndSwap(inApp, 0) {
		c.leave(p, cpu)
	}
}

func (c *Calls) leave(p *callCPU, cpu int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state.And(^inApp)&inApp == 0 {
		panic(fmt.Sprintf("no task executes on CPU %d", cpu))
	}
	for k, at := range p.kicked {
		if at != 0 {
			p.stats[k].late.Add(c.now() - at)
		}
	}
	p.kicked, p.poked = [kinds]int64{}, false
	if p.arrived != nil {
		p.arrived.Done()
		p.arrived = nil
	}
	c.drainLocked(p, cpu)
}

// Kick has a CPU leave application code, and does nothing else. It reports whether
// it executed any. Until it has left, further kicks of the kind are the same one.
func (c *Calls) Kick(cpu int, kind Kind) bool {
	p := &c.cpus[cpu]
	if p.state.Load()&inApp == 0 {
		return false
	}
	p.mu.Lock()
	in, poke := p.callLocked(), false
	if in && p.kicked[kind] == 0 {
		p.kicked[kind] = c.now()
		p.stats[kind].calls.Add(1)
		poke = p.pokeLocked(kind)
	}
	p.settleLocked()
	p.mu.Unlock()
	if poke {
		c.poker.Poke(cpu)
	}
	return in
}

// Start has fn run on a CPU and does not wait for it. It reports false, and does
// nothing, if too much waits there already.
func (c *Calls) Start(cpu int, kind Kind, fn func(cpu int)) bool {
	return c.ask(cpu, &call{fn: fn, kind: kind}, maxStarted)
}

// Run has fn run on every CPU of a set, and returns when it has. On different CPUs
// it may run at the same time. CPUs that do not exist are left out.
func (c *Calls) Run(on Set, kind Kind, fn func(cpu int)) {
	var done sync.WaitGroup
	c.each(on, func(cpu int) {
		done.Add(1)
		c.ask(cpu, &call{fn: fn, kind: kind, done: &done}, 0)
	})
	done.Wait()
}

// each calls f for each CPU of the set that exists.
func (c *Calls) each(on Set, f func(cpu int)) {
	on.All(func(cpu int) bool {
		if cpu < len(c.cpus) {
			f(cpu)
		}
		return cpu < len(c.cpus)
	})
}

// ask has a call run. If so many wait already, and that is not 0, it is refused.
func (c *Calls) ask(cpu int, q *call, bound int) bool {
	p := &c.cpus[cpu]
	poke, taken := c.put(p, cpu, q, bound)
	if poke {
		c.poker.Poke(cpu)
	}
	return taken
}

func (c *Calls) put(p *callCPU, cpu int, q *call, bound int) (poke, taken bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.callLocked()
	if bound > 0 && len(p.queue) >= bound {
		p.settleLocked()
		return false, false
	}
	p.stats[q.kind].calls.Add(1)
	if in || p.running {
		q.at = c.now()
	}
	p.queue = append(p.queue, q)
	if in {
		return p.pokeLocked(q.kind), true
	}
	c.drainLocked(p, cpu)
	return false, true
}

// Stop has fn run while none of the CPUs of a set executes application code, and
// returns when it has. Stops are one after the other.
func (c *Calls) Stop(on Set, fn func()) {
	c.stops.Lock()
	defer c.stops.Unlock()
	var arrived sync.WaitGroup
	c.each(on, func(cpu int) { c.hold(cpu, &arrived) })
	defer c.each(on, c.release)
	arrived.Wait()
	fn()
}

func (c *Calls) hold(cpu int, arrived *sync.WaitGroup) {
	p := &c.cpus[cpu]
	p.mu.Lock()
	in, poke := p.callLocked(), false
	p.held++
	p.stats[Stop].calls.Add(1)
	if in {
		arrived.Add(1)
		p.arrived = arrived
		if p.kicked[Stop] == 0 {
			p.kicked[Stop] = c.now()
		}
		poke = p.pokeLocked(Stop)
	} else {
		p.stats[Stop].atOnce.Add(1)
	}
	p.mu.Unlock()
	if poke {
		c.poker.Poke(cpu)
	}
}

func (c *Calls) release(cpu int) {
	p := &c.cpus[cpu]
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held--
	p.settleLocked()
	p.change.Broadcast()
}

// callLocked has whoever enters or leaves wait for mu, and reports whether the CPU
// executes application code. It does so, or does not, until mu is released.
//
// +checklocks:p.mu
func (p *callCPU) callLocked() bool { return p.state.Or(work)&inApp != 0 }

// settleLocked lets those who enter and leave go on without mu if they can.
//
// +checklocks:p.mu
func (p *callCPU) settleLocked() {
	if len(p.queue) == 0 && !p.running && p.held == 0 && p.kicked == [kinds]int64{} {
		p.state.And(^work)
	}
}

// pokeLocked reports whether the CPU has to be poked.
//
// +checklocks:p.mu
func (p *callCPU) pokeLocked(kind Kind) bool {
	p.stats[kind].pokes.Add(1)
	first := !p.poked
	p.poked = true
	return first
}

// drainLocked runs what is in the queue of a CPU that executes no application code,
// unless somebody does so already. It releases mu meanwhile.
//
// +checklocks:p.mu
func (c *Calls) drainLocked(p *callCPU, cpu int) {
	if p.running {
		return // It will be run there.
	}
	p.running = true
	defer p.ranLocked()
	for len(p.queue) > 0 {
		q := p.queue[0]
		p.queue[0] = nil
		if p.queue = p.queue[1:]; len(p.queue) == 0 {
			p.queue = nil
		}
		st := &p.stats[q.kind]
		if q.at == 0 {
			st.atOnce.Add(1)
		} else {
			st.late.Add(c.now() - q.at)
		}
		p.runLocked(cpu, q)
	}
}

// ranLocked is the end of drainLocked.
//
// +checklocks:p.mu
func (p *callCPU) ranLocked() {
	p.running = false
	p.settleLocked()
	p.change.Broadcast()
}

// runLocked runs a call without mu. Whoever waits for it hears of its end also if
// it panics. The lock analysis does not see that mu is taken again.
//
// +checklocksignore
func (p *callCPU) runLocked(cpu int, q *call) {
	p.mu.Unlock()
	defer p.mu.Lock()
	if q.done != nil {
		defer q.done.Done()
	}
	q.fn(cpu)
}

// CallStats is how often a CPU was called, and what came of it.
type CallStats struct {
	// Calls is how often; of those AtOnce found it in the kernel, and Pokes had it
	// return from application code.
	Calls, AtOnce, Pokes uint64
	// Latency is from a call to its function, or to the CPU's return, of those that
	// were not at once.
	Latency observe.Latency
}

// Stats returns what calls of a kind came to on one CPU.
func (c *Calls) Stats(cpu int, kind Kind) CallStats {
	st := &c.cpus[cpu].stats[kind]
	return CallStats{Calls: st.calls.Load(), AtOnce: st.atOnce.Load(), Pokes: st.pokes.Load(), Latency: st.late.Latency()}
}
