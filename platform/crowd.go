package platform

import (
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/context"

	"aios.dev/aios/sentry/irq"
	"aios.dev/aios/sentry/sched"
)

// Crowd is the tasks of one agent: a group of the scheduler, and what is to be
// done and counted when they enter and leave application code.
//
// A task needs a CPU of the scheduler to run application code, keeps it while
// the kernel works for it, and gives it up when it sleeps, stops or exits. One
// that is to make way for another is interrupted, and asks again.
//
// An interrupt of the kernel ends a wait for a CPU at once: the task is to look
// at a signal, or to stop. It does not let the task run.
type Crowd struct {
	group  *sched.Group
	faults atomic.Uint64 // page faults
	// resolved are those of them after which memory was there.
	resolved FaultCounts
	touches  atomic.Pointer[Touches] // where they are noted, or nil
	watch    atomic.Uint32           // watchCalls and others
	// interrupts is immutable once a task runs; nil if nobody counts.
	interrupts *irq.Source
	// runs is immutable once a task runs; nil if nobody wants to know.
	runs func()
}

// NewCrowd returns a crowd without tasks, whose tasks will be g's.
func NewCrowd(g *sched.Group) *Crowd { return &Crowd{group: g} }

// Group returns what the tasks belong to.
func (g *Crowd) Group() *sched.Group { return g.group }

// Faults returns how many page faults its tasks have had.
func (g *Crowd) Faults() uint64 { return g.faults.Load() }

// Resolved returns how many of them made memory accessible, by kind.
func (g *Crowd) Resolved() FaultTotals { return g.resolved.Totals() }

// Interrupts has it count what makes the crowd's tasks return from application
// code. It must be called before any of them runs.
func (g *Crowd) Interrupts(src *irq.Source) { g.interrupts = src }

// Runs has f called when a task of the crowd is about to execute application code that
// had no CPU before, on its goroutine. It must be called before any of them runs.
func (g *Crowd) Runs(f func()) { g.runs = f }

// place is what a context knows of its task's CPU.
type place struct {
	// task is what the scheduler knows it as, from the first Switch to the exit;
	// is says that it does.
	task sched.Task
	is   bool
	wake chan struct{}
	// waits says that it is about to wait for a CPU, or does.
	waits atomic.Bool
	// poked says that the task was interrupted and has not been in Switch
	// since: it must not wait.
	poked atomic.Bool
	// kick is when the task was made to return from application code, and in its
	// lowest bit by whom; 0 if it was not, or has returned.
	kick atomic.Int64
	// inApp says that it executes application code.
	inApp atomic.Bool
}

// Who makes a task return; the lowest bit of place.kick.
const (
	byScheduler = 0
	byKernel    = 1
)

// kicked notes that a task is about to be made to return. One that runs no
// application code does not notice.
func (g *Crowd) kicked(p *place, by int64) {
	if !p.inApp.Load() || p.kick.Load() != 0 || !p.kick.CompareAndSwap(0, max(p.task.Now(), 1)<<1|by) {
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
	g.interrupts.Observe(line, time.Duration(p.task.Now()-kick>>1))
}

// enter returns when c may run, or is interrupted.
func (g *Crowd) enter(c *taskContext) {
	p := &c.place
	if p.task.Must() {
		if !p.await() {
			// Interrupted. Were the interrupt an old one that was seen long ago,
			// c would now run without a CPU.
			c.Context.Interrupt()
		}
		if g.runs != nil {
			g.runs()
		}
	}
	if p.kick.Load() != 0 { // It came after the last return.
		p.kick.Store(0)
	}
	p.inApp.Store(true)
	if p.task.Enters() {
		c.Context.Interrupt() // It returns at once.
	}
}

// exit is the return from application code.
func (g *Crowd) exit(c *taskContext) {
	p := &c.place
	p.task.Returns()
	p.inApp.Store(false)
	if kick := p.kick.Load(); kick != 0 {
		g.returned(p, kick)
	}
	if p.poked.Load() {
		p.poked.Store(false)
	}
}

// await returns true when the task has a CPU, and false when it is interrupted.
func (p *place) await() bool {
	p.waits.Store(true)
	a := p.task.Ask(&p.poked)
	if a == sched.Wait {
		<-p.wake
		if p.task.Has() {
			a = sched.Go
		}
	}
	p.waits.Store(false)
	return a == sched.Go
}

// interrupted ends the task's wait, or prevents it.
func (p *place) interrupted() {
	p.poked.Store(true)
	if p.waits.Load() && p.task.Withdraw() {
		p.wake <- struct{}{}
	}
}

// Granted implements sched.Runner.
func (c *taskContext) Granted() { c.place.wake <- struct{}{} }

// Preempt implements sched.Runner.
func (c *taskContext) Preempt() {
	if crowd := c.crowd.Load(); crowd != nil {
		crowd.kicked(&c.place, byScheduler)
	}
	c.Context.Interrupt()
}

// Contexts returns what the first Switch of each task was given.
func Contexts(tasks []*sched.Task) []context.Context {
	out := make([]context.Context, len(tasks))
	for i, t := range tasks {
		out[i] = t.ID().(context.Context)
	}
	return out
}
