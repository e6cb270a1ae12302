package sentry

import (
	"cmp"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/netstack"
	"aios.dev/aios/sentry/grantfs"
)

// An agent is upgraded: another program, of another image, runs in its place. What
// the agent is stays: its ID, authority, account, scheduler group and log. What its
// processes are in is exchanged: namespaces, of which the new ones have a root of
// the new image and a copy of the upper layer. The old processes stand still in
// theirs until it is known whether the new program is well; then they end, or it
// does, and all is exchanged back.

// trial is an upgrade that is not decided yet.
type trial struct {
	// What the agent was: its namespaces, which since hold the agent's new ones'
	// place in a.ns, its programs, and its tasks, which stand still.
	old     *namespaces
	stack   inet.Stack
	procs   map[int32]*process
	stopped []*kernel.Task
	views   map[capability.ID]trialView
	rights  abi.Rights    // on the network
	dog     time.Duration // of its watchdog
	first   *process      // of the new program
	// condemned is set when somebody outside ends the agent.
	condemned atomic.Bool
}

// trialView is what a grant of files showed when the trial began.
type trialView struct {
	at string
	fs *grantfs.FS
}

// healthPause lies between two checks of a program's health.
const healthPause = 100 * time.Millisecond

// Upgrade has another program of another image run in the place of an agent's. It
// returns when that is decided. When it fails the agent is what it was.
func (s *Kernel) Upgrade(req control.UpgradeRequest) (control.UpgradeReply, error) {
	var reply control.UpgradeReply
	a, err := s.agent(req.ID)
	if err != nil {
		return reply, err
	}
	began := s.cfg.Clock.Now()
	t, err := a.beginTrial(req)
	if err == nil {
		reply.Pause = s.cfg.Clock.Since(began)
		err = a.judge(t, req, began)
		err = a.endTrial(t, req, err)
	}
	reply.Took = s.cfg.Clock.Since(began)
	p := &eventv1.AgentUpgrade{Image: event.Text(req.Image), Args: event.Args(req.Process.Argv), Kept: err == nil, PauseNanos: int64(reply.Pause), TookNanos: int64(reply.Took)}
	if err != nil {
		p.Reason = event.Text(err.Error())
	}
	s.emitFor(a, event.AgentUpgrade, p, req.Actor.Correlation)
	s.trail.flushSoon()
	return reply, err
}

// notOnTrial refuses what cannot be done to an agent that is being upgraded.
func (a *Agent) notOnTrial() error {
	if a.trial.Load() == nil {
		return nil
	}
	return errdefs.New(errdefs.WrongState, "the agent is being upgraded", errdefs.Resource("%s", a.id), errdefs.Fix("wait until that is decided"))
}

// beginTrial stops the agent's processes and starts the new program. If it fails, the
// agent goes on as it was.
func (a *Agent) beginTrial(req control.UpgradeRequest) (_ *trial, err error) {
	s := a.s
	a.lifeMu.Lock()
	defer a.lifeMu.Unlock()
	if err := a.mustBe(abi.StateRunning); err != nil {
		return nil, err
	}
	switch {
	case a.dying.Load():
		return nil, errdefs.New(errdefs.AgentNotRunning, "the agent is being killed", errdefs.Op("upgrade"), errdefs.Resource("%s", a.id))
	case a.debugger.Load() != nil:
		return nil, errdefs.New(errdefs.WrongState, "the agent is being debugged", errdefs.Op("upgrade"), errdefs.Resource("%s", a.id), errdefs.Fix("end the debugger first"))
	}
	if err := a.notOnTrial(); err != nil {
		return nil, err
	}
	a.dog.hold()
	if err := a.freeze(); err != nil {
		a.thaw(nil)
		a.dog.release()
		return nil, err
	}
	t := &trial{old: s.newNamespaces()}
	fresh := t.old // Until they are exchanged.
	if err := s.newRoot(fresh, req.Root, a.ns.root.disk, a.ns); err != nil {
		s.releaseShell(fresh)
		a.thaw(nil)
		a.dog.release()
		return nil, err
	}
	fresh.base = nil // It is no copy of anybody any more.
	fresh.uts.SetHostName(a.ctx, a.ns.uts.HostName())
	t.stopped, a.stopped = a.stopped, nil
	t.stack, t.dog = a.network(), a.dog.rearm(a.dog.owner)
	a.authMu.Lock()
	t.rights = a.netRights
	a.authMu.Unlock()
	a.mu.Lock()
	next := a.nextExec
	t.procs, a.procs, a.nextExec = a.procs, make(map[int32]*process), 0
	a.mu.Unlock()
	a.exchange(t.old, fresh.net.Stack())
	t.views = a.views()
	for _, g := range a.grantsInside("") {
		g.putBack()
	}
	a.trial.Store(t)
	t.first, err = a.start(req.Process, nil)
	a.mu.Lock()
	a.nextExec = max(next, a.nextExec)
	a.mu.Unlock()
	if err != nil {
		a.goBack(t)
		return nil, err
	}
	if a.dying.Load() { // It was ended meanwhile, and no process was found.
		a.s.k.SendExternalSignalThreadGroup(t.first.tg, kernel.SignalInfoPriv(linux.SIGKILL))
	}
	return t, nil
}

