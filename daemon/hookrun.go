package daemon

import (
	"context"
	"sync"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
	"aios.dev/aios/lifecycle"
)

const (
	// asksAtOnce is how many programs are asked at once, and tellsAtOnce how many
	// are told; noticesWaiting is how much waits to be told, of all agents.
	asksAtOnce     = 16
	tellsAtOnce    = 4
	noticesWaiting = 1024
	// hookSlack is what the registry waits for longer than a program may take: it
	// is killed meanwhile.
	hookSlack = 3 * time.Second
)

// made returns the hook with what it does.
func (h *hook) made() lifecycle.Hook {
	l := h.spec.hook
	l.Timeout = 2*h.spec.config.Timeout + hookSlack // It may wait for its turn for as long.
	if h.spec.config.Before {
		l.Before = func(ctx context.Context, op *lifecycle.Operation) error { return h.ask(ctx, op) }
		l.Aborted = func(ctx context.Context, op *lifecycle.Operation, why error) error {
			_, err := h.run(ctx, h.d.hooks.telling, op, lifecycle.Aborted, why)
			return err
		}
	}
	if h.spec.config.After {
		l.After = func(ctx context.Context, op *lifecycle.Operation, failure error) error {
			_, err := h.run(ctx, h.d.hooks.telling, op, lifecycle.After, failure)
			return err
		}
	}
	return l
}

// ask runs the program before an operation.
func (h *hook) ask(ctx context.Context, op *lifecycle.Operation) error {
	end, err := h.run(ctx, h.d.hooks.asking, op, lifecycle.Before, nil)
	if end.code > 0 {
		return lifecycle.Veto(vetoReason(end))
	}
	return err
}

// vetoReason is why a program refuses: what it says, and, if its status is one
// that shells have for mistakes of their scripts, that it may not have meant to.
func vetoReason(end programEnd) string {
	reason := orElse(end.reason, end.status)
	switch end.code {
	case 126:
		return "its exit status is 126, as of a script with a command that cannot be executed: " + reason
	case 127:
		return "its exit status is 127, as of a script with a command that was not found: " + reason
	}
	return reason
}

// run runs the program in its turn, unless it fails all the time.
func (h *hook) run(ctx context.Context, slots chan struct{}, op *lifecycle.Operation, phase lifecycle.Phase, outcome error) (programEnd, error) {
	c, d := &h.spec.config, h.d
	none := programEnd{code: -1}
	turn, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-turn.Done():
		if ctx.Err() != nil {
			return none, ctx.Err()
		}
		return none, errdefs.Newf(errdefs.Timeout, "%d other programs ran for %v, and it was not run", cap(slots), c.Timeout).
			With(errdefs.Fix("give hooks less to do, or less to hear of"))
	}
	done, err := h.breaker.Allow()
	if err != nil {
		return none, err
	}
	end, err := program{
		command: c.Command, stdin: op.Message(c.Name, phase, outcome), timeout: c.Timeout,
		env: []string{
			"AIOS_HOOK=" + c.Name, "AIOS_PHASE=" + string(phase), "AIOS_OPERATION=" + string(op.Op),
			"AIOS_AGENT=" + op.Agent.ID, "AIOS_AGENT_NAME=" + op.Agent.Name, "AIOS_DOMAIN=" + op.Agent.Domain,
		},
	}.run(ctx, d.clock)
	if phase == lifecycle.Before && end.code > 0 {
		done(nil) // It has answered.
	} else {
		done(err)
	}
	d.log.Info("hook", "hook", c.Name, "phase", phase, "operation", op.Op, "agent", op.Agent.ID, "command", c.Command[0],
		"took", end.took.Round(time.Millisecond), "status", end.status, "output", end.output)
	return end, err
}

// hookNotices has hooks told, in the order in which things happened to an agent:
// one after the other of one agent, several agents at once. The end of an agent
// is told after operations on it that have begun. mu is a leaf.
type hookNotices struct {
	work sync.WaitGroup

	mu      sync.Mutex
	agents  map[string]*agentNotices // +checklocks:mu
	waiting int                      // +checklocks:mu
	// Nothing more is taken; nor is what waits told.
	closed  bool // +checklocks:mu
	stopped bool // +checklocks:mu
}

// agentNotices is what there is to tell of one agent.
type agentNotices struct {
	jobs []func()
	busy bool     // somebody does the jobs
	open int      // operations that have begun
	late []func() // called when none is open
}

// +checklocks:n.mu
func (n *hookNotices) of(agent string) *agentNotices {
	if n.agents == nil {
		n.agents = make(map[string]*agentNotices)
	}
	a := n.agents[agent]
	if a == nil {
		a = new(agentNotices)
		n.agents[agent] = a
	}
	return a
}

// +checklocks:n.mu
func (n *hookNotices) forget(agent string) {
	if a := n.agents[agent]; a != nil && !a.busy && a.open == 0 {
		delete(n.agents, agent)
	}
}

// queue has something told in its turn, unless too much waits. When the daemon
// ends, it drops it: that is no hook's fault.
func (n *hookNotices) queue(op *lifecycle.Operation, tell func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return true
	}
	if n.waiting >= noticesWaiting {
		return false
	}
	n.waiting++
	a := n.of(op.Agent.ID)
	a.jobs = append(a.jobs, tell)
	if !a.busy {
		a.busy = true
		n.work.Go(func() { n.drain(op.Agent.ID) })
	}
	return true
}

// drain tells what there is to tell of an agent.
func (n *hookNotices) drain(agent string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.of(agent)
	for len(a.jobs) > 0 && !n.stopped {
		job := a.jobs[0]
		a.jobs = a.jobs[1:]
		n.mu.Unlock()
		job()
		n.mu.Lock()
		n.waiting--
	}
	a.busy = false
	n.forget(agent)
}

// begin says that an operation on an agent begins, end that it is over.
func (n *hookNotices) begin(agent string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.of(agent).open++
}

func (n *hookNotices) end(agent string) {
	n.mu.Lock()
	a := n.of(agent)
	a.open--
	var late []func()
	if a.open == 0 {
		late, a.late = a.late, nil
	}
	n.forget(agent)
	n.mu.Unlock()
	for _, f := range late {
		f()
	}
}

// afterwards calls f when no operation on the agent is under way: at once if there
// is none.
func (n *hookNotices) afterwards(agent string, f func()) {
	n.mu.Lock()
	if a := n.agents[agent]; a != nil && a.open > 0 {
		a.late = append(a.late, f)
		n.mu.Unlock()
		return
	}
	n.mu.Unlock()
	f()
}

// stop lets what waits be told, for a while.
func (n *hookNotices) stop(clock ktime.Clock) {
	n.mu.Lock()
	n.closed = true // Or somebody would come to the work that is waited for.
	n.mu.Unlock()
	told := make(chan struct{})
	go func() {
		n.work.Wait()
		close(told)
	}()
	select {
	case <-told:
	case <-after(clock, hookDrain):
	}
	n.mu.Lock()
	n.stopped = true
	n.mu.Unlock()
}
