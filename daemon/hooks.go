package daemon

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/config"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/lifecycle"
	"aios.dev/aios/recovery"
)

// hooks has the hooks of the configuration at work: programs that are asked
// before something is done to an agent, and told after. How they are run is in
// hookrun.go, of what they hear in hookops.go.
//
// mu is a leaf; who applies a configuration is alone.
type hooks struct {
	// registry is nil without hooks: then an operation costs this look.
	registry atomic.Pointer[lifecycle.Registry]
	notices  hookNotices
	// Each holds one for each program that runs: that is asked, or told.
	asking  chan struct{}
	telling chan struct{}

	mu   sync.Mutex
	list []*hook // +checklocks:mu
}

// hook is one hook at work.
type hook struct {
	d       *System
	spec    hookSpec
	breaker *recovery.Breaker
	// failed says that its latest call did: health shows it.
	failed atomic.Bool
}

// hookSpec is what is configured.
type hookSpec struct {
	config lifecycle.Config
	hook   lifecycle.Hook // without what it does
}

// compileHooks examines what the file says of hooks.
func (s *settings) compileHooks(doc *config.Document) error {
	if len(s.Hooks) > lifecycle.MaxHooks {
		return doc.Fail("hooks", errdefs.Newf(errdefs.InvalidArgument, "%d hooks are too many", len(s.Hooks)).
			With(errdefs.Fix("keep at most %d", lifecycle.MaxHooks)))
	}
	for i, c := range s.Hooks {
		entry := fmt.Sprintf("hooks[%d]", i)
		h, key, err := c.Compile()
		if err == nil {
			key, err = "command", config.CheckProgram(c.Command[0])
		}
		if err != nil {
			if key != "" {
				entry += "." + key
			}
			return doc.Fail(entry, err)
		}
		if slices.ContainsFunc(s.hooks, func(o hookSpec) bool { return o.config.Name == c.Name }) {
			return doc.Fail(entry+".name", errdefs.Newf(errdefs.InvalidArgument, "another hook has the name %q", c.Name).
				With(errdefs.Fix("choose another")))
		}
		s.hooks = append(s.hooks, hookSpec{config: c, hook: h})
	}
	return nil
}

func componentHook(name string) string { return "hook " + name }

// applyHooks has these hooks at work and no others. Operations that have begun
// keep to those of before.
func (d *System) applyHooks(want []hookSpec) error {
	h := &d.hooks
	if h.asking == nil {
		h.asking, h.telling = make(chan struct{}, asksAtOnce), make(chan struct{}, tellsAtOnce)
	}
	h.mu.Lock()
	old := h.list
	h.mu.Unlock()
	var list []*hook
	var made []lifecycle.Hook
	for _, spec := range want {
		i := slices.IndexFunc(old, func(o *hook) bool { return reflect.DeepEqual(o.spec.config, spec.config) })
		var one *hook
		if i >= 0 {
			one = old[i]
		} else {
			one = &hook{d: d, spec: spec, breaker: recovery.NewBreaker(recovery.BreakerConfig{
				Name: componentHook(spec.config.Name), Clock: d.clock, OnChange: d.breakerChanged,
			})}
			d.health.Set(recovery.Component{Name: componentHook(spec.config.Name)})
		}
		list, made = append(list, one), append(made, one.made())
	}
	r, err := lifecycle.New(lifecycle.Options{
		Clock: d.clock, Notices: h.notices.queue, OnReport: d.hookReport, Before: h.registry.Load(),
	}, made...)
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.list = list
	h.mu.Unlock()
	h.registry.Store(r)
	for _, o := range old {
		if !slices.ContainsFunc(list, func(n *hook) bool { return n.spec.config.Name == o.spec.config.Name }) {
			d.health.Remove(componentHook(o.spec.config.Name))
		}
	}
	return nil
}

func (h *hooks) current() []*hook {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.list
}

func (h *hooks) find(name string) *hook {
	list := h.current()
	if i := slices.IndexFunc(list, func(o *hook) bool { return o.spec.config.Name == name }); i >= 0 {
		return list[i]
	}
	return nil
}

