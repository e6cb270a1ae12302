package sentry

import (
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/kernel/shm"
	"gvisor.dev/gvisor/pkg/sentry/ktime"
	"gvisor.dev/gvisor/pkg/sentry/limits"
	"gvisor.dev/gvisor/pkg/sentry/mm"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// copying is the making of one copy of an agent, while the agent stands still.
type copying struct {
	s        *Kernel
	f        *family
	src, dst *Agent
	ctx      context.Context // of dst
	// fresh is what is asked for of a copy of a template; nil for a clone.
	fresh *control.SpawnRequest
	// ahead is memory that was made ahead, or nil.
	ahead *aheadMemory

	handlers map[*kernel.SignalHandlers]*kernel.SignalHandlers
	images   map[*mm.MemoryManager]*kernel.Task // the first task with the copy of each
	dirs     map[*kernel.FSContext]*kernel.FSContext
	tables   map[*kernel.FDTable]*kernel.FDTable
	made     []*kernel.Task        // not started
	doomed   []*kernel.Task        // to end before the copy runs
	begun    map[*kernel.Task]bool // of those made, which have run until they were stopped
	files    *fileCopier
	shm      map[uint64]*shm.Shm // of System V, by number
}

// doom has t end as soon as it is started.
func doom(t *kernel.Task) { t.SendSignal(kernel.SignalInfoPriv(linux.SIGKILL)) }

// blank returns the image of a task that is not to run.
func (c *copying) blank() (*kernel.TaskImage, error) {
	return c.s.pause.image.Fork(c.ctx, c.s.k, true)
}

// tasks makes every task of the copy, none of which runs yet, under the same
// numbers.
func (c *copying) tasks() error {
	var hole *kernel.ThreadGroup
	for id := kernel.ThreadID(1); id <= c.f.last; id++ {
		var t *kernel.Task
		var err error
		tw := c.f.twins[id]
		switch filler := c.f.fillers[id]; {
		case tw != nil:
			hole = nil
			t, err = c.task(tw)
		case filler != nil:
			hole = nil
			t, err = c.task(filler.leader)
		default: // Threads are less work than processes.
			if hole == nil {
				hole = c.group(kernel.NewSignalHandlers(), linux.SIGCHLD, nil)
			}
			t, err = c.idle(hole, "", nil)
		}
		if err != nil {
			return err
		}
		if got := c.dst.ns.pid().IDOfTask(t); got != id {
			return errdefs.Newf(errdefs.Internal, "task %d of the copy has got the number %d", id, got)
		}
	}
	return c.sessions()
}

// group makes a process without tasks.
func (c *copying) group(h *kernel.SignalHandlers, end linux.Signal, lim *limits.LimitSet) *kernel.ThreadGroup {
	if lim == nil {
		lim = limits.NewLimitSet()
	}
	return c.s.k.NewThreadGroup(c.dst.ns.pid(), h, end, lim)
}

// idle makes a task that ends when it is started.
func (c *copying) idle(tg *kernel.ThreadGroup, container string, parent *kernel.Task) (*kernel.Task, error) {
	img, err := c.blank()
	if err != nil {
		return nil, err
	}
	root := c.dst.ns.mnt.Root(c.ctx)
	defer root.DecRef(c.ctx)
	t, err := c.newTask(&kernel.TaskConfig{
		ThreadGroup: tg, TaskImage: img, Parent: parent, FSContext: kernel.NewFSContext(root, root, 0o022),
		FDTable: c.s.k.NewFDTable(), Credentials: c.s.creds, ContainerID: container, AllowedCPUMask: c.s.cpuMask(""),
	}, nil)
	if err != nil {
		return nil, err
	}
	c.doomed = append(c.doomed, t)
	return t, nil
}

// newTask completes cfg with what all tasks of the copy have. A process inherits the
// controlling terminal of from, if there is one.
func (c *copying) newTask(cfg *kernel.TaskConfig, from *kernel.Task) (*kernel.Task, error) {
	ns := c.dst.ns
	ns.mnt.IncRef()
	ns.uts.IncRef()
	ns.ipc.IncRef()
	ns.net.IncRef()
	cfg.Credentials.UserNamespace.IncRef()
	cgroups := c.s.k.RootCgroupNamespace()
	cgroups.IncRef()
	cfg.Kernel, cfg.NetworkNamespace, cfg.UTSNamespace, cfg.IPCNamespace, cfg.MountNamespace = c.s.k, ns.net, ns.uts, ns.ipc, ns.mnt
	cfg.CgroupNamespace, cfg.UserCounters = cgroups, c.s.k.GetUserCounters(cfg.Credentials.RealKUID)
	ctx := c.ctx
	if from != nil {
		ctx = asTask{ctx, from}
	}
	t, err := c.s.k.TaskSet().NewTask(ctx, cfg)
	return t, errdefs.Wrap(err, errdefs.Internal, "create task")
}

// task makes the copy of a task.
func (c *copying) task(tw *twin) (*kernel.Task, error) {
	g := tw.group
	if g.new == nil {
		if err := c.process(g); err != nil {
			return nil, err
		}
	}
	var parent *kernel.Task
	switch {
	case g.foster != nil:
		parent = g.foster.leader.new
	case g.leader.parent != nil:
		if parent = g.leader.parent.new; parent == nil { // The thread is younger, its process may not be.
			parent = g.leader.parent.group.leader.new
		}
		if parent == nil {
			return nil, c.f.refuse(tw.old, "is older than the process that it is a child of")
		}
	}
	if tw.lead && parent != nil {
		if err := c.leads(g, parent); err != nil {
			return nil, err
		}
	}
	var t *kernel.Task
	var err error
	if c.f.split != nil && g == c.f.split.init {
		t, err = c.keeper(g)
	} else if tw.old == nil || tw.zombie {
		container := c.dst.id
		if tw.old == nil {
			container = ""
		}
		t, err = c.idle(g.new, container, parent)
	} else {
		t, err = c.living(tw, parent)
	}
	tw.new = t
	return t, err
}

// process makes the copy of a process, without tasks.
func (c *copying) process(g *twinGroup) error {
	if g.old == nil {
		g.new = c.group(kernel.NewSignalHandlers(), linux.SIGCHLD, nil)
		return nil
	}
	h := c.handlers[g.handlers]
	if h == nil {
		h = g.handlers.Fork()
		c.handlers[g.handlers] = h
	}
	g.new = c.group(h, g.old.TerminationSignal(), g.old.Limits().GetCopy())
	return nil
}

// leads has the process of parent begin its session if g, which is about to be
// made, is of it.
func (c *copying) leads(g *twinGroup, parent *kernel.Task) error {
	for _, p := range c.f.all() {
		if p.new == parent.ThreadGroup() && kernel.ThreadID(p.sid) == p.leader.tid && p.sid == g.sid {
			if err := c.begin(p); err != nil {
				return err
			}
			return c.control(p)
		}
	}
	return nil
}

// begin has a process lead a session, if it does not.
func (c *copying) begin(g *twinGroup) error {
	pid := c.dst.ns.pid()
	if pid.IDOfSession(g.new.Session()) == g.sid {
		return nil
	}
	_, err := g.new.CreateSession(c.ctx)
	return errdefs.Wrap(err, errdefs.Internal, "begin a session")
}

// all is every process of the family, those that only lead included.
func (f *family) all() []*twinGroup {
	out := append([]*twinGroup(nil), f.groups...)
	for _, g := range f.fillers {
		out = append(out, g)
	}
	return out
}

// sessions puts every process into its session and its process group.
func (c *copying) sessions() error {
	pid := c.dst.ns.pid()
	all := c.f.all()
	for _, g := range all {
		if kernel.ThreadID(g.sid) == g.leader.tid {
			if err := c.begin(g); err != nil {
				return err
			}
			if err := c.control(g); err != nil {
				return err
			}
		}
	}
	for _, g := range all {
		if kernel.ThreadID(g.pgid) == g.leader.tid && pid.IDOfProcessGroup(g.new.ProcessGroup()) != g.pgid {
			if err := g.new.CreateProcessGroup(); err != nil {
				return errdefs.Wrap(err, errdefs.Internal, "begin a process group")
			}
		}
	}
	for _, g := range all {
		if pid.IDOfSession(g.new.Session()) != g.sid {
			return errdefs.Newf(errdefs.Internal, "process %d of the copy is of session %d, not %d", g.leader.tid, pid.IDOfSession(g.new.Session()), g.sid)
		}
		if pid.IDOfProcessGroup(g.new.ProcessGroup()) != g.pgid {
			if err := g.new.JoinProcessGroup(pid, g.pgid); err != nil {
				return errdefs.Wrap(err, errdefs.Internal, "join a process group")
			}
		}
	}
	c.foregrounds()
	return nil
}

// living makes the copy of a task that runs.
func (c *copying) living(tw *twin, parent *kernel.Task) (*kernel.Task, error) {
	old := tw.old
	var (
		img   *kernel.TaskImage
		creds *auth.Credentials
		fsc   *kernel.FSContext
		fds   *kernel.FDTable
		err   error
	)
	old.WithMuLocked(func(old *kernel.Task) {
		creds, fsc, fds = old.Credentials(), old.FSContext(), old.FDTable()
	})
	if img, err = c.image(old); err != nil {
		return nil, err
	}
	mask := tw.mask(c.src)
	if c.hears(tw) || tw.signalled(c.src, mask) {
		tw.interrupted(img.Arch)
	} else {
		tw.restarted(img.Arch)
	}
	dir, err := c.dir(fsc)
	if err != nil {
		img.MemoryManager.DecUsers(c.ctx)
		return nil, err
	}
	var from *kernel.Task
	if tw.lead && parent != nil {
		from = c.heir(tw.group)
	}
	t, err := c.newTask(&kernel.TaskConfig{
		ThreadGroup: tw.group.new, TaskImage: img, Parent: parent, SignalMask: mask, FSContext: dir, FDTable: c.table(fds),
		Credentials: creds, NoNewPrivs: old.GetNoNewPrivs(), Niceness: old.Niceness(), AllowedCPUMask: c.cpus(old),
		ContainerID: c.dst.id, Personality: old.Personality(),
	}, from)
	if err != nil {
		return nil, err
	}
	c.made = append(c.made, t)
	if m := old.MemoryManager(); c.images[m] == nil {
		c.images[m] = t
	}
	return t, c.dress(tw, t)
}

// image returns the registers of a task with the copy of its memory.
func (c *copying) image(old *kernel.Task) (*kernel.TaskImage, error) {
	first := c.images[old.MemoryManager()]
	if first == nil {
		if img := c.ahead.take(old); img != nil {
			return img, nil
		}
		return c.s.forkMemory(c.ctx, old)
	}
	img, err := first.TaskImage().Fork(c.ctx, c.s.k, true)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "share memory")
	}
	img.Name, img.Arch = old.Name(), old.Arch().Fork()
	return img, nil
}

