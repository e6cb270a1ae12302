package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/host/box"
	"aios.dev/aios/platform"
	"aios.dev/aios/platform/drivers"
)

// defaultDomain is where agents go that name none.
const defaultDomain = "default"

// domain is one kernel process.
type domain struct {
	d    *System
	name string

	// startMu serialises starting the process and giving it file systems.
	startMu sync.Mutex
	// Keys the process knows.
	mounts map[string]bool // +checklocks:startMu
	// How the host image is composed.
	host *control.Root // +checklocks:startMu

	mu   sync.Mutex
	info domainInfo // +checklocks:mu
	// Nil before the start.
	client *control.Client     // +checklocks:mu
	hello  *control.HelloReply // +checklocks:mu
	dead   bool                // +checklocks:mu
	// Directories whose gofers have ended.
	cut []cutDirectory // +checklocks:mu
	// As it last answered.
	dogs []control.Watchdog // +checklocks:mu

	// joining is held while a process that runs already is connected to. Before
	// mu and claiming.
	joining sync.Mutex

	// claiming is held while agents of the kernel process are taken over, and
	// while its end is told. Before record.mu.
	claiming sync.Mutex
	died     bool // +checklocks:claiming

	trail  domainTrail
	events domainEvents
	group  regrouping

	// unanswered is set while the kernel process does not answer.
	unanswered atomic.Bool
	// rounds are of checkpoints that nobody asks for.
	rounds checkpointRounds
	// saving is held while a checkpoint is made, and saved set when the kernel
	// process ends because one was: where to.
	saving sync.Mutex
	saved  atomic.Pointer[string]
	// stopping is set when the kernel process was told to end.
	stopping atomic.Bool

	buryOnce sync.Once
	gone     chan struct{} // closed when nothing of it is left
}

func (d *System) newDomain(name string) *domain {
	return &domain{d: d, name: name, mounts: make(map[string]bool), gone: make(chan struct{})}
}

// domainInfo is what the domain's file says.
type domainInfo struct {
	Name      string    `json:"name"`
	Socket    string    `json:"socket"`
	PID       int       `json:"pid"`
	StartTick uint64    `json:"start_tick"` // tells the process from a later one of the same PID
	Started   time.Time `json:"started"`
	Isolated  bool      `json:"isolated,omitempty"`
	// CheckpointEvery is how often it is saved; 0: only when somebody asks.
	CheckpointEvery time.Duration `json:"checkpoint_every,omitempty"`
}

func (d *System) domainPath(name, suffix string) string {
	return filepath.Join(d.paths.Domains, name+suffix)
}

// socketOf returns a path as short as the daemon's own socket's, since these
// are limited; the hash keeps domains apart.
func (d *System) socketOf(name string) string {
	return filepath.Join(filepath.Dir(d.paths.Socket), "d"+instanceOf(name))
}

// domainFor returns the running domain called name, starting it if need be.
func (d *System) domainFor(ctx context.Context, name string, spec *apiv1.SpawnRequest) (*domain, []string, error) {
	for {
		d.mu.Lock()
		dom := d.domains[name]
		if dom == nil {
			dom = d.newDomain(name)
			d.domains[name] = dom
		}
		d.mu.Unlock()

		dom.startMu.Lock()
		dom.mu.Lock()
		dead, client, hello := dom.dead, dom.client, dom.hello
		dom.mu.Unlock()
		switch {
		case dead: // It died since we looked; the next one gets its place.
			dom.startMu.Unlock()
			select {
			case <-dom.gone:
			case <-ctx.Done():
				return nil, nil, errdefs.Wrap(ctx.Err(), errdefs.Cancelled, "start domain", errdefs.Resource("%s", name))
			}
			continue
		case client != nil:
			dom.startMu.Unlock()
			if p := spec.GetPlatform(); p != "" && p != platform.Auto && p != hello.Platform {
				return nil, nil, errdefs.New(errdefs.WrongState, fmt.Sprintf("it runs on %s, not on %s", hello.Platform, p),
					errdefs.Op("use domain"), errdefs.Resource("%s", name),
					errdefs.Fix("leave --platform out, or name another --domain"))
			}
			if err := missingBoxes(hello.Boxes); spec.GetStrict() && err != nil {
				return nil, nil, errdefs.Wrap(err, errdefs.BoxRefused, "use domain", errdefs.Resource("%s", name))
			}
			return dom, nil, nil
		}
		warnings, err := dom.start(ctx, spec)
		if err != nil {
			if spec.GetIsolated() && errdefs.CodeOf(err) == errdefs.BoxRefused {
				os.Remove(d.domainPath(name, ".log")) // They say no more than the error.
				os.Remove(d.domainPath(name, ringSuffix))
			} else {
				d.settleRing(name, spec.GetIsolated())
			}
			dom.bury()
		}
		dom.startMu.Unlock()
		return dom, warnings, err
	}
}

