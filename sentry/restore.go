package sentry

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	gvcontext "gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/devutil"
	"gvisor.dev/gvisor/pkg/sentry/checkpoint"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/gofer"
	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/syscalls/linux"
	gvtime "gvisor.dev/gvisor/pkg/sentry/time"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/timing"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/fabric"
	"aios.dev/aios/fabric/persist"
	"aios.dev/aios/klog"
	"aios.dev/aios/netstack"
	"aios.dev/aios/sentry/clocks"
	"aios.dev/aios/sentry/ctlfs"
)

// Restored is what a kernel goes on from: files that the daemon has opened.
type Restored struct {
	State, Memory *os.File
	Packs         []*os.File
	Mounts        []RestoredMount
	// Regions are the files of those that are persistent, by name.
	Regions map[string]*os.File
	// Logs are by agent.
	Logs map[string]RestoredFile
	// Features are those of the CPU that agents were shown.
	Features []string
	// Ended are agents that have ended since: they do so again, before they do
	// anything else.
	Ended []string
	// Revoked were ended since the checkpoint was made.
	Revoked []capability.ID
	// Restricted were changed since.
	Restricted []capability.Restriction
	// ForceFiles takes files of the host as they are.
	ForceFiles bool
}

// RestoredMount is a file system of the checkpoint.
type RestoredMount struct {
	control.MountRequest
	File *os.File
}

// RestoredFile is a log and how much it holds.
type RestoredFile struct {
	File  *os.File
	Bytes int64
}

// Prepare makes a kernel that has yet to be filled by Restore, which opens nothing.
func Prepare(cfg Config) (*Kernel, error) {
	s, err := newKernel(cfg)
	if err != nil {
		return nil, err
	}
	return s, s.bootSteps([]bootStep{
		{"prepare process", processPrepared},
		{"make watchdogs", s.bootWatchdogs},
		{"start the bus", s.bootEvents},
		{"prepare authority", s.bootAuthority},
		{"start platform", s.bootPlatform},
		{"make memory", s.bootMemory},
		{"make the fabric", s.bootFabric},
		{"enable trace points", s.tracePoints},
		{"watch the CPUs", s.watchCPUs},
	})
}

// Restore has s, which Prepare has made, go on where a checkpoint was made. All of
// it goes on, or nothing does: an error leaves a kernel that is good for nothing.
func (s *Kernel) Restore(from Restored) error {
	if err := hasFeatures(from.Features); err != nil {
		return err
	}
	domain, err := s.load(from)
	if err != nil {
		return err
	}
	var rec domainRecord
	if err := json.Unmarshal(domain.record, &rec); err != nil || len(rec.Agents) != len(domain.agents) || len(rec.Mounts) != len(domain.outside) {
		return errdefs.New(errdefs.CheckpointDamaged, "what it says of the domain cannot be read", errdefs.Op("restore"))
	}
	if rec.CPUs != s.cfg.CPUs {
		return errdefs.Newf(errdefs.CheckpointMismatch, "its agents were shown %d CPUs, and there are %d", rec.CPUs, s.cfg.CPUs).With(errdefs.Op("restore"))
	}
	if err := s.adoptKernel(domain, &rec); err != nil {
		return err
	}
	s.watch.init(s)
	s.heap.init(s)
	s.ahead.init()
	s.shells.s = s
	if err := s.space.Load(rec.Capability, s.cfg.Clock.Now()); err != nil {
		return err
	}
	from.Revoked = append(from.Revoked, s.space.Restrict(from.Restricted, s.cfg.Clock.Now())...)
	var stacks []inet.Stack
	for _, a := range domain.agents {
		stacks = append(stacks, a.net.Stack())
	}
	if err := netstack.Restore(stacks); err != nil {
		return errdefs.Wrap(err, errdefs.CheckpointDamaged, "restore the networks")
	}
	for i := range rec.Agents {
		if err := s.adoptAgent(&rec.Agents[i], domain.agents[i], from.Logs); err != nil {
			return err
		}
	}
	for _, id := range rec.Images {
		s.adoptImage(id)
	}
	if err := s.adoptRegions(domain.fabric, from.Regions); err != nil {
		return err
	}
	s.listeners.Listen()
	for _, id := range from.Revoked {
		if c, err := s.space.ByID(id); err == nil {
			s.space.Revoke(c, true, capability.Actor{Name: "kernel", Privileged: true}, "it was revoked after the checkpoint was made")
		}
	}
	s.lockups.start(s)
	s.log.all.OnRecord(s.logged)
	s.log.boot.Log(context.Background(), klog.LevelNotice, "the domain goes on from a checkpoint", "domain", s.cfg.Domain,
		"platform", s.cfg.Driver.Name(), "made", rec.Time, "agents", len(rec.Agents), "pid", os.Getpid(), "version", abi.Version)
	defer s.booted()
	return s.goOn(&rec, from.Ended)
}

