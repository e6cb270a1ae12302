package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/ktime"
	"aios.dev/aios/recovery"
)

// The daemon asks every domain, all the time, whether it still answers, and
// keeps what it knows of its parts in one registry. A change is an event.

const (
	// pingEvery is how often each domain is asked, and pingTimeout how long it
	// may take to answer.
	pingEvery   = 2 * time.Second
	pingTimeout = 5 * time.Second
	// lowDisk is the part of the state directory's file system that is to be
	// free, in per cent.
	lowDisk = 5
)

// Names of components.
const (
	componentJournal = "journal"
	componentDisk    = "disk"
	componentTrail   = "audit trail"
)

func domainComponent(name string) string { return "domain " + name }
func agentComponent(r *record) string    { return "agent " + r.label() }

// openHealth makes the registry.
func (d *System) openHealth() {
	d.restarts = make(chan struct{}, restartsAtOnce)
	d.openBreakers()
	d.health = recovery.NewHealth(d.clock, func(c recovery.HealthChange) {
		typ := event.HealthDegraded
		if c.Level == recovery.OK {
			typ = event.HealthRestored
		}
		d.emit(typ, "", "", &eventv1.Health{Component: c.Name, State: c.Level.String(), Reason: event.Text(c.Reason), Lasted: int64(c.For)})
	})
}

// bootsAtFault is how many kernel processes in a row must fail to start for the
// next ones not to be tried for a while: each may take until bootTimeout, and
// agents that are to be started again would queue for it.
const bootsAtFault = 5

// openBreakers makes the circuit breakers of the daemon itself. There is none
// before the disk: it answers at once, and may work again any moment.
func (d *System) openBreakers() {
	d.booting = d.newBreaker(recovery.BreakerConfig{
		Name: "start of kernel processes", Failures: bootsAtFault, Blames: func(err error) bool {
			switch errdefs.CodeOf(err) {
			case errdefs.BoxRefused, errdefs.Cancelled, errdefs.InvalidArgument, errdefs.DiskFull:
				return false
			}
			return !isFull(err)
		},
	})
}

// watchHealth looks at every part from time to time, until ctx ends.
func (d *System) watchHealth(ctx context.Context) {
	tick := make(chan struct{}, 1)
	var timer ktime.Timer
	arm := func() { timer = d.clock.AfterFunc(pingEvery, func() { tick <- struct{}{} }) }
	for arm(); ; arm() {
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-tick:
			d.dogs.health.Busy()
			d.look()
			d.dogs.health.Idle()
		}
	}
}

// look finds out how every part is, now.
func (d *System) look() {
	var wg sync.WaitGroup
	for _, dom := range d.liveDomains() {
		wg.Go(func() { d.ping(dom) })
	}
	wg.Wait()
	disk := recovery.Component{Name: componentDisk}
	var fs unix.Statfs_t
	if err := unix.Statfs(d.paths.StateDir, &fs); err == nil && fs.Blocks > 0 {
		if free := 100 * fs.Bavail / fs.Blocks; free < lowDisk {
			disk.Level, disk.Reason = recovery.Degraded, fmt.Sprintf("%d %% of the file system of %s is free", free, d.paths.StateDir)
			disk.Fix = "make room: when it is full no agent can be spawned, and logs, audit trail and journal lose records"
		}
	}
	d.health.Set(disk)
	journal := recovery.Component{Name: componentJournal}
	if failure := d.events.Stats().Journal.Failure; failure != nil {
		journal.Level, journal.Reason = recovery.Degraded, "events are not kept: "+failure.Error()
		journal.Fix = "make room on the disk; subscribers that listen get events all the same"
	}
	d.health.Set(journal)
	trail := recovery.Component{Name: componentTrail}
	if failure := d.trail.Err(); failure != nil {
		trail.Level, trail.Reason = recovery.Failed, "records are refused and counted: "+failure.Error()
		trail.Fix = "make room on the disk; it is tried again every second, and the trail then says how many are missing"
	}
	d.health.Set(trail)
	d.lookAtBreakers()
	d.lookAtAlerts()
}

