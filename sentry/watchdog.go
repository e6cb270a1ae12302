package sentry

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/recovery"
	"aios.dev/aios/sentry/ctlfs"
	"aios.dev/aios/sentry/trap"
)

// Watchdogs are of two kinds. Those over agents are fed by agents, and what
// happens when one is not is up to the agent's owner. Those over parts of the
// kernel are fed by these parts; one that does not come to an end is told to the
// bus and the daemon, with the stacks of all goroutines: nothing better can be
// done about it from inside.

const (
	// agentDogTick is how exactly the timeouts of agents are kept.
	agentDogTick = 250 * time.Millisecond
	// partDogTick and partTimeout are those of parts of the kernel.
	partDogTick = 2 * time.Second
	partTimeout = 15 * time.Second
)

// kernelDogs are the watchdogs of a kernel.
type kernelDogs struct {
	agents *recovery.Watchdogs
	parts  *recovery.Watchdogs
	// Of the parts: busy while they have something to do.
	outbox, trail, clearing, memory, lockups *recovery.Watchdog
}

// bootWatchdogs makes them. Parts that start later find theirs.
func (s *Kernel) bootWatchdogs() error {
	w := &s.dogs
	w.agents = recovery.NewWatchdogs(recovery.WatchdogConfig{Clock: s.cfg.Clock, Tick: agentDogTick, OnChange: s.agentDogChanged})
	w.parts = recovery.NewWatchdogs(recovery.WatchdogConfig{Clock: s.cfg.Clock, Tick: partDogTick, OnChange: s.partDogChanged})
	for _, d := range []struct {
		name string
		dog  **recovery.Watchdog
	}{
		{"events on their way out", &w.outbox}, {"audit records on their way out", &w.trail}, {"mounts of ended grants", &w.clearing},
		{"watch over memory", &w.memory}, {"watch over lockups", &w.lockups},
	} {
		*d.dog = w.parts.Add(d.name, partTimeout)
		(*d.dog).Idle()
	}
	return nil
}

// partDogChanged says that a part of the kernel does not come to an end.
func (s *Kernel) partDogChanged(e recovery.Expiry) {
	if !e.Late {
		return
	}
	s.emit(nil, event.WatchdogExpired, &eventv1.WatchdogExpired{
		Name: e.Name, Timeout: int64(partTimeout), Late: int64(e.Unfed), Action: "record", Stack: stacksOf(allStacks(), nil),
	})
}

// watchdogs lists those that are armed.
func (s *Kernel) watchdogs() []control.Watchdog {
	var out []control.Watchdog
	for i, list := range [][]recovery.WatchdogStatus{s.dogs.parts.List(), s.dogs.agents.List()} {
		for _, d := range list {
			w := control.Watchdog{
				Name: d.Name, Agent: i == 1, Timeout: int64(d.Timeout), Unfed: int64(d.Unfed), Late: d.Late, Waits: d.Waits, Times: d.Times,
			}
			if a := s.findAgent(d.Name); w.Agent && a != nil {
				w.Times = a.dog.expiries()
			}
			out = append(out, w)
		}
	}
	return out
}

// agentDog is the watchdog of one agent.
type agentDog struct {
	a *Agent
	// Set before the agent's first process is made.
	owner time.Duration // with which its owner has armed it, for good; 0: not
	rule  trap.Rule

	ladder trap.Ladder

	mu sync.Mutex // a leaf but for the set's
	// Nil while it is not armed.
	dog     *recovery.Watchdog // +checklocks:mu
	timeout time.Duration      // +checklocks:mu
	times   uint64             // +checklocks:mu
	// How many pauses and halts keep the agent from feeding it.
	held int // +checklocks:mu
	// Of dog, while it is held.
	resume func() // +checklocks:mu
	ended  bool   // +checklocks:mu
}

// init takes what the agent's owner wants.
func (d *agentDog) init(a *Agent, timeout time.Duration, rule string) (err error) {
	d.a, d.owner = a, timeout
	d.rule, err = trap.ParseWatchdog(rule)
	return err
}

// start arms it if the owner wants that.
func (d *agentDog) start() {
	if d.owner == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.armLocked(d.owner)
}

// armLocked begins a new watch. What the old one was about to say is not heard.
//
// +checklocks:d.mu
func (d *agentDog) armLocked(timeout time.Duration) {
	d.dog.Remove()
	d.dog, d.timeout, d.resume = nil, timeout, nil
	if timeout == 0 || d.ended {
		return
	}
	d.dog = d.a.s.dogs.agents.Add(d.a.id, timeout)
	if d.held > 0 {
		d.resume = d.dog.Pause()
	}
}