// table returns the copy of a table of descriptors, with a reference. It is
// filled later.
func (c *copying) table(old *kernel.FDTable) *kernel.FDTable {
	t := c.tables[old]
	if t == nil {
		t = c.s.k.NewFDTable()
		c.tables[old] = t
		return t // The first task has the reference.
	}
	t.IncRef()
	return t
}

// dir returns the copy of what a task knows of its directories, with a reference.
func (c *copying) dir(old *kernel.FSContext) (*kernel.FSContext, error) {
	if d := c.dirs[old]; d != nil {
		d.IncRef()
		return d, nil
	}
	wd, root := old.WorkingDirectory(), old.RootDirectory()
	defer wd.DecRef(c.ctx)
	defer root.DecRef(c.ctx)
	newRoot, err := c.files.find(root)
	if err != nil {
		return nil, err
	}
	defer newRoot.DecRef(c.ctx)
	newWD, err := c.files.find(wd)
	if err != nil {
		return nil, err
	}
	defer newWD.DecRef(c.ctx)
	d := kernel.NewFSContext(newRoot, newWD, old.Umask())
	c.dirs[old] = d
	return d, nil
}

// dress gives t what its original has besides.
func (c *copying) dress(tw *twin, t *kernel.Task) error {
	old, notes := tw.old, &c.src.notes
	stack := old.SignalStack()
	stack.Flags &^= linux.SS_ONSTACK
	t.SetSignalStack(stack)
	t.SetRobustList(old.GetRobustList())
	again := old.SyscallRestartBlock() // Who asks takes it away.
	old.SetSyscallRestartBlock(again)
	t.SetSyscallRestartBlock(again)
	t.SetScheduler(old.GetScheduler())
	t.SetIOPrio(old.GetIOPrio())
	t.SetNumaPolicy(old.NumaPolicy())
	notes.mu.Lock()
	addr, clears := notes.clearTID[old]
	filters := notes.filters[old]
	notes.mu.Unlock()
	if clears {
		t.SetClearTID(addr)
		c.dst.notes.setClearTID(t, addr, true)
	}
	if old.SeccompMode() != linux.SECCOMP_MODE_NONE && len(filters) == 0 {
		return c.f.refuse(old, "has a seccomp filter that was not seen when it was made")
	}
	for _, p := range filters {
		if err := t.AppendSyscallFilter(p, false); err != nil {
			return errdefs.Wrap(err, errdefs.Internal, "set a seccomp filter")
		}
		c.dst.notes.addFilter(t, p)
	}
	if !tw.lead {
		return nil
	}
	t.SetOOMScoreAdj(old.OOMScoreAdj())
	t.SetCoredumpFilter(old.GetCoredumpFilter())
	tw.group.new.SetChildSubreaper(tw.group.old.IsChildSubreaper())
	return nil
}

