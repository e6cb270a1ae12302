package sentry

import (
	"os"
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
)

// An agent is copied while it runs. It is stopped for the time that this takes:
//
//	survey      every task stands at a point from which it could go on  clonetasks.go
//	authority   the copy's capabilities, out of the original's          cloneauth.go
//	files       the upper layer, mounts of grants                       clonetree.go
//	terminals   before who has one                                      cloneterminals.go
//	tasks       processes and threads, memory copy-on-write             clonemake.go
//	descriptors what is open                                            clonefiles.go, cloneremoved.go, clonesockets.go, cloneudp.go, clonelocks.go, cloneowner.go
//	System V    shared memory, semaphores, messages                     clonesysv.go
//	memory      what a fork would share                                 clonemem.go
//
// What cannot be carried over is found before the copy runs: then there is no copy,
// and the original goes on.

const (
	// cloneTimeout bounds how long an agent is tried that is never at a point at
	// which it could be copied.
	cloneTimeout = 2 * time.Second
	// leastCopyDisk is the least that a copy can write beyond what is there.
	leastCopyDisk = 1 << 20
	// maxCopies is how many copies one request makes at most.
	maxCopies = 64
)

// Clone copies an agent. It owns files: the logs of the copies.
func (s *Kernel) Clone(req control.CloneRequest, files []*os.File) (control.CloneReply, error) {
	var reply control.CloneReply
	defer func() {
		for _, f := range files {
			closeFile(f)
		}
	}()
	if len(files) != len(req.Copies) || len(files) == 0 || len(files) > maxCopies {
		return reply, errdefs.Newf(errdefs.Protocol, "the request brought %d logs for %d copies", len(files), len(req.Copies))
	}
	a, err := s.agent(req.ID)
	if err != nil {
		return reply, err
	}
	a.lifeMu.Lock()
	defer a.lifeMu.Unlock()
	if err := a.mustBe(abi.StateRunning, abi.StatePaused); err != nil {
		return reply, err
	}
	if a.debugger.Load() != nil {
		return reply, errdefs.New(errdefs.WrongState, "the agent is being debugged", errdefs.Op("clone"), errdefs.Resource("%s", a.id),
			errdefs.Fix("end the debugger first"))
	}
	paused := a.mustBe(abi.StatePaused) == nil
	if paused {
		a.awaitStops()
	}
	if err := a.maySplit(req.Split); err != nil {
		return reply, err
	}
	late := s.cfg.Clock.Now().Add(cloneTimeout)
	a.dog.hold()
	defer a.dog.release()
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, 20*time.Millisecond) {
		var busy string
		reply, busy, err = a.cloneOnce(req, files, paused)
		if busy == "" {
			break
		}
		if paused || s.cfg.Clock.Now().After(late) {
			err = errdefs.New(errdefs.WrongState, "the agent is at no point at which it could be copied: "+busy, errdefs.Op("clone"),
				errdefs.Resource("%s", a.id), errdefs.Fix("try again"+ifPaused(paused)))
			break
		}
		nap(s.cfg.Clock, pause)
	}
	s.trail.flushSoon()
	return reply, err
}

func ifPaused(paused bool) string {
	if paused {
		return " after `aiosctl resume`"
	}
	return ""
}

