package sentry

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/fd"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/cgroup2fs"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/host"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/limits"
	"gvisor.dev/gvisor/pkg/sentry/loader"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"
	gvtime "gvisor.dev/gvisor/pkg/sentry/time"
	"gvisor.dev/gvisor/pkg/sentry/usage"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/abi"
	"aios.dev/aios/account"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	"aios.dev/aios/fabric"
	"aios.dev/aios/klog"
	"aios.dev/aios/ktime"
	"aios.dev/aios/netstack"
	"aios.dev/aios/platform"
	"aios.dev/aios/sentry/ctlfs"
	"aios.dev/aios/sentry/sched"
	"aios.dev/aios/sentry/smp"
)

// Config is what a kernel is booted with.
type Config struct {
	// Domain is the name of the domain, for messages.
	Domain string
	// Driver makes the platform; Device is what its OpenDevice returned.
	Driver platform.Driver
	Device *fd.FD
	// Machine, unless nil, is what MakeMachine has made with these two.
	Machine *Machine
	// CPUs is how many processors agents see.
	CPUs int
	// Topology is what these share, and where on the host each is; nil if that is
	// not known.
	Topology *smp.Topology
	// MemoryBytes is how much memory agents see; 0 means the host's.
	MemoryBytes uint64
	// Yield has the calling thread, and what it forks, leave the host's CPUs to the
	// rest of the process; nil if these are shared with others.
	Yield func()
	// HostCPU tells the CPU time that the host has counted for the process and those
	// that execute application code; nil if it does not.
	HostCPU func() (time.Duration, error)
	// ImagesOnly refuses gofers: the process may not make the calls of the host
	// that talking to one takes.
	ImagesOnly bool
	// Log is what the kernel logs to; nil for nothing.
	Log *klog.Log
	// Clock stamps what the kernel reports.
	Clock ktime.Clock
	// Steer, unless nil, changes what Clock adds to the host's clock.
	Steer func(now, then time.Duration)
	// OnExit is called for every process that ends, on its own goroutine.
	OnExit func(control.ExitEvent)
	// OnLimit, unless nil, is called when an agent reaches a soft or a hard
	// limit. It must not block: the agent's tasks wait for it.
	OnLimit func(agent string, c account.Crossing)
	// Chaos lets agents inject failures into the kernel: for tests.
	Chaos bool
	// Exit ends the process; os.Exit if it is nil.
	Exit func(status int)
	// Push sends an event to whoever is connected, and returns to how many;
	// nil for nobody.
	Push func(event string, body any) int
}

// Kernel is a booted kernel. Its methods may be called concurrently.
type Kernel struct {
	cfg     Config
	k       *kernel.Kernel
	creds   *auth.Credentials // root of the domain, for setting agents up
	wheel   *ktime.Wheel      // of timers that agents have many of
	prompt  *ktime.Prompt     // for what must not be late
	started time.Time
	machine *Machine
	pause   *pauseTask
	// failMerge, of tests, has the step of a merge that has that number fail.
	failMerge func(step int) error
	stacks    *netstack.Creator
	sched     *sched.Scheduler
	// cpuShort says that a reservation could not be kept.
	cpuShort  atomic.Bool
	views     kernelViews
	sysfs     *vfs.Filesystem // shared by all agents; read-only
	sysRoot   *vfs.Dentry
	emptyFS   *vfs.Filesystem // covers what agents must not see; read-only
	emptyRoot *vfs.Dentry
	watch     memoryWatch
	heap      heapWatch
	// What is swapped out; made when it is needed first.
	swapMu   sync.Mutex
	swapSys  *swapSystem // +checklocks:swapMu
	swapOn   atomic.Pointer[swapSystem]
	warmers  atomic.Int32 // agents that are to become templates
	emptyTmp sync.Map     // bool by key of an image: nothing is in its /tmp
	shells   shellPool
	ahead    aheads
	// Memory between agents; what of it no agent owns, in bytes.
	fabric     *fabric.Store
	ownRegions atomic.Uint64

	// Authority: the derivation tree, its records on their way to the audit
	// trail, and what was asked of the daemon.
	space    *capability.Space
	clearing clearing // of files that were granted
	trail    trail
	asks     asks
	events   *event.Bus
	outbox   outbox   // of events for the daemon
	samplers samplers // of what is told now and then
	pressure kernelPressure
	watchIDs atomic.Uint64
	// Files of events that were restored.
	listeners ctlfs.Listeners
	gone      goneNames
	imagesMu  sync.Mutex
	// By their original in another domain.
	images map[capability.ID]*capability.Capability // +checklocks:imagesMu

	clocks kernelClocks
	dogs   kernelDogs
	gate   kernelGate
	// still is held for reading by whoever changes what a checkpoint saves, for
	// writing while one is made. It is outside all other locks.
	still sync.RWMutex
	log   kernelLog
	irq   interrupts
	// lockups watches what holds a CPU or a lock for too long.
	lockups lockups
	// debuggers counts the agents that are being debugged.
	debuggers  atomic.Int32
	trying     lockTry
	processors processors

	mu sync.Mutex
	// Each holds a reference.
	mounts map[string]*vfs.Mount // +checklocks:mu
	// How file systems from outside came to be known.
	mountedAs map[*vfs.Filesystem]mountKind // +checklocks:mu
	// By ID.
	agents map[string]*Agent // +checklocks:mu
	byID   sync.Map          // *Agent by ID, for hooks and the gate
	// Last memory cgroup ID given.
	byCgID  uint32 // +checklocks:mu
	closing bool   // +checklocks:mu
}

