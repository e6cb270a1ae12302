package sentry

import (
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/mm"
	"gvisor.dev/gvisor/pkg/sentry/socket/unix"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
)

// An agent is split: some of its processes become an agent of their own. That is a
// copy in which only they are; then they end in the original, before anything of it
// runs again, as if they had called exit(0). The copy has a first process that is
// the kernel's own: it waits for the others and ends with the last of them.

// splitting is which processes leave, and what for.
type splitting struct {
	percent uint64
	leaves  map[*kernel.ThreadGroup]bool
	first   kernel.ThreadID // the one that was named first
	staying []*kernel.Task
	init    *twinGroup // the first process of the copy
}

// maySplit refuses what cannot be split, whatever its processes do.
func (a *Agent) maySplit(split *control.Split) error {
	if split == nil {
		return nil
	}
	if len(split.PIDs) == 0 || split.Share > 99 {
		return errdefs.New(errdefs.InvalidArgument, "a split names processes, and gives them 1 to 99 percent", errdefs.Op("split"), errdefs.Resource("%s", a.id))
	}
	return a.mustBe(abi.StateRunning)
}

// leaving finds the processes that leave an agent which stands still.
func (a *Agent) leaving(req *control.Split) (*splitting, error) {
	pid := a.ns.pid()
	sp := &splitting{percent: uint64(req.Share), leaves: make(map[*kernel.ThreadGroup]bool), first: kernel.ThreadID(req.PIDs[0])}
	for _, id := range req.PIDs {
		t := pid.TaskWithID(kernel.ThreadID(id))
		no := func(code errdefs.Code, why, fix string) error {
			return errdefs.Newf(code, why, id).With(errdefs.Op("split"), errdefs.Resource("%s", a.id), errdefs.Fix(fix, a.id))
		}
		const list = "`aiosctl inspect %s` lists its processes"
		switch {
		case t == nil || t.ExitState() != kernel.TaskExitNone:
			return nil, no(errdefs.NotFound, "the agent has no process %d", list)
		case t.ThreadGroup().Leader() != t:
			return nil, no(errdefs.InvalidArgument, "%d is a thread, not a process", list)
		case id == 1:
			return nil, no(errdefs.InvalidArgument, "process %d is the agent's first, with which it ends", "leave that where it is, or copy the whole agent: aiosctl clone %s")
		}
		sp.leaves[t.ThreadGroup()] = true
	}
	for _, tg := range pid.ThreadGroups() {
		if l := tg.Leader(); !req.Alone && l != nil && !tg.IsInitIn(pid) && sp.below(l) {
			sp.leaves[tg] = true
		}
	}
	sp.init = &twinGroup{sid: 1, pgid: 1}
	sp.init.leader = &twin{tid: 1, group: sp.init, lead: true}
	sp.init.tasks = []*twin{sp.init.leader}
	return sp, nil
}

// below reports whether a process was started by one that leaves.
func (sp *splitting) below(t *kernel.Task) bool {
	for p := t.Parent(); p != nil; p = p.Parent() {
		if sp.leaves[p.ThreadGroup()] {
			return true
		}
	}
	return false
}

// stays reports whether a process is not to be copied.
func (sp *splitting) stays(tg *kernel.ThreadGroup) bool { return sp != nil && !sp.leaves[tg] }

// share is how many percent of a budget leave; 0: a part that is equal.
func (sp *splitting) share() uint64 {
	if sp == nil {
		return 0
	}
	return sp.percent
}

// beside is how many tasks the original keeps room for: as many as it has.
func (sp *splitting) beside(tasks uint64, src *Agent) uint64 {
	if sp == nil {
		return tasks
	}
	return uint64(src.ns.pid().NumTasks())
}

// lender returns a task that stays and has the memory of a process that leaves, or nil.
func (sp *splitting) lender(spaces map[*mm.MemoryManager]*twinGroup) (lender *kernel.Task) {
	if sp == nil {
		return nil
	}
	for _, t := range sp.staying {
		if t.ExitState() != kernel.TaskExitNone {
			continue
		}
		t.WithMuLocked(func(t *kernel.Task) {
			if m := t.MemoryManager(); m != nil && spaces[m] != nil {
				lender = t
			}
		})
	}
	return lender
}

// stayed reports whether the other end of a connection of AF_UNIX is a process's that
// stays: then it is somebody else's.
func (f *fileCopier) stayed(old *vfs.FileDescription, s *unix.Socket) (found bool) {
	if f.c.f.split == nil {
		return false
	}
	for _, t := range f.c.f.split.staying {
		if found || t.ExitState() != kernel.TaskExitNone {
			continue
		}
		t.FDTable().ForEach(f.ctx, func(_ int32, other *vfs.FileDescription, _ kernel.FDFlags) bool {
			o, ok := other.Impl().(*unix.Socket)
			found = ok && other != old && o.Endpoint().State() == linux.SS_CONNECTED && joined(s, o)
			return !found
		})
	}
	return found
}

