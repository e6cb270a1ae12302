package sentry

import (
	"os"
	"runtime"
	"sort"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
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
	case a.state == abi.StatePaused:
		return errdefs.New(errdefs.WrongState, "the agent is paused", errdefs.Resource("%s", a.id), errdefs.Fix("aiosctl resume %s", a.id))
	default:
		return errdefs.New(errdefs.WrongState, "the agent is "+string(a.state), errdefs.Resource("%s", a.id))
	}
}

// process returns a process that has not ended.
func (a *Agent) process(id int32) (*process, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.procs[id]; p != nil {
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
	if err := a.mustBe(abi.StateRunning, abi.StatePaused); err != nil {
		return none, err
	}
	p, err := a.process(req.ExecID)
	if err != nil {
		return none, err
	}
	info := kernel.SignalInfoPriv(sig)
	if req.All {
		for _, tg := range a.ns.pid.ThreadGroups() {
			s.k.SendExternalSignalThreadGroup(tg, info) // Fails for those that have ended.
		}
	} else if err := s.k.SendExternalSignalThreadGroup(p.tg, info); err != nil {
		return none, errdefs.Wrap(err, errdefs.AgentNotRunning, "signal", errdefs.Resource("%s", a.id))
	}
	if sig == linux.SIGKILL {
		a.unpause()
	}
	return none, nil
}

// Pause stops every task of the agent. When it returns none runs.
func (s *Kernel) Pause(req control.AgentRequest) (struct{}, error) {
	var none struct{}
	a, err := s.agent(req.ID)
	if err != nil {
		return none, err
	}
	a.lifeMu.Lock()
	defer a.lifeMu.Unlock()
	if err := a.mustBe(abi.StateRunning); err != nil {
		return none, err
	}
	held := make(map[*kernel.Task]bool)
	for found := true; found; {
		found = false
		// A task that was about to clone may have added another.
		for _, t := range a.ns.pid.Tasks() {
			if !held[t] {
				held[t], found = true, true
				t.BeginExternalStop()
			}
		}
		for t := range held {
			awaitStop(t)
		}
	}
	for t := range held {
		a.stopped = append(a.stopped, t)
	}
	a.setState(abi.StatePaused)
	return none, nil
}

// awaitStop returns once t runs no code of the agent any more.
func awaitStop(t *kernel.Task) {
	for t.TaskGoroutineState() != kernel.TaskGoroutineStopped && t.ExitState() == kernel.TaskExitNone {
		runtime.Gosched()
	}
}

// Resume lets a paused agent go on.
func (s *Kernel) Resume(req control.AgentRequest) (struct{}, error) {
	var none struct{}
	a, err := s.agent(req.ID)
	if err != nil {
		return none, err
	}
	if err := a.mustBe(abi.StatePaused); err != nil {
		if errdefs.CodeOf(err) == errdefs.WrongState {
			return none, errdefs.New(errdefs.WrongState, "the agent is not paused", errdefs.Resource("%s", a.id))
		}
		return none, err
	}
	a.unpause()
	return none, nil
}

func (a *Agent) unpause() {
	a.lifeMu.Lock()
	defer a.lifeMu.Unlock()
	if a.mustBe(abi.StatePaused) != nil {
		return
	}
	for _, t := range a.stopped {
		t.EndExternalStop()
	}
	a.stopped = nil
	a.setState(abi.StateRunning)
}

func (a *Agent) setState(st abi.State) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.state.Final() {
		a.state = st
	}
}

// kill ends the agent for a reason of the kernel's own.
func (a *Agent) kill(reason string) {
	if !a.killed.CompareAndSwap(nil, &reason) {
		return
	}
	if p, err := a.process(0); err == nil {
		a.s.k.SendExternalSignalThreadGroup(p.tg, kernel.SignalInfoPriv(linux.SIGKILL))
	}
	a.unpause()
}

// Inspect returns an agent with its processes.
func (s *Kernel) Inspect(req control.AgentRequest) (control.AgentStatus, error) {
	a, err := s.agent(req.ID)
	if err != nil {
		return control.AgentStatus{}, err
	}
	s.watch.refresh(a)
	st := a.status()
	if st.Exit == nil {
		st.Processes = a.processes()
	}
	return st, nil
}

// List returns every agent that was not forgotten.
func (s *Kernel) List(struct{}) (control.ListReply, error) {
	s.mu.Lock()
	agents := make([]*Agent, 0, len(s.agents))
	for _, a := range s.agents {
		agents = append(agents, a)
	}
	s.mu.Unlock()
	s.watch.refresh(agents...)
	var r control.ListReply
	for _, a := range agents {
		r.Agents = append(r.Agents, a.status())
	}
	return r, nil
}

func (a *Agent) status() control.AgentStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	st := control.AgentStatus{ID: a.id, State: string(a.state), Exit: a.exit, Ended: a.ended}
	if a.exit == nil && a.ns.pid != nil {
		st.Tasks = uint32(a.ns.pid.NumTasks())
		st.MemoryBytes = memoryOf(a)
	}
	return st
}

// processes returns the agent's processes by PID.
func (a *Agent) processes() []control.Proc {
	var out []control.Proc
	ns := a.ns.pid
	ctx := a.s.k.SupervisorContext()
	for _, tg := range ns.ThreadGroups() {
		leader := tg.Leader()
		if leader == nil {
			continue
		}
		p := control.Proc{
			PID:     int32(ns.IDOfThreadGroup(tg)),
			Name:    leader.Name(),
			Threads: uint32(tg.Count()),
			State:   leader.StateStatus()[:1],
		}
		if parent := leader.Parent(); parent != nil {
			p.PPID = int32(ns.IDOfThreadGroup(parent.ThreadGroup()))
		}
		p.Argv = commandLine(ctx, leader)
		out = append(out, p)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].PID < out[j].PID })
	return out
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
	s.mu.Lock()
	delete(s.agents, req.ID)
	s.mu.Unlock()
	return none, nil
}

// Stats returns the state of the kernel process, for leak hunting.
func (s *Kernel) Stats(struct{}) (control.StatsReply, error) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	total, err := s.k.MemoryFile().TotalUsage()
	if err != nil {
		return control.StatsReply{}, errdefs.Wrap(err, errdefs.HostIO, "measure memory file")
	}
	return control.StatsReply{
		Goroutines:  runtime.NumGoroutine(),
		Tasks:       s.k.TaskSet().Root.NumTasks(),
		MemoryBytes: total,
		HeapBytes:   m.HeapAlloc,
	}, nil
}

// Shutdown kills every agent and waits for their end.
func (s *Kernel) Shutdown() {
	s.mu.Lock()
	s.closing = true
	agents := make([]*Agent, 0, len(s.agents))
	for _, a := range s.agents {
		agents = append(agents, a)
	}
	s.mu.Unlock()
	for _, a := range agents {
		a.kill("the domain was stopped")
	}
	for _, a := range agents {
		if p, err := a.process(0); err == nil {
			p.tg.WaitExited()
		}
	}
}