// wheelTick is how exact coarse timers are at best: as those of Linux.
const wheelTick = time.Millisecond

// Boot makes a kernel with no agents. It may be called once per process:
// gVisor keeps parts of a kernel in package variables. What it needs from the
// host it has opened when it returns, so the caller can close the box.
func Boot(cfg Config) (*Kernel, error) {
	s, err := newKernel(cfg)
	if err != nil {
		return nil, err
	}
	if err := s.bootSteps([]bootStep{
		{"prepare process", processPrepared},
		{"make watchdogs", s.bootWatchdogs},
		{"start the bus", s.bootEvents},
		{"prepare authority", s.bootAuthority},
		{"start platform", s.bootPlatform},
		{"make memory", s.bootMemory},
		{"start kernel", s.bootKernel},
		{"make the fabric", s.bootFabric},
		{"register file systems", s.registerFilesystems},
		{"start the pause process", s.startPause},
		{"enable trace points", s.tracePoints},
		{"watch the CPUs", s.watchCPUs},
	}); err != nil {
		return nil, err
	}
	s.watch.init(s)
	s.heap.init(s)
	s.ahead.init()
	s.shells.s = s
	s.booted()
	s.lockups.start(s)
	s.log.all.OnRecord(s.logged)
	s.log.boot.Log(context.Background(), klog.LevelNotice, "the domain starts", "domain", s.cfg.Domain,
		"platform", s.cfg.Driver.Name(), "cpus", s.cfg.CPUs, "memory", s.cfg.MemoryBytes, "pid", os.Getpid(), "version", abi.Version)
	return s, nil
}

// bootStep is one thing to do, and how it is called.
type bootStep struct {
	op string
	do func() error
}

func (s *Kernel) bootSteps(steps []bootStep) error {
	for _, step := range steps {
		if err := step.do(); err != nil {
			return errdefs.Wrap(err, errdefs.DomainBoot, step.op)
		}
	}
	return nil
}

