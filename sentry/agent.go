package sentry

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"

	"aios.dev/aios/abi"
	"aios.dev/aios/account"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/netstack"
	"aios.dev/aios/platform"
	"aios.dev/aios/sentry/irq"
	"aios.dev/aios/sentry/sched"
)

// Agent is a process tree with namespaces of its own.
type Agent struct {
	s     *Kernel
	id    string
	name  string // or ""
	memID uint32 // under which gVisor accounts its memory
	log   *agentLog
	// spec is what it was spawned with, but for its process and its grants.
	spec  control.SpawnRequest
	ctx   context.Context // for setting things up in it
	ns    *namespaces     // pid is immutable, the rest guarded by lifeMu
	orph  orphans
	notes cloneNotes
	// origin is what it is a copy of, if that is still there; it is set before its
	// first task runs. What both may have changed unseen is in mapped, and kept is
	// the memory that its list of files takes.
	origin origin
	mapped mappedNotes
	kept   atomic.Uint64
	crowd  *platform.Crowd // of its tasks
	// unscheduled has tasks that begin from now on run as if there were no
	// scheduler, for a benchmark of what that costs.
	unscheduled atomic.Bool
	irq         *irq.Source // what it interrupts with
	gate        agentGate
	faults      agentFaults
	pages       pageFaults
	oom         agentOOM
	pressure    agentPressure
	dog         agentDog
	// debugger is who debugs it, or nil.
	debugger atomic.Pointer[debugger]
	dmesg    dmesg // what of the kernel's log is about it
	tellings tellings
	hinted   hinted
	// cpuSetMu is held while what the agent was given of CPU time is changed. It
	// is taken before authMu.
	cpuSetMu sync.Mutex
	// swapSetMu is the same for swap.
	swapSetMu sync.Mutex
	// seccomp is set before the first process is made, nil without a profile.
	seccomp *seccompFilter
	// account is what it uses, and may use.
	account agentAccount
	// swap is what it has swapped out, nil until it has.
	swap   atomic.Pointer[agentSwap]
	stack  atomic.Pointer[inet.Stack] // read by network
	fabric agentFabric
	// What it has written to semantic memory, as of its last question.
	remembered struct{ items, bytes atomic.Uint64 }
	// barMu is held while regions are kept from it, or no longer.
	barMu sync.Mutex
	clock agentClocks
	// devices are the numbers that its programs are told, nil if they are the kernel's.
	devices atomic.Pointer[deviceNumbers]
	// watches is how many files of events it has open.
	watches atomic.Int32

	// endowed is set when it has what it was spawned with.
	endowed atomic.Bool
	// Records that become one, while it is not endowed.
	gathered []capability.Record
	// authMu serialises reweigh.
	authMu sync.Mutex
	// What it may do on the network.
	netRights abi.Rights // +checklocks:authMu
	// The sum of its limits.
	promised control.Promised // +checklocks:authMu
	// What it may use of the CPUs: by its grants, and at most, by who said so.
	cpuGranted uint64 // +checklocks:authMu
	// Of the same, without the quota.
	cpuParams sched.Params // +checklocks:authMu
	// What its group was told last.
	scheduled sched.Params // +checklocks:authMu
	// Why it does not have all of it.
	cpuRefused error             // +checklocks:authMu
	priority   atomic.Int32      // 20 less the least niceness
	ceilings   map[string]uint64 // +checklocks:authMu
	held       bool              // for a storm of exceptions; +checklocks:authMu

	// grantsMu guards what grants of files have open, and ns.mnt against the
	// end of the agent.
	grantsMu sync.Mutex
	grants   map[capability.ID]*fileGrant // +checklocks:grantsMu
	// Its namespaces are gone.
	released bool // +checklocks:grantsMu

	// clearMu is held while a mount of a grant that has ended is taken away.
	clearMu sync.Mutex
	// Such a mount may still be where nobody sees it, below another.
	buried atomic.Bool
	// It is among clearing.turns, whose lock guards this.
	clearTurn bool

	// trial is an upgrade that is not decided, or nil; upgraded is by which it became
	// what it is.
	trial    atomic.Pointer[trial]
	upgraded atomic.Pointer[string]

	// killed is why AIOS ended the agent, or nil.
	killed atomic.Pointer[string]
	// again says that a policy wants it started again.
	again atomic.Bool
	// dying is set before the first process gets a SIGKILL from outside.
	dying atomic.Bool
	// cloning counts the calls in progress that add a task.
	cloning atomic.Int32
	// dump is one that the daemon is to take, or nil.
	dump atomic.Pointer[dumpCause]

	// lifeMu serialises what changes the set of processes from outside:
	// spawn, exec, pause, resume and the end.
	lifeMu sync.Mutex

	mu    sync.Mutex
	state abi.State // +checklocks:mu
	// By exec ID, 0 is the first.
	procs    map[int32]*process // +checklocks:mu
	nextExec int32              // +checklocks:mu
	// Tasks that a pause stopped.
	stopped []*kernel.Task // +checklocks:lifeMu
	// Set when it has ended.
	exit  *control.Exit // +checklocks:mu
	ended time.Time     // +checklocks:mu

	// past is what it is a copy of; set before its first process is made.
	past agentPast
	// warming is set before its first process is made, if it is to become a
	// template.
	warming *warmUp
	// family is what it is copied by, once it is a template, and ahead what it has
	// ready of copies.
	family *family // +checklocks:lifeMu
	ahead  agentAhead
	// lesson is what its template learns from it, or nil.
	lesson atomic.Pointer[lesson]

	zone string // of TZ, unless a process is given another; set before the first
	born time.Time
	told chan struct{} // closed when its end has been reported
	// gone is closed when what it held is dropped, after told.
	gone chan struct{}
}