// hasFeatures refuses a host whose CPUs lack what agents were shown.
func hasFeatures(want []string) error {
	have := strings.Fields(cpuid.HostFeatureSet().Fixed().FlagString())
	missing := slices.DeleteFunc(slices.Clone(want), func(f string) bool { return slices.Contains(have, f) })
	if len(missing) == 0 {
		return nil
	}
	return errdefs.New(errdefs.CheckpointMismatch, "the CPUs of this host lack what its agents were shown: "+strings.Join(missing, " "), errdefs.Op("restore"))
}

// load reads gVisor's kernel.
func (s *Kernel) load(from Restored) (*savedDomain, error) {
	s.viewCalls(linux.AMD64)
	s.gateCalls(linux.AMD64)
	gofer.SetDentryCacheSize(goferDentries)
	timer := timing.New("restore", s.started)
	memory, err := s.loadPages(from, timer) // First: it goes on beside the rest.
	if err != nil {
		return nil, err
	}
	state, err := readPart(from.State)
	if err != nil {
		return nil, err
	}
	fds := make(map[checkpoint.ResourceID]int)
	for _, m := range from.Mounts {
		fds[resourceOf(m.Key)] = releaseFD(m.File)
	}
	ctx := gvcontext.WithValues(s.k.SupervisorContext(), map[any]any{
		vfs.CtxRestoreFilesystemFDMap:     fds,
		pgalloc.CtxMemoryFileMap:          map[checkpoint.ResourceID]*pgalloc.MemoryFile{},
		devutil.CtxDevGoferClientProvider: s.k,
		restoringKernel:                   s,
		ctlfs.RestoredAuthority:           ctlAuthority{s},
		ctlfs.RestoredListeners:           &s.listeners,
		fabric.RestoredStore:              s.fabric,
		netstack.RestoredCreator:          &netstack.Creator{Wheel: s.wheel, IDs: s.k, OnPacket: s.packetSeen},
	})
	clocks := gvtime.NewCalibratedClocks(false)
	files := &vfs.CompleteRestoreOptions{ValidateFileSizes: !from.ForceFiles, ValidateFileModificationTimestamps: !from.ForceFiles}
	err = s.k.LoadFrom(ctx, state, memory.loader, nil, rootNetwork{}, clocks, files, timer.Fork("load"))
	if err != nil {
		return nil, loadingFailed(err)
	}
	if err := memory.wait(); err != nil {
		return nil, err
	}
	domain, ok := s.k.PopCheckpointState(checkpointKey).(*savedDomain)
	if !ok {
		return nil, errdefs.New(errdefs.CheckpointDamaged, "it has no domain in it", errdefs.Op("restore"))
	}
	return domain, nil
}

// loadingFailed says why a checkpoint cannot be restored.
func loadingFailed(err error) error {
	why, _, _ := strings.Cut(err.Error(), "\n")
	if e, ok := err.(vfs.ErrCorruption); ok {
		return fileChanged(e.Err.Error())
	}
	return errdefs.New(errdefs.CheckpointMismatch, why, errdefs.Op("restore"))
}

// changedFile is how gVisor says that a file is not what it was: its path, the key of
// the file system, and what has changed.
var changedFile = regexp.MustCompile(`gofer\.dentry\(("(?:[^"\\]|\\.)*") in mount ("(?:[^"\\]|\\.)*")\)\.restoreFile: (.*)$`)

