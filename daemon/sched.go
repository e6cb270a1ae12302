package daemon

import (
	"context"
	"slices"
	"strings"
	"time"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/token"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// schedulingService serves the API's service Scheduling.
type schedulingService struct {
	apiv1.UnimplementedSchedulingServer
	d *System
}

// schedTimeout is how long a domain may take to say what its scheduler knows
// when all are asked.
const schedTimeout = 2 * time.Second

// Sched implements the RPC.
func (s *schedulingService) Sched(ctx context.Context, req *apiv1.SchedRequest) (*apiv1.SchedResponse, error) {
	const op = "see the scheduler"
	d := s.d
	if req.GetAgent() != "" {
		r, dom, err := d.findRunning(req.GetAgent())
		if err != nil {
			return nil, err
		}
		if name := req.GetDomain(); name != "" && name != r.domName {
			return nil, errdefs.New(errdefs.InvalidArgument, "the agent is in domain "+r.domName, errdefs.Op(op), errdefs.Resource("%s", name),
				errdefs.Fix("leave the domain out"))
		}
		one, err := d.schedOf(ctx, dom, r.id)
		if err != nil {
			return nil, err
		}
		return &apiv1.SchedResponse{Domains: []*apiv1.SchedDomain{one}}, nil
	}
	doms := d.liveDomains()
	if req.GetDomain() != "" {
		dom, err := d.runningDomain(op, req.GetDomain())
		if err != nil {
			return nil, err
		}
		doms = []*domain{dom}
	}
	slices.SortFunc(doms, func(a, b *domain) int { return strings.Compare(a.name, b.name) })
	ctx, cancel := context.WithTimeout(ctx, schedTimeout)
	defer cancel()
	resp := &apiv1.SchedResponse{Domains: make([]*apiv1.SchedDomain, len(doms))}
	done := make(chan struct{})
	for i, dom := range doms {
		go func() {
			defer func() { done <- struct{}{} }()
			one, err := d.schedOf(ctx, dom, "")
			if err != nil { // It is busy, or ends: what is known of others is told.
				one = &apiv1.SchedDomain{Domain: dom.name, Error: err.Error()}
			}
			resp.Domains[i] = one
		}()
	}
	for range doms {
		<-done
	}
	return resp, nil
}

// schedOf asks a domain, about one agent unless id is "".
func (d *System) schedOf(ctx context.Context, dom *domain, id string) (*apiv1.SchedDomain, error) {
	var got control.SchedReply
	if err := dom.call(ctx, control.MethodSched, control.SchedRequest{ID: id}, &got); err != nil {
		return nil, err
	}
	names := d.namesIn(dom)
	out := &apiv1.SchedDomain{
		Domain: dom.name, AtNano: int64(got.At), Waiting: uint32(got.Waiting), SliceNano: int64(got.Slice), LeftOut: uint32(got.Cut),
		Switches: got.Switches, Preempted: got.Preempted, Migrated: got.Migrated, WakeKicks: got.WakeKicks, SliceKicks: got.SliceKicks,
	}
	for _, c := range got.CPUs {
		out.Cpus = append(out.Cpus, &apiv1.SchedCpu{
			Cpu: uint32(c.CPU), Online: c.Online, Agent: c.Agent, AgentName: names[c.Agent], Tid: c.TID, Task: c.Task,
			BusyNano: int64(c.Busy), Queued: uint32(c.Queued), Switches: c.Switches, Told: c.Kicks, Late: toLatency(c.Late),
		})
	}
	for _, a := range got.Agents {
		out.Agents = append(out.Agents, toSchedAgent(a, names[a.ID]))
	}
	return out, nil
}

// namesIn returns what the agents of a domain are called, by ID.
func (d *System) namesIn(dom *domain) map[string]string {
	names := make(map[string]string)
	for _, r := range d.records() {
		if r.name != "" && r.domName == dom.name && !r.final() {
			names[r.id] = r.name
		}
	}
	return names
}

func toLatency(l control.SchedLatency) *apiv1.SchedLatency {
	return &apiv1.SchedLatency{Count: l.Count, P50Nano: int64(l.P50), P99Nano: int64(l.P99), MaxNano: int64(l.Max)}
}

// toReservation returns nil for none.
func toReservation(r control.SchedReservation) *apiv1.SchedReservation {
	if r.Runtime == 0 {
		return nil
	}
	return &apiv1.SchedReservation{RuntimeNano: int64(r.Runtime), DeadlineNano: int64(r.Deadline), PeriodNano: int64(r.Period)}
}

func toSchedAgent(a control.SchedAgent, name string) *apiv1.SchedAgent {
	class := "fair"
	switch {
	case a.Reserved.Runtime > 0:
		class = "deadline"
	case a.Idle:
		class = "idle"
	}
	out := &apiv1.SchedAgent{
		Agent: a.ID, Name: name, AtNano: int64(a.At), Class: class, Weight: a.Weight, QuotaMilli: a.Quota, PeriodNano: int64(a.Period),
		BurstNano: int64(a.Burst), Cpus: a.CPUs, Reserved: toReservation(a.Reserved), Hint: a.Hint,
		Tasks: uint32(a.Tasks), Running: uint32(a.Running), Waiting: uint32(a.Waiting),
		ServiceNano: int64(a.Service), UserNano: int64(a.User), SystemNano: int64(a.System), LagNano: int64(a.Lag), RequestNano: int64(a.Request),
		Throttled: a.Throttled, LeftNano: int64(a.Left), Periods: a.Periods, Stops: a.Stops, StoppedNano: int64(a.Stopped), CorrectedNano: int64(a.Corrected),
		Switches: a.Switches, Preempted: a.Preempted, Migrated: a.Migrated, Missed: a.Missed, Overruns: a.Overruns, Taken: a.Taken,
		Waits: toLatency(a.Waits), WaitCounts: a.WaitCounts, ThreadsLeftOut: uint32(a.Cut), Priority: a.Priority,
	}
	for _, t := range a.Threads {
		out.Threads = append(out.Threads, &apiv1.SchedTask{
			Pid: t.PID, Tid: t.TID, Name: t.Name, State: t.State, ForNano: int64(t.For), Cpu: int32(t.CPU), Policy: t.Policy, Nice: int32(t.Nice),
			Cpus: t.CPUs, Reserved: toReservation(t.Reserved), Missed: t.Missed, Overruns: t.Overruns, Lent: t.Lent,
			ServiceNano: int64(t.Service), UserNano: int64(t.User), SystemNano: int64(t.System),
		})
	}
	return out
}

func (a *asked) sched(m *apiv1.SchedRequest) error {
	if m.GetAgent() == "" {
		return a.aboutHost(m)
	}
	return a.aboutAgent(m)
}

// scheduled leaves out agents that the token does not extend to.
func (a *asked) scheduled(m *apiv1.SchedResponse) {
	for _, dom := range m.GetDomains() {
		for _, c := range dom.GetCpus() {
			if c.GetAgent() != "" && !a.sees(token.OpInspect, c.GetAgent()) {
				c.Agent, c.AgentName, c.Tid, c.Task = "", "", 0, ""
			}
		}
		dom.Agents = slices.DeleteFunc(dom.GetAgents(), func(g *apiv1.SchedAgent) bool { return !a.sees(token.OpInspect, g.GetAgent()) })
	}
}