// timers sets the timers of every process, as late as may be.
func (c *copying) timers() error {
	for _, g := range c.f.groups {
		if g.leader.zombie {
			continue
		}
		for _, id := range []int32{linux.ITIMER_REAL, linux.ITIMER_VIRTUAL, linux.ITIMER_PROF} {
			if v, err := g.leader.old.Getitimer(id); err == nil && v != (linux.ItimerVal{}) {
				if _, err := g.leader.new.Setitimer(id, v); err != nil {
					return errdefs.Wrap(err, errdefs.Internal, "set a timer")
				}
			}
		}
		if err := c.posixTimers(g); err != nil {
			return err
		}
	}
	return nil
}

// posixTimers makes the timers of timer_create(2) under the same numbers.
func (c *copying) posixTimers(g *twinGroup) error {
	notes := &c.src.notes
	notes.mu.Lock()
	want := make(map[linux.TimerID]timerNote, len(notes.timers[g.old]))
	for id, n := range notes.timers[g.old] {
		want[id] = n
	}
	notes.mu.Unlock()
	last := linux.TimerID(-1)
	for id := range want {
		if _, err := g.leader.old.IntervalTimerGettime(id); err != nil {
			delete(want, id)
			continue
		}
		last = max(last, id)
	}
	for id := linux.TimerID(0); id <= last; id++ {
		n, ok := want[id]
		if !ok {
			spare, err := g.leader.new.IntervalTimerCreate(c.s.k.MonotonicClock(), &linux.Sigevent{Notify: linux.SIGEV_NONE})
			if err != nil {
				return errdefs.Wrap(err, errdefs.Internal, "make a timer")
			}
			g.leader.new.IntervalTimerDelete(spare)
			continue
		}
		if err := c.posixTimer(g, id, n); err != nil {
			return err
		}
	}
	return nil
}

