package sentry

import (
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/sentry/irq"
	"aios.dev/aios/sentry/trap"
)

// Bounds of the watch over what holds a CPU or a lock.
const (
	// lockupBound is how long a system call or a bottom half may keep the kernel
	// busy, or a lock be held.
	lockupBound = 10 * time.Second
	// lockupTurns is how often per bound the watch looks.
	lockupTurns = 4
	// lockupStack is how much of the stacks is recorded: a record of the log
	// has no more room. lockupDump is how much of all stacks is looked through.
	lockupStack = 3000
	lockupDump  = 2 << 20
	// recordOnly is what is done about a lockup when no policy says otherwise.
	recordOnly = "record"
)

// lockups watches the kernel for calls, bottom halves and locks that do not come
// to an end. It is the line of interrupts that nothing masks: each finding is an
// interrupt of it, recorded with stacks, upon which the policies of agents on
// lockups decide. It looks while a task runs; a kernel without running tasks is
// not woken for it.
type lockups struct {
	s     *Kernel
	bound atomic.Int64 // nanoseconds
	// What is reported already.
	seen   map[*kernel.Task]int64
	halves map[irq.Busy]bool
}

// start begins the watch. It is the last step of the boot.
func (w *lockups) start(s *Kernel) {
	w.s = s
	w.bound.Store(int64(lockupBound))
	go w.run()
}

func (w *lockups) run() {
	for w.s.k.WaitForTaskActivity(nil) {
		bound := time.Duration(w.bound.Load())
		began := w.s.cfg.Clock.Now()
		nap(w.s.cfg.Clock, bound/lockupTurns)
		w.s.dogs.lockups.Busy()
		w.overslept(w.s.cfg.Clock.Since(began)-bound/lockupTurns, bound)
		w.turn(bound)
		w.s.dogs.lockups.Idle()
	}
}

// lockup is a finding.
type lockup struct {
	kind, name string
	held       time.Duration
	a          *Agent       // whose it is, or nil
	t          *kernel.Task // likewise
	stack      string
}

// report records a finding, and does what policies say.
func (w *lockups) report(l lockup, bound time.Duration) {
	src := w.s.sourceOf(l.a)
	src.Raise(irq.NMI)
	src.Observe(irq.NMI, l.held-bound)
	p := &eventv1.KernelLockup{
		Kind: l.kind, Name: event.Text(l.name), Held: int64(l.held), Limit: int64(bound), Action: recordOnly, Stack: l.stack,
	}
	why := l.kind + " " + l.name + " for " + l.held.Round(time.Millisecond).String()
	by, action := l.a, trap.Deliver
	var rule trap.Rule
	switch {
	case l.t == nil:
		by, rule, action = w.hardest()
	case l.a != nil:
		p.Process = processOf(l.t)
		rule = l.a.faults.policy.Rule(trap.NMI)
		action = l.a.faults.ladders[trap.NMI].Climb(rule, w.s.cfg.Clock.Since(w.s.started))
	}
	if action != trap.Deliver {
		p.Action = action.String()
	}
	w.s.emit(l.a, event.KernelLockup, p)
	switch {
	case action == trap.Deliver:
	case l.t == nil:
		w.s.fallStuck(by, "policy "+rule.String()+": lockup: "+why)
	default:
		by.act(verdict{
			task: l.t, action: action, policy: rule.String(), violation: trap.NMI.String(), scope: action.Info().Scope,
			detail: why, began: w.s.cfg.Clock.Now(),
		})
	}
}

// hardest returns the agent, if there is one, whose policy is that the domain
// ends of a lockup. What no agent is to blame for, its policy has no other answer
// to.
func (w *lockups) hardest() (*Agent, trap.Rule, trap.Action) {
	for _, a := range w.s.liveAgents() {
		rule := a.faults.policy.Rule(trap.NMI)
		if a.faults.ladders[trap.NMI].Climb(rule, w.s.cfg.Clock.Since(w.s.started)) == trap.KillDomain {
			return a, rule, trap.KillDomain
		}
	}
	return nil, trap.Rule{}, trap.Deliver
}

// overslept reports that the watch itself did not run when it should have:
// nothing got a CPU, or the process was stopped.
func (w *lockups) overslept(late, bound time.Duration) {
	if late > bound {
		w.s.irq.domain.Raise(irq.NMI)
		w.s.irq.domain.Observe(irq.NMI, late-bound)
		w.s.emit(nil, event.KernelLockup, &eventv1.KernelLockup{
			Kind: "cpu", Name: "all", Held: int64(late), Limit: int64(bound), Action: recordOnly, Stack: stacksOf(allStacks(), nil),
		})
	}
}