// bootTimeout is how long a kernel process may take to boot; it takes some ten
// milliseconds.
const bootTimeout = 30 * time.Second

// start starts the kernel process.
//
// +checklocks:dom.startMu
func (dom *domain) start(ctx context.Context, spec *apiv1.SpawnRequest) ([]string, error) {
	d := dom.d
	began := d.clock.Now()
	choice, err := d.choosePlatform(spec.GetPlatform())
	if err != nil {
		return nil, err
	}
	done, err := d.booting.Allow()
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.BreakerOpen, "start domain", errdefs.Resource("%s", dom.name))
	}
	boxes, err := dom.boot(ctx, choice, spec, nil)
	done(err)
	if err != nil {
		return nil, err
	}
	dom.mu.Lock()
	pid := dom.info.PID
	dom.mu.Unlock()
	d.log.Info("domain started", "domain", dom.name, "pid", pid, "platform", choice.Driver.Name())
	d.spares.want()
	d.sayRestarted(dom.name)
	d.emit(event.DomainStart, "", dom.name, &eventv1.DomainStart{
		Pid: int32(pid), Platform: choice.Driver.Name(), Version: abi.Version, Took: int64(d.clock.Since(began)),
	})
	return boxWarnings(boxes), nil
}

// boot starts the process, which with from goes on from a checkpoint, and is connected to it when it returns.
//
// +checklocks:dom.startMu
func (dom *domain) boot(ctx context.Context, choice platform.Choice, spec *apiv1.SpawnRequest, from *restoring) ([]control.Box, error) {
	d := dom.d
	p, err := d.launch(dom.name, choice, spec, from)
	if err != nil {
		return nil, err
	}
	watchdog := d.clock.AfterFunc(bootTimeout, func() { p.cmd.Process.Kill() })
	boxes, err := control.ReadBootStatus(p.status)
	watchdog.Stop()
	p.status.Close()
	if err != nil {
		p.cmd.Process.Kill()
		p.cmd.Wait()
		os.Remove(p.info.Socket)
		return nil, dom.bootError(err)
	}
	go p.cmd.Wait() // Collects it; that it is gone shows on the connection.
	if err := dom.connect(ctx, p.info); err != nil {
		killProcess(p.info)
		os.Remove(p.info.Socket)
		return nil, err
	}
	return boxes, nil
}

// bootError adds what the kernel process last said.
func (dom *domain) bootError(err error) error {
	path := dom.d.domainPath(dom.name, ".log")
	return errdefs.Wrap(err, errdefs.DomainBoot, "start domain", errdefs.Resource("%s", dom.name),
		errdefs.Fix("%s", orElse(errdefs.FixOf(err), "see "+path)))
}

func orElse(s, other string) string {
	if s != "" {
		return s
	}
	return other
}

// connect connects to the kernel process and makes it the domain's.
func (dom *domain) connect(ctx context.Context, info domainInfo) error {
	known := make(chan struct{}) // What it tells is answered over the connection.
	client, hello, err := control.Dial(ctx, info.Socket, dom.name, func(method string, body json.RawMessage) {
		<-known
		dom.onEvent(method, body)
	})
	if err != nil {
		close(known)
		return err
	}
	dom.mu.Lock()
	dom.info, dom.client, dom.hello = info, client, hello
	dom.mu.Unlock()
	close(known)
	go func() {
		<-client.Done()
		dom.disconnected(client, info)
	}()
	dom.tellClock()
	dom.notify(control.MethodAuditPull, struct{}{}) // What an earlier daemon did not write.
	dom.joinEvents()
	return nil
}