// cloneOnce makes all copies, or none. If there is a reason why the agent is busy,
// it may succeed when the agent has run on.
//
// +checklocks:a.lifeMu
func (a *Agent) cloneOnce(req control.CloneRequest, files []*os.File, paused bool) (reply control.CloneReply, busy string, err error) {
	s := a.s
	if a.dying.Load() {
		return reply, "", errdefs.New(errdefs.AgentNotRunning, "the agent is being killed", errdefs.Resource("%s", a.id))
	}
	shells := make([]*namespaces, len(files))
	for i := range shells {
		shells[i] = s.newNamespaces()
	}
	began := s.cfg.Clock.Now()
	if !paused {
		if err := a.freeze(); err != nil {
			a.thaw(nil)
			for _, ns := range shells {
				s.releaseShell(ns)
			}
			return reply, "", err
		}
	}
	made, tasks, busy, err := a.copies(req, files, shells)
	left := busy == "" && err == nil && req.Split != nil
	if left {
		made[0].f.depart()
	}
	if !paused {
		a.thaw(nil)
		reply.Pause = s.cfg.Clock.Since(began)
	}
	if left {
		made[0].f.awaitDeparture()
	}
	for _, ns := range shells {
		if ns != nil {
			s.releaseShell(ns)
		}
	}
	if busy != "" || err != nil {
		return reply, busy, err
	}
	after := abi.StateRunning
	switch {
	case req.Template:
		after = abi.StateTemplate
	case req.Pause:
		after = abi.StatePaused
	}
	for _, c := range made {
		c.run(after)
		reply.Copies = append(reply.Copies, control.CloneCopied{ID: c.dst.id})
		if req.Split != nil {
			a.tellSplit(c, req, tasks, reply.Pause)
			continue
		}
		if req.Only != nil {
			a.tellSpecialize(c.dst, req, tasks, reply.Pause)
			continue
		}
		s.emitFor(a, event.AgentClone, &eventv1.AgentClone{
			Copy: c.dst.id, Name: c.dst.name, Tasks: uint32(tasks), PauseNanos: int64(reply.Pause), Paused: req.Pause,
		}, req.Actor.Correlation)
	}
	reply.Ready = s.cfg.Clock.Since(began)
	return reply, "", nil
}

// copies makes all copies of an agent that stands still, none of which runs yet, or
// none. Of shells it sets those to nil that were taken over.
//
// +checklocks:a.lifeMu
func (a *Agent) copies(req control.CloneRequest, files []*os.File, shells []*namespaces) (made []*copying, tasks int, busy string, err error) {
	f, busy, err := a.survey(req.Split)
	if busy != "" || err != nil {
		return nil, 0, busy, err
	}
	defer a.readTold()
	if f.only, err = newNarrowing(req.Only); err != nil {
		return nil, 0, "", err
	}
	for i, ns := range shells {
		c, err := a.copyTo(f, ns, req, req.Copies[i], files[i], uint64(len(shells)-i))
		if c != nil {
			shells[i] = nil
		}
		if err != nil {
			for _, c := range made {
				c.undo()
			}
			return nil, 0, f.busy, err
		}
		if req.Template {
			c.dst.spec.Template = &control.WarmUp{Ahead: req.Ahead}
		}
		made = append(made, c)
		f.forget()
	}
	return made, len(f.twins), "", nil
}

// forget has the family be ready for another copy.
func (f *family) forget() {
	for _, tw := range f.twins {
		tw.new, tw.group.new = nil, nil
	}
	for _, g := range f.fillers {
		g.new, g.leader.new = nil, nil
	}
}

// copyTo makes one copy, none of whose tasks runs yet. If it fails and returns a
// copying, that has taken ns over and was undone.
//
// +checklocks:a.lifeMu
func (a *Agent) copyTo(f *family, ns *namespaces, req control.CloneRequest, as control.CloneCopy, log *os.File, rest uint64) (*copying, error) {
	// What may be written is divided, too; the original keeps what it has room for.
	disk := a.ns.root.disk
	if disk > 0 {
		disk = max(portion(disk, 0, rest, f.split.share()), a.disk()+leastCopyDisk)
	}
	return a.copyAs(f, ns, control.SpawnRequest{ID: as.ID, Name: as.Name, Hostname: as.Hostname, DiskBytes: disk, Actor: req.Actor}, log, rest)
}