// fileChanged is the error of such a file. One of the image is no file that an agent
// can have changed, or do with in another form.
func fileChanged(said string) error {
	const what = "a file of the host that an agent uses has changed: "
	m := changedFile.FindStringSubmatch(said)
	if m == nil {
		return errdefs.New(errdefs.CheckpointMismatch, what+said, errdefs.Op("restore"))
	}
	path, _ := strconv.Unquote(m[1])
	key, _ := strconv.Unquote(m[2])
	kind, dir, _ := strings.Cut(strings.TrimPrefix(key, ":"), ":")
	file := filepath.Join(dir, path)
	if kind == "host" {
		return errdefs.New(errdefs.CheckpointMismatch, what+m[3], errdefs.Op("restore"), errdefs.Resource("%s", file))
	}
	return errdefs.New(errdefs.CheckpointFile, "it has changed since the checkpoint was made: "+m[3], errdefs.Op("restore"), errdefs.Resource("%s", file),
		errdefs.Fix("`aiosctl domain restore --force-files` takes files as they are"))
}

// rootNetwork makes the kernel's own network stack whole.
type rootNetwork struct{}

// ConfigureNetwork implements inet.NetworkArgs.
func (rootNetwork) ConfigureNetwork(stack inet.Stack) error { return netstack.Reconfigure(stack) }

// adoptKernel takes over what is no agent's.
func (s *Kernel) adoptKernel(d *savedDomain, rec *domainRecord) error {
	s.creds = auth.NewRootCredentials(s.k.RootUserNamespace())
	s.stacks = d.stacks
	if err := s.useClockPage(rec.ClockPage); err != nil {
		return err
	}
	var err error
	if s.pause, err = s.newPauseTask(d.pause); err != nil {
		return err
	}
	s.views.minor, s.views.cgroup, s.views.cgroupRoot = rec.ViewMinor, d.cgroup, d.cgroupRoot
	s.views.ino.Store(rec.ViewIno)
	s.sysfs, s.sysRoot, s.emptyFS, s.emptyRoot = d.sysfs, d.sysRoot, d.empty, d.emptyRoot
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byCgID = max(s.byCgID, rec.LastCgID)
	s.mounts = d.mounts
	for i, fs := range d.outside {
		m := rec.Mounts[i]
		s.mountedAs[fs] = mountKind{m.Key, m.Kind, m.ReadOnly, m.Image}
	}
	return nil
}

// adoptImage notes that a capability has its original in another domain.
func (s *Kernel) adoptImage(origin capability.ID) {
	for _, c := range s.space.Tree() {
		if c.Origin() == origin {
			s.imagesMu.Lock()
			s.images[origin] = c
			s.imagesMu.Unlock()
		}
	}
}

// adoptRegions takes over the regions, when the agents are there.
func (s *Kernel) adoptRegions(saved *fabric.Saved, files map[string]*os.File) error {
	if saved == nil {
		return errdefs.New(errdefs.CheckpointDamaged, "it says nothing of regions", errdefs.Op("restore"))
	}
	file := func(name string) persist.File {
		if f := files[name]; f != nil {
			return f
		}
		return nil
	}
	find := func(id capability.ID) *capability.Capability {
		c, err := s.space.ByID(id)
		if err != nil {
			return nil
		}
		return c
	}
	err := s.fabric.Load(saved, file, find, func(owner string, bytes uint64) {
		if owner == "" {
			s.ownRegions.Add(bytes)
		} else if a, ok := s.byID.Load(owner); ok {
			a.(*Agent).fabric.charged.Add(bytes)
		}
	})
	if err != nil {
		return err
	}
	for _, a := range s.liveAgents() {
		a.barRegions()
	}
	return nil
}

// adoptAgent makes an agent of what was saved of one. It stands still.
func (s *Kernel) adoptAgent(rec *agentRecord, saved *savedAgent, logs map[string]RestoredFile) error {
	failed := func(err error) error {
		return errdefs.Wrap(err, errdefs.CheckpointDamaged, "restore", errdefs.Resource("%s", rec.Spec.ID))
	}
	logFile, ok := logs[rec.Spec.ID]
	if !ok {
		return errdefs.New(errdefs.Protocol, "there is no log for it", errdefs.Op("restore"), errdefs.Resource("%s", rec.Spec.ID))
	}
	filter, err := newSeccompFilter(rec.Spec.Seccomp)
	if err != nil {
		return failed(err)
	}
	ns := &namespaces{
		uts: saved.uts, ipc: saved.ipc, net: saved.net, mnt: saved.mnt, upper: saved.upper,
		root: rootLayers{rec.Root, rec.RootDisk, rec.RootTmp},
	}
	ns.counting(saved.pid)
	req := rec.Spec
	req.LogBytes = logFile.Bytes
	a, err := s.addAgent(req, ns, logFile.File, rec.MemID, rec)
	if err != nil {
		return failed(err)
	}
	a.setSeccomp(filter)
	a.lifeMu.Lock()
	err = a.adopt(rec, saved)
	a.lifeMu.Unlock()
	if err != nil {
		return failed(err)
	}
	return nil
}

