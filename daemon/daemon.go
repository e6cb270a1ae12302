// Package daemon is aiosd: it knows the agents and domains of one state
// directory, starts kernel processes and gofers, and answers clients. It runs
// no agent code and imports no gVisor kernel.
//
// Key types:
//
//   - System is the daemon: one value that wires everything.
//   - domain is one kernel process: how it was started, the connection to it,
//     and which file systems it has been given.
//   - record is what is known of one agent, kept in memory and in a file, so
//     that a daemon that was killed finds its agents again.
//   - bearer is on whose behalf a call is made that shows a token.
//
// What is kept where, below the state directory:
//
//	agents/ID.json     the record          agents/ID.log     what it wrote
//	domains/NAME.json  PID, socket, options domains/NAME.log what the kernel process wrote
//	images/            see package images
//	crash/             dumps, see package crash
//	events/            the journal of events, and who has read how far
//	semantic/          the items of semantic memory, and its graphs
//	tokens/            the signing key, what is trusted and revoked, where bearers are served
//
// A kernel process outlives the daemon. When the daemon starts, it connects to
// every domain it finds a file of and asks for the agents; agents that no
// domain knows any more are lost.
//
// Semantic memory is a process of its own, which runs once it was asked; see
// memoryProcess.
//
// Lock order: domain.startMu, then System.mu, then domain.mu; record.mu is a
// leaf, and so is tokenUses.mu. No lock but startMu is held across a call to a
// kernel process.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"aios.dev/aios/api"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/config"
	"aios.dev/aios/crash"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event/hub"
	"aios.dev/aios/host/cgroup"
	"aios.dev/aios/images"
	"aios.dev/aios/klog"
	"aios.dev/aios/ktime"
	"aios.dev/aios/recovery"
)

// System is the daemon.
type System struct {
	apiv1.UnimplementedControlServer
	apiv1.UnimplementedDebugServer
	apiv1.UnimplementedEventsServer
	apiv1.UnimplementedHealthServer
	apiv1.UnimplementedConfigurationServer
	apiv1.UnimplementedSinksServer
	apiv1.UnimplementedAlertsServer

	paths    config.Paths
	instance string // tells this state directory from others on the host
	clock    ktime.Clock
	time     timekeeping
	klog     *klog.Log
	log      *slog.Logger
	logging  config.Log
	images   *images.Store
	known    sync.Map // images.Image by name; what the store would say
	trail    *audit.Log
	recent   *errdefs.Recorder
	crashes  *crash.Store
	events   *hub.Hub
	wanted   wantedTopics
	// Names of agents by ID, for the filters of subscribers.
	eventNames sync.Map
	crossed    atomic.Bool // something may have been delegated between domains
	started    time.Time
	stop       func() // ends Run

	keysMu     sync.Mutex // held while the files are opened
	keys       atomic.Pointer[keyring]
	uses       tokenUses
	restarts   chan struct{} // holds one for each agent that is being started again
	health     *recovery.Health
	dogs       *daemonDogs
	breakers   breakers
	booting    *recovery.Breaker // of kernel processes
	budgets    domainBudgets
	configured configured
	sinks      sinks
	hooks      hooks
	alerts     *alerts // nil in tests that want none
	bearers    bearerDoor
	memory     memoryProcess
	spares     spares

	platformOnce sync.Once
	platformName string // what "auto" means here
	platformErr  error
	usable       sync.Map // names of platforms that were tried, and work here

	mu sync.Mutex
	// By name.
	domains map[string]*domain // +checklocks:mu
	// By ID.
	agents map[string]*record // +checklocks:mu
	// By name.
	names map[string]*record // +checklocks:mu
}

// recentErrors is how many different failures the daemon remembers.
const recentErrors = 256

