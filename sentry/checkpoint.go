package sentry

import (
	"cmp"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/fsimpl/erofs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/gofer"
	"gvisor.dev/gvisor/pkg/sentry/state/stateio"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/abi"
	"aios.dev/aios/account"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/sched"
)

// A checkpoint is the whole of the kernel: gVisor's object graph with what of ours is
// in it (statetypes.go), the pages of its memory file, and what this package knows
// of the agents besides (savedDomain). While it is made nothing may change: requests
// of the daemon wait, tasks and network stacks stand still, and so do the goroutines
// of ours that move data between them and the outside.
//
// What reaches out of the domain cannot be part of one and is looked for first: the
// refusal names it. See refusals.

// domainRecord is what of a domain is no part of gVisor's graph.
type domainRecord struct {
	Domain     string           `json:"domain"`
	Time       time.Time        `json:"time"`
	CPUs       int              `json:"cpus"`
	Capability capability.Saved `json:"capabilities"`
	LastCgID   uint32           `json:"last_cg_id"`
	ViewIno    uint64           `json:"view_ino"`
	ViewMinor  uint32           `json:"view_minor"`
	Images     []capability.ID  `json:"images,omitempty"` // with an original elsewhere
	ClockPage  uint64           `json:"clock_page"`       // where in memory it is
	// Mounts are savedDomain.outside, as they came to be known.
	Mounts []control.MountRequest `json:"mounts"`
	Agents []agentRecord          `json:"agents"`
}

// agentRecord is the same of an agent.
type agentRecord struct {
	Spec     control.SpawnRequest `json:"spec"`
	Root     control.Root         `json:"root"`
	RootDisk uint64               `json:"root_disk,omitempty"`
	RootTmp  bool                 `json:"root_tmp,omitempty"`
	MemID    uint32               `json:"mem_id"`
	Zone     string               `json:"zone,omitempty"`
	Clock    *control.Clock       `json:"clock,omitempty"`
	Devices  deviceNumbers        `json:"devices,omitempty"`
	State    abi.State            `json:"state"`
	Age      time.Duration        `json:"age"`
	NextExec int32                `json:"next_exec"`
	Ceilings map[string]uint64    `json:"ceilings,omitempty"`
	Hint     string               `json:"hint,omitempty"`
	Watchdog time.Duration        `json:"watchdog,omitempty"`
	Started  uint64               `json:"started"`
	Copies   uint64               `json:"copies,omitempty"`
	CopyOf   string               `json:"copy_of,omitempty"`
	Template string               `json:"template,omitempty"`
	Job      job                  `json:"job"`
	LastTask int32                `json:"last_task"`
	Used     []account.Saved      `json:"used"`
	CPU      sched.Usage          `json:"cpu"`
}

// Checkpoint saves the domain to files; see control.CheckpointRequest. It owns them.
// With req.Stop the process is to end afterwards: the tasks stay stopped when it has
// succeeded.
func (s *Kernel) Checkpoint(req control.CheckpointRequest, files []*os.File) (control.CheckpointReply, error) {
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if n := len(files); n != 3 && n != 4 {
		return control.CheckpointReply{}, errdefs.Newf(errdefs.Protocol, "the request brought %d files, not 3 or 4", n)
	}
	defer gc.hold()()
	part, err := newCapture(files)
	if err != nil {
		return control.CheckpointReply{}, err
	}
	s.still.Lock()
	reply, undo, err := s.checkpoint(part)
	if err == nil && !req.Stop {
		undo()
		reply.Pause = s.cfg.Clock.Since(part.began)
	}
	s.still.Unlock()
	if err != nil {
		return reply, err
	}
	if err = part.finish(&reply); err != nil && req.Stop {
		undo()
	}
	return reply, err
}

// checkpoint is Checkpoint when nobody else changes anything. Everything stands still
// when it returns without an error.
func (s *Kernel) checkpoint(part *capture) (reply control.CheckpointReply, undo func(), err error) {
	part.began = s.cfg.Clock.Now()
	running, undo, err := s.standStill()
	if err != nil {
		return reply, nil, err
	}
	if err := s.bringIn(running); err != nil {
		undo()
		return reply, nil, err
	}
	domain, described, err := s.savedDomain(running)
	if err == nil {
		reply = *described
		err = s.save(domain, part)
	}
	if err != nil {
		undo()
	}
	reply.Pause = s.cfg.Clock.Since(part.began)
	return reply, undo, err
}

