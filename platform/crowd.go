package platform

import (
	"sync"
	"sync/atomic"
	"time"

	"aios.dev/aios/ktime"
	"aios.dev/aios/sentry/irq"
)

// Crowd is the tasks of one agent. It measures the CPU time they use, keeps
// them to a quota of it, and bounds how many of them compete for the host's
// CPUs at once, so that an agent with hundreds of them takes its neighbours'
// time in turns and not all at once.
//
// A task needs a place to run application code, keeps it while the kernel
// works for it, and gives it up when it sleeps, stops or exits. When places are
// wanted, whoever had one for a slice is interrupted and goes to the end of the
// queue. When the quota is used up, nobody gets a place until the next period.
//
// It is no scheduler: below its limits it does nothing, and it knows no shares.
//
// Waiting tasks are served in order. An interrupt ends a wait at once: the
// kernel wants the task to look at a signal or to stop. It does not let the
// task run.
//
// Lock order: mu is taken with locks of the kernel held, by Interrupt;
// Processors.mu is taken under it. The inner context is interrupted without it.
type Crowd struct {
	cpus  *Processors
	limit int
	slice time.Duration
	use   use
	watch atomic.Uint32 // watchCalls and others
	// interrupts is immutable once a task runs; nil if nobody counts.
	interrupts *irq.Source
	// onStop is immutable once a task runs.
	onStop func()

	mu      sync.Mutex
	holders place       // guarded by mu; who has a place, the longest first
	held    int         // guarded by mu; how many
	queue   place       // guarded by mu; who waits, the longest first
	timer   ktime.Timer // guarded by mu; nil while nobody waits for a slice to end
	turn    uint64      // guarded by mu; counts slices
	quota   quota       // guarded by mu
}

// place is a task's membership in a list of a Crowd, or the head of one.
type place struct {
	next, prev *place
	c          *taskContext

	// has says that c has a place. It is written under Crowd.mu, by the
	// task itself or, while that waits on wake, for it.
	has   bool
	since uint64        // guarded by Crowd.mu; the turn in which c got it
	wake  chan struct{} // made by the task before it first waits
	// queued says that the place is in the queue; Interrupt looks at it
	// without the lock first.
	queued atomic.Bool
	yield  atomic.Bool // its slice is over, or the quota used up
	// poked says that the task was interrupted and has not been in Switch
	// since: it must not wait.
	poked atomic.Bool
	// kick is when the task was made to return from application code, by
	// Processors.now, and in its lowest bit by whom; 0 if it was not, or has
	// returned.
	kick atomic.Int64
	// mark is until when the task's CPU time has been charged, and in its
	// lowest bit whether it runs application code since. It means nothing
	// before the task first gets a place.
	mark atomic.Int64
}

// NewCrowd returns a crowd of at most limit tasks that run at once, each for
// about a slice while others wait, without a quota.
func NewCrowd(cpus *Processors, limit int, slice time.Duration) *Crowd {
	g := &Crowd{cpus: cpus, limit: max(limit, 1), slice: slice}
	g.holders.init()
	g.queue.init()
	g.quota.milli = Unlimited
	return g
}

// Interrupts has it count what makes the crowd's tasks return from application
// code. It must be called before any of them runs.
func (g *Crowd) Interrupts(src *irq.Source) { g.interrupts = src }

// OnStop has f called whenever the crowd's quota is used up. It must be called
// before any task runs; f must not block, or call the crowd.
func (g *Crowd) OnStop(f func()) { g.onStop = f }

// Who makes a task return; the lowest bit of place.kick.
const (
	byCrowd  = 0
	byKernel = 1
)

// kicked notes that a task is about to be made to return. One that runs no
// application code does not notice.
func (g *Crowd) kicked(p *place, by int64) {
	if p.mark.Load()&1 != inApp || p.kick.Load() != 0 || !p.kick.CompareAndSwap(0, max(g.cpus.now(), 1)<<1|by) {
		return
	}
	line := irq.Resched
	if by == byKernel {
		line = irq.Call
	}
	g.interrupts.Raise(line)
}

// returned is outside exit so that the hot path stays small.
func (g *Crowd) returned(p *place, kick int64) {
	p.kick.Store(0)
	line := irq.Resched
	if kick&1 == byKernel {
		line = irq.Call
	}
	g.interrupts.Observe(line, time.Duration(g.cpus.now()-kick>>1))
}

func (p *place) init() { p.next, p.prev = p, p }

func (p *place) empty() bool { return p.next == p }