// Run is the daemon's life: it returns when a client or a signal ends it, or
// at once, without error, when another daemon serves the same state directory.
func Run(paths config.Paths) error {
	if err := paths.Prepare(); err != nil {
		return err
	}
	lock, err := takeLock(paths.LockFile)
	if lock == nil || err != nil {
		return err
	}
	defer lock.Close()
	clock := ktime.NewDisciplined(chaosClock())
	store, err := images.OpenStore(paths.Images, clock)
	if err != nil {
		return err
	}
	defer store.Close()
	dogs := newDaemonDogs(recovery.WatchdogConfig{Clock: clock, Tick: dogTick})
	defer dogs.set.Close()
	trail, err := audit.Open(paths.Audit, audit.Options{Clock: clock, KeyFile: paths.AuditKey, SetAside: true, Busy: busy(dogs.trail)})
	if err != nil {
		return err
	}
	defer trail.Close()
	crashes, err := crash.OpenStore(paths.Crashes, clock, crash.DefaultLimits)
	if err != nil {
		return err
	}
	conf, err := readSettings(paths)
	if err != nil {
		return err
	}
	raiseFileLimit()
	fewThreads()

	d := &System{
		crashes: crashes, dogs: dogs,
		trail: trail, recent: errdefs.NewRecorder(recentErrors, clock.Now),
		paths: paths, instance: instanceOf(paths.StateDir), clock: clock, images: store,
		time:    timekeeping{wall: clock},
		started: clock.Now(),
		domains: make(map[string]*domain),
		agents:  make(map[string]*record),
		names:   make(map[string]*record),
	}
	d.openTime(conf.time)
	d.configured.set(conf, d.clock.Now())
	if d.logging, err = conf.logging(config.ThisHost()); err != nil {
		return err
	}
	if err := d.openLog(); err != nil {
		return err
	}
	d.openHealth()
	d.openMemory()
	defer d.memory.stop()
	if err := d.openEvents(); err != nil {
		return err
	}
	defer d.sayStopped()
	d.spares.open(d, conf.Domains.Spare != "off")
	defer d.spares.close()
	dogs.d.Store(d)
	if err := d.openAlerts(conf.alerts); err != nil { // First: no event is to be missed.
		return err
	}
	defer d.alerts.stop()
	if err := d.applyHooks(conf.hooks); err != nil { // Before: ends that were missed are told.
		return err
	}
	defer d.stopHooks()
	d.recover()
	d.sayStarted()
	d.alerts.recovered()
	d.applySinks(conf.sinks)
	defer d.stopSinks()
	d.applyTime(conf.time)
	defer d.stopTime()
	watching, unwatch := context.WithCancel(context.Background())
	defer unwatch()
	go d.watchHealth(watching)

	os.Remove(paths.Socket) // Left by a daemon that was killed; the lock is ours.
	old := unix.Umask(0o177)
	l, err := net.Listen("unix", paths.Socket)
	unix.Umask(old)
	if err != nil {
		return errdefs.Wrap(err, errdefs.HostIO, "listen", errdefs.Resource("%s", paths.Socket))
	}
	server := grpc.NewServer(d.serverOptions(api.Door{Bearer: d.admitBearer})...)
	apiv1.RegisterControlServer(server, d)
	apiv1.RegisterDebugServer(server, d)
	apiv1.RegisterEventsServer(server, d)
	apiv1.RegisterHealthServer(server, d)
	apiv1.RegisterConfigurationServer(server, d)
	apiv1.RegisterSinksServer(server, d)
	apiv1.RegisterAlertsServer(server, d)
	apiv1.RegisterClockServer(server, clockService{d: d})
	apiv1.RegisterHooksServer(server, &hooksService{d: d})
	apiv1.RegisterKernelServer(server, &kernelService{d: d})
	apiv1.RegisterInterruptsServer(server, &interruptsService{d: d})
	apiv1.RegisterSchedulingServer(server, &schedulingService{d: d})
	apiv1.RegisterProcessorsServer(server, &processorsService{d: d})
	apiv1.RegisterVirtualMemoryServer(server, &vmService{d: d})
	apiv1.RegisterFabricServer(server, &fabricService{d: d})
	apiv1.RegisterTemplatesServer(server, &templatesService{d: d})
	apiv1.RegisterMemoryServer(server, &memoryService{d: d})
	d.openDoor()
	defer d.flushTallies()
	defer d.closeDoor()
	d.stop = sync.OnceFunc(func() { go stopServer(server) })
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	signal.Ignore(syscall.SIGPIPE)
	defer d.reloadOnHangup()()
	go func() {
		<-signals
		d.stop()
	}()
	d.log.Info("serving", "socket", paths.Socket, "state", paths.StateDir, "pid", os.Getpid())
	err = server.Serve(l)
	d.log.Info("ended")
	if errors.Is(err, grpc.ErrServerStopped) {
		err = nil
	}
	return errdefs.Wrap(err, errdefs.HostIO, "serve")
}

