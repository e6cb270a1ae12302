package sentry

import (
	"slices"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/mm"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/sentry/kdb/gdbstub"
)

// A debugger holds the threads of an agent, or of one of its processes, and
// moves them. It stops a thread as a pause does, from outside, and sees what the
// thread does where it enters and leaves its program (debughooks.go): there it
// catches breakpoints, steps, exceptions and signals before the program does.
// It is the target of a stub of gdb (debugtarget.go), and lives as long as the
// stub's stream: when that ends, breakpoints are removed and everything goes on.
//
// While threads move, a goroutine waits for the first thing that happens. All
// others are stopped then, and what happened is handed to the stub.

// debugger is what one client does with an agent.
type debugger struct {
	s     *Kernel
	a     *Agent
	only  *kernel.ThreadGroup // nil: every process
	first *kernel.ThreadGroup // whose end is the end of it
	pid   int32               // of first
	by    control.Actor
	stops chan gdbstub.Stop // holds the one that follows a move
	gone  chan struct{}     // closed when it is over

	mu sync.Mutex
	// held are the tasks that it stops, and whether they have been seen to
	// stand still since.
	held map[*kernel.Task]bool // +checklocks:mu
	// What is known of tasks that have executed something.
	threads map[*kernel.Task]*debugThread // +checklocks:mu
	// move is in progress, or nil.
	move *move // +checklocks:mu
	// pass are the signals that do not stop the program.
	pass linux.SignalSet // +checklocks:mu
	// tellExec says that the execution of another program is a stop.
	tellExec bool // +checklocks:mu
	// holdNew says that tasks that come to be are held, too.
	holdNew bool        // +checklocks:mu
	breaks  breakpoints // +checklocks:mu

	// patched is what patches has found since the last move. Only who tells the
	// stub of a stop, and then the stub, touches it.
	patched map[*mm.MemoryManager][]patch
}

// move is threads that move until something happens.
type move struct {
	stop    *gdbstub.Stop // what happened
	tripped chan struct{} // closed when it has
}

// debugThread is what a debugger knows of a task.
type debugThread struct {
	mm *mm.MemoryManager // in which it was last seen
	// moves says that it is one of those that the client lets go.
	moves bool
	// step says that it executes one instruction at a time, until it leaves the
	// range from start to end.
	step       bool
	start, end uint64
	// before is where it was before the step in progress.
	before uintptr
	// called says that it left its program by a system call and has not been
	// back since; spent, that this was its step; through, that a step became one
	// inside the platform.
	called, spent, through bool
	// got is what it would have got when it stopped by itself, told whether the
	// client knows, fault whether the same instruction would raise it again.
	got         *linux.SignalInfo
	told, fault bool
	// letThrough says that its next exception is the program's, and passing are
	// signals that it was sent for the client.
	letThrough bool
	passing    linux.SignalSet
	// doomed says that it was seen to be killed: it is not stopped any more.
	doomed bool
}

// killLook is how often a debugger looks whether somebody wants the tasks that
// it holds to end.
const killLook = 50 * time.Millisecond

// Operations of a debugger in the audit trail.
const (
	opDebugAttach = "debug.attach"
	opDebugDetach = "debug.detach"
)

