package daemon

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"aios.dev/aios/abi"
	"aios.dev/aios/api"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/lifecycle"
)

// Version implements the RPC.
func (d *System) Version(context.Context, *apiv1.VersionRequest) (*apiv1.VersionResponse, error) {
	return &apiv1.VersionResponse{
		Version: abi.Version, ApiMinor: api.Minor, KernelProtocol: abi.ProtocolVersion,
		Gvisor: gvisorVersion(), Go: runtime.Version(), Pid: int32(os.Getpid()),
		StateDir: d.paths.StateDir, StartedUnixNano: d.started.UnixNano(),
	}, nil
}

// gvisorVersion is the version of the library in this binary.
func gvisorVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "gvisor.dev/gvisor" {
				return m.Version
			}
		}
	}
	return "unknown"
}

// Shutdown implements the RPC.
func (d *System) Shutdown(ctx context.Context, req *apiv1.ShutdownRequest) (*apiv1.ShutdownResponse, error) {
	resp := &apiv1.ShutdownResponse{}
	if req.GetStopDomains() {
		d.endWishes("", "the operator stopped every domain")
		for _, dom := range d.liveDomains() {
			d.stopDomain(dom)
		}
	}
	for _, r := range d.records() {
		if !r.final() {
			resp.AgentsLeftRunning = append(resp.AgentsLeftRunning, r.label())
			continue
		}
		select {
		case <-r.settled: // The end is in its file.
		case <-ctx.Done():
		}
	}
	sort.Strings(resp.AgentsLeftRunning)
	d.stop()
	return resp, nil
}

// Spawn implements the RPC.
func (d *System) Spawn(ctx context.Context, req *apiv1.SpawnRequest) (*apiv1.SpawnResponse, error) {
	r, warnings, err := d.spawn(ctx, req, nil)
	if err != nil {
		return nil, err
	}
	return &apiv1.SpawnResponse{Id: r.id, Domain: r.domName, Warnings: warnings}, nil
}

// List implements the RPC.
func (d *System) List(ctx context.Context, req *apiv1.ListRequest) (*apiv1.ListResponse, error) {
	live := make(map[string]control.AgentStatus)
	for _, dom := range d.liveDomains() {
		var l control.ListReply
		if dom.call(ctx, control.MethodList, struct{}{}, &l) != nil {
			continue // It is going away; its agents are about to be lost.
		}
		for _, st := range l.Agents {
			live[st.ID] = st
		}
	}
	resp := &apiv1.ListResponse{}
	for _, r := range d.records() {
		a := r.proto()
		ended := abi.State(a.GetState()).Final() && a.GetRestarts().GetNextUnixNano() == 0
		if !req.GetAll() && ended || req.GetDomain() != "" && req.GetDomain() != a.GetDomain() {
			continue
		}
		addStatus(a, live[r.id])
		if !req.GetAll() && a.GetState() == string(abi.StateTemplate) {
			continue // It does not run.
		}
		resp.Agents = append(resp.Agents, a)
	}
	sort.Slice(resp.Agents, func(i, j int) bool { return resp.Agents[i].GetCreatedUnixNano() < resp.Agents[j].GetCreatedUnixNano() })
	return resp, nil
}

// addStatus adds what only the kernel process knows.
func addStatus(a *apiv1.Agent, st control.AgentStatus) {
	if abi.State(a.GetState()).Final() || st.ID == "" || st.Exit != nil {
		return
	}
	a.State = st.State
	a.Processes = st.Tasks
	a.MemoryBytes = st.MemoryBytes
}

// Inspect implements the RPC.
func (d *System) Inspect(ctx context.Context, req *apiv1.InspectRequest) (*apiv1.InspectResponse, error) {
	r, err := d.find(req.GetAgent())
	if err != nil {
		return nil, err
	}
	resp := &apiv1.InspectResponse{Agent: r.proto(), Spec: r.spec(), LogPath: d.logPath(r.id), Tokens: r.tokenNames()}
	r.mu.Lock()
	resp.ImageDigest = r.digest
	r.mu.Unlock()
	dom, err := r.running()
	if err != nil {
		return resp, nil
	}
	var st control.AgentStatus
	if err := dom.call(ctx, control.MethodInspect, control.AgentRequest{ID: r.id}, &st); err == nil {
		addStatus(resp.Agent, st)
		resp.Clock = clockProto(st.Clock)
		for _, p := range st.Processes {
			resp.Processes = append(resp.Processes, &apiv1.AgentProcess{
				Pid: p.PID, Ppid: p.PPID, Name: p.Name, Threads: p.Threads, Argv: p.Argv, State: p.State,
			})
		}
	}
	resp.Domain = dom.proto(ctx)
	return resp, nil
}