// instanceOf returns a short name for a state directory.
func instanceOf(dir string) string {
	h := fnv.New32a()
	h.Write([]byte(dir))
	return fmt.Sprintf("%08x", h.Sum32())
}

// stopGrace is how long calls in progress may take when the daemon ends.
const stopGrace = 500 * time.Millisecond

func stopServer(s *grpc.Server) {
	t := ktime.Real.AfterFunc(stopGrace, s.Stop)
	defer t.Stop()
	s.GracefulStop()
}

// takeLock returns the locked lock file, or nil when another daemon holds it.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "open lock file")
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, errdefs.Wrap(err, errdefs.HostIO, "lock", errdefs.Resource("%s", path))
	}
	if err := f.Truncate(0); err == nil {
		f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f, nil
}

// fewThreads keeps the daemon on one CPU in four. It passes messages on; the
// CPUs are for the agents, and on a small host the runtime's search for idle
// threads to wake costs as much as the messages: on two CPUs, two clients that
// spawn at once get a few per cent more agents this way.
func fewThreads() { runtime.GOMAXPROCS(max(1, runtime.NumCPU()/4)) }

// raiseFileLimit lets the daemon, and the kernel processes that inherit it,
// open as many files as the host allows: each agent's log is one.
func raiseFileLimit() {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) == nil && l.Cur < l.Max {
		l.Cur = l.Max
		unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
	}
}

// recover finds the domains and agents of an earlier daemon.
func (d *System) recover() {
	records := d.loadRecords()
	for _, r := range records {
		d.addRecord(r) // First: a domain may report an end as soon as it is connected.
	}
	d.adoptDomains(records)
	lives := func(name string) bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.domains[name] != nil
	}
	// Whether it is the kernel process that the agent was given to: one of the
	// same name may have taken its place, and never have heard of it.
	same := func(r *record) bool {
		d.mu.Lock()
		dom := d.domains[r.domName]
		d.mu.Unlock()
		if dom == nil {
			return false
		}
		dom.mu.Lock()
		defer dom.mu.Unlock()
		return r.process == 0 || int(r.process) == dom.info.PID
	}
	if _, err := cgroup.Sweep(d.groupParent(), lives); err != nil && errdefs.CodeOf(err) != errdefs.HostFeature {
		d.log.Warn("removing host cgroups that were left behind", "err", err)
	}
	d.sweepDomains()
	d.crossed.Store(len(d.liveDomains()) > 0) // Under an earlier daemon, perhaps.
	d.revokeOrphans()
	for _, r := range records {
		r.mu.Lock()
		adopted, final := r.domain != nil, r.state.Final()
		r.mu.Unlock()
		switch {
		case final && r.spec().GetRemove():
			d.remove(r) // The earlier daemon had yet to.
		case adopted || final:
		case same(r) && !r.heardOf:
			d.remove(r) // The earlier daemon died before the domain heard of it.
		default:
			d.lose(r, "its domain was gone when the daemon started", verdict{ok: true}, false)
		}
	}
	d.sayOldEnds(records)
	for _, r := range records {
		if r.final() {
			d.scheduleRestart(r) // The earlier daemon was about to.
		}
	}
}

// addRecord makes a record known. A name that is taken already is dropped: it
// can only come from a record file that somebody copied.
func (d *System) addRecord(r *record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.agents[r.id] = r
	d.eventNames.Store(r.id, r.name)
	if r.name != "" && d.names[r.name] == nil {
		d.names[r.name] = r
	}
}

// find returns the agent with that ID or name.
func (d *System) find(ref string) (*record, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r := d.agents[ref]; r != nil {
		return r, nil
	}
	if r := d.names[ref]; r != nil {
		return r, nil
	}
	return nil, errdefs.New(errdefs.AgentNotFound, fmt.Sprintf("no agent has the ID or name %q", ref),
		errdefs.Fix("`aiosctl ps -a` lists the agents"))
}

// background is for work that must not end with the call that began it.
func background(timeout time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), timeout)
}