// process is a program that the daemon asked for.
type process struct {
	id      int32
	tg      *kernel.ThreadGroup
	console *console
	tty     bool
	// waited is set when somebody waits for its end, of a first process, and replaced
	// when it is not the agent's any more.
	waited, replaced atomic.Bool
}

// Spawn creates an agent and starts its first process. It owns files: the
// log, and with req.Attach one end of a stream.
//
// +checklocksignore
func (s *Kernel) Spawn(req control.SpawnRequest, files []*os.File) error {
	logFile, stream, err := spawnFiles(files, 1, req.Attach)
	if err != nil {
		return err
	}
	if req.From != "" {
		return s.spawnFrom(req, logFile, stream)
	}
	filter, err := newSeccompFilter(req.Seccomp)
	if err != nil {
		closeFile(stream)
		logFile.Close()
		return err
	}
	ns, err := s.shells.take(req.Root, req.DiskBytes)
	if err != nil {
		closeFile(stream)
		logFile.Close()
		return err
	}
	a, err := s.addAgent(req, ns, logFile, s.newMemID(), nil)
	if err != nil {
		s.releaseShell(ns)
		closeFile(stream)
		logFile.Close()
		return err
	}
	a.lifeMu.Lock()
	defer a.lifeMu.Unlock()
	a.setSeccomp(filter)
	if a.warming = newWarmUp(req); a.warming != nil {
		s.warmers.Add(1)
		defer func() {
			if err != nil {
				s.warmers.Add(-1)
			}
		}()
	}
	if err = a.setPolicies(req.OnFault, req.OnViolation); err == nil {
		err = a.setOOM(req.OnOOM)
	}
	if err == nil {
		err = a.dog.init(a, time.Duration(req.Watchdog), req.OnWatchdog)
	}
	if err != nil {
		closeFile(stream)
	} else {
		err = a.boot(req, stream)
	}
	if err != nil {
		a.release()
		s.mu.Lock()
		delete(s.agents, req.ID)
		s.mu.Unlock()
		return err
	}
	if a.warming != nil {
		go a.warmUp()
	}
	return nil
}

