package sentry

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/platform"
	"aios.dev/aios/sentry/sched"
)

// A look at agents stops none of them: it reads what the kernel knows while they
// go on, so each row is true of a moment of its own. Only the registers of a task
// that executes its program are nowhere but in the CPU; it is interrupted for
// them, as at the end of a slice, when they are asked for.

// lookBytes is how much a look may come to, in bytes of JSON. A message has room
// for more.
const lookBytes = 3 << 20

// look is a look in progress.
type look struct {
	s      *Kernel
	agents []*Agent
	pid    int32
	out    control.Look
	room   int
	queued map[*kernel.Task]bool
	stacks map[int64][]string // by goroutine; nil: not taken
	states map[int64]string   // what a goroutine's stack begins with
}

// Look returns what is asked for.
func (s *Kernel) Look(req control.LookRequest) (control.Look, error) {
	l := &look{s: s, pid: req.PID, room: lookBytes, out: control.Look{Domain: s.cfg.Domain}, queued: make(map[*kernel.Task]bool)}
	for _, v := range req.Views {
		if !slices.Contains(control.Views(), v) {
			return l.out, errdefs.Newf(errdefs.InvalidArgument, "there is no view %.40q", v)
		}
	}
	// Whoever looks at more than locks must not wait for one that is held for good.
	tried := s.tryLocks()
	if last := tried[len(tried)-1]; last.Held {
		if !slices.Contains(req.Views, control.ViewLocks) {
			return l.out, errdefs.New(errdefs.WrongState, last.Name+" is held", errdefs.Op("debug"),
				errdefs.Fix("ask for the view locks of the domain alone; `aiosctl crash bundle %s` has the stacks of all goroutines", s.cfg.Domain))
		}
		l.locks(tried)
		return l.out, nil
	}
	if req.ID != "" {
		a, err := s.agent(req.ID)
		if err == nil {
			err = a.mustBe(abi.StateRunning, abi.StatePaused)
		}
		if err == nil && req.PID != 0 && a.ns.pid().ThreadGroupWithID(kernel.ThreadID(req.PID)) == nil {
			err = errdefs.Newf(errdefs.NotFound, "the agent has no process %d", req.PID).
				With(errdefs.Resource("%s", a.id), errdefs.Fix("`aiosctl inspect %s` lists its processes", a.id))
		}
		if err != nil {
			return l.out, err
		}
		l.agents = []*Agent{a}
	} else {
		l.agents = s.liveAgents()
		slices.SortFunc(l.agents, func(a, b *Agent) int { return cmp.Compare(a.id, b.id) })
	}
	views := map[string]func(){
		control.ViewTasks: func() { l.tasks(false) }, control.ViewStacks: func() { l.tasks(true) }, control.ViewQueues: l.queues,
		control.ViewLocks: func() { l.locks(tried) }, control.ViewCaps: l.caps, control.ViewMaps: l.maps, control.ViewFiles: l.files, control.ViewSockets: l.sockets,
	}
	if slices.Contains(req.Views, control.ViewStacks) { // It shows what the other does.
		req.Views = slices.DeleteFunc(slices.Clone(req.Views), func(v string) bool { return v == control.ViewTasks })
	}
	for _, v := range control.Views() {
		if slices.Contains(req.Views, v) {
			views[v]()
		}
	}
	return l.out, nil
}

// fits reports whether there is room for a row of a view, and counts it if not.
func (l *look) fits(view string, row any) bool {
	raw, err := json.Marshal(row)
	if err == nil && len(raw) < l.room {
		l.room -= len(raw) + 1
		return true
	}
	if l.out.Left == nil {
		l.out.Left = make(map[string]int)
	}
	l.out.Left[view]++
	return false
}

// tasksOf returns the tasks of an agent that are looked at, in order.
func (l *look) tasksOf(a *Agent) []*kernel.Task {
	ns := a.ns.pid()
	if ns == nil {
		return nil // It is being made.
	}
	tasks := slices.DeleteFunc(ns.Tasks(), func(t *kernel.Task) bool {
		return t.ExitState() != kernel.TaskExitNone || l.pid != 0 && ns.IDOfThreadGroup(t.ThreadGroup()) != kernel.ThreadID(l.pid)
	})
	slices.SortFunc(tasks, func(x, y *kernel.Task) int {
		return cmp.Or(cmp.Compare(ns.IDOfThreadGroup(x.ThreadGroup()), ns.IDOfThreadGroup(y.ThreadGroup())), cmp.Compare(ns.IDOfTask(x), ns.IDOfTask(y)))
	})
	return tasks
}

// leadersOf returns one task of each process.
func (l *look) leadersOf(a *Agent) []*kernel.Task {
	tasks := l.tasksOf(a)
	return slices.CompactFunc(tasks, func(x, y *kernel.Task) bool { return x.ThreadGroup() == y.ThreadGroup() })
}

// tasks lists threads, with registers of all and stacks if deep.
func (l *look) tasks(deep bool) {
	view := control.ViewTasks
	if deep {
		view = control.ViewStacks
		l.takeStacks()
	}
	for _, a := range l.agents {
		for _, t := range platform.Contexts(a.crowd.Group().State().Waiting) {
			if t, ok := t.(*kernel.Task); ok {
				l.queued[t] = true
			}
		}
		for _, t := range l.tasksOf(a) {
			row := control.LookTask{
				Agent: a.id, PID: int32(a.ns.pid().IDOfThreadGroup(t.ThreadGroup())), TID: int32(a.ns.pid().IDOfTask(t)), Name: t.Name(), Goroutine: t.GoroutineID(),
			}
			l.state(t, &row, deep)
			row.Stack = l.stacks[row.Goroutine]
			if l.fits(view, row) {
				l.out.Tasks = append(l.out.Tasks, row)
			}
		}
	}
}

