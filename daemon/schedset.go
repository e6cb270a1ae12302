package daemon

import (
	"context"
	"fmt"
	"math"
	"time"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/capability/token"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/sched"
	"aios.dev/aios/sentry/smp"
)

// opSetCPU is what SchedSet is called when it fails.
const opSetCPU = "set CPU time"

// SchedSet implements the RPC.
func (s *schedulingService) SchedSet(ctx context.Context, req *apiv1.SchedSetRequest) (*apiv1.SchedSetResponse, error) {
	d := s.d
	r, dom, err := d.findRunning(req.GetAgent())
	if err != nil {
		return nil, err
	}
	was, spec, err := changedCPU(ctx, dom, r.id, req)
	if err != nil {
		return nil, err
	}
	if want := req.GetIfGrant(); want != "" {
		was = want
	}
	var got control.SetCPUReply
	err = dom.call(ctx, control.MethodSetCPU, control.SetCPURequest{ID: r.id, Spec: spec.String(), Was: was, Actor: actor(ctx)}, &got)
	if err != nil {
		return nil, err
	}
	dom.regroup()
	now, err := d.schedOf(ctx, dom, r.id)
	if err != nil {
		return nil, err
	}
	resp := &apiv1.SchedSetResponse{Capability: got.Cap, Was: got.Was, Grant: got.Spec, Domain: dom.name}
	if len(now.GetAgents()) > 0 {
		resp.Agent = now.GetAgents()[0]
		resp.Agent.Threads = nil
	}
	return resp, nil
}

// changedCPU returns what an agent's own capability to CPU time says, and what it
// is to say.
func changedCPU(ctx context.Context, dom *domain, id string, req *apiv1.SchedSetRequest) (was string, spec capability.Spec, err error) {
	var own control.SetCPUReply
	if err := dom.call(ctx, control.MethodSetCPU, control.SetCPURequest{ID: id}, &own); err != nil {
		return "", spec, err
	}
	if spec, err = capability.ParseSpec(own.Spec); err != nil {
		return "", spec, err
	}
	return own.Spec, spec, changeCPU(&spec, req)
}

// changeCPU has spec say what a request asks for.
func changeCPU(spec *capability.Spec, req *apiv1.SchedSetRequest) error {
	bad := func(what string, value any, fix string, args ...any) error {
		return errdefs.New(errdefs.InvalidArgument, what+" is out of range", errdefs.Op(opSetCPU), errdefs.Resource("%v", value), errdefs.Fix(fix, args...))
	}
	l, some := &spec.Limits, false
	if req.Weight != nil {
		if l.Weight, some = req.GetWeight(), true; l.Weight < 1 || l.Weight > sched.MaxWeight {
			return bad("the weight", l.Weight, "give one from 1 to %d", sched.MaxWeight)
		}
	}
	if req.QuotaMilli != nil {
		if l.MilliCPU, some = req.GetQuotaMilli(), true; l.MilliCPU > math.MaxUint16*1000 {
			return bad("the quota", l.MilliCPU, "give at most %d thousandths of a CPU, or 0 for none", math.MaxUint16*1000)
		}
	}
	if req.PeriodNano != nil {
		d := time.Duration(req.GetPeriodNano())
		if l.Period, some = uint64(d), true; d < sched.PeriodLeast || d > sched.PeriodMost {
			return bad("the period", d, "give one from %v to %v", sched.PeriodLeast, sched.PeriodMost)
		}
	}
	if req.BurstNano != nil {
		d := time.Duration(req.GetBurstNano())
		if l.Burst, some = uint64(d), true; d < 0 || d > time.Minute {
			return bad("the burst", d, "give at most %v, or 0 for none", time.Minute)
		}
	}
	if req.Priority != nil {
		if l.Priority, some = req.GetPriority(), true; l.Priority < 1 || l.Priority > 40 {
			return bad("the priority", l.Priority, "give one from 1 to 40")
		}
	}
	if req.Idle != nil {
		if l.Idle, some = 0, true; req.GetIdle() {
			l.Idle = 1
		}
	}
	if req.Cpus != nil {
		some = true
		spec.Object = ownObject(abi.ClassCPU)
		if text := req.GetCpus(); text != "" {
			set, err := smp.Parse(text)
			if err != nil || set.Empty() {
				return errdefs.New(errdefs.InvalidArgument, "these are no CPUs", errdefs.Op(opSetCPU), errdefs.Resource("%q", text),
					errdefs.Fix("give numbers and ranges, such as 0-1,3, or nothing for any"))
			}
			spec.Object.Name = set.String()
		}
	}
	if p := req.GetReserved(); p != nil {
		some = true
		runtime, period := time.Duration(p.GetRuntimeNano()), time.Duration(p.GetPeriodNano())
		if dl := time.Duration(p.GetDeadlineNano()); dl != 0 && dl != period {
			return bad("the deadline", dl, "an agent's deadline is the end of its period: give that, or 0")
		}
		if runtime != 0 && (runtime < sched.RuntimeMin || period < runtime || period > sched.PeriodMax) {
			return bad("the reservation", fmt.Sprintf("%v in %v", runtime, period), "give a runtime from %v, and a period from that to %v",
				time.Duration(sched.RuntimeMin), time.Duration(sched.PeriodMax))
		}
		l.Promise(runtime, period)
	}
	if !some {
		return errdefs.New(errdefs.InvalidArgument, "nothing is to be changed", errdefs.Op(opSetCPU), errdefs.Fix("name something"))
	}
	return nil
}

// schedSet needs what comes of it within the grants.
func (a *asked) schedSet(m *apiv1.SchedSetRequest) error {
	if err := a.aboutAgent(m); err != nil {
		return err
	}
	r, dom, err := a.d.findRunning(m.GetAgent())
	if err != nil {
		return err
	}
	was, spec, err := changedCPU(a.ctx, dom, r.id, m)
	if err != nil {
		return err
	}
	if m.GetIfGrant() == "" {
		m.IfGrant = was // What was examined is what will be done.
	}
	return a.b.AllowGrants(spec)
}

// Hint implements the RPC.
func (s *schedulingService) Hint(ctx context.Context, req *apiv1.HintRequest) (*apiv1.HintResponse, error) {
	r, dom, err := s.d.findRunning(req.GetAgent())
	if err != nil {
		return nil, err
	}
	by := actor(ctx)
	var got control.HintReply
	if err := dom.call(ctx, control.MethodHint, control.HintRequest{ID: r.id, Hint: req.GetHint(), Actor: by}, &got); err != nil {
		return nil, err
	}
	if req.GetHint() != "" && got.Hint != got.Was {
		s.d.record(audit.Entry{
			Op: "hint", Domain: dom.name, Actor: by.Name, Agent: r.id, Target: got.Hint, Correlation: by.Correlation, Reason: "was " + got.Was,
		})
	}
	return &apiv1.HintResponse{Hint: got.Hint, Was: got.Was}, nil
}

// hint takes more when it says something.
func (a *asked) hint(m *apiv1.HintRequest) error {
	if m.GetHint() != "" {
		if err := a.may(token.OpPause, &m.Agent); err != nil {
			return err
		}
	}
	return a.aboutAgent(m)
}
