package daemon

import (
	"bytes"
	"slices"
	"sync"
	"time"

	"aios.dev/aios/config"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	"aios.dev/aios/event/alert"
	"aios.dev/aios/recovery"
)

const (
	// hooksAtOnce is how many programs are run at once, and hooksWaiting how many
	// wait for that; one more is not run.
	hooksAtOnce  = 4
	hooksWaiting = 64
)

// checkHook refuses a program that cannot, or should not, be run.
func checkHook(acts *alert.Actions) (key string, err error) {
	if acts == nil || acts.Hook == nil {
		return "", nil
	}
	return "actions.hook.command", config.CheckProgram(acts.Hook.Command[0])
}

// hookRuns runs the programs of alerts. mu is a leaf.
type hookRuns struct {
	a     *alerts
	slots chan struct{} // holds one for each that runs

	mu      sync.Mutex
	waiting int                          // +checklocks:mu
	rules   map[string]*recovery.Breaker // +checklocks:mu
}

func (h *hookRuns) init(a *alerts) {
	h.a, h.slots = a, make(chan struct{}, hooksAtOnce)
}

// apply makes a circuit breaker for each rule that runs a program.
func (h *hookRuns) apply(rules []*alert.Rule) {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.rules
	h.rules = make(map[string]*recovery.Breaker)
	for _, r := range rules {
		if acts := r.Actions(); acts == nil || acts.Hook == nil {
			continue
		}
		b := old[r.Name()]
		if b == nil {
			b = recovery.NewBreaker(recovery.BreakerConfig{Name: "hook of alert " + r.Name(), Clock: h.a.d.clock, OnChange: h.a.d.breakerChanged})
		}
		h.rules[r.Name()] = b
	}
}

// breakers are how the circuit breakers of hooks are.
func (a *alerts) breakers() []recovery.BreakerStatus {
	if a == nil {
		return nil
	}
	a.hooks.mu.Lock()
	all := a.hooks.rules
	a.hooks.mu.Unlock()
	var out []recovery.BreakerStatus
	for _, b := range all {
		out = append(out, b.Status())
	}
	slices.SortFunc(out, func(a, b recovery.BreakerStatus) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	return out
}

// run runs the program of an alert, in its turn, unless it fails all the time.
// It does not wait.
func (h *hookRuns) run(key alertKey, act *active, hook *alert.Hook, state string, said event.Event) {
	h.mu.Lock()
	b := h.rules[key.rule]
	full := h.waiting >= hooksWaiting
	if !full {
		h.waiting++
	}
	h.mu.Unlock()
	if full {
		h.a.noted(key, act, "hook", "", errdefs.Newf(errdefs.QuotaExceeded, "%d programs wait to be run, and it is not", hooksWaiting).
			With(errdefs.Fix("give rules hold, or the program less to do")))
		return
	}
	h.a.work.Go(func() {
		defer func() {
			h.mu.Lock()
			h.waiting--
			h.mu.Unlock()
		}()
		select {
		case h.slots <- struct{}{}:
			defer func() { <-h.slots }()
		case <-h.a.ctx.Done():
			return
		}
		done := func(error) {}
		if b != nil {
			var err error
			if done, err = b.Allow(); err != nil {
				h.a.noted(key, act, "hook", "", err)
				return
			}
		}
		err := h.exec(key, act, hook, state, said)
		done(err)
		h.a.noted(key, act, "hook", hook.Command[0]+", since the alert is "+state, err)
	})
}

// exec runs a program to its end, or to that of its time.
func (h *hookRuns) exec(key alertKey, act *active, hook *alert.Hook, state string, said event.Event) error {
	end, err := program{
		command: hook.Command, stdin: append(said.AppendJSON(nil), '\n'), timeout: hook.Timeout,
		env: []string{
			"AIOS_ALERT=" + key.rule, "AIOS_ALERT_STATE=" + state,
			"AIOS_AGENT=" + act.group.Agent, "AIOS_AGENT_NAME=" + act.group.Name, "AIOS_DOMAIN=" + act.group.Domain,
		},
	}.run(h.a.ctx, h.a.d.clock)
	h.a.d.log.Info("hook of an alert", "alert", key.rule, "state", state, "agent", act.group.Agent, "command", hook.Command[0],
		"took", end.took.Round(time.Millisecond), "status", end.status, "output", end.output)
	return err
}