func (c *copying) posixTimer(g *twinGroup, id linux.TimerID, n timerNote) error {
	owner := c.f.of[n.owner]
	if owner == nil || owner.new == nil {
		owner = g.leader
	}
	var clock ktime.Clock = c.s.k.MonotonicClock()
	switch n.clock {
	case linux.CLOCK_MONOTONIC, linux.CLOCK_BOOTTIME:
	case linux.CLOCK_REALTIME:
		clock = c.s.k.RealtimeClock()
	case linux.CLOCK_PROCESS_CPUTIME_ID:
		clock = g.new.CPUClock()
	case linux.CLOCK_THREAD_CPUTIME_ID:
		clock = owner.new.CPUClock()
	default:
		return c.f.refuse(g.leader.old, "has a timer by the CPU time of another")
	}
	got, err := g.leader.new.IntervalTimerCreate(clock, n.event)
	if err != nil || got != id {
		return errdefs.Newf(errdefs.Internal, "timer %d became %d: %v", id, got, err)
	}
	spec, err := g.leader.old.IntervalTimerGettime(id)
	if err == nil {
		_, err = g.leader.new.IntervalTimerSettime(id, spec, false)
	}
	c.dst.notes.mu.Lock()
	defer c.dst.notes.mu.Unlock()
	if c.dst.notes.timers == nil {
		c.dst.notes.timers = make(map[*kernel.ThreadGroup]map[linux.TimerID]timerNote)
	}
	if c.dst.notes.timers[g.new] == nil {
		c.dst.notes.timers[g.new] = make(map[linux.TimerID]timerNote)
	}
	c.dst.notes.timers[g.new][id] = timerNote{clock: n.clock, owner: owner.new, event: n.event}
	return errdefs.Wrap(err, errdefs.Internal, "set a timer")
}