// copyAs makes a copy in ns that is called what req says. If that is from a
// template, it gets what req grants, else its part of what its original has. What
// copyAs returns is what copyTo does.
//
// +checklocks:a.lifeMu
func (a *Agent) copyAs(f *family, ns *namespaces, req control.SpawnRequest, log *os.File, rest uint64) (*copying, error) {
	s := a.s
	if err := s.newRoot(ns, a.ns.root.Root, req.DiskBytes, a.ns); err != nil {
		return nil, err
	}
	own, err := dupFile(log) // The request may be tried again.
	if err != nil {
		return nil, err
	}
	var ahead *aheadMemory
	memID := uint32(0)
	if req.From != "" {
		if ahead = a.takeAhead(); ahead != nil {
			memID = ahead.memID
		}
		defer ahead.release()
	}
	if memID == 0 {
		memID = s.newMemID()
	}
	dst, err := s.addAgent(req, ns, own, memID, nil)
	if err != nil {
		own.Close()
		return nil, err
	}
	c := &copying{
		s: s, f: f, src: a, dst: dst, ctx: dst.ctx, ahead: ahead,
		handlers: make(map[*kernel.SignalHandlers]*kernel.SignalHandlers), images: make(map[*mm.MemoryManager]*kernel.Task),
		dirs: make(map[*kernel.FSContext]*kernel.FSContext), tables: make(map[*kernel.FDTable]*kernel.FDTable),
		begun: make(map[*kernel.Task]bool),
	}
	if req.From != "" {
		c.fresh = &req
	}
	if err := c.make(req, rest); err != nil {
		c.undo()
		return c, err
	}
	dst.readTold()
	return c, nil
}

func dupFile(f *os.File) (*os.File, error) {
	fd, err := unixDup(int(f.Fd()))
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "open the log")
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// make makes everything of the copy.
func (c *copying) make(req control.SpawnRequest, rest uint64) error {
	s, dst := c.s, c.dst
	dst.lifeMu.Lock()
	defer dst.lifeMu.Unlock()
	dst.ns.uts.SetHostName(c.ctx, req.Hostname)
	if c.fresh == nil {
		disk := dst.spec.DiskBytes
		dst.spec = c.src.spec
		dst.spec.ID, dst.spec.Name, dst.spec.DiskBytes = dst.id, dst.name, disk
		dst.spec.Headed = dst.spec.Headed || c.f.split != nil
	}
	dst.spec.Seccomp = c.src.spec.Seccomp
	dst.zone = c.src.zone
	if err := dst.inheritClock(c.src); err != nil {
		return err
	}
	if c.fresh == nil {
		c.mergeable()
	} else {
		dst.ns.base = nil
	}
	dst.setSeccomp(c.src.seccomp)
	dst.past = c.src.past.next(c.src.id)
	by := s.actor(req.Actor)
	by.Privileged = true // The daemon has decided.
	if c.fresh != nil {
		if err := c.endow(by); err != nil {
			return err
		}
	} else if err := c.divide(rest, by); err != nil {
		return err
	}
	c.files = newFileCopier(c)
	defer c.files.release()
	defer c.keepSegments()
	if err := c.terminals(); err != nil {
		return err
	}
	if err := c.consoles(); err != nil {
		return err
	}
	for _, step := range []func() error{c.tasks, c.files.tables, c.sysv, c.memory, c.devices, c.bury, c.stops, c.timers} {
		if err := step(); err != nil {
			return err
		}
	}
	c.cutNarrowed()
	c.signals()
	c.tellCopies()
	c.orphans()
	return nil
}

// divide gives the copy its part of what its original has.
func (c *copying) divide(rest uint64, by capability.Actor) error {
	dst, from := c.dst, &c.src.faults
	dst.faults.policy, dst.faults.violations, dst.faults.strict = from.policy, from.violations, from.strict
	if !from.policy.Exceptionless() {
		dst.setTrapper(dst.judgeFault)
	}
	if dst.dog.a, dst.dog.rule = dst, c.src.dog.rule; c.f.split == nil { // Who fed it stays.
		dst.dog.owner = c.src.dog.owner
	}
	dst.oom.policy.Store(&oomPolicy{rule: c.src.oom.policy.Load().rule})
	grants, err := c.inherit(rest, by)
	if err != nil {
		return err
	}
	if err := c.open(grants); err != nil {
		return err
	}
	c.s.trail.putGathered(dst)
	dst.endowed.Store(true)
	dst.reweigh()
	return dst.cpuRefusal()
}