// turn looks once. A lock that it cannot have is reported, and waited for.
func (w *lockups) turn(bound time.Duration) {
	var tasks []*kernel.Task
	var at atomic.Pointer[string]
	locks := w.s.sharedLocks()
	at.Store(&locks[0].name)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, l := range locks {
			at.Store(&l.name)
			l.take()
		}
		tasks = w.s.k.TaskSet().Root.Tasks()
	}()
	late := make(chan struct{})
	timer := w.s.cfg.Clock.AfterFunc(bound, func() { close(late) })
	defer timer.Stop()
	select {
	case <-done:
	case <-late:
		w.report(lockup{kind: "lock", name: *at.Load(), held: bound, stack: stacksOf(allStacks(), nil)}, bound)
		<-done
		return // The tasks had to wait for it too.
	}
	w.look(tasks, bound)
	w.lookAtHalves(bound)
}

// look reports the tasks that have been in one system call for too long. The
// clock is that of gVisor: it stands while no task runs.
func (w *lockups) look(tasks []*kernel.Task, bound time.Duration) {
	now, seen := w.s.k.CPUClockNow(), make(map[*kernel.Task]int64)
	var dump string // One for all: everything stands still for it.
	for _, t := range tasks {
		state, since := t.TaskGoroutineStateTime()
		held := now.Sub(since)
		if state != kernel.TaskGoroutineRunningSys || held <= bound {
			continue
		}
		seen[t] = since.Nanoseconds()
		if last, ok := w.seen[t]; ok && last == since.Nanoseconds() {
			continue // It is reported.
		}
		if dump == "" {
			dump = allStacks()
		}
		stack := stacksOf(dump, t)
		if _, still := t.TaskGoroutineStateTime(); still != since || stack == "" {
			continue // It has come to its end.
		}
		w.report(lockup{kind: "task", name: t.Name(), held: held, a: w.s.agentOf(t), t: t, stack: stack}, bound)
	}
	w.seen = seen
}

// lookAtHalves reports the bottom halves that a worker has been in for too long.
func (w *lockups) lookAtHalves(bound time.Duration) {
	halves := make(map[irq.Busy]bool)
	for _, b := range w.s.irq.BusyWorkers(bound) {
		held := b.For
		b.For = 0
		halves[b] = true
		if !w.halves[b] {
			w.report(lockup{
				kind: "goroutine", name: fmt.Sprintf("bottom half of %v on CPU %d", b.Line, b.CPU), held: held, stack: workersOf(allStacks()),
			}, bound)
		}
	}
	w.halves = halves
}

// allStacks returns the stacks of all goroutines.
func allStacks() string {
	dump := make([]byte, lockupDump)
	return string(dump[:runtime.Stack(dump, true)])
}

// workersOf returns the stacks of the workers of interrupts.
func workersOf(dump string) string {
	var b strings.Builder
	for g := range strings.SplitSeq(dump, "\n\n") {
		if strings.Contains(g, "irq.(*worker).run(") {
			b.WriteString(shortStack(g))
		}
	}
	all := b.String()
	return event.Text(all[:min(len(all), lockupStack)])
}

// stacksOf returns the stack of a task's goroutine, or without a task those of
// all, the ones that do not merely wait for something to do first.
func stacksOf(dump string, t *kernel.Task) string {
	mine := ""
	if t != nil {
		mine = fmt.Sprintf("goroutine %d ", t.GoroutineID())
	}
	var busy, idle strings.Builder
	for g := range strings.SplitSeq(dump, "\n\n") {
		switch {
		case !strings.HasPrefix(g, mine) || strings.Contains(g, ".allStacks("):
		case waits(g):
			idle.WriteString(shortStack(g))
		default:
			busy.WriteString(shortStack(g))
		}
	}
	all := busy.String() + idle.String()
	return event.Text(all[:min(len(all), lockupStack)])
}

// waits reports whether a goroutine has nothing to do in the kernel.
func waits(stack string) bool {
	first, _, _ := strings.Cut(stack, "\n")
	for _, state := range []string{"[select", "[chan receive", "[IO wait", "[sync.Cond.Wait", "[GC ", "[finalizer wait"} {
		if strings.Contains(first, state) {
			return true
		}
	}
	return strings.Contains(stack, "(*taskContext).Switch(") // The agent's program has it.
}

// shortStack makes one line of each frame: the function without its arguments,
// the name of the file and the line.
func shortStack(stack string) string {
	var b strings.Builder
	for line := range strings.Lines(stack) {
		line = strings.TrimSuffix(line, "\n")
		if at, ok := strings.CutPrefix(line, "\t"); ok {
			at, _, _ = strings.Cut(at[strings.LastIndexByte(at, '/')+1:], " ")
			fmt.Fprintf(&b, " %s\n", at)
			continue
		}
		if i := strings.LastIndexByte(line, '('); i > 0 && !strings.HasPrefix(line, "goroutine ") {
			line = line[:i]
		}
		b.WriteString(line[strings.LastIndexByte(line, '/')+1:])
		if strings.HasPrefix(line, "goroutine ") {
			b.WriteByte('\n')
		}
	}
	return b.String()
}
