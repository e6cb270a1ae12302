package sentry

import (
	"slices"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	gvsched "gvisor.dev/gvisor/pkg/sentry/kernel/sched"
	"gvisor.dev/gvisor/pkg/sentry/mm"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// twin is a task of an agent, and what it becomes in the copy. Old is nil for one
// that only takes a number that the original has used, or that leads a session or
// a process group whose leader has ended there: it ends before the copy runs.
type twin struct {
	old, new *kernel.Task
	tid      kernel.ThreadID
	group    *twinGroup
	lead     bool // of its process
	zombie   bool
	parent   *twin // of whose process it is a child; nil for none
	restart  bool  // whether an interrupted call is to be made again
}

// twinGroup is a process.
type twinGroup struct {
	old, new *kernel.ThreadGroup
	leader   *twin
	tasks    []*twin
	sid      kernel.SessionID
	pgid     kernel.ProcessGroupID
	stopped  bool // by a signal
	handlers *kernel.SignalHandlers
	foster   *twinGroup // whose child it is until that ends, to be of its session
}

// family is the processes of an agent that stands still.
type family struct {
	a      *Agent
	twins  map[kernel.ThreadID]*twin
	of     map[*kernel.Task]*twin
	groups []*twinGroup // by number
	last   kernel.ThreadID
	// fillers lead sessions and groups whose leaders have ended, by number.
	fillers map[kernel.ThreadID]*twinGroup
	// busy is why the agent has to run on for a moment, if anything is.
	busy string
	// only is what the copies are to have of the authority, or nil: their part.
	only *narrowing
	// base is what was in the upper layer, once a copy was made.
	base *baseline
	// head is the process in whose name things are made that are nobody's: the
	// first, or of a split the first of those that leave.
	head *twin
	// split is set if only some of the processes are copied.
	split *splitting
}

// survey looks at every task of an agent that was frozen, or at those of which split
// says that they leave. Busy says why the agent has to run on for a moment before it
// can be copied.
//
// +checklocks:a.lifeMu
func (a *Agent) survey(split *control.Split) (f *family, busy string, err error) {
	pid := a.ns.pid()
	f = &family{a: a, twins: make(map[kernel.ThreadID]*twin), of: make(map[*kernel.Task]*twin), fillers: make(map[kernel.ThreadID]*twinGroup)}
	groups := make(map[*kernel.ThreadGroup]*twinGroup)
	spaces := make(map[*mm.MemoryManager]*twinGroup)
	if split != nil {
		if f.split, err = a.leaving(split); err != nil {
			return nil, "", err
		}
		f.fillers[1] = f.split.init
	}
	for _, t := range pid.Tasks() {
		if t.ExitState() == kernel.TaskExitDead {
			continue
		}
		tg := t.ThreadGroup()
		if f.split.stays(tg) {
			f.split.staying = append(f.split.staying, t)
			continue
		}
		if tg.PIDNamespace() != pid {
			return nil, "", f.refuse(t, "is in a PID namespace of its own")
		}
		g := groups[tg]
		if g == nil {
			g = &twinGroup{old: tg, handlers: tg.SignalHandlers()}
			groups[tg] = g
			f.groups = append(f.groups, g)
		}
		tw := &twin{old: t, tid: pid.IDOfTask(t), group: g, lead: tg.Leader() == t, zombie: t.ExitState() == kernel.TaskExitZombie}
		g.tasks = append(g.tasks, tw)
		f.twins[tw.tid], f.of[t] = tw, tw
		f.last = max(f.last, tw.tid)
		if tw.lead {
			g.leader = tw
		}
		if tw.zombie {
			if !tw.lead {
				return nil, t.Name() + " is ending", nil
			}
			continue
		}
		if busy, err = f.look(tw); busy != "" || err != nil {
			return nil, busy, err
		}
		borrowed := false
		t.WithMuLocked(func(t *kernel.Task) {
			m := t.MemoryManager()
			other := spaces[m]
			borrowed = other != nil && other != g
			spaces[m] = g
		})
		if borrowed { // Its name is not to be asked for with its lock held.
			return nil, t.Name() + " has the memory of another process, as after a vfork(2)", nil
		}
	}
	if t := f.split.lender(spaces); t != nil {
		return nil, t.Name() + " has the memory of a process that is to leave, as after a vfork(2)", nil
	}
	slices.SortFunc(f.groups, func(x, y *twinGroup) int { return int(leaderTID(x) - leaderTID(y)) })
	for _, g := range f.groups {
		if g.leader == nil {
			return nil, "a process changes its program", nil
		}
		slices.SortFunc(g.tasks, func(x, y *twin) int { return int(x.tid - y.tid) })
		g.sid, g.pgid = pid.IDOfSession(g.old.Session()), pid.IDOfProcessGroup(g.old.ProcessGroup())
		switch p := g.leader.old.Parent(); {
		case f.split != nil && (p == nil || f.of[p] == nil):
			g.leader.parent = f.split.init.leader
		case p != nil:
			if g.leader.parent = f.of[p]; g.leader.parent == nil {
				return nil, "a process ends", nil
			}
		}
	}
	if f.head = f.twins[1]; f.split != nil {
		f.head = f.twins[f.split.first]
	}
	if f.head == nil || f.head.zombie {
		return nil, "", errdefs.New(errdefs.AgentNotRunning, "the agent has ended", errdefs.Resource("%s", a.id))
	}
	if busy, err = f.underWay(); busy != "" || err != nil {
		return nil, busy, err
	}
	if a.toldUnread() {
		return nil, "what inotify has told is not read yet", nil
	}
	return f, "", f.place()
}

func leaderTID(g *twinGroup) kernel.ThreadID {
	if g.leader == nil {
		return 0
	}
	return g.leader.tid
}

func (f *family) refuse(t *kernel.Task, why string) error {
	return errdefs.New(errdefs.Unsupported, "process "+t.Name()+" "+why, errdefs.Op("clone"), errdefs.Resource("%s", f.a.id),
		errdefs.Fix("have the program end that, and clone the agent then; docs/clone.md says what a copy can carry"))
}

// look says why a task cannot be copied now, or at all.
func (f *family) look(tw *twin) (busy string, err error) {
	t, a := tw.old, f.a
	switch {
	case t.ExitState() != kernel.TaskExitNone, t.TaskGoroutineState() != kernel.TaskGoroutineStopped:
		return t.Name() + " is ending or beginning", nil
	case t.Tracer() != nil:
		return "", f.refuse(t, "is traced by another")
	case t.MountNamespace() != a.ns.mnt, t.UTSNamespace() != a.ns.uts, t.IPCNamespace() != a.ns.ipc, t.NetworkNamespace() != a.ns.net,
		t.UserNamespace() != a.s.creds.UserNamespace:
		return "", f.refuse(t, "is in a namespace of its own")
	}
	nr, called := a.lastCall(t)
	if called && (nr == unix.SYS_EXIT || nr == unix.SYS_EXIT_GROUP) || t.ThreadGroup().ExitStatus() != 0 {
		return t.Name() + " is ending", nil
	}
	if ret := t.Arch().Return(); called && (nr == unix.SYS_EXECVE || nr == unix.SYS_EXECVEAT) && int64(ret) == -int64(unix.ENOSYS) {
		// gVisor makes these calls in steps, between which a task can be stopped;
		// that is what it returns until the last.
		return t.Name() + " is starting a program", nil
	}
	tw.restart = called && nr != unix.SYS_RT_SIGRETURN
	tw.group.stopped = tw.group.stopped || t.StateStatus() == "T (stopped)"
	// A template gets none, and runs on for none: its copies get them.
	still := tw.group.stopped || a.mustBe(abi.StateTemplate) == nil
	pending := t.PendingSignals()
	if pending&linux.SignalSetOf(linux.SIGKILL) != 0 || !still && pending&^t.SignalMask() != 0 {
		return t.Name() + " is about to get a signal", nil
	}
	return "", nil
}

// lastCall returns the system call by which a task that stands still left application
// code last, perhaps in an earlier kernel process; called is false if it left it by
// something else, or has not executed any.
func (a *Agent) lastCall(t *kernel.Task) (nr uintptr, called bool) {
	nr, called, ran := a.crowd.LastCall(t)
	if ran {
		return nr, called
	}
	a.notes.mu.Lock()
	defer a.notes.mu.Unlock()
	nr, called = a.notes.calls[t]
	return nr, called
}

// lastCalls is what lastCall returns of each task.
func (a *Agent) lastCalls() map[*kernel.Task]uint64 {
	out := make(map[*kernel.Task]uint64)
	for _, t := range a.ns.pid().Tasks() {
		if nr, called := a.lastCall(t); called {
			out[t] = uint64(nr)
		}
	}
	return out
}

// place says where the processes go whose session is not that of their parent, and
// which numbers must be taken by leaders that have ended.
func (f *family) place() error {
	for _, g := range f.groups {
		for _, id := range []kernel.ThreadID{kernel.ThreadID(g.sid), kernel.ThreadID(g.pgid)} {
			if f.twins[id] == nil && f.fillers[id] == nil {
				f.fill(id, g)
			}
		}
	}
	for _, g := range f.groups {
		p := g.leader.parent
		if p == nil || kernel.ThreadID(g.sid) == g.leader.tid {
			continue
		}
		if p.tid < g.leader.tid && p.group.sid == g.sid {
			continue
		}
		if filler := f.fillers[kernel.ThreadID(g.sid)]; filler != nil && p.tid == 1 {
			g.foster = filler
			continue
		}
		if p.tid < g.leader.tid && kernel.ThreadID(p.group.sid) == p.group.leader.tid {
			continue // It was made before its parent began a session of its own.
		}
		// A hole between the leader of the session and this process: it was
		// started there by a process that has ended.
		for id := kernel.ThreadID(g.sid) + 1; p.tid == 1 && id < g.leader.tid; id++ {
			if f.twins[id] == nil && f.fillers[id] == nil {
				f.fill(id, g)
				f.fillers[id].sid = g.sid
				g.foster = f.fillers[id]
				break
			}
		}
		if g.foster == nil {
			return f.refuse(g.leader.old, "is of another session than the process that it is a child of")
		}
	}
	return nil
}

// fill has id taken by a process that ends before the copy runs, for the sake of g.
func (f *family) fill(id kernel.ThreadID, g *twinGroup) {
	filler := &twinGroup{sid: g.sid, pgid: kernel.ProcessGroupID(id)}
	filler.leader = &twin{tid: id, group: filler, lead: true}
	filler.tasks = []*twin{filler.leader}
	// A parent of that session, if it does not lead it itself.
	if kernel.ThreadID(g.sid) != id {
		if p := f.twins[kernel.ThreadID(g.sid)]; p != nil && p.tid < id {
			filler.leader.parent = p
		} else if s := f.fillers[kernel.ThreadID(g.sid)]; s != nil {
			filler.leader.parent = s.leader
		}
	} else {
		if filler.leader.parent = f.twins[1]; f.split != nil {
			filler.leader.parent = f.split.init.leader
		}
	}
	f.fillers[id] = filler
}

// restarted returns the registers with which a copy of tw goes on: an interrupted
// call is made again, as in the original.
func (tw *twin) restarted(ac *arch.Context64) {
	if !tw.restart {
		return
	}
	if again, ok := linuxerr.SyscallRestartErrorFromReturn(ac.Return()); ok {
		if again == linuxerr.ERESTART_RESTARTBLOCK {
			ac.RestartSyscallWithRestartBlock()
		} else {
			ac.RestartSyscall()
		}
	}
}

// interrupted returns the registers with which a copy of tw goes on that is about to
// be interrupted.
func (tw *twin) interrupted(ac *arch.Context64) {
	if _, ok := linuxerr.SyscallRestartErrorFromReturn(ac.Return()); tw.restart && ok {
		errno := -int(unix.EINTR)
		ac.SetReturn(uintptr(errno))
	}
}

// signalled reports whether a signal that waits for a template's process interrupts the
// call of its first thread in the copy: a timer's, mostly, that has expired since. mask
// is what the thread blocks there.
func (tw *twin) signalled(a *Agent, mask linux.SignalSet) (is bool) {
	again, ok := linuxerr.SyscallRestartErrorFromReturn(tw.old.Arch().Return())
	if !ok || !tw.restart || !tw.lead || tw.group.stopped {
		return false
	}
	if nr, _ := a.lastCall(tw.old); nr == unix.SYS_WRITE { // It may be what says that the program is warm.
		return false
	}
	decided := false // By the first that is handled.
	linux.ForEachSignal(tw.old.PendingSignals()&^mask, func(sig linux.Signal) {
		act, err := tw.group.old.SetSigAction(sig, nil)
		if decided || err != nil || act.Handler == linux.SIG_DFL || act.Handler == linux.SIG_IGN {
			return
		}
		decided, is = true, again != linuxerr.ERESTARTNOINTR && (again != linuxerr.ERESTARTSYS || act.Flags&linux.SA_RESTART == 0)
	})
	return is
}

// mask returns the signal mask with which a copy of tw goes on. A call that has
// replaced it is over, and will be made again.
func (tw *twin) mask(a *Agent) linux.SignalSet {
	mask := tw.old.SignalMask()
	nr, called := a.lastCall(tw.old)
	if !called || !maskCalls[callName(nr)] {
		return mask
	}
	ret := tw.old.Arch().Return()
	_, again := linuxerr.SyscallRestartErrorFromReturn(ret)
	if saved, ok := a.notes.savedMask(tw.old); ok && (again || int64(ret) == -int64(unix.EINTR)) {
		return saved
	}
	return mask
}

// cpus is where a copy of old may run: where old may, as far as the copy may.
func (c *copying) cpus(old *kernel.Task) gvsched.CPUSet {
	all, mine := c.s.cpuMask(c.dst.id), old.CPUMask()
	and := gvsched.NewCPUSet(uint(c.s.cfg.CPUs))
	n := 0
	mine.ForEachCPU(func(cpu uint) {
		ok := false
		all.ForEachCPU(func(o uint) { ok = ok || o == cpu })
		if ok {
			and.Set(cpu)
			n++
		}
	})
	if n == 0 {
		return all
	}
	return and
}