// ping asks a domain whether it answers.
func (d *System) ping(dom *domain) {
	ctx, cancel := background(pingTimeout)
	defer cancel()
	began := d.clock.Now()
	c := recovery.Component{Name: domainComponent(dom.name)}
	var stats control.StatsReply
	if err := dom.call(ctx, control.MethodStats, struct{}{}, &stats); err != nil {
		select {
		case <-dom.gone:
			return // It has ended, which somebody else says.
		default:
		}
		c.Level, c.Reason = recovery.Failed, "its kernel process does not answer"
		c.Fix = "`aiosctl domain stop " + dom.name + "` ends it; look at the daemon's log and `aiosctl klog` first"
		if dom.unanswered.CompareAndSwap(false, true) {
			d.emit(event.WatchdogExpired, "", dom.name, &eventv1.WatchdogExpired{
				Name: c.Name, Timeout: int64(pingTimeout), Late: int64(d.clock.Since(began)), Action: "report",
			})
		}
	} else {
		dom.unanswered.Store(false)
		dom.mu.Lock()
		dom.dogs = stats.Watchdogs
		dom.mu.Unlock()
		if late := lateParts(stats.Watchdogs); len(late) > 0 {
			c.Level, c.Reason = recovery.Degraded, "parts of its kernel do not come to an end: "+strings.Join(late, ", ")
			c.Fix = "`aiosctl klog " + dom.name + "` has the stacks; `aiosctl domain stop -f " + dom.name + "` ends it if it does not recover"
		}
	}
	d.health.Set(c)
	select {
	case <-dom.gone: // Meanwhile.
		d.health.Remove(c.Name)
	default:
	}
}

// domainBudgets are how often domains may be started again, by name. mu is a
// leaf.
type domainBudgets struct {
	mu     sync.Mutex
	byName map[string]*recovery.Budget // +checklocks:mu
	// When a domain crashed whose agents are to be started again.
	crashed map[string]time.Time // +checklocks:mu
}

// domainCrashed decides whether a domain that died may be started again with
// its agents; saved says that it is from a checkpoint.
func (d *System) domainCrashed(dom *domain, lost []*record, saved bool) verdict {
	d.health.Remove(domainComponent(dom.name))
	dom.mendCut("")
	if !saved && !slices.ContainsFunc(lost, func(r *record) bool { return r.wish.outlives() }) {
		return verdict{ok: true}
	}
	b := &d.budgets
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byName == nil {
		b.byName, b.crashed = make(map[string]*recovery.Budget), make(map[string]time.Time)
	}
	budget := b.byName[dom.name]
	if budget == nil {
		budget = recovery.NewBudget(recovery.BudgetConfig{Clock: d.clock}, recovery.BudgetState{})
		b.byName[dom.name] = budget
	}
	var v verdict
	v.wait, v.ok = budget.Ended()
	if v.ok {
		b.crashed[dom.name] = d.clock.Now()
	}
	return v
}

// sayRestarted publishes that a domain runs in place of one that had crashed,
// if it does.
func (d *System) sayRestarted(name string) {
	b := &d.budgets
	b.mu.Lock()
	at, crashed := b.crashed[name]
	delete(b.crashed, name)
	budget := b.byName[name]
	b.mu.Unlock()
	if !crashed {
		return
	}
	budget.Started()
	d.emit(event.DomainRestart, "", name, &eventv1.DomainRestart{
		Attempt: uint32(budget.State().Total), Left: uint32(max(0, budget.Left())), Took: int64(d.clock.Since(at)),
		Reason: "its kernel process had ended",
	})
}

// tellBudget says that an agent is not started again any more, if so.
func (d *System) tellBudget(r *record) {
	if r.wish.usedUp() {
		d.health.Set(recovery.Component{
			Name: agentComponent(r), Level: recovery.Failed, Reason: restartBudgetUsed,
			Fix: "`aiosctl logs " + r.label() + "` shows why it fails; `aiosctl rm " + r.label() + "` gives it up",
		})
	}
}

// toldRestarted publishes that an agent was started again.
func (d *System) toldRestarted(r, old *record, correlation string) {
	p := r.wish.proto()
	reason := old.exitOf().GetReason()
	if reason == "" {
		reason = fmt.Sprintf("exit status %d", old.exitOf().GetCode())
		if sig := old.exitOf().GetSignal(); sig != 0 {
			reason = "signal " + unix.SignalName(unix.Signal(sig))
		}
	}
	d.events.Emit(event.Event{Type: event.AgentRestart, Agent: r.id, Domain: r.domName, Correlation: correlation, Payload: &eventv1.AgentRestart{
		Name: r.name, Attempt: uint32(p.GetCount()), Left: p.GetLeft(), Reason: event.Text(reason), From: restartsFrom(r.spec()),
	}})
	if r.wish.usedUp() {
		return // It has ended again, which was told first.
	}
	d.health.Remove(agentComponent(r))
	d.tellBudget(r) // It may have ended for the last time meanwhile.
}

// forget has the kernel process forget an agent that has ended: for one that is
// started again under its ID before that.
func (dom *domain) forget(r *record) {
	if r.wish == nil {
		dom.notify(control.MethodForget, control.AgentRequest{ID: r.id})
		return
	}
	ctx, cancel := background(pingTimeout)
	defer cancel()
	_ = dom.call(ctx, control.MethodForget, control.AgentRequest{ID: r.id}, nil) // It fails if the domain has died.
}
