package daemon

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/control"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/recovery"
)

// breakers are the circuit breakers of the daemon. mu is a leaf.
type breakers struct {
	mu   sync.Mutex
	list []*recovery.Breaker // +checklocks:mu
}

// newBreaker makes a circuit breaker that health shows and whose changes are
// events.
func (d *System) newBreaker(cfg recovery.BreakerConfig) *recovery.Breaker {
	cfg.Clock = d.clock
	cfg.OnChange = d.breakerChanged
	b := recovery.NewBreaker(cfg)
	d.breakers.mu.Lock()
	defer d.breakers.mu.Unlock()
	d.breakers.list = append(d.breakers.list, b)
	return b
}

// breakerChanged publishes that calls to something outside are refused at once,
// or made again.
func (d *System) breakerChanged(c recovery.BreakerChange) {
	typ, p := event.BreakerOpen, &eventv1.Breaker{
		Name: c.Name, State: c.To.String(), Failures: uint32(c.Failures), RetryIn: int64(c.RetryIn), Lasted: int64(c.Lasted),
	}
	if c.To == recovery.Closed {
		typ = event.BreakerClose
	}
	if c.Err != nil {
		p.Error = event.Text(c.Err.Error())
	}
	d.emit(typ, "", "", p)
}

func breakerComponent(name string) string { return "breaker " + name }

// lookAtBreakers puts those that refuse calls among the components.
func (d *System) lookAtBreakers() {
	for _, b := range d.breakerList() {
		s := b.Status()
		if s.State == recovery.Closed {
			d.health.Remove(breakerComponent(s.Name))
			continue
		}
		c := recovery.Component{
			Name: breakerComponent(s.Name), Level: recovery.Degraded, Reason: "after failures in a row it is not tried for now",
			Fix: "mend what failed; it is tried again by itself",
		}
		if s.Err != nil {
			c.Reason += ": " + s.Err.Error()
		}
		d.health.Set(c)
	}
}

func (d *System) breakerList() []*recovery.Breaker {
	d.breakers.mu.Lock()
	defer d.breakers.mu.Unlock()
	return slices.Clone(d.breakers.list)
}

// Health implements the RPC.
func (d *System) Health(context.Context, *apiv1.HealthRequest) (*apiv1.HealthResponse, error) {
	d.look()
	resp := &apiv1.HealthResponse{Worst: d.health.Worst().String(), Restarts: d.restartStates()}
	resp.Components = append(resp.Components, &apiv1.HealthComponent{
		Name: "daemon", Level: recovery.OK.String(), SinceUnixNano: d.started.UnixNano(),
	})
	for _, c := range d.health.List() {
		resp.Components = append(resp.Components, &apiv1.HealthComponent{
			Name: c.Name, Level: c.Level.String(), Reason: c.Reason, Fix: c.Fix, SinceUnixNano: c.Since.UnixNano(),
		})
	}
	for _, w := range d.dogs.set.List() {
		resp.Watchdogs = append(resp.Watchdogs, &apiv1.HealthWatchdog{
			Of: "daemon", Name: w.Name, TimeoutNanos: int64(w.Timeout), UnfedNanos: int64(w.Unfed), Late: w.Late, Waits: w.Waits, Expired: w.Times,
		})
	}
	for _, dom := range d.liveDomains() {
		for _, w := range dom.watchdogs() {
			resp.Watchdogs = append(resp.Watchdogs, d.watchdogProto(dom, w))
		}
	}
	for _, b := range d.breakerList() {
		resp.Breakers = append(resp.Breakers, breakerProto(b.Status()))
	}
	for _, s := range d.sinks.list() {
		resp.Breakers = append(resp.Breakers, breakerProto(s.Status().Breaker))
	}
	if s := d.time.current(); s != nil {
		for _, v := range s.Status().Servers {
			resp.Breakers = append(resp.Breakers, breakerProto(v.Breaker))
		}
	}
	for _, b := range d.hooks.breakers() {
		resp.Breakers = append(resp.Breakers, breakerProto(b))
	}
	for _, b := range d.alerts.breakers() {
		resp.Breakers = append(resp.Breakers, breakerProto(b))
	}
	return resp, nil
}

func breakerProto(s recovery.BreakerStatus) *apiv1.HealthBreaker {
	p := &apiv1.HealthBreaker{
		Name: s.Name, State: s.State.String(), Failures: uint32(s.Failures), Opened: s.Opened, Refused: s.Refused,
		SinceUnixNano: s.Since.UnixNano(), RetryInNanos: int64(s.RetryIn),
	}
	if s.Err != nil {
		p.Error = s.Err.Error()
	}
	return p
}

// watchdogs are those of the kernel process, as it last answered.
func (dom *domain) watchdogs() []control.Watchdog {
	dom.mu.Lock()
	defer dom.mu.Unlock()
	return dom.dogs
}

func (d *System) watchdogProto(dom *domain, w control.Watchdog) *apiv1.HealthWatchdog {
	p := &apiv1.HealthWatchdog{
		Of: domainComponent(dom.name), Name: w.Name, TimeoutNanos: w.Timeout, UnfedNanos: w.Unfed, Late: w.Late, Waits: w.Waits, Expired: w.Times,
	}
	if w.Agent {
		p.Name = "agent " + w.Name
		if r, err := d.find(w.Name); err == nil {
			p.Name = agentComponent(r)
		}
	}
	return p
}

// lateParts names the parts of a kernel process that do not come to an end.
func lateParts(list []control.Watchdog) (names []string) {
	for _, w := range list {
		if w.Late && !w.Agent {
			names = append(names, w.Name+" ("+time.Duration(w.Unfed).String()+")")
		}
	}
	return names
}

// restartStates are the restart budgets that were drawn on, and those of agents
// that have a policy.
func (d *System) restartStates() (out []*apiv1.HealthRestarts) {
	for _, r := range d.records() {
		if r.wish == nil {
			continue
		}
		p := r.wish.proto()
		out = append(out, &apiv1.HealthRestarts{
			Of: agentComponent(r), When: orElse(r.wish.policy.GetWhen(), "as policies say"), Count: p.GetCount(), Left: p.GetLeft(),
			NextUnixNano: p.GetNextUnixNano(), Ended: p.GetEnded(),
		})
	}
	b := &d.budgets
	b.mu.Lock()
	for name, budget := range b.byName {
		out = append(out, &apiv1.HealthRestarts{
			Of: domainComponent(name), When: "with such agents", Count: budget.State().Total, Left: uint32(max(0, budget.Left())),
		})
	}
	b.mu.Unlock()
	slices.SortFunc(out, func(a, b *apiv1.HealthRestarts) int { return cmp.Compare(a.Of, b.Of) })
	return out
}
