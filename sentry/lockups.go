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
)

// Bounds of the watch over what holds a CPU or a lock.
const (
	// lockupBound is how long a system call may keep the kernel busy, or a lock
	// be held.
	lockupBound = 10 * time.Second
	// lockupTurns is how often per bound the watch looks.
	lockupTurns = 4
	// lockupStack is how much of the stacks is recorded: a record of the log
	// has no more room. lockupDump is how much of all stacks is looked through.
	lockupStack = 3000
	lockupDump  = 2 << 20
)

// lockups watches the kernel for calls and locks that do not come to an end. It
// looks while a task runs; a kernel without running tasks is not woken for it.
type lockups struct {
	s     *Kernel
	bound atomic.Int64 // nanoseconds
	seen  map[*kernel.Task]int64
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
		nap(w.s.cfg.Clock, bound/lockupTurns)
		w.s.dogs.lockups.Busy()
		w.turn(bound)
		w.s.dogs.lockups.Idle()
	}
}

// turn looks once. A lock that it cannot have is reported, and waited for.
func (w *lockups) turn(bound time.Duration) {
	var tasks []*kernel.Task
	var at atomic.Pointer[string]
	step := func(name string) { at.Store(&name) }
	step("the table of tasks")
	done := make(chan struct{})
	go func() {
		defer close(done)
		tasks = w.s.k.TaskSet().Root.Tasks()
		step("the table of agents")
		w.s.mu.Lock() // That it can be taken is the question.
		_ = len(w.s.agents)
		w.s.mu.Unlock()
	}()
	late := make(chan struct{})
	timer := w.s.cfg.Clock.AfterFunc(bound, func() { close(late) })
	defer timer.Stop()
	select {
	case <-done:
	case <-late:
		w.s.emit(nil, event.KernelLockup, &eventv1.KernelLockup{
			Kind: "lock", Name: *at.Load(), Held: int64(bound), Limit: int64(bound), Action: "record", Stack: stacksOf(allStacks(), nil),
		})
		<-done
		return // The tasks had to wait for it too.
	}
	w.look(tasks, bound)
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
		w.s.emit(w.s.agentOf(t), event.KernelLockup, &eventv1.KernelLockup{
			Kind: "task", Name: event.Text(t.Name()), Held: int64(held), Limit: int64(bound), Action: "record",
			Process: processOf(t), Stack: stack,
		})
	}
	w.seen = seen
}

// allStacks returns the stacks of all goroutines.
func allStacks() string {
	dump := make([]byte, lockupDump)
	return string(dump[:runtime.Stack(dump, true)])
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