// attach makes a debugger of an agent, or of a process of it. Its threads stand
// still then.
func (s *Kernel) attach(a *Agent, pid int32, by control.Actor) (*debugger, error) {
	if err := a.mustBe(abi.StateRunning, abi.StatePaused); err != nil {
		return nil, err
	}
	d := &debugger{
		s: s, a: a, by: by, stops: make(chan gdbstub.Stop, 1), gone: make(chan struct{}),
		held: make(map[*kernel.Task]bool), threads: make(map[*kernel.Task]*debugThread), holdNew: true,
	}
	d.breaks.init() // +checklocksignore: nobody else has it.
	if pid != 0 {
		if d.only = a.ns.pid().ThreadGroupWithID(kernel.ThreadID(pid)); d.only == nil {
			return nil, errdefs.Newf(errdefs.NotFound, "the agent has no process %d", pid).
				With(errdefs.Resource("%s", a.id), errdefs.Fix("`aiosctl inspect %s` lists its processes", a.id))
		}
	}
	if d.first = d.only; d.first == nil {
		if d.first = a.firstGroup(); d.first == nil {
			return nil, errdefs.New(errdefs.AgentNotRunning, "the agent has ended", errdefs.Resource("%s", a.id))
		}
	}
	d.pid = int32(a.ns.pid().IDOfThreadGroup(d.first))
	if !a.debugger.CompareAndSwap(nil, d) {
		return nil, errdefs.New(errdefs.WrongState, "the agent is being debugged already", errdefs.Op("debug"), errdefs.Resource("%s", a.id),
			errdefs.Fix("end the other debugger; the audit trail says who it is"))
	}
	a.dog.hold() // It cannot be fed at a breakpoint.
	d.tell(opDebugAttach)
	s.debuggers.Add(1)
	a.crowd.Trace(true)
	go d.watchKills()
	if stuck := d.settle(); len(stuck) > 0 {
		err := errdefs.New(errdefs.Timeout, "thread "+a.idOf(stuck[0])+" ("+stuck[0].Name()+") is in a call that does not end", errdefs.Op("debug"),
			errdefs.Resource("%s", a.id), errdefs.Fix("try again, or debug another process of it"))
		d.Detach()
		return nil, err
	}
	if len(d.Threads()) == 0 {
		d.Detach()
		return nil, errdefs.New(errdefs.AgentNotRunning, "there is no thread to debug", errdefs.Resource("%s", a.id))
	}
	d.tidy()
	return d, nil
}

// tell records that debugging began or ended.
func (d *debugger) tell(op string) {
	r := capability.Record{Op: op, Actor: d.by.Name, Agent: d.a.id, Correlation: d.by.Correlation}
	p := &eventv1.AgentDebug{By: d.by.Name, Ended: op == opDebugDetach}
	if d.only != nil {
		r.Target, p.Pid = "process "+decimal(d.pid), d.pid
	}
	d.s.trail.put(control.AuditRecord{Record: r})
	d.s.emit(d.a, event.AgentDebug, p)
}

// in reports whether a task is one of those that are debugged.
func (d *debugger) in(t *kernel.Task) bool { return d.only == nil || t.ThreadGroup() == d.only }

// tasks returns the tasks that are debugged and have not ended.
func (d *debugger) tasks() []*kernel.Task {
	return slices.DeleteFunc(d.a.ns.pid().Tasks(), func(t *kernel.Task) bool {
		return !d.in(t) || t.ExitState() != kernel.TaskExitNone
	})
}

// holdLocked stops a task. It does not wait.
//
// +checklocks:d.mu
func (d *debugger) holdLocked(t *kernel.Task) {
	if _, ok := d.held[t]; !ok && !d.thread(t).doomed {
		d.held[t] = false
		d.thread(t).moves = false
		t.BeginExternalStop()
	}
}

// letGoLocked ends that.
//
// +checklocks:d.mu
func (d *debugger) letGoLocked(t *kernel.Task) {
	if _, ok := d.held[t]; ok {
		delete(d.held, t)
		t.EndExternalStop()
	}
}

// thread returns what is known of a task.
//
// +checklocks:d.mu
func (d *debugger) thread(t *kernel.Task) *debugThread {
	th := d.threads[t]
	if th == nil {
		th = &debugThread{}
		d.threads[t] = th
	}
	return th
}

// settle stops all tasks and waits until they stand still. It returns those
// that do not.
func (d *debugger) settle() (stuck []*kernel.Task) {
	late := d.s.cfg.Clock.Now().Add(pauseTimeout)
	for {
		d.mu.Lock()
		d.holdNew = true
		for _, t := range d.tasks() {
			d.holdLocked(t)
		}
		var waitFor []*kernel.Task
		for t, still := range d.held {
			if !still {
				waitFor = append(waitFor, t)
			}
		}
		d.mu.Unlock()
		stuck = nil
		for _, t := range waitFor {
			if !awaitStop(d.s.cfg.Clock, t, late) {
				stuck = append(stuck, t)
				continue
			}
			d.mu.Lock()
			if _, ok := d.held[t]; ok {
				d.held[t] = true
			}
			d.mu.Unlock()
		}
		if len(waitFor) == len(stuck) { // Nothing new, or nothing that stops.
			return stuck
		}
	}
}