// arm is what the agent itself asks for; 0 disarms.
func (d *agentDog) arm(timeout time.Duration) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.owner == 0:
	case timeout == 0:
		return errdefs.New(errdefs.Denied, "the agent's owner has armed its watchdog", errdefs.Fix("feed it, or ask to be spawned without --watchdog"))
	case timeout > d.owner:
		return errdefs.New(errdefs.Denied, "the agent's owner wants to hear of it every "+d.owner.String(), errdefs.Fix("use a shorter time"))
	}
	d.armLocked(timeout)
	return nil
}

// rearm is arm for who decides for the agent; it returns how it was armed.
func (d *agentDog) rearm(timeout time.Duration) (was time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	was = d.timeout
	d.armLocked(timeout)
	return was
}

func (d *agentDog) feed() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dog.Feed()
}

// hold keeps it from expiring while the agent stands still.
func (d *agentDog) hold() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held++; d.held == 1 && d.dog != nil {
		d.resume = d.dog.Pause()
	}
}

// release is the end of hold.
func (d *agentDog) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held--; d.held == 0 && d.resume != nil {
		d.resume()
		d.resume = nil
	}
}

// end is the end of the agent.
func (d *agentDog) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = true
	d.armLocked(0)
}

func (d *agentDog) expiries() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.times
}

// status is what the agent reads of it.
func (d *agentDog) status() ctlfs.Watchdog {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := ctlfs.Watchdog{Timeout: d.timeout, ByOwner: d.owner > 0, OnExpiry: d.rule.String(), Expired: d.times}
	if d.dog != nil {
		w.Left = d.dog.Left()
	}
	return w
}

// agentDogChanged acts for an agent that did not feed its watchdog in time.
func (s *Kernel) agentDogChanged(e recovery.Expiry) {
	if a := s.findAgent(e.Name); e.Late && a != nil {
		a.dog.expired(e)
	}
}

// expired takes the verdict. The watch begins anew: an agent that goes on all
// the same and does not feed it climbs the ladder of its rule.
func (d *agentDog) expired(e recovery.Expiry) {
	a, s := d.a, d.a.s
	d.mu.Lock()
	timeout := d.timeout
	if d.dog == nil || d.held > 0 {
		d.mu.Unlock()
		return // Meanwhile it was disarmed, or the agent stands still.
	}
	d.armLocked(timeout)
	d.times++
	d.mu.Unlock()
	if a.killed.Load() != nil {
		return
	}
	action := d.ladder.Climb(d.rule, s.cfg.Clock.Since(s.started))
	s.emit(a, event.WatchdogExpired, &eventv1.WatchdogExpired{
		Name: "agent", Timeout: int64(timeout), Late: int64(e.Unfed), Action: action.String(),
	})
	a.act(verdict{
		action: action, policy: d.rule.String(), violation: "watchdog not fed for " + timeout.String(), scope: action.Info().Scope,
		began: s.cfg.Clock.Now(),
	})
}

// abort has the agent's first process hear of it: programs that handle SIGABRT
// say what they are at, others end.
func (a *Agent) abort() {
	if tg := a.firstGroup(); tg != nil {
		a.s.k.SendExternalSignalThreadGroup(tg, kernel.SignalInfoPriv(linux.SIGABRT)) // Fails if it has ended.
	}
}

// Watchdog implements ctlfs.Authority.Watchdog.
func (c ctlAuthority) Watchdog(agent string) (ctlfs.Watchdog, error) {
	a := c.s.findAgent(agent)
	if a == nil {
		return ctlfs.Watchdog{}, errdefs.New(errdefs.AgentNotRunning, "the agent has ended")
	}
	return a.dog.status(), nil
}

// SetWatchdog implements ctlfs.Authority.SetWatchdog.
func (c ctlAuthority) SetWatchdog(agent string, o ctlfs.WatchdogOrder) error {
	a := c.s.findAgent(agent)
	switch {
	case a == nil:
		return errdefs.New(errdefs.AgentNotRunning, "the agent has ended")
	case o.Feed:
		a.dog.feed()
		return nil
	default:
		return a.dog.arm(o.Timeout)
	}
}

// armed is the time that it is armed with; 0: it is not.
func (d *agentDog) armed() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dog == nil {
		return 0
	}
	return d.timeout
}