// consoles gives every process that was started from outside standard files of its
// own: their log is the copy's.
func (c *copying) consoles() error {
	c.src.mu.Lock()
	procs := make(map[int32]*process, len(c.src.procs))
	for id, p := range c.src.procs {
		procs[id] = p
	}
	next := c.src.nextExec
	c.src.mu.Unlock()
	c.dst.mu.Lock()
	c.dst.nextExec = next
	c.dst.mu.Unlock()
	for id, p := range procs {
		if id != 0 && c.f.split.stays(p.tg) {
			continue
		}
		con, err := c.console(p.console, id)
		if err != nil {
			return err
		}
		c.dst.mu.Lock()
		c.dst.procs[id] = &process{id: id, console: con, tty: p.tty}
		c.dst.mu.Unlock()
	}
	for id, p := range procs {
		if first := procs[0]; id != 0 && first != nil && c.f.split.stays(p.tg) {
			c.passOn(p.console, first.console)
		}
	}
	return nil
}

// orphans notes what is known of processes whose parents may end.
func (c *copying) orphans() {
	from, to := &c.src.orph, &c.dst.orph
	from.mu.Lock()
	var kids []*kernel.ThreadGroup
	for tg := range from.kids {
		kids = append(kids, tg)
	}
	from.mu.Unlock()
	byOld := make(map[*kernel.ThreadGroup]*twinGroup)
	for _, g := range c.f.groups {
		byOld[g.old] = g
	}
	to.mu.Lock()
	defer to.mu.Unlock()
	to.kids = make(map[*kernel.ThreadGroup]time.Time)
	for _, tg := range kids {
		if g := byOld[tg]; g != nil {
			to.kids[g.new] = time.Time{}
			if g.leader.zombie {
				c.dst.noteEndLocked(g.new)
			}
		}
	}
	c.dst.mu.Lock()
	defer c.dst.mu.Unlock()
	for id, p := range c.dst.procs {
		c.src.mu.Lock()
		old := c.src.procs[id]
		c.src.mu.Unlock()
		if id == 0 && c.f.split != nil {
			p.tg = c.f.split.init.new
			continue
		}
		if old == nil || byOld[old.tg] == nil {
			continue
		}
		p.tg = byOld[old.tg].new
	}
}

// run lets the copy go, or keeps it stopped: after is the state that it is in then.
func (c *copying) run(after abi.State) {
	a, pause := c.dst, after != abi.StateRunning
	a.lifeMu.Lock()
	defer a.lifeMu.Unlock()
	root := c.s.k.RootPIDNamespace()
	if pause {
		a.dog.hold()
		for _, t := range c.made {
			t.BeginExternalStop()
			a.stopped = append(a.stopped, t)
		}
	}
	a.mu.Lock()
	a.state = after
	procs := make([]*process, 0, len(a.procs))
	for id, p := range a.procs {
		if p.tg == nil { // It has ended.
			delete(a.procs, id)
			p.console.release(a.ctx)
			continue
		}
		procs = append(procs, p)
	}
	a.mu.Unlock()
	if c.fresh != nil {
		c.learn()
	}
	for _, t := range c.made {
		if !c.begun[t] {
			t.Start(root.IDOfTask(t))
		}
	}
	if a.killed.Load() != nil { // The domain was stopped meanwhile, and found no process.
		for _, p := range procs {
			c.s.k.SendExternalSignalThreadGroup(p.tg, kernel.SignalInfoPriv(linux.SIGKILL))
		}
	}
	c.s.watch.add(a)
	a.dog.start()
	for _, p := range procs {
		if p.id == 0 {
			go a.waitFirst(p)
		} else {
			go a.waitFurther(p)
		}
	}
	if after == abi.StateTemplate {
		a.keepAhead()
	}
}

// undo takes back what was made of a copy.
func (c *copying) undo() {
	a := c.dst
	c.abandon()
	a.awaitEmpty()
	a.lifeMu.Lock()
	a.mu.Lock()
	for id, p := range a.procs {
		p.console.release(a.ctx)
		delete(a.procs, id)
	}
	a.mu.Unlock()
	a.release()
	a.lifeMu.Unlock()
	c.s.mu.Lock()
	delete(c.s.agents, a.id)
	c.s.mu.Unlock()
}