// still reports whether a task stands still.
func (d *debugger) still(t *kernel.Task) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.held[t] && t.ExitState() == kernel.TaskExitNone
}

// tripLocked ends the move in progress, if it is the first to do so, and
// reports whether it was. t stays where it is in any case, unless it is nil.
//
// +checklocks:d.mu
func (d *debugger) tripLocked(t *kernel.Task, stop gdbstub.Stop) bool {
	if t != nil {
		d.holdLocked(t)
	}
	if d.move == nil || d.move.stop != nil {
		return false
	}
	d.move.stop = &stop
	close(d.move.tripped)
	return true
}

// await waits for what happens in a move, and tells the stub.
func (d *debugger) await(m *move) {
	<-m.tripped
	d.settle()
	d.tidy()
	stop := *m.stop
	if len(d.tasks()) == 0 {
		stop = d.ended()
	}
	d.mu.Lock()
	d.move = nil
	d.mu.Unlock()
	d.stops <- stop
}

// tidy has the tasks that stand still stand in their programs.
func (d *debugger) tidy() {
	for _, t := range d.tasks() {
		if d.still(t) {
			d.leaveTrampoline(t)
		}
	}
}

// ended is the stop of what has no thread any more.
func (d *debugger) ended() gdbstub.Stop {
	stop := gdbstub.Stop{Thread: gdbstub.Thread{PID: d.pid}, Exited: true}
	if status := d.first.ExitStatus(); status.Signaled() {
		stop.Signal = int32(status.TerminationSignal())
	} else {
		stop.Status = int32(status.ExitStatus())
	}
	return stop
}

// watchKills lets tasks go that somebody has killed: a stop from outside holds
// them even then. Who kills them need not pass any door: the end of a namespace,
// an execve of another thread.
func (d *debugger) watchKills() {
	for {
		select {
		case <-d.gone:
			return
		default:
		}
		nap(d.s.cfg.Clock, killLook)
		d.mu.Lock()
		for t := range d.held {
			if killed(t) {
				d.doomLocked(t)
			}
		}
		d.mu.Unlock()
	}
}

// doomLocked lets a task end.
//
// +checklocks:d.mu
func (d *debugger) doomLocked(t *kernel.Task) {
	d.thread(t).doomed = true
	d.letGoLocked(t)
}

// killed reports whether a task is to end.
func killed(t *kernel.Task) bool {
	return t.PendingSignals()&linux.SignalSetOf(linux.SIGKILL) != 0 || t.ExitState() != kernel.TaskExitNone || t.ThreadGroup().ExitStatus().Signaled()
}

// Detach implements gdbstub.Target: the program goes on for itself.
func (d *debugger) Detach() {
	d.mu.Lock()
	m := d.move
	d.tripLocked(nil, gdbstub.Stop{})
	d.mu.Unlock()
	if m != nil {
		<-d.stops
	}
	// One that does not stop is in the kernel, and not at a breakpoint.
	d.settle()
	d.clearBreakpoints()
	d.mu.Lock()
	var undelivered []*kernel.Task
	for t, th := range d.threads {
		if th.got != nil && !th.fault && linux.Signal(th.got.Signo) != linux.SIGTRAP {
			undelivered = append(undelivered, t)
		}
	}
	for _, t := range undelivered {
		_ = t.SendSignal(d.threads[t].got) // It fails if the task has ended.
	}
	d.mu.Unlock()
	d.a.debugger.CompareAndSwap(d, nil)
	d.a.crowd.Trace(false)
	d.s.debuggers.Add(-1)
	d.a.dog.release()
	d.mu.Lock()
	for t := range d.held {
		d.letGoLocked(t)
	}
	d.mu.Unlock()
	close(d.gone)
	d.tell(opDebugDetach)
}