// exchange has the agent's processes be in other namespaces; those that it had are in
// with then.
//
// +checklocks:a.lifeMu
func (a *Agent) exchange(with *namespaces, stack inet.Stack) {
	a.grantsMu.Lock()
	a.ns.mu.Lock()
	n, w := a.ns, with
	pid := n.pid()
	n.pidns.Store(w.pid())
	w.pidns.Store(pid)
	n.uts, w.uts = w.uts, n.uts
	n.ipc, w.ipc = w.ipc, n.ipc
	n.net, w.net = w.net, n.net
	n.mnt, w.mnt = w.mnt, n.mnt
	n.upper, w.upper = w.upper, n.upper
	n.root, w.root = w.root, n.root
	n.base, w.base = w.base, n.base
	a.ns.mu.Unlock()
	a.grantsMu.Unlock()
	a.setNetwork(stack)
}

// views notes what grants of files show, and where.
func (a *Agent) views() map[capability.ID]trialView {
	a.grantsMu.Lock()
	defer a.grantsMu.Unlock()
	out := make(map[capability.ID]trialView)
	for id, g := range a.grants {
		out[id] = trialView{g.view.at, g.view.fs}
	}
	return out
}

// judge waits until it is known whether the new program is well: nil says so.
func (a *Agent) judge(t *trial, req control.UpgradeRequest, began time.Time) error {
	clock := a.s.cfg.Clock
	ended, late := make(chan struct{}), make(chan struct{})
	go func() {
		t.first.tg.WaitExited()
		close(ended)
	}()
	timer := clock.AfterFunc(max(0, req.Timeout-clock.Since(began)), func() { close(late) })
	defer timer.Stop()
	failed := func(why string) error {
		return errdefs.New(errdefs.UpgradeFailed, why,
			errdefs.Fix("the agent goes on as it was; see what the new program said: aiosctl logs %s", a.label()))
	}
	itEnded := func() error {
		return failed("the new program ended " + howItEnded(exitOf(t.first.tg.ExitStatus())))
	}
	if req.Health == nil {
		select {
		case <-ended:
			return itEnded()
		case <-late:
			return nil
		}
	}
	last := "it has not ended"
	for {
		p, err := a.check(*req.Health)
		if err != nil {
			last = err.Error()
		} else {
			over := make(chan struct{})
			go a.waitProcess(p, func(control.Exit) { a.forgetProcess(p); close(over) })
			select {
			case <-over:
				e := exitOf(p.tg.ExitStatus())
				if e == (control.Exit{}) {
					return nil
				}
				last = "it ended " + howItEnded(e)
			case <-ended:
				return itEnded()
			case <-late:
				a.s.k.SendExternalSignalThreadGroup(p.tg, kernel.SignalInfoPriv(linux.SIGKILL))
				return failed(fmt.Sprintf("the health check did not succeed within %v: %s", req.Timeout, last))
			}
		}
		again := make(chan struct{})
		pause := clock.AfterFunc(healthPause, func() { close(again) })
		select {
		case <-again:
		case <-ended:
			pause.Stop()
			return itEnded()
		case <-late:
			pause.Stop()
			return failed(fmt.Sprintf("the health check did not succeed within %v: %s", req.Timeout, last))
		}
	}
}

// check starts a check of the new program's health.
func (a *Agent) check(spec control.Process) (*process, error) {
	a.lifeMu.Lock()
	defer a.lifeMu.Unlock()
	return a.start(spec, nil)
}