// newMemID returns a number under which gVisor accounts memory that nobody else has.
func (s *Kernel) newMemID() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byCgID++
	return s.byCgID
}

// addAgent makes the agent known, which with restored was known before. It owns the
// log, if it succeeds.
func (s *Kernel) addAgent(req control.SpawnRequest, ns *namespaces, logFile *os.File, memID uint32, restored *agentRecord) (*Agent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, errdefs.New(errdefs.DomainDied, "the domain is shutting down")
	}
	if !abi.IsAgentID(req.ID) {
		return nil, errdefs.New(errdefs.InvalidArgument, "it is not an agent ID", errdefs.Resource("%q", req.ID))
	}
	if s.agents[req.ID] != nil {
		return nil, errdefs.New(errdefs.AlreadyExists, "the domain knows an agent of that ID", errdefs.Resource("%s", req.ID))
	}
	a := &Agent{
		s: s, id: req.ID, name: req.Name, memID: memID,
		log:    newAgentLog(logFile, req.LogBytes, s.cfg.Clock),
		spec:   specOf(req),
		grants: make(map[capability.ID]*fileGrant),
		state:  abi.StateStarting,
		procs:  make(map[int32]*process),
		ns:     ns,
		told:   make(chan struct{}),
		gone:   make(chan struct{}),
		born:   s.cfg.Clock.Now(),
		crowd:  platform.NewCrowd(s.sched.NewGroup(req.ID)),
		irq:    s.irq.NewSource(req.ID),
	}
	a.crowd.Interrupts(a.irq)
	a.crowd.Runs(a.runs)
	a.initTellings()
	a.hinted.timer.Init(a.s.wheel, a.tellHint)
	a.orph.timer.Init(a.s.wheel, func() { go a.sweep() })
	a.setNetwork(ns.net.Stack())
	if restored != nil {
		a.born = a.born.Add(-restored.Age)
	}
	a.ctx = s.context(a.ns, s.creds, a.memID)
	a.openAccount(req.DiskBytes)
	s.agents[req.ID] = a
	s.byID.Store(req.ID, a)
	return a, nil
}

// network is the agent's network, also when it has ended.
func (a *Agent) network() inet.Stack { return *a.stack.Load() }

// setNetwork says which that is.
func (a *Agent) setNetwork(stack inet.Stack) {
	a.stack.Store(&stack)
	netstack.Interrupts(stack, a.irq)
}

// specOf is what of a request stays with the agent.
func specOf(req control.SpawnRequest) control.SpawnRequest {
	req.Process, req.Grants, req.Zone, req.Clock, req.Attach, req.Actor, req.LogBytes, req.From = control.Process{}, nil, nil, nil, false, control.Actor{}, 0, ""
	return req
}

// boot completes the shell and starts the first process. It owns stream.
// Caller holds lifeMu.
func (a *Agent) boot(req control.SpawnRequest, stream *os.File) error {
	s := a.s
	a.ns.uts.SetHostName(a.ctx, req.Hostname)
	if err := a.setZone(req.Zone); err != nil {
		closeFile(stream)
		return err
	}
	by := s.actor(req.Actor)
	by.Privileged = true // The daemon has decided.
	if err := a.endow(req.Grants, by); err != nil {
		closeFile(stream)
		return err
	}
	if err := a.beginClock(req.Clock, req.Actor); err != nil {
		closeFile(stream)
		return err
	}
	p, err := a.start(req.Process, stream)
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.state = abi.StateRunning
	a.mu.Unlock()
	if a.killed.Load() != nil { // The domain was stopped meanwhile, and found no process.
		s.k.SendExternalSignalThreadGroup(p.tg, kernel.SignalInfoPriv(linux.SIGKILL))
	}
	s.watch.add(a)
	a.dog.start()
	if s.events.Enabled(event.AgentSpawn) {
		s.emitFor(a, event.AgentSpawn, &eventv1.AgentSpawn{
			Name: a.name, Args: event.Args(req.Process.Argv), Uid: uint32(p.tg.Leader().Credentials().EffectiveKUID),
		}, req.Actor.Correlation)
	}
	go a.waitFirst(p)
	return nil
}