// lastWork is work for a task that becomes a zombie: it ends as its original did.
type lastWork struct{ status linux.WaitStatus }

// TaskWork implements kernel.TaskWorker.
func (e lastWork) TaskWork(t *kernel.Task) {
	t.PrepareGroupExit(e.status)
	doom(t)
}

// bury ends the tasks that are not to run, and waits for that. Their parents do not
// hear of it.
func (c *copying) bury() error {
	zombies := make(map[*kernel.Task]*twin)
	for _, tw := range c.f.twins {
		if tw.zombie {
			zombies[tw.new] = tw
		}
	}
	root := c.s.k.RootPIDNamespace()
	for _, t := range c.doomed {
		if tw := zombies[t]; tw != nil {
			if len(tw.group.tasks) > 1 {
				return c.f.refuse(tw.old, "has ended but for other threads than the first")
			}
			t.SetName(tw.old.Name())
			t.RegisterWork(lastWork{tw.old.ExitStatus()})
		} else {
			doom(t)
		}
		t.Start(root.IDOfTask(t))
	}
	late := c.s.cfg.Clock.Now().Add(pauseTimeout)
	for _, t := range c.doomed {
		for t.ExitState() < kernel.TaskExitZombie {
			if c.s.cfg.Clock.Now().After(late) {
				return errdefs.New(errdefs.Timeout, "a process that had to end does not", errdefs.Op("clone"))
			}
			nap(c.s.cfg.Clock, 20*time.Microsecond)
		}
	}
	c.unheard()
	c.doomed = nil
	return nil
}

// signals gives the copies what is pending for their originals: what these block,
// or have not got for being stopped; and what they are to get when a parent ends.
func (c *copying) signals() {
	for _, g := range c.f.groups {
		if g.leader.zombie {
			continue
		}
		var common linux.SignalSet = ^linux.SignalSet(0)
		for _, tw := range g.tasks {
			common &= tw.old.PendingSignals()
		}
		linux.ForEachSignal(common, func(sig linux.Signal) { c.carry(g.leader, sig, true) })
		for _, tw := range g.tasks {
			linux.ForEachSignal(tw.old.PendingSignals()&^common, func(sig linux.Signal) { c.carry(tw, sig, false) })
		}
		for _, tw := range g.tasks { // Not before: leaders that only take a number have ended since.
			tw.new.SetParentDeathSignal(tw.old.ParentDeathSignal())
		}
	}
}

// carry takes one signal from a task, as often as it is pending, and gives it to
// it again and to its copy.
func (c *copying) carry(tw *twin, sig linux.Signal, group bool) {
	send := func(t *kernel.Task, info linux.SignalInfo) {
		if group {
			t.SendGroupSignal(&info)
		} else {
			t.SendSignal(&info)
		}
	}
	set := linux.SignalSetOf(sig)
	if kernel.StopSignals&set != 0 || sig == linux.SIGCONT { // To send it has other effects.
		send(tw.new, linux.SignalInfo{Signo: int32(sig)})
		return
	}
	var got []linux.SignalInfo
	for {
		info, err := tw.old.Sigtimedwait(set, 0)
		if err != nil || info == nil {
			break
		}
		got = append(got, *info)
	}
	for _, info := range got {
		send(tw.old, info)
		send(tw.new, info)
	}
}

// abandon ends what was made of a copy that does not come to be.
func (c *copying) abandon() {
	root := c.s.k.RootPIDNamespace()
	for _, list := range [][]*kernel.Task{c.doomed, c.made} {
		for _, t := range list {
			doom(t)
			if !c.begun[t] {
				t.Start(root.IDOfTask(t))
			}
		}
	}
	c.made, c.doomed = nil, nil
}
