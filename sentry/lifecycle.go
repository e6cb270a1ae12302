package sentry

import (
	"cmp"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
)

// agent returns a known agent.
func (s *Kernel) agent(id string) (*Agent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.agents[id]; a != nil {
		return a, nil
	}
	return nil, errdefs.New(errdefs.AgentNotFound, "no such agent in the domain", errdefs.Resource("%s", id))
}

// mustBe reports an error unless the agent is in one of the states.
func (a *Agent) mustBe(states ...abi.State) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, st := range states {
		if a.state == st {
			return nil
		}
	}
	switch {
	case a.state.Final():
		return errdefs.New(errdefs.AgentNotRunning, "the agent has ended", errdefs.Resource("%s", a.id))
	case a.state == abi.StateTemplate:
		return errdefs.New(errdefs.WrongState, "it is a template, which does not run", errdefs.Resource("%s", a.id),
			errdefs.Fix("begin an agent as a copy of it with `aiosctl run --from %s`", cmp.Or(a.name, a.id)))
	case a.state == abi.StatePaused:
		return errdefs.New(errdefs.WrongState, "the agent is paused", errdefs.Resource("%s", a.id), errdefs.Fix("let it go on with `aiosctl resume %s`", a.id))
	default:
		return errdefs.New(errdefs.WrongState, "the agent is "+string(a.state), errdefs.Resource("%s", a.id))
	}
}

// process returns a process that has not ended, and is not yet to be made.
func (a *Agent) process(id int32) (*process, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.procs[id]; p != nil && p.tg != nil {
		return p, nil
	}
	return nil, errdefs.New(errdefs.AgentNotRunning, "the process has ended", errdefs.Resource("%s", a.id))
}

// Attach joins a stream to a process. It owns files.
func (s *Kernel) Attach(req control.AttachRequest, files []*os.File) (control.AttachReply, error) {
	_, stream, err := spawnFiles(files, 0, true)
	if err != nil {
		return control.AttachReply{}, err
	}
	a, err := s.agent(req.ID)
	if err != nil {
		stream.Close()
		return control.AttachReply{}, err
	}
	p, err := a.process(req.ExecID)
	if err == nil {
		err = a.notTemplate()
	}
	if err != nil {
		stream.Close()
		return control.AttachReply{}, err
	}
	return control.AttachReply{TTY: p.tty}, p.console.attach(stream, req.Stdin, false)
}

// Signal sends a signal to a process, or to every process of the agent. A
// SIGKILL also reaches an agent that is paused.
func (s *Kernel) Signal(req control.SignalRequest) (struct{}, error) {
	var none struct{}
	a, err := s.agent(req.ID)
	if err != nil {
		return none, err
	}
	sig := linux.Signal(req.Signal)
	if !sig.IsValid() {
		return none, errdefs.Newf(errdefs.InvalidArgument, "no signal has the number %d", req.Signal)
	}
	live := []abi.State{abi.StateRunning, abi.StatePaused}
	if sig == linux.SIGKILL {
		live = append(live, abi.StateTemplate)
	}
	if err := a.mustBe(live...); err != nil {
		return none, err
	}
	first := req.All || req.ExecID == 0
	p, err := a.process(req.ExecID)
	t := a.trial.Load()
	starts := err != nil && req.ExecID == 0 && t != nil // Its new program has not begun yet.
	if err != nil && !(starts && sig == linux.SIGKILL) {
		return none, err
	}
	if sig == linux.SIGKILL && first {
		a.dying.Store(true)
		if t != nil {
			t.condemned.Store(true)
		}
		if req.Reason != "" {
			a.killed.CompareAndSwap(nil, &req.Reason)
		}
		s.emit(a, event.AgentKill, &eventv1.AgentKill{By: cmp.Or(req.By.By, "operator"), Reason: req.Reason})
		if starts {
			if p, err = a.process(0); err != nil {
				return none, nil // Who starts it looks whether the agent is dying, then.
			}
		}
	} else {
		s.emit(a, event.AgentSignal, &eventv1.AgentSignal{
			Signal: req.Signal, SignalName: unix.SignalName(unix.Signal(req.Signal)), Pid: int32(a.ns.pid().IDOfThreadGroup(p.tg)),
		})
	}
	// gVisor keeps and changes what it is given: one for each group.
	switch headed := a.spec.Headed && p.id == 0 && sig != linux.SIGKILL; {
	case req.All || headed:
		for _, tg := range a.ns.pid().ThreadGroups() {
			if !headed || !tg.IsInitIn(a.ns.pid()) {
				s.k.SendExternalSignalThreadGroup(tg, kernel.SignalInfoPriv(sig)) // Fails for those that have ended.
			}
		}
	default:
		err = s.k.SendExternalSignalThreadGroup(p.tg, kernel.SignalInfoPriv(sig))
	}
	switch {
	case sig == linux.SIGKILL && first:
		if now, e := a.process(0); e == nil && now != p && p.id == 0 { // An upgrade was decided meanwhile.
			a.dying.Store(true)
			err = s.k.SendExternalSignalThreadGroup(now.tg, kernel.SignalInfoPriv(sig))
		}
		if t != nil {
			err = nil // Whatever has ended already, the agent does.
		}
		a.unpause("")
	case sig == linux.SIGKILL:
		// The others stay paused.
		a.lifeMu.Lock()
		a.thaw(p.tg)
		a.lifeMu.Unlock()
	}
	return none, errdefs.Wrap(err, errdefs.AgentNotRunning, "signal", errdefs.Resource("%s", a.id))
}