// start loads and starts a program as the next process. It owns stream.
// Caller holds lifeMu.
func (a *Agent) start(spec control.Process, stream *os.File) (*process, error) {
	s := a.s
	owned := stream
	defer func() { closeFile(owned) }()
	if len(spec.Argv) == 0 {
		return nil, errdefs.New(errdefs.InvalidArgument, "no program given")
	}
	creds, home, err := s.credentials(a.ctx, a.ns, spec.User)
	if err != nil {
		return nil, err
	}
	env := withDefault(spec.Env, "HOME", home)
	if a.zone != "" {
		env = withDefault(env, "TZ", a.zone)
	}
	cwd := spec.Cwd
	if cwd == "" {
		cwd = "/"
	}
	path, err := s.findProgram(a.ctx, a.ns, creds, spec.Argv[0], cwd, env)
	if err != nil {
		return nil, err
	}
	fds := s.k.NewFDTable()
	defer fds.DecRef(a.ctx)
	con, err := s.newConsole(a.ctx, a.ns, fds, spec.TTY, spec.Stdin, a)
	if err != nil {
		return nil, err
	}
	tg, err := s.newThreadGroup(a.ctx, a.ns, program{
		path: path, argv: spec.Argv, env: env, cwd: cwd,
		creds: creds, fds: fds, container: a.id, memID: a.memID,
	})
	if err != nil {
		con.release(a.ctx)
		return nil, err
	}
	if spec.TTY {
		con.adoptTerminal(tg.Leader(), spec.Rows, spec.Cols)
	}
	p := &process{tg: tg, console: con, tty: spec.TTY}
	if stream != nil {
		owned = nil
		if err := con.attach(stream, spec.Stdin, true); err != nil {
			return nil, err // Cannot happen: nobody else knows the console.
		}
	}
	a.mu.Lock()
	p.id = a.nextExec
	a.nextExec++
	a.procs[p.id] = p
	a.mu.Unlock()
	s.startGroup(tg)
	return p, nil
}

// Exec starts a further process in a running agent.
func (s *Kernel) Exec(req control.ExecRequest, files []*os.File) (control.ExecReply, error) {
	_, stream, err := spawnFiles(files, 0, req.Attach)
	if err != nil {
		return control.ExecReply{}, err
	}
	a, err := s.agent(req.ID)
	if err != nil {
		closeFile(stream)
		return control.ExecReply{}, err
	}
	a.lifeMu.Lock()
	defer a.lifeMu.Unlock()
	if err := a.mustBe(abi.StateRunning); err != nil {
		closeFile(stream)
		return control.ExecReply{}, err
	}
	p, err := a.start(req.Process, stream)
	if err != nil {
		return control.ExecReply{}, err
	}
	if s.events.Enabled(event.AgentExec) {
		s.emit(a, event.AgentExec, &eventv1.AgentExec{
			Process: processOf(p.tg.Leader()), Args: event.Args(req.Process.Argv), FromOutside: true,
		})
	}
	go a.waitFurther(p)
	return control.ExecReply{ExecID: p.id}, nil
}

// exitGrace is how long the end of a process waits for a client that does not
// take the last output.
const exitGrace = 2 * time.Second

// waitProcess waits for p's end, and for its output to be passed on. Then it
// calls tell, and after that the streams hear of the end too. A client that
// does not take the last output holds up its own stream only.
func (a *Agent) waitProcess(p *process, tell func(control.Exit)) {
	ctx := a.s.k.SupervisorContext()
	p.tg.WaitExited()
	exit := exitOf(p.tg.ExitStatus())
	if why := a.killed.Load(); why != nil {
		exit.Reason = *why
	}
	exit.Again = a.again.Load()
	drained, told := make(chan struct{}), make(chan struct{})
	go func() {
		p.console.drain(ctx)
		close(drained)
		<-told
		p.console.end(ctx, exit)
	}()
	late := make(chan struct{})
	t := a.s.cfg.Clock.AfterFunc(exitGrace, func() { close(late) })
	select {
	case <-drained:
		t.Stop()
	case <-late:
	}
	tell(exit)
	close(told)
}