// Wait implements the RPC.
func (d *System) Wait(ctx context.Context, req *apiv1.WaitRequest) (*apiv1.WaitResponse, error) {
	r, err := d.find(req.GetAgent())
	if err != nil {
		return nil, err
	}
	done := r.settled
	var f *further
	if req.GetExecId() != 0 {
		r.mu.Lock()
		f = r.execs[req.GetExecId()]
		r.mu.Unlock()
		if f == nil {
			return nil, errdefs.Newf(errdefs.NotFound, "agent %s has no process %d", r.label(), req.GetExecId())
		}
		done = f.done
	} else {
		r.hear()
	}
	select {
	case <-done:
	case <-ctx.Done():
		return nil, errdefs.Wrap(ctx.Err(), errdefs.Cancelled, "wait for agent", errdefs.Resource("%s", r.label()))
	}
	if f != nil {
		return &apiv1.WaitResponse{Exit: f.exit}, nil
	}
	return &apiv1.WaitResponse{Exit: r.exitOf()}, nil
}

// Signal implements the RPC.
func (d *System) Signal(ctx context.Context, req *apiv1.SignalRequest) (_ *apiv1.SignalResponse, rerr error) {
	kills := req.GetExecId() == 0 && ends(req.GetSignal())
	if kills {
		call, err := d.askBeforeKill(ctx, req.GetAgent(), req.GetSignal(), req.GetForce())
		if err != nil {
			return nil, err
		}
		defer func() { call.Done(rerr) }()
	}
	if kills && d.endWish(req.GetAgent(), "the operator ended it") {
		return &apiv1.SignalResponse{}, nil // It had ended, and stays so.
	}
	r, dom, err := d.findRunning(req.GetAgent())
	if err != nil {
		return nil, err
	}
	if r.isTemplate() {
		return nil, errdefs.New(errdefs.WrongState, "it is a template, which gets no signals", errdefs.Op("signal"), errdefs.Resource("%s", r.label()),
			errdefs.Fix("end it with `aiosctl template rm %s`", r.label()))
	}
	return &apiv1.SignalResponse{}, dom.call(ctx, control.MethodSignal, control.SignalRequest{
		ID: r.id, ExecID: req.GetExecId(), Signal: req.GetSignal(), All: req.GetAll(),
	}, nil)
}

// findRunning returns an agent that has not ended, and its domain.
func (d *System) findRunning(ref string) (*record, *domain, error) {
	r, err := d.find(ref)
	if err != nil {
		return nil, nil, err
	}
	dom, err := r.running()
	return r, dom, err
}

// Pause implements the RPC.
func (d *System) Pause(ctx context.Context, req *apiv1.PauseRequest) (*apiv1.PauseResponse, error) {
	r, dom, err := d.findRunning(req.GetAgent())
	if err != nil {
		return nil, err
	}
	call, err := d.askHooks(ctx, lifecycle.Pause, r, nil)
	if err != nil {
		return nil, err
	}
	err = dom.call(ctx, control.MethodPause, control.AgentRequest{ID: r.id}, nil)
	call.Done(err)
	return &apiv1.PauseResponse{}, err
}

// Resume implements the RPC.
func (d *System) Resume(ctx context.Context, req *apiv1.ResumeRequest) (*apiv1.ResumeResponse, error) {
	r, dom, err := d.findRunning(req.GetAgent())
	if err != nil {
		return nil, err
	}
	call, err := d.askHooks(ctx, lifecycle.Resume, r, nil)
	if err != nil {
		return nil, err
	}
	err = dom.call(ctx, control.MethodResume, control.AgentRequest{ID: r.id}, nil)
	call.Done(err)
	return &apiv1.ResumeResponse{}, err
}