// hookReport hears what became of a call of a hook.
func (d *System) hookReport(rep lifecycle.Report) {
	op := rep.Operation
	if h := d.hooks.find(rep.Hook); h != nil && !rep.Abandoned && h.failed.Swap(rep.Failed()) != rep.Failed() {
		c := recovery.Component{Name: componentHook(rep.Hook)}
		if rep.Failed() {
			c.Level, c.Reason = recovery.Degraded, "its latest call failed: "+rep.Err.Error()
			c.Fix = "`aiosctl hook ls` shows it, and the daemon's log has what it wrote"
		}
		d.health.Set(c)
	}
	if rep.Err == nil {
		return
	}
	typ, reason := event.HookVetoed, rep.Reason
	if rep.Failed() {
		typ, reason = event.HookFailed, rep.Err.Error()
	}
	if errdefs.CodeOf(rep.Err) != errdefs.BreakerOpen { // Which says so itself, once.
		d.log.Warn("a hook refused or failed", "hook", rep.Hook, "phase", rep.Phase, "operation", op.Op, "agent", op.Agent.Label(), "err", rep.Err)
		d.events.Emit(event.Event{Type: typ, Agent: op.Agent.ID, Domain: op.Agent.Domain, Correlation: op.Correlation, Payload: &eventv1.Hook{
			Name: rep.Hook, Operation: string(op.Op), Phase: string(rep.Phase), Reason: event.Text(reason), Refused: rep.Vetoed || rep.Refused,
			By: op.Caller.Name, Took: int64(rep.Took), AgentName: op.Agent.Name,
		}})
	}
	if rep.Vetoed || rep.Refused {
		code := errdefs.HookVeto
		if rep.Refused {
			code = errdefs.HookFailed
		}
		d.record(audit.Entry{
			Op: "hook", Actor: op.Caller.Name, Domain: op.Agent.Domain, Agent: op.Agent.ID, Target: string(op.Op) + " " + op.Agent.Label(),
			Code: string(code), Reason: rep.Hook + ": " + reason, Correlation: op.Correlation,
		})
	}
}

// hooksService serves api/v1's Hooks.
type hooksService struct {
	apiv1.UnimplementedHooksServer
	d *System
}

// HookList implements the RPC.
func (s *hooksService) HookList(context.Context, *apiv1.HookListRequest) (*apiv1.HookListResponse, error) {
	resp := &apiv1.HookListResponse{}
	for _, st := range s.d.hooks.registry.Load().Status() {
		h := s.d.hooks.find(st.Name)
		if h == nil {
			continue // Another configuration was applied meanwhile.
		}
		c, b := h.spec.config, h.breaker.Status()
		p := &apiv1.HookStatus{
			Name: st.Name, Order: int64(st.Order), Agents: c.Agents, Before: c.Before, After: c.After, Command: c.Command,
			TimeoutNano: int64(c.Timeout), OnFailure: c.OnFailure, Breaker: b.State.String(), RetryInNano: int64(b.RetryIn),
			Calls: st.Calls, Vetoes: st.Vetoes, Failures: st.Failures,
			P50Nano: int64(st.Took.P50), P99Nano: int64(st.Took.P99), MaxNano: int64(st.Took.Max),
		}
		for _, op := range st.Ops {
			p.Operations = append(p.Operations, string(op))
		}
		if st.LastErr != nil {
			p.Error, p.Fix, p.ErrorUnixNano = st.LastErr.Error(), errdefs.FixOf(st.LastErr), st.LastAt.UnixNano()
		}
		resp.Hooks = append(resp.Hooks, p)
	}
	return resp, nil
}

// breakers are how the circuit breakers of hooks are.
func (h *hooks) breakers() (out []recovery.BreakerStatus) {
	for _, one := range h.current() {
		out = append(out, one.breaker.Status())
	}
	return out
}

// hookDrain is how long what is to be told may take when the daemon ends.
const hookDrain = 2 * time.Second

// stopHooks ends what hooks are told of: what waits is told first, within bounds.
func (d *System) stopHooks() {
	d.hooks.registry.Store(nil)
	d.hooks.notices.stop(d.clock)
}