// waitFurther ends a process that Exec started.
func (a *Agent) waitFurther(p *process) {
	a.waitProcess(p, func(exit control.Exit) {
		a.mu.Lock()
		delete(a.procs, p.id)
		a.mu.Unlock()
		a.report(p.id, exit)
	})
}

// waitFirst ends the agent when its first process has ended, upon which the
// kernel kills everything else in the PID namespace, and all that is gone.
func (a *Agent) waitFirst(p *process) {
	if !p.waited.CompareAndSwap(false, true) {
		return
	}
	p.tg.WaitExited()
	if p.replaced.Load() { // By that of an upgrade.
		a.waitProcess(p, func(control.Exit) {})
		return
	}
	a.awaitEmpty()
	a.waitProcess(p, func(exit control.Exit) {
		a.mu.Lock()
		a.state = abi.StateExited
		a.exit = &exit
		a.ended = a.s.cfg.Clock.Now()
		delete(a.procs, 0)
		a.mu.Unlock()
		a.s.watch.remove(a)
		a.s.heap.end(a)
		a.s.emit(a, event.AgentExit, a.exitPayload(exit))
		a.report(0, exit)
		close(a.told)
	})
	// Only who wants to use its ID again waits for the rest.
	a.lifeMu.Lock()
	a.release()
	a.lifeMu.Unlock()
	close(a.gone)
	a.s.shells.refill()
}

// exitPayload is what the bus is told of the agent's end.
func (a *Agent) exitPayload(exit control.Exit) *eventv1.AgentExit {
	return &eventv1.AgentExit{
		Code: exit.Code, Signal: exit.Signal, Reason: exit.Reason, Lifetime: int64(a.s.cfg.Clock.Since(a.born)),
		MemoryPeak: a.account.ledger.Peak(account.Memory),
	}
}

func (a *Agent) report(execID int32, exit control.Exit) {
	a.s.cfg.OnExit(control.ExitEvent{ID: a.id, ExecID: execID, Exit: exit, Time: a.s.cfg.Clock.Now()})
}

// release drops what the agent holds.
//
// +checklocks:a.lifeMu
func (a *Agent) release() {
	a.dog.end()
	a.closeAhead()
	a.endLesson()
	a.loseAll("the agent ended")
	a.dropRegions()
	a.s.clearing.settleFor(a) // It needs the namespaces.
	a.grantsMu.Lock()
	a.released = true
	a.grantsMu.Unlock()
	a.s.releaseShell(a.ns)
	a.stopped = nil
	a.irq.Close()
	a.crowd.Group().Close()
	a.endSwap()
	a.endClock()
	a.s.forgetAgent(a)
	a.log.close()
}

// exitOf translates a wait status.
func exitOf(ws linux.WaitStatus) control.Exit {
	if ws.Signaled() {
		return control.Exit{Signal: int32(ws.TerminationSignal())}
	}
	return control.Exit{Code: int32(ws.ExitStatus())}
}

// credentials returns the agent-side identity for user, and its home.
func (s *Kernel) credentials(ctx context.Context, ns *namespaces, user string) (*auth.Credentials, string, error) {
	id, err := s.lookupUser(ctx, ns, user)
	if err != nil {
		return nil, "", err
	}
	caps := &auth.TaskCapabilities{BoundingCaps: agentCapabilities}
	if id.uid == 0 {
		caps.PermittedCaps, caps.EffectiveCaps = agentCapabilities, agentCapabilities
	}
	return auth.NewUserCredentials(auth.KUID(id.uid), auth.KGID(id.gid), id.groups, caps, s.creds.UserNamespace), id.home, nil
}