// pushBack puts q at the end of the list that p is the head of.
func (p *place) pushBack(q *place) {
	q.prev, q.next = p.prev, p
	p.prev.next = q
	p.prev = q
}

func (p *place) remove() {
	p.prev.next, p.next.prev = p.next, p.prev
	p.next, p.prev = nil, nil
}

// enter returns when c may run, or is interrupted.
func (g *Crowd) enter(p *place) {
	if !p.has || p.yield.Load() {
		g.await(p)
		if !p.has {
			// Interrupted. Were the interrupt an old one that was seen
			// long ago, c would now run without a place.
			p.c.Context.Interrupt()
		}
	}
	if p.kick.Load() != 0 { // It came after the last return.
		p.kick.Store(0)
	}
	g.charge(p, inApp)
}

// exit is the return from application code.
func (g *Crowd) exit(p *place) {
	g.charge(p, inKernel)
	if kick := p.kick.Load(); kick != 0 {
		g.returned(p, kick)
	}
	if p.poked.Load() {
		p.poked.Store(false)
	}
}

// await returns when p has a place, or is interrupted.
func (g *Crowd) await(p *place) {
	g.mu.Lock()
	g.rollLocked()
	if p.has {
		p.yield.Store(false)
		if g.queue.empty() && !g.quota.stopped {
			p.since = g.turn
			g.mu.Unlock()
			return
		}
		g.giveUpLocked(p)
	}
	switch {
	case g.held < g.limit && !g.quota.stopped:
		g.grantLocked(p)
		g.mu.Unlock()
		return
	case p.poked.Load():
		g.restart(p)
		g.mu.Unlock()
		return
	}
	if p.wake == nil {
		p.wake = make(chan struct{}, 1)
	}
	g.queue.pushBack(p)
	p.queued.Store(true)
	g.armLocked()
	g.mu.Unlock()
	<-p.wake
	g.restart(p) // What it waited for the host since is not its own.
}

// leave gives c's place, if it has one, to whoever waits longest.
func (g *Crowd) leave(p *place) {
	if !p.has {
		return
	}
	g.mu.Lock()
	g.giveUpLocked(p)
	g.mu.Unlock()
}

func (g *Crowd) grantLocked(p *place) {
	p.has = true
	p.since = g.turn
	g.held++
	g.holders.pushBack(p)
	g.cpus.want()
	g.restart(p)
	g.armQuotaLocked()
}

func (g *Crowd) giveUpLocked(p *place) {
	over := g.settle(p)
	g.cpus.done()
	p.has = false
	p.yield.Store(false)
	p.remove()
	g.held--
	if over {
		g.stopLocked()
	}
	g.fillLocked()
}

// fillLocked gives places that are free to those who wait.
func (g *Crowd) fillLocked() {
	for g.held < g.limit && !g.quota.stopped && !g.queue.empty() {
		next := g.queue.next
		g.unqueueLocked(next)
		g.grantLocked(next)
		next.wake <- struct{}{}
	}
}

func (g *Crowd) unqueueLocked(p *place) {
	p.remove()
	p.queued.Store(false)
}

// interrupted ends c's wait, or prevents it.
func (g *Crowd) interrupted(p *place) {
	p.poked.Store(true)
	if !p.queued.Load() {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.queued.Load() {
		g.unqueueLocked(p)
		p.wake <- struct{}{}
	}
}

// armLocked has slices end while tasks wait for places, and the quota's period.
func (g *Crowd) armLocked() {
	if g.timer == nil && !g.queue.empty() && !g.quota.stopped {
		g.timer = g.cpus.clock.AfterFunc(g.slice, g.tick)
	}
	g.armQuotaLocked()
}

// tick ends the slices of as many holders as there are tasks that wait.
func (g *Crowd) tick() {
	var over []*taskContext
	g.mu.Lock()
	g.turn++
	waiting := 0
	for p := g.queue.next; p != &g.queue && waiting < g.held; p = p.next {
		waiting++
	}
	for p := g.holders.next; p != &g.holders && len(over) < waiting; p = p.next {
		if p.since < g.turn-1 {
			p.yield.Store(true)
			over = append(over, p.c)
		}
	}
	g.timer = nil
	g.armLocked()
	g.mu.Unlock()
	interruptAll(over)
}

// interruptAll makes tasks return from application code.
func interruptAll(tasks []*taskContext) {
	for _, c := range tasks {
		if crowd := c.crowd.Load(); crowd != nil {
			crowd.kicked(&c.place, byCrowd)
		}
		c.Context.Interrupt()
	}
}