// kill ends the agent for a reason of the kernel's own. It does not wait.
func (a *Agent) kill(reason string) {
	if !a.killed.CompareAndSwap(nil, &reason) {
		return
	}
	a.dying.Store(true)
	a.s.emit(a, event.AgentKill, &eventv1.AgentKill{By: "kernel", Reason: reason})
	if p, err := a.process(0); err == nil {
		a.s.k.SendExternalSignalThreadGroup(p.tg, kernel.SignalInfoPriv(linux.SIGKILL))
	}
	go a.unpause("")
}

// emptyTimeout bounds how long the end of an agent is held back for processes
// that do not notice that they were killed, being inside a host call.
const emptyTimeout = 5 * time.Second

// awaitEmpty waits until the agent has no task left. gVisor kills what is left
// of a PID namespace whose first process ends, but does not wait for it.
func (a *Agent) awaitEmpty() {
	clock := a.s.cfg.Clock
	late := clock.Now().Add(emptyTimeout)
	for pause := 50 * time.Microsecond; a.ns.pid().NumTasks() > 0 && clock.Now().Before(late); pause = min(2*pause, 10*time.Millisecond) {
		nap(clock, pause)
	}
}

// Forget drops the record of an agent that has ended.
func (s *Kernel) Forget(req control.AgentRequest) (struct{}, error) {
	var none struct{}
	a, err := s.agent(req.ID)
	if err != nil {
		return none, err
	}
	if a.mustBe(abi.StateExited) != nil {
		return none, errdefs.New(errdefs.AgentRunning, "the agent has not ended", errdefs.Resource("%s", a.id))
	}
	<-a.gone // An agent that is started again has the same ID.
	s.mu.Lock()
	delete(s.agents, req.ID)
	s.mu.Unlock()
	return none, nil
}

// Shutdown kills every agent and returns when the end of each was reported.
func (s *Kernel) Shutdown() {
	s.mu.Lock()
	s.closing = true
	agents := make([]*Agent, 0, len(s.agents))
	for _, a := range s.agents {
		agents = append(agents, a)
	}
	s.mu.Unlock()
	killAll(agents, "the domain was stopped")
}

// killAll kills agents and waits until their ends were reported.
func killAll(agents []*Agent, reason string) {
	for _, a := range agents {
		a.kill(reason)
	}
	for _, a := range agents {
		a.lifeMu.Lock() // One that is being spawned has its process then.
		started := a.started()
		a.lifeMu.Unlock()
		if started {
			<-a.told
		}
	}
}

// started reports whether the agent has, or had, a first process.
func (a *Agent) started() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.procs[0] != nil || a.state.Final()
}