func (a *Agent) forgetProcess(p *process) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.procs[p.id] == p {
		delete(a.procs, p.id)
	}
}

// endTrial has the new program stay, unless it failed: why says so.
func (a *Agent) endTrial(t *trial, req control.UpgradeRequest, why error) error {
	a.lifeMu.Lock()
	defer a.lifeMu.Unlock()
	a.s.mu.Lock()
	condemned := t.condemned.Load() || a.s.closing
	a.s.mu.Unlock()
	if why != nil && !condemned {
		a.goBack(t)
		return why
	}
	a.spec.Root, a.spec.Headed = req.Root, false
	a.upgraded.Store(&req.Token)
	a.goOn(t)
	if condemned {
		return errdefs.New(errdefs.AgentNotRunning, "the agent was killed meanwhile", errdefs.Op("upgrade"), errdefs.Resource("%s", a.id))
	}
	return nil
}

// goOn ends what the agent was.
//
// +checklocks:a.lifeMu
func (a *Agent) goOn(t *trial) {
	a.trial.Store(nil)
	a.end(t.procs, t.old, t.stopped)
	a.dog.release()
	go a.waitFirst(t.first)
}

// goBack ends the new program, and has the agent go on as it was.
//
// +checklocks:a.lifeMu
func (a *Agent) goBack(t *trial) {
	a.mu.Lock()
	procs := a.procs
	a.procs = t.procs
	a.mu.Unlock()
	a.exchange(t.old, t.stack)
	a.trial.Store(nil)
	// What the kernel ended the new program for is not the old one's fault.
	a.killed.Store(nil)
	a.dying.Store(false)
	a.again.Store(false)
	a.end(procs, t.old, nil)
	a.settleViews(t)
	a.authMu.Lock()
	less := t.rights&^a.netRights != 0
	a.authMu.Unlock()
	if less {
		netstack.Cut(a.network())
	}
	a.dog.rearm(t.dog)
	if a.stopped = t.stopped; t.condemned.Load() { // Somebody ended it while it was decided.
		a.dying.Store(true)
		if p, err := a.process(0); err == nil {
			a.s.k.SendExternalSignalThreadGroup(p.tg, kernel.SignalInfoPriv(linux.SIGKILL))
		}
	}
	a.thaw(nil)
	a.dog.release()
}

// end ends processes that are not the agent's any more, of which some may stand
// still, and gives back what they were in.
func (a *Agent) end(procs map[int32]*process, ns *namespaces, stopped []*kernel.Task) {
	for id, p := range procs {
		if id == 0 {
			p.replaced.Store(true)
			if p.waited.CompareAndSwap(false, true) {
				go a.waitProcess(p, func(control.Exit) {})
			}
		}
		a.s.k.SendExternalSignalThreadGroup(p.tg, kernel.SignalInfoPriv(linux.SIGKILL))
	}
	for _, tg := range ns.pid().ThreadGroups() {
		a.s.k.SendExternalSignalThreadGroup(tg, kernel.SignalInfoPriv(linux.SIGKILL))
	}
	for _, t := range stopped {
		t.EndExternalStop()
	}
	clock := a.s.cfg.Clock
	late := clock.Now().Add(emptyTimeout)
	for pause := 50 * time.Microsecond; ns.pid().NumTasks() > 0 && clock.Now().Before(late); pause = min(2*pause, 10*time.Millisecond) {
		nap(clock, pause)
	}
	a.s.releaseShell(ns)
}

// settleViews has the mounts of grants be as they are now, in the namespace that the
// agent is in again.
func (a *Agent) settleViews(t *trial) {
	now := a.views()
	gone := make([]string, 0)
	for id, v := range t.views {
		if now[id] != v {
			gone = append(gone, v.at)
		}
	}
	slices.SortFunc(gone, func(x, y string) int { return cmp.Compare(len(y), len(x)) })
	root := a.ns.mnt.Root(a.ctx)
	for _, at := range gone {
		for a.unmountEnded(a.s.k.VFS(), root, at) != nil {
		}
	}
	root.DecRef(a.ctx)
	for _, g := range a.grantsInside("") {
		again := false
		for _, at := range gone {
			again = again || len(g.view.at) > len(at) && g.view.at[:len(at)+1] == at+"/" // It went with that.
		}
		if now[g.cap.ID()] != t.views[g.cap.ID()] || again {
			g.putBack()
		}
	}
}