// mountKind is how a file system came to be known.
type mountKind struct {
	key      string
	kind     string
	readOnly bool
	image    bool
}

// usedMounts are the file systems from outside that live, whether or not the daemon
// still knows them.
func (s *Kernel) usedMounts() (out []control.MountRequest, live []*vfs.Filesystem) {
	ctx := s.k.SupervisorContext()
	for _, fs := range s.k.VFS().GetFilesystems() {
		switch fs.FilesystemType().Name() {
		case erofs.Name, gofer.Name:
			s.mu.Lock()
			m, ok := s.mountedAs[fs]
			s.mu.Unlock()
			if ok {
				out = append(out, control.MountRequest{Key: m.key, Kind: m.kind, ReadOnly: m.readOnly, Image: m.image})
				live = append(live, fs)
			}
		}
		fs.DecRef(ctx)
	}
	return out, live
}

// standStill has nothing change any more, and returns the agents that have not
// ended. What it returns besides lets all go on.
//
// +checklocksignore
func (s *Kernel) standStill() (agents []*Agent, _ func(), err error) {
	var undo []func()
	goOn := func() {
		for _, f := range slices.Backward(undo) {
			f()
		}
	}
	defer func() {
		if err != nil {
			goOn()
		}
	}()
	s.shells.hold()
	s.holdAheads()
	undo = append(undo, s.shells.release, s.freeAheads)
	all := s.liveAgents()
	slices.SortFunc(all, func(a, b *Agent) int { return cmp.Compare(a.id, b.id) })
	for _, a := range all {
		a.lifeMu.Lock()
		undo = append(undo, func() { a.lifeMu.Unlock() }) // +checklocksignore: it is held until then.
		a.mu.Lock()
		ended := a.state.Final()
		a.mu.Unlock()
		if !ended {
			agents = append(agents, a)
		}
	}
	if err := s.refuseCheckpoint(agents); err != nil {
		return nil, nil, err
	}
	for _, a := range agents {
		if a.mustBe(abi.StatePaused, abi.StateTemplate) == nil {
			continue
		}
		a.dog.hold()
		undo = append(undo, func() {
			a.thaw(nil) // +checklocksignore: it is in the list.
			a.dog.release()
		})
		if err := a.freeze(); err != nil { // +checklocksignore: it is in the list.
			return nil, nil, errdefs.Wrap(err, errdefs.CheckpointRefused, "checkpoint")
		}
	}
	for _, a := range agents {
		for _, p := range a.programs() {
			free, err := p.console.hold(s.cfg.Clock.Now().Add(pauseTimeout))
			undo = append(undo, free)
			if err != nil {
				return nil, nil, err
			}
		}
	}
	s.k.Pause()
	undo = append(undo, s.k.Unpause)
	s.k.ReceiveTaskStates()
	// A task may have opened something since it was looked at.
	if err := s.refuseCheckpoint(agents); err != nil {
		return nil, nil, err
	}
	s.stacks.Hold()
	undo = append(undo, s.stacks.Free)
	for _, a := range agents {
		a.network().SetRemoveConf(false)
		a.network().Pause()
		undo = append(undo, a.network().Resume)
	}
	return agents, goOn, nil
}

// programs returns the processes that were started from outside and have not ended.
func (a *Agent) programs() []*process {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []*process
	for _, p := range a.procs {
		out = append(out, p)
	}
	slices.SortFunc(out, func(x, y *process) int { return cmp.Compare(x.id, y.id) })
	return out
}

// savedDomain describes the domain, while it stands still.
func (s *Kernel) savedDomain(agents []*Agent) (*savedDomain, *control.CheckpointReply, error) {
	now := s.cfg.Clock.Now()
	rec := domainRecord{
		Domain: s.cfg.Domain, Time: now, CPUs: s.cfg.CPUs, Capability: s.space.Save(now),
		ViewIno: s.views.ino.Load(), ViewMinor: s.views.minor, ClockPage: s.clocks.offset,
	}
	d := &savedDomain{
		stacks: s.stacks, mounts: make(map[string]*vfs.Mount), pause: s.pause.task,
		cgroup: s.views.cgroup, cgroupRoot: s.views.cgroupRoot, sysfs: s.sysfs, sysRoot: s.sysRoot,
		empty: s.emptyFS, emptyRoot: s.emptyRoot, fabric: s.fabric.Save(),
	}
	rec.Mounts, d.outside = s.usedMounts()
	s.imagesMu.Lock()
	for id := range s.images {
		rec.Images = append(rec.Images, id)
	}
	s.imagesMu.Unlock()
	s.mu.Lock()
	rec.LastCgID = s.byCgID
	for key, mnt := range s.mounts {
		d.mounts[key] = mnt
	}
	s.mu.Unlock()
	reply := &control.CheckpointReply{Mounts: rec.Mounts, Regions: d.fabric.Persistent(), Platform: s.cfg.Driver.Name(), Features: s.features()}
	for _, a := range agents {
		a.measure()
		rec.Agents = append(rec.Agents, a.record())
		d.agents = append(d.agents, a.saved())
		reply.Agents = append(reply.Agents, a.id)
	}
	var err error
	d.record, err = json.Marshal(rec)
	return d, reply, errdefs.Wrap(err, errdefs.Internal, "describe the domain")
}

