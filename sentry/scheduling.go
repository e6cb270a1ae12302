package sentry

import (
	"cmp"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/observe"
	"aios.dev/aios/sentry/sched"
)

// What the scheduler knows is told as it is asked for, and nobody waits for it:
// the lock is taken for each agent anew, so what is said of one is true of a
// moment of its own, which is said too.

// Most that one answer tells of.
const (
	schedAgents  = 4000
	schedThreads = 4000
)

// Sched says how the CPUs are shared.
func (s *Kernel) Sched(req control.SchedRequest) (control.SchedReply, error) {
	var agents []*Agent
	if req.ID != "" {
		a, err := s.agent(req.ID)
		if err == nil {
			err = a.mustBe(abi.StateRunning, abi.StatePaused)
		}
		if err != nil {
			return control.SchedReply{}, err
		}
		agents = []*Agent{a}
	} else {
		agents = s.liveAgents()
		slices.SortFunc(agents, func(a, b *Agent) int { return cmp.Compare(a.id, b.id) })
	}
	st := s.sched.State()
	r := control.SchedReply{
		At: st.At, Waiting: st.Waiting, Slice: st.Slice, Switches: st.Counts.Switches, Preempted: st.Counts.Preempted,
		Migrated: st.Counts.Migrated, WakeKicks: st.Counts.WakeKicks, SliceKicks: st.Counts.SliceKicks,
	}
	for _, c := range st.CPUs {
		v := control.SchedCPU{
			CPU: c.ID, Online: c.Online, Busy: c.Busy, Queued: c.Queued, Switches: c.Switches, Kicks: c.Kicks, Late: latencyOf(c.Late),
		}
		if c.Has != nil {
			v.TID, v.Task = taskName(c.Has)
			v.Agent = agentOfTask(c.Has, c.Group)
		}
		r.CPUs = append(r.CPUs, v)
	}
	for _, a := range agents {
		if a.ns.pid() == nil {
			continue // It is being made.
		}
		if len(r.Agents) == schedAgents {
			r.Cut++
			continue
		}
		v := a.schedState()
		if req.ID != "" {
			v.Threads, v.Cut = a.schedTasks()
		}
		r.Agents = append(r.Agents, v)
	}
	return r, nil
}

func latencyOf(l observe.Latency) control.SchedLatency {
	return control.SchedLatency{Count: l.Count, P50: l.P50, P99: l.P99, Max: l.Max}
}

func reservationOf(r sched.Reservation) control.SchedReservation {
	return control.SchedReservation{Runtime: time.Duration(r.Runtime), Deadline: time.Duration(r.Deadline), Period: time.Duration(r.Period)}
}

// taskName is what the scheduler's views call a task, by its ID.
func taskName(id any) (tid int32, name string) {
	t, ok := id.(*kernel.Task)
	if !ok {
		return 0, ""
	}
	return int32(t.ThreadID()), t.Name()
}

// agentOfTask is whose task it is; it may run on another's account.
func agentOfTask(id any, group string) string {
	if t, ok := id.(*kernel.Task); ok && t.ContainerID() != "" {
		return t.ContainerID()
	}
	return group
}

// schedState is what the scheduler knows of the agent, but its tasks.
func (a *Agent) schedState() control.SchedAgent {
	st := a.crowd.Group().State()
	p := st.Params
	v := control.SchedAgent{
		ID: a.id, At: st.At, Priority: uint64(a.priority.Load()), Idle: p.Idle, Weight: p.Weight, Period: p.Period, Burst: p.Burst,
		Reserved: reservationOf(p.Reserved), Taken: st.Taken, Missed: st.Missed, Overruns: st.Overruns,
		Hint: st.Hint.String(), Tasks: st.Tasks, Running: len(st.Running), Waiting: len(st.Waiting),
		Service: st.Service, User: st.Usage.User, System: st.Usage.System, Lag: st.Lag, Request: st.Request,
		Throttled: st.Throttled, Left: st.Left, Periods: st.Usage.Periods, Stops: st.Usage.Stops, Stopped: st.Usage.Stopped, Corrected: st.Corrected,
		Switches: st.Switches, Preempted: st.Preempted, Migrated: st.Migrated, Waits: latencyOf(st.Waits), WaitCounts: st.WaitCounts,
	}
	if p.MilliCPU != sched.Unlimited {
		v.Quota = &p.MilliCPU
	}
	if !p.CPUs.Empty() {
		v.CPUs = p.CPUs.String()
	}
	return v
}

// policyNames are those of package sched.
var policyNames = map[sched.Policy]string{sched.Normal: "normal", sched.Batch: "batch", sched.Idle: "idle", sched.Deadline: "deadline"}

// schedTasks lists the agent's tasks, and says how many found no room.
func (a *Agent) schedTasks() (out []control.SchedTask, cut int) {
	ns := a.ns.pid()
	for _, st := range a.crowd.Group().Tasks() {
		t, ok := st.ID.(*kernel.Task)
		if !ok || ns.IDOfTask(t) == 0 {
			continue // It has ended.
		}
		if len(out) == schedThreads {
			cut++
			continue
		}
		v := control.SchedTask{
			PID: int32(ns.IDOfThreadGroup(t.ThreadGroup())), TID: int32(ns.IDOfTask(t)), Name: t.Name(), State: "sleeps", For: st.For,
			CPU: st.CPU, Policy: policyNames[st.Attr.Policy], Nice: st.Attr.Nice, CPUs: st.CPUs.String(),
			Reserved: reservationOf(st.Attr.Reserved), Missed: st.Missed, Overruns: st.Overruns, Lent: st.Lent,
			Service: st.Service, User: st.User, System: st.System,
		}
		switch {
		case st.Runs:
			v.State = "runs"
		case st.Spent:
			v.State = "spent"
		case st.Waits:
			v.State = "waits"
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(x, y control.SchedTask) int {
		return cmp.Or(cmp.Compare(x.PID, y.PID), cmp.Compare(x.TID, y.TID))
	})
	return out, cut
}