// keeperCode waits for all children and for orphans, and ends with the last: with the
// status of the process whose number is in r12, as a shell would tell it.
var keeperCode = []byte{
	0xba, 0x00, 0x00, 0x00, 0x40, // again: mov edx, __WALL
	0x45, 0x31, 0xd2, // xor r10d, r10d
	0x48, 0x8d, 0x74, 0x24, 0x80, // lea rsi, [rsp-128]
	0x48, 0xc7, 0xc7, 0xff, 0xff, 0xff, 0xff, // mov rdi, -1
	0xb8, 0x3d, 0x00, 0x00, 0x00, // mov eax, SYS_wait4
	0x0f, 0x05, // syscall
	0x48, 0x83, 0xf8, 0xfc, // cmp rax, -EINTR
	0x74, 0xdf, // je again
	0x48, 0x85, 0xc0, // test rax, rax
	0x78, 0x0b, // js over
	0x4c, 0x39, 0xe0, // cmp rax, r12
	0x75, 0xd5, // jne again
	0x8b, 0x5c, 0x24, 0x80, // mov ebx, [rsp-128]
	0xeb, 0xcf, // jmp again
	0x89, 0xdf, // over: mov edi, ebx
	0xc1, 0xef, 0x08, // shr edi, 8
	0x81, 0xe7, 0xff, 0x00, 0x00, 0x00, // and edi, 255
	0x89, 0xd8, // mov eax, ebx
	0x83, 0xe0, 0x7f, // and eax, 127
	0x74, 0x06, // je exit
	0x8d, 0xb8, 0x80, 0x00, 0x00, 0x00, // lea edi, [rax+128]
	0xb8, 0xe7, 0x00, 0x00, 0x00, // exit: mov eax, SYS_exit_group
	0x0f, 0x05, // syscall
}

// keeperName is what ps(1) shows: no longer than the pause process's.
const keeperName = "init"

// keeper makes the first process of the copy.
func (c *copying) keeper(g *twinGroup) (*kernel.Task, error) {
	img, err := c.s.pause.image.Fork(c.ctx, c.s.k, false)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "make a first process")
	}
	regs := &img.Arch.Regs.PtraceRegs
	regs.Rip, regs.R12, regs.Rbx = uint64(pauseBase+pauseHeader+pauseProgram+len(pauseCode)), uint64(c.f.split.first), 0
	regs.Rax, regs.Orig_rax = 0, ^uint64(0)
	img.Name = keeperName
	m := img.MemoryManager
	if _, err := m.CopyOut(c.ctx, m.ArgvStart(), []byte(keeperName+"\x00"), usermem.IOOpts{IgnorePermissions: true}); err == nil {
		m.SetArgvEnd(m.ArgvStart() + hostarch.Addr(len(keeperName)+1))
	}
	root := c.dst.ns.mnt.Root(c.ctx)
	defer root.DecRef(c.ctx)
	t, err := c.newTask(&kernel.TaskConfig{
		ThreadGroup: g.new, TaskImage: img, FSContext: kernel.NewFSContext(root, root, 0o022), FDTable: c.s.k.NewFDTable(),
		Credentials: c.f.head.old.Credentials(), ContainerID: c.dst.id, AllowedCPUMask: c.s.cpuMask(c.dst.id),
	}, nil)
	if err == nil {
		c.made = append(c.made, t)
	}
	return t, err
}

// depart ends what has left in the original, which stands still: nothing of it runs
// again there, and who waits for it finds that it has exited.
func (f *family) depart() {
	for _, g := range f.groups {
		if !g.leader.zombie {
			g.leader.old.PrepareGroupExit(linux.WaitStatusExit(0))
			doom(g.leader.old)
		}
	}
}

// awaitDeparture waits until what has left is gone from the original, which goes on.
func (f *family) awaitDeparture() {
	clock := f.a.s.cfg.Clock
	late := clock.Now().Add(pauseTimeout)
	for _, g := range f.groups {
		for pause := 20 * time.Microsecond; g.leader.old.ExitState() == kernel.TaskExitNone && clock.Now().Before(late); pause = min(2*pause, time.Millisecond) {
			nap(clock, pause)
		}
	}
}

// tellSplit tells the bus that some of the agent's processes have become another.
func (a *Agent) tellSplit(c *copying, req control.CloneRequest, tasks int, pause time.Duration) {
	p := &eventv1.AgentSplit{Copy: c.dst.id, Name: c.dst.name, Tasks: uint32(tasks), PauseNanos: int64(pause), Share: req.Split.Share}
	for _, g := range c.f.groups {
		p.Pids = append(p.Pids, int32(g.leader.tid))
	}
	if req.Only != nil {
		p.Narrowed = true
		for _, k := range req.Only.Keep {
			p.Kept = append(p.Kept, event.Text(k))
		}
	}
	a.s.emitFor(a, event.AgentSplit, p, req.Actor.Correlation)
}