// adopt gives the agent what it had.
//
// +checklocks:a.lifeMu
func (a *Agent) adopt(rec *agentRecord, saved *savedAgent) error {
	req := rec.Spec
	a.spec.Hostname, a.zone = req.Hostname, rec.Zone
	a.past = agentPast{copies: rec.Copies, from: rec.CopyOf, template: rec.Template, job: rec.Job}
	if err := a.setPolicies(req.OnFault, req.OnViolation); err != nil {
		return err
	}
	if err := a.setOOM(req.OnOOM); err != nil {
		return err
	}
	if err := a.dog.init(a, time.Duration(req.Watchdog), req.OnWatchdog); err != nil {
		return err
	}
	if rec.Devices != nil {
		a.devices.Store(&rec.Devices)
	}
	if c := rec.Clock; c != nil {
		// It is as far ahead as it was, and goes on from there. What is older says no rate.
		realtime, _ := a.s.changed(clocks.Ahead(0), wallChange{offset: &c.Offset, rate: clocks.Rate(c.Rate)})
		if err := a.makeClock(realtime, clocks.Shift(c.Monotonic)); err != nil {
			return err
		}
	}
	a.account.ledger.Load(rec.Used)
	a.account.started.Store(rec.Started)
	a.account.before = rec.CPU
	a.account.lastTask.Store(rec.LastTask)
	for t, addr := range saved.clearTID {
		a.notes.setClearTID(t, addr, true)
	}
	a.notes.load(saved.notes)
	a.orph.mu.Lock()
	a.orph.kids = make(map[*kernel.ThreadGroup]time.Time)
	for _, tg := range saved.kids {
		a.orph.kids[tg] = time.Time{}
		if leader := tg.Leader(); leader == nil || leader.ExitState() != kernel.TaskExitNone {
			a.noteEndLocked(tg)
		}
	}
	a.orph.mu.Unlock()
	a.mu.Lock()
	a.nextExec, a.state = rec.NextExec, rec.State
	a.mu.Unlock()
	for _, p := range saved.procs {
		con, err := a.s.restoreConsole(a, p)
		if err != nil {
			return err
		}
		a.mu.Lock()
		a.procs[p.id] = &process{id: p.id, tg: p.tg, console: con, tty: p.tty}
		a.mu.Unlock()
	}
	a.authMu.Lock()
	a.ceilings = rec.Ceilings
	a.authMu.Unlock()
	if rec.Hint != "" {
		a.setHint(rec.Hint, "checkpoint")
	}
	a.endowed.Store(true)
	a.reweigh()
	return a.adoptGrants(saved.grants)
}

// goOn starts all that stands still.
func (s *Kernel) goOn(rec *domainRecord, ended []string) error {
	for i := range rec.Agents {
		a, err := s.agent(rec.Agents[i].Spec.ID)
		if err != nil {
			return err
		}
		if slices.Contains(ended, a.id) {
			a.kill("it had ended after the checkpoint was made")
			rec.Agents[i].State = abi.StateRunning
		}
		a.lifeMu.Lock()
		if st := rec.Agents[i].State; st == abi.StatePaused || st == abi.StateTemplate {
			a.dog.hold()
			for _, t := range a.ns.pid().Tasks() {
				t.BeginExternalStop()
				a.stopped = append(a.stopped, t)
			}
		}
		if d := rec.Agents[i].Watchdog; d > 0 {
			a.dog.arm(d) // It was armed with it before.
		}
		a.lifeMu.Unlock()
		s.watch.add(a)
	}
	for _, f := range s.pressure.restored {
		f.setAgain(s)
	}
	s.pressure.restored = nil
	if err := s.k.Start(); err != nil {
		return errdefs.Wrap(err, errdefs.DomainBoot, "start the tasks")
	}
	for _, a := range s.liveAgents() {
		for _, p := range a.programs() {
			if p.id == 0 {
				go a.waitFirst(p)
			} else {
				go a.waitFurther(p)
			}
		}
		if a.mustBe(abi.StateTemplate) == nil {
			a.keepAhead()
		}
	}
	return nil
}