// record describes the agent.
func (a *Agent) record() agentRecord {
	r := agentRecord{
		Spec: a.spec, Root: a.ns.root.Root, RootDisk: a.ns.root.disk, RootTmp: a.ns.root.tmp, MemID: a.memID, Zone: a.zone,
		Age: a.s.cfg.Clock.Since(a.born), Hint: a.crowd.Group().Hint().String(), Watchdog: a.dog.armed(),
		Started: a.account.started.Load(), LastTask: a.account.lastTask.Load(), Used: a.account.ledger.Save(),
	}
	r.Spec.Hostname, r.Clock = a.ns.uts.HostName(), a.ownClock()
	r.Copies, r.CopyOf, r.Template, r.Job = a.past.copies, a.past.from, a.past.template, a.past.job
	if d := a.devices.Load(); d != nil {
		r.Devices = *d
	}
	a.mu.Lock()
	r.State, r.NextExec = a.state, a.nextExec
	a.mu.Unlock()
	r.CPU = a.cpuUse()
	a.authMu.Lock()
	r.Ceilings = make(map[string]uint64, len(a.ceilings))
	for name, milli := range a.ceilings {
		r.Ceilings[name] = milli
	}
	a.authMu.Unlock()
	return r
}

// saved returns what of gVisor the agent holds.
func (a *Agent) saved() *savedAgent {
	o := &savedAgent{pid: a.ns.pid(), uts: a.ns.uts, ipc: a.ns.ipc, net: a.ns.net, mnt: a.ns.mnt, upper: a.ns.upper, clearTID: a.notes.clearTIDs(), grants: a.savedGrants(), notes: a.notes.saved()}
	o.notes.calls = a.lastCalls()
	for _, p := range a.programs() {
		o.procs = append(o.procs, p.saved())
	}
	a.orph.mu.Lock()
	for tg := range a.orph.kids {
		o.kids = append(o.kids, tg)
	}
	a.orph.mu.Unlock()
	return o
}

// saved returns the process with the kernel's ends of its standard files.
func (p *process) saved() *savedProcess {
	c := p.console
	o := &savedProcess{id: p.id, tg: p.tg, tty: p.tty}
	c.mu.Lock()
	o.in = c.in
	c.mu.Unlock()
	for _, out := range c.outs {
		o.outs = append(o.outs, out.fd)
		o.kinds = append(o.kinds, uint8(out.kind))
		o.closed = append(o.closed, out.closed())
	}
	return o
}

// save writes the kernel.
func (s *Kernel) save(d *savedDomain, part *capture) error {
	s.k.AddStateToCheckpoint(checkpointKey, d)
	defer s.k.PopCheckpointState(checkpointKey)
	ctx := s.k.SupervisorContext()
	err := s.k.SaveTo(ctx, part.state, part.about, stateio.NewIOWriter(part.pages, pagesAtOnce, pagesRanges, 1), true, true)
	s.k.BeforeResume(ctx)
	if err != nil {
		return savingFailed(part.state.part.err, err)
	}
	return nil
}

// savingFailed says why the kernel could not be saved: for what could not be
// written, or for what has no place in a checkpoint.
func savingFailed(writing, err error) error {
	if writing != nil {
		return errdefs.Wrap(writing, errdefs.HostIO, "write the checkpoint")
	}
	why, _, _ := strings.Cut(err.Error(), "\n")
	return errdefs.New(errdefs.CheckpointRefused, "something in it cannot be saved: "+why, errdefs.Op("checkpoint"))
}

// checkpointKey is under which a savedDomain is in gVisor's kernel.
const checkpointKey = "aios"

// features are what the CPUs have that agents were shown.
func (s *Kernel) features() []string {
	return strings.Fields(s.k.FeatureSet().FlagString())
}