// saveDomain writes the file by which a later daemon finds the domain.
func (d *System) saveDomain(info domainInfo) error {
	path := d.domainPath(info.Name, ".json")
	raw, err := json.Marshal(info)
	if err == nil {
		err = os.WriteFile(path, raw, 0o600)
	}
	return diskError(err, "record domain", path)
}

// bury removes what is left of the domain and then, since the next one of that
// name uses the same places, makes it unknown.
func (dom *domain) bury() { dom.buryOnce.Do(dom.buryNow) }

func (dom *domain) buryNow() {
	dom.mu.Lock()
	dom.dead = true
	info := dom.info
	dom.mu.Unlock()
	d := dom.d
	if info.Socket != "" {
		os.Remove(info.Socket)
	}
	d.dropGroup(dom.name)
	os.RemoveAll(d.domainPath(dom.name, ".root"))
	os.Remove(d.domainPath(dom.name, ".json"))
	d.mu.Lock()
	if d.domains[dom.name] == dom {
		delete(d.domains, dom.name)
	}
	d.mu.Unlock()
	close(dom.gone)
}

// domainDied says which agents went with a kernel process.
func (d *System) domainDied(dom *domain) {
	dom.mu.Lock()
	info := dom.info
	dom.mu.Unlock()
	killProcess(info) // A process that closed its connection is of no use.
	lost := dom.orphans()
	var labels []string
	for _, r := range lost {
		labels = append(labels, r.label())
	}
	// The log first: whoever hears of it may look there.
	_, saved := dom.savedAs()
	if len(lost) > 0 && !saved {
		d.log.Error("domain died", "domain", dom.name, "pid", info.PID, "agents lost", strings.Join(labels, " "))
	} else {
		d.log.Info("domain ended", "domain", dom.name, "pid", info.PID)
	}
	if len(lost) > 0 && !saved {
		d.record(audit.Entry{
			Op: "domain.died", Domain: dom.name, Target: strings.Join(labels, " "), Count: uint64(len(lost)),
			Reason: "whatever was granted in it is gone with it",
		})
	}
	dom.sayEnds()
	d.sayEnded(dom, info, lost)
	var again verdict // No: it was told to end.
	if !saved {
		d.keepCrash(dom, info, lost)
		again = d.domainCrashed(dom, lost, info.CheckpointEvery > 0)
	}
	goesOn := info.CheckpointEvery > 0 && !dom.stopping.Load()
	for _, r := range lost {
		d.lose(r, dom.whyLost(), again, goesOn)
	}
	if info.Isolated {
		os.Remove(d.domainPath(dom.name, ".log"))
	}
	d.settleRing(dom.name, info.Isolated)
	dom.rounds.end()
	dom.bury()
	if goesOn {
		go d.restoreCrashed(dom, info, lost, again)
		return
	}
	for _, r := range lost {
		d.scheduleRestart(r)
	}
	d.revokeOrphans()
}

// whyLost is what becomes of agents when the kernel process has ended.
func (dom *domain) whyLost() string {
	if why, ok := dom.savedAs(); ok {
		return why
	}
	return "the kernel process of domain " + dom.name + " died"
}

// sayEnded publishes the end of a kernel process: a crash, unless the daemon
// had told it to end.
func (d *System) sayEnded(dom *domain, info domainInfo, lost []*record) {
	if dom.stopping.Load() {
		d.emit(event.DomainStop, "", dom.name, &eventv1.DomainStop{})
		return
	}
	p := &eventv1.DomainCrash{Pid: int32(info.PID), Reason: "its kernel process ended"}
	for _, r := range lost {
		p.Agents = append(p.Agents, r.id)
	}
	d.emit(event.DomainCrash, "", dom.name, p)
}

