package sentry

import (
	"runtime"
	"sort"
	"strings"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/mm"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// Inspect returns an agent with its processes.
func (s *Kernel) Inspect(req control.AgentRequest) (control.AgentStatus, error) {
	a, err := s.agent(req.ID)
	if err != nil {
		return control.AgentStatus{}, err
	}
	s.watch.refresh(a)
	st := a.status()
	if st.Exit == nil {
		st.Processes, st.Clock, st.Ahead = a.processes(), a.ownClock(), uint32(a.aheadCount())
	}
	return st, nil
}

// List returns every agent that was not forgotten.
func (s *Kernel) List(struct{}) (control.ListReply, error) {
	agents := s.allAgents()
	s.watch.refresh(agents...)
	var r control.ListReply
	for _, a := range agents {
		r.Agents = append(r.Agents, a.status())
	}
	return r, nil
}

// allAgents returns every agent that has not been forgotten.
func (s *Kernel) allAgents() []*Agent {
	s.mu.Lock()
	defer s.mu.Unlock()
	agents := make([]*Agent, 0, len(s.agents))
	for _, a := range s.agents {
		agents = append(agents, a)
	}
	return agents
}

func (a *Agent) status() control.AgentStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	st := control.AgentStatus{ID: a.id, State: string(a.state), Exit: a.exit, Ended: a.ended, Upgrading: a.trial.Load() != nil}
	if token := a.upgraded.Load(); token != nil {
		st.Upgraded = *token
	}
	if a.exit == nil && a.ns.pid() != nil {
		st.Tasks = uint32(a.ns.pid().NumTasks())
		st.MemoryBytes = memoryOf(a)
	}
	return st
}

// processes returns the agent's processes by PID.
func (a *Agent) processes() []control.Proc {
	var out []control.Proc
	ns := a.ns.pid()
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

// maxCommandLine is how much of a command line is shown, in bytes.
const maxCommandLine = 4 << 10

// commandLine returns the start of what /proc/PID/cmdline of t holds. It is in
// the agent's memory, so it says whatever the agent likes. A process that has
// exited has none.
func commandLine(ctx context.Context, t *kernel.Task) []string {
	var m *mm.MemoryManager
	t.WithMuLocked(func(t *kernel.Task) { m = t.MemoryManager() })
	if m == nil || !m.IncUsers() {
		return nil
	}
	defer m.DecUsers(ctx)
	start, end := m.ArgvStart(), m.ArgvEnd()
	if start == 0 || end <= start {
		return nil
	}
	buf := make([]byte, min(uint64(end-start), maxCommandLine))
	n, _ := m.CopyIn(ctx, start, buf, usermem.IOOpts{}) // What cannot be read is not shown.
	line := strings.TrimSuffix(string(buf[:n]), "\x00")
	if line == "" {
		return nil
	}
	return strings.Split(line, "\x00")
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
		Watchdogs:   s.watchdogs(),
	}, nil
}