// state says what a task does.
func (l *look) state(t *kernel.Task, row *control.LookTask, deep bool) {
	state, since := t.TaskGoroutineStateTime()
	switch state {
	case kernel.TaskGoroutineRunningApp:
		row.State = "runs"
		if l.queued[t] {
			row.State = "queued"
		}
	case kernel.TaskGoroutineRunningSys:
		row.State = "works"
	case kernel.TaskGoroutineStopped:
		row.State = "stopped"
	default:
		row.State = "waits"
	}
	if state == kernel.TaskGoroutineRunningApp || state == kernel.TaskGoroutineRunningSys {
		row.For = max(l.s.k.CPUClockNow().Sub(since), 0)
	}
	regs, ok := steadyRegisters(t, state)
	if !ok && deep {
		regs, ok = l.interrupt(t)
	}
	if !ok {
		return
	}
	row.Registers = namedRegisters(&regs)
	if call, known := abi.SyscallByNumber(uintptr(regs.Orig_rax)); known && int64(regs.Orig_rax) >= 0 && row.State == "waits" {
		row.Call = call.Name
	}
}

// steadyRegisters reads those of a task that stands in the kernel. It goes on as
// it likes: if it has, what was read does not count.
func steadyRegisters(t *kernel.Task, state kernel.TaskGoroutineState) (regs linux.PtraceRegs, ok bool) {
	switch state {
	case kernel.TaskGoroutineBlockedInterruptible, kernel.TaskGoroutineBlockedUninterruptible, kernel.TaskGoroutineStopped:
	default:
		return regs, false
	}
	regs, again := glance(t), glance(t)
	return regs, regs == again && t.TaskGoroutineState() == state
}

// glance copies registers without a lock: who calls it checks what it got.
//
//go:norace
func glance(t *kernel.Task) linux.PtraceRegs { return t.Arch().StateData().Regs.PtraceRegs }

// lookStop is how long a look waits for a task that it has interrupted.
const lookStop = 100 * time.Millisecond

// interrupt has a task that executes its program come into the kernel for a
// moment.
func (l *look) interrupt(t *kernel.Task) (regs linux.PtraceRegs, ok bool) {
	if t.TaskGoroutineState() != kernel.TaskGoroutineRunningApp {
		return regs, false // What it is in the middle of would be interrupted.
	}
	t.BeginExternalStop()
	defer t.EndExternalStop()
	if !awaitStop(l.s.cfg.Clock, t, l.s.cfg.Clock.Now().Add(lookStop)) || t.ExitState() != kernel.TaskExitNone {
		return regs, false
	}
	return t.Arch().StateData().Regs.PtraceRegs, true
}

// namedRegisters has registers by the names that debuggers know.
func namedRegisters(r *linux.PtraceRegs) map[string]string {
	out := make(map[string]string)
	for name, value := range map[string]uint64{
		"rax": r.Rax, "rbx": r.Rbx, "rcx": r.Rcx, "rdx": r.Rdx, "rsi": r.Rsi, "rdi": r.Rdi, "rbp": r.Rbp, "rsp": r.Rsp,
		"r8": r.R8, "r9": r.R9, "r10": r.R10, "r11": r.R11, "r12": r.R12, "r13": r.R13, "r14": r.R14, "r15": r.R15,
		"rip": r.Rip, "eflags": r.Eflags, "orig_rax": r.Orig_rax, "fs_base": r.Fs_base, "gs_base": r.Gs_base,
	} {
		out[name] = hexOf(value)
	}
	return out
}

// queues lists who has a place to run, and who waits for one.
func (l *look) queues() {
	for _, a := range l.agents {
		if a.ns.pid() == nil {
			continue
		}
		p := a.crowd.Group().State()
		row := control.LookQueue{Agent: a.id, Weight: p.Params.Weight, Slice: p.Request, Lag: p.Lag, Running: []int32{}, Waiting: []int32{}}
		for _, c := range platform.Contexts(p.Running) {
			if t, ok := c.(*kernel.Task); ok {
				row.Running = append(row.Running, int32(a.ns.pid().IDOfTask(t)))
			}
		}
		for _, c := range platform.Contexts(p.Waiting) {
			if t, ok := c.(*kernel.Task); ok {
				row.Waiting = append(row.Waiting, int32(a.ns.pid().IDOfTask(t)))
			}
		}
		if q := p.Params.MilliCPU; q != sched.Unlimited {
			row.Quota, row.Left, row.Period, row.Stopped = q, p.Left, p.Params.Period, p.Throttled
		}
		if l.fits(control.ViewQueues, row) {
			l.out.Queues = append(l.out.Queues, row)
		}
	}
}

// caps lists capability tables.
func (l *look) caps() {
	for _, a := range l.agents {
		for _, c := range l.s.space.List(a.id) {
			if row := l.s.describe(c); l.fits(control.ViewCaps, row) {
				l.out.Caps = append(l.out.Caps, row)
			}
		}
	}
}