// newKernel makes what needs nothing of gVisor.
func newKernel(cfg Config) (*Kernel, error) {
	if cfg.Clock == nil {
		cfg.Clock = ktime.Real
	}
	if cfg.Exit == nil {
		cfg.Exit = os.Exit
	}
	if cfg.Topology == nil || cfg.Topology.Len() != cfg.CPUs {
		cfg.Topology = smp.Flat(cfg.CPUs)
	}
	s := &Kernel{
		cfg:       cfg,
		log:       newKernelLog(cfg.Log),
		started:   cfg.Clock.Now(),
		mounts:    make(map[string]*vfs.Mount),
		mountedAs: make(map[*vfs.Filesystem]mountKind),
		agents:    make(map[string]*Agent),
	}
	prompt, err := ktime.NewPrompt(ktime.Steady(cfg.Clock))
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.DomainBoot, "make a timer")
	}
	s.prompt = prompt
	s.bootInterrupts()
	s.wheel = ktime.NewWheel(s.cfg.Clock, wheelTick) // Its ends are interrupts, too.
	s.sched = sched.New(sched.Config{CPUs: cfg.CPUs, Clock: ktime.Steady(s.cfg.Clock), Notify: s.schedNotice,
		Timers: ktime.Watched(s.prompt, s.timerEnded), Near: func(a, b int) int { return -int(cfg.Topology.Share(a, b)) },
		Besides: s.besides()})
	return s, nil
}

func (s *Kernel) bootPlatform() error {
	m := s.cfg.Machine
	if m == nil {
		var err error
		if m, err = MakeMachine(s.cfg.Driver, s.cfg.Device, s.cfg.CPUs, s.cfg.Yield); err != nil {
			return err
		}
	}
	s.machine = m
	s.k = &kernel.Kernel{Platform: platform.Wrap(m.platform, platform.Hooks{
		FirstSwitch: s.taskStarts,
		Joined: func(ctx context.Context, st *sched.Task) {
			if t, ok := ctx.(*kernel.Task); ok {
				s.joined(t, st)
			}
		},
		Counted:  s.taskCounted,
		Exit:     s.taskExits,
		Fault:    s.taskFaulted,
		Trap:     s.taskTrapped,
		Settled:  s.taskSettled,
		Panicked: s.taskPanicked,
		Call:     s.taskCalls,
		Enter:    s.taskEnters,
		Left:     s.taskLeft,
		Clock:    s.taskClock,
	})}
	return nil
}

// bootMemory says how much memory there is.
func (s *Kernel) bootMemory() error {
	s.k.SetMemoryFile(s.machine.memory)
	if s.cfg.MemoryBytes > 0 {
		tmpfs.SetTotalHostMem(s.cfg.MemoryBytes)
		usage.MinimumTotalMemoryBytes = s.cfg.MemoryBytes
		usage.MaximumTotalMemoryBytes = s.cfg.MemoryBytes
	}
	return nil
}

func (s *Kernel) bootKernel() error {
	mf := s.k.MemoryFile()
	vdso, err := loader.PrepareVDSO(mf)
	if err != nil {
		return err
	}
	if err := s.useClockPage(vdso.ParamPage.FileRange().Start); err != nil {
		return err
	}
	tk := kernel.NewTimekeeper()
	params := kernel.NewVDSOParamPage(mf, vdso.ParamPage.FileRange())
	tk.SetClocks(gvtime.NewCalibratedClocks(false), params)

	userns := auth.NewRootUserNamespace()
	s.creds = auth.NewRootCredentials(userns)
	stacks := &netstack.Creator{Clock: tk, Wheel: s.wheel, IDs: s.k, OnPacket: s.packetSeen}
	s.stacks = stacks
	rootStack, err := stacks.CreateStack()
	if err != nil {
		return err
	}
	if err := s.k.Init(kernel.InitKernelArgs{
		FeatureSet:           cpuid.HostFeatureSet().Fixed(),
		Timekeeper:           tk,
		RootUserNamespace:    userns,
		RootNetworkNamespace: inet.NewRootNamespace(rootStack, stacks, userns),
		ApplicationCores:     uint(s.cfg.CPUs),
		Vdso:                 vdso,
		VdsoParams:           params,
		RootUTSNamespace:     kernel.NewUTSNamespace("aios", "", userns),
		RootIPCNamespace:     kernel.NewIPCNamespace(userns),
		RootPIDNamespace:     kernel.NewRootPIDNamespace(userns),
		MaxFDLimit:           kernel.MaxFdLimit,
		Cgroup2FSInit:        cgroup2fs.NewFilesystem,
	}); err != nil {
		return err
	}
	// Nothing runs outside of agents, but System V semaphores ask for the first
	// process of the root PID namespace, to number processes in that. One without a
	// thread will do: it is never started and gets no signals.
	s.k.TestOnlySetGlobalInit(s.k.NewThreadGroup(s.k.RootPIDNamespace(), kernel.NewSignalHandlers(), linux.SIGCHLD, limits.NewLimitSet()))
	hostFS, err := host.NewFilesystem(s.k.VFS())
	if err != nil {
		return err
	}
	s.k.SetHostMount(s.k.VFS().NewDisconnectedMount(hostFS, nil, &vfs.MountOptions{}))
	hostFS.DecRef(s.k.SupervisorContext())
	return nil
}