// Remove implements the RPC.
func (d *System) Remove(ctx context.Context, req *apiv1.RemoveRequest) (_ *apiv1.RemoveResponse, rerr error) {
	r, err := d.find(req.GetAgent())
	if err != nil {
		return nil, err
	}
	if req.GetForce() {
		call, err := d.askBeforeKill(ctx, r.id, int32(unix.SIGKILL), true)
		if err != nil {
			return nil, err
		}
		defer func() { call.Done(rerr) }()
	}
	if req.GetForce() || r.final() {
		d.endWish(r.id, "the operator removed it")
		if r, err = d.find(r.id); err != nil { // Perhaps a new one.
			return nil, err
		}
	}
	dom, err := r.running()
	if errdefs.CodeOf(err) == errdefs.WrongState {
		return nil, err // It would not end by being waited for.
	}
	if err == nil {
		if !req.GetForce() {
			return nil, errdefs.New(errdefs.AgentRunning, "the agent has not ended", errdefs.Op("remove agent"),
				errdefs.Resource("%s", r.label()), errdefs.Fix("end it first with `aiosctl kill %s`, or use --force", r.label()))
		}
		err := dom.call(ctx, control.MethodSignal, control.SignalRequest{ID: r.id, Signal: int32(unix.SIGKILL)}, nil)
		if err != nil && errdefs.CodeOf(err) != errdefs.AgentNotRunning {
			return nil, err
		}
	}
	select {
	case <-r.settled:
	case <-ctx.Done():
		return nil, errdefs.Wrap(ctx.Err(), errdefs.Cancelled, "remove agent", errdefs.Resource("%s", r.label()))
	}
	d.remove(r)
	return &apiv1.RemoveResponse{}, nil
}

// liveDomains returns the domains that run, by name.
func (d *System) liveDomains() []*domain { return d.someDomains(false) }

// someDomains returns, by name, the domains that run and, if asked, those of
// which something is left: a process to collect, a file to remove.
func (d *System) someDomains(ending bool) []*domain {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []*domain
	for _, dom := range d.domains {
		dom.mu.Lock()
		if dom.client != nil && (ending || !dom.dead) {
			out = append(out, dom)
		}
		dom.mu.Unlock()
	}
	sort.Slice(out, func(i, j int) bool { return out[i].name < out[j].name })
	return out
}

// proto describes the domain to clients.
func (dom *domain) proto(ctx context.Context) *apiv1.Domain {
	dom.mu.Lock()
	info, hello, dead := dom.info, dom.hello, dom.dead
	dom.mu.Unlock()
	p := &apiv1.Domain{
		Name: dom.name, Pid: int32(info.PID), Platform: hello.Platform, State: "running",
		StartedUnixNano: info.Started.UnixNano(), Isolated: info.Isolated,
	}
	p.CheckpointEveryNanos = int64(info.CheckpointEvery)
	if at := dom.rounds.lastDone(); !at.IsZero() {
		p.CheckpointedUnixNano = at.UnixNano()
	}
	for _, b := range hello.Boxes {
		p.Boxes = append(p.Boxes, &apiv1.BoxReport{Box: b.Name, Ok: b.OK, Reason: b.Reason, Effect: b.Effect})
	}
	for _, r := range dom.d.records() {
		r.mu.Lock()
		if r.domain == dom {
			p.Agents++
		}
		r.mu.Unlock()
	}
	if dead {
		p.State = "ending"
		return p
	}
	var st control.StatsReply
	if dom.call(ctx, control.MethodStats, struct{}{}, &st) == nil {
		p.AgentMemoryBytes = st.MemoryBytes
	}
	p.MemoryBytes = residentOf(info.PID)
	return p
}

// DomainList implements the RPC.
func (d *System) DomainList(ctx context.Context, _ *apiv1.DomainListRequest) (*apiv1.DomainListResponse, error) {
	resp := &apiv1.DomainListResponse{}
	// Whoever sees that one is gone may count on it that nothing is left of it.
	for _, dom := range d.someDomains(true) {
		resp.Domains = append(resp.Domains, dom.proto(ctx))
	}
	return resp, nil
}

// DomainStop implements the RPC.
func (d *System) DomainStop(_ context.Context, req *apiv1.DomainStopRequest) (*apiv1.DomainStopResponse, error) {
	d.mu.Lock()
	dom := d.domains[req.GetName()]
	d.mu.Unlock()
	if dom == nil {
		return nil, errdefs.New(errdefs.DomainNotFound, "no such domain runs", errdefs.Op("stop domain"),
			errdefs.Resource("%q", req.GetName()), errdefs.Fix("`aiosctl domain ls` lists them"))
	}
	resp := &apiv1.DomainStopResponse{}
	for _, r := range d.records() {
		r.mu.Lock()
		if r.domain == dom {
			resp.Agents = append(resp.Agents, r.label())
		}
		r.mu.Unlock()
	}
	sort.Strings(resp.Agents)
	if len(resp.Agents) > 0 && !req.GetForce() {
		return nil, errdefs.New(errdefs.AgentRunning, "agents run in it: "+strings.Join(resp.Agents, " ")).
			With(errdefs.Op("stop domain"), errdefs.Resource("%q", dom.name), errdefs.Fix("end them first, or use --force"))
	}
	d.endWishes(dom.name, "the operator stopped its domain")
	d.stopDomain(dom)
	return resp, nil
}