// lose marks an agent lost and reports whether it was not final before. again
// says whether the domain may be started again with its agents, and goesOn that it is
// tried to have it go on from a checkpoint: then a template is forgotten only if that
// fails.
func (d *System) lose(r *record, why string, again verdict, goesOn bool) bool {
	lost := r.finish(abi.StateLost, &apiv1.Exit{Signal: int32(unix.SIGKILL), Reason: why}, d.clock.Now())
	if lost {
		d.emit(event.AgentLost, r.id, r.domName, &eventv1.AgentLost{Name: r.name, Reason: why})
		d.tellExit(r, r.exitOf())
		r.wish.decide(nil, &again)
		d.tellBudget(r)
		if !goesOn || !r.isTemplate() {
			d.settle(r)
		}
		close(r.settled)
	}
	return lost
}

// records returns every agent, in no order.
func (d *System) records() []*record {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]*record, 0, len(d.agents))
	for _, r := range d.agents {
		out = append(out, r)
	}
	return out
}

// connection returns the connection to the kernel process.
func (dom *domain) connection() *control.Client {
	dom.mu.Lock()
	defer dom.mu.Unlock()
	return dom.client
}

// call asks the kernel process.
func (dom *domain) call(ctx context.Context, method string, req, reply any, files ...*os.File) error {
	return dom.connection().Call(ctx, method, req, reply, files...)
}

// notify tells the kernel process something and expects no answer.
func (dom *domain) notify(method string, req any) {
	if c := dom.connection(); c != nil {
		c.Notify(method, req) // Fails only when the process is gone, with all it knew.
	}
}

// choosePlatform selects what a new domain runs on.
func (d *System) choosePlatform(name string) (platform.Choice, error) {
	if name == "" {
		name = platform.Auto
	}
	if name == platform.Auto {
		d.platformOnce.Do(func() {
			c, err := drivers.All().Select(platform.Auto)
			if d.platformErr = err; err == nil {
				d.platformName = c.Driver.Name()
				d.usable.Store(d.platformName, true)
			}
		})
		if d.platformErr != nil {
			return platform.Choice{}, d.platformErr
		}
		driver, err := drivers.All().Lookup(d.platformName)
		return platform.Choice{Driver: driver}, err
	}
	if _, tried := d.usable.Load(name); tried { // It takes a process to try one.
		driver, err := drivers.All().Lookup(name)
		return platform.Choice{Driver: driver}, err
	}
	c, err := drivers.All().Select(name)
	if err == nil {
		d.usable.Store(name, true)
	}
	return c, err
}

// killProcess kills the process that info describes, if it is still that one.
func killProcess(info domainInfo) {
	if info.PID <= 1 || info.StartTick == 0 {
		return
	}
	// The descriptor stands for one process, whoever gets its PID later.
	fd, err := unix.PidfdOpen(info.PID, 0)
	if err != nil {
		return // It has ended.
	}
	defer unix.Close(fd)
	if startTick(info.PID) == info.StartTick {
		unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
}

// startTick returns when a process started, in clock ticks since boot, or 0.
func startTick(pid int) uint64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name, in parentheses, may hold anything; count after it.
	stat := string(raw)
	if f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:]); len(f) > 19 {
		n, _ := strconv.ParseUint(f[19], 10, 64)
		return n
	}
	return 0
}

// hostMemory returns the host's memory in bytes.
func hostMemory() uint64 {
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) != nil {
		return 0
	}
	return uint64(si.Totalram) * uint64(si.Unit)
}

// missingBoxes is the error of --strict for a domain that runs, or nil.
func missingBoxes(boxes []control.Box) error {
	reports := make([]box.Report, len(boxes))
	for i, b := range boxes {
		reports[i] = box.Report{Box: b.Name, OK: b.OK, Reason: b.Reason, Effect: b.Effect}
	}
	return box.Refused(reports)
}

// boxWarnings makes one line of the boxes that the host refused.
func boxWarnings(boxes []control.Box) []string {
	var missing []string
	for _, b := range boxes {
		if !b.OK {
			missing = append(missing, b.Name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return []string{"the host refused to confine the kernel process fully (" + strings.Join(missing, ", ") + "); see `aiosctl doctor`"}
}