// SeccompInfo tells which host calls the platform makes.
func (s *Kernel) SeccompInfo() gvplatform.SeccompInfo { return s.k.SeccompInfo() }

// Hello describes the kernel to a daemon.
func (s *Kernel) Hello() control.HelloReply {
	return control.HelloReply{
		Domain:   s.cfg.Domain,
		PID:      os.Getpid(),
		Platform: s.cfg.Driver.Name(),
		Started:  s.started,
	}
}

// setupContext is the context in which the kernel prepares something for an
// agent before a task of it exists. Mounts and loads look up namespaces and
// credentials through it.
//
// gVisor's own context for new processes answers CtxMountNamespace by taking a
// lock that CreateProcess takes in the opposite order; this one holds its
// answers.
type setupContext struct {
	context.Context
	kernel *kernel.Kernel
	creds  *auth.Credentials
	ns     *namespaces
	memID  uint32
}

// Value implements context.Context.
func (c *setupContext) Value(key any) any {
	switch key {
	case auth.CtxCredentials:
		return c.creds
	case pgalloc.CtxMemoryCgroupID:
		return c.memID
	case kernel.CtxPIDNamespace:
		return c.ns.pid()
	case kernel.CtxUTSNamespace:
		c.ns.mu.RLock()
		defer c.ns.mu.RUnlock()
		c.ns.uts.IncRef()
		return c.ns.uts
	case inet.CtxStack:
		c.ns.mu.RLock()
		defer c.ns.mu.RUnlock()
		return c.ns.net.Stack()
	case vfs.CtxMountNamespace:
		c.ns.mu.RLock()
		defer c.ns.mu.RUnlock()
		if c.ns.mnt == nil {
			return nil
		}
		c.ns.mnt.IncRef()
		return c.ns.mnt
	case vfs.CtxRoot:
		c.ns.mu.RLock()
		mnt := c.ns.mnt
		if mnt != nil {
			mnt.IncRef()
		}
		c.ns.mu.RUnlock()
		if mnt == nil {
			return nil
		}
		defer mnt.DecRef(c)
		return mnt.Root(c)
	case kernel.CtxTask:
		return nil
	default:
		return c.Context.Value(key)
	}
}

// context returns the context for setting up something in ns as creds.
func (s *Kernel) context(ns *namespaces, creds *auth.Credentials, memID uint32) context.Context {
	return &setupContext{Context: s.k.SupervisorContext(), kernel: s.k, creds: creds, ns: ns, memID: memID}
}

// rootNamespaces returns the kernel's own namespaces, without references.
func (s *Kernel) rootNamespaces() *namespaces {
	ns := &namespaces{
		uts: s.k.RootUTSNamespace(),
		ipc: s.k.RootIPCNamespace(),
		net: s.k.RootNetworkNamespace(),
	}
	return ns.counting(s.k.RootPIDNamespace())
}

// agentCapabilities is what root is in an agent: what programs that set
// themselves up as root expect, and nothing that reaches outside the agent's
// namespaces.
var agentCapabilities = auth.CapabilitySetOfMany([]linux.Capability{
	linux.CAP_AUDIT_WRITE, linux.CAP_CHOWN, linux.CAP_DAC_OVERRIDE, linux.CAP_FOWNER,
	linux.CAP_FSETID, linux.CAP_KILL, linux.CAP_NET_BIND_SERVICE, linux.CAP_SETFCAP,
	linux.CAP_SETGID, linux.CAP_SETPCAP, linux.CAP_SETUID, linux.CAP_SYS_CHROOT,
})
