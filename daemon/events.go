package daemon

import (
	"encoding/json"
	"fmt"
	"time"

	"aios.dev/aios/abi"
	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/control"
)

// onEvent takes what a kernel process pushes, on the connection's reader.
func (dom *domain) onEvent(method string, body json.RawMessage) {
	switch method {
	case control.EventExit:
	case control.EventAudit:
		dom.takeRecords(body)
		return
	case control.EventEvents:
		dom.takeEvents(body)
		return
	case control.EventLimit:
		var e control.LimitEvent
		if json.Unmarshal(body, &e) == nil {
			dom.d.limitReached(e)
		}
		return
	case control.EventDump:
		var e control.DumpEvent
		if json.Unmarshal(body, &e) == nil {
			go dom.collect(e) // The dump comes over this connection's process.
		}
		return
	case control.EventAsk:
		var q control.Ask
		if json.Unmarshal(body, &q) == nil {
			go dom.answer(q) // Its answer comes over this connection.
		}
		return
	default:
		return // Of a later version.
	}
	var e control.ExitEvent
	if json.Unmarshal(body, &e) != nil {
		return
	}
	if e.ExecID == 0 {
		dom.d.agentEnded(dom, e)
		return
	}
	dom.d.mu.Lock()
	r := dom.d.agents[e.ID]
	dom.d.mu.Unlock()
	if r != nil {
		f := r.execOf(e.ExecID)
		r.mu.Lock()
		f.finish(toExit(e.Exit))
		r.mu.Unlock()
	}
}

// limitReached writes down that an agent is at a limit, or close to one.
func (d *System) limitReached(e control.LimitEvent) {
	d.mu.Lock()
	r := d.agents[e.ID]
	d.mu.Unlock()
	if r == nil {
		return
	}
	d.log.Warn("agent at a limit", "agent", r.label(), "resource", e.Resource, "level", e.Level, "used", e.Used, "limit", e.Limit)
}

// unheard is how long the record of an agent that was to be removed is kept
// when nobody has asked for its end yet.
const unheard = 10 * time.Second

// agentEnded records the end of an agent.
func (d *System) agentEnded(dom *domain, e control.ExitEvent) {
	d.mu.Lock()
	r := d.agents[e.ID]
	d.mu.Unlock()
	if r == nil { // Nobody was told of it.
		go dom.notify(control.MethodForget, control.AgentRequest{ID: e.ID})
		return
	}
	if !r.finish(abi.StateExited, toExit(e.Exit), e.Time) {
		go func() { // An earlier daemon knew, and was killed before it said so; or this one, and was cut off.
			<-r.settled
			d.keepEnd(r)
			dom.notify(control.MethodForget, control.AgentRequest{ID: e.ID})
		}()
		return
	}
	dom.events.end(r.id, 1)
	dom.endCut(r.id)
	d.endedByItself(r)
	dom.regroup()
	d.record(audit.Entry{Op: "exit", Domain: dom.name, Agent: r.id, Target: r.name, Reason: howEnded(e.Exit)})
	d.tellExit(r, toExit(e.Exit))
	// The rest asks the kernel process and writes files: not on its reader.
	go func() {
		d.askWhyNotWarm(dom, r)
		kept := d.settle(r)
		close(r.settled)
		if !kept {
			d.keepEnd(r)
		}
		// Only now: a daemon killed before would not know how it ended.
		dom.forget(r)
		if d.emptied(dom) {
			d.stopDomain(dom)
		}
		d.scheduleRestart(r)
	}()
}

// howEnded puts the end of a process into words.
func howEnded(e control.Exit) string {
	how := fmt.Sprintf("status %d", e.Code)
	if e.Signal != 0 {
		how = fmt.Sprintf("signal %d", e.Signal)
	}
	if e.Reason != "" {
		how += ": " + e.Reason
	}
	return how
}

// settle writes the end of an agent down, or forgets the agent if that was
// asked for.
func (d *System) settle(r *record) (kept bool) {
	if !r.spec().GetRemove() {
		err := d.saveKnown(r)
		if err != nil {
			d.log.Error("saving record", "agent", r.id, "err", err)
		}
		return err == nil
	}
	r.mu.Lock()
	heard := r.heard > 0
	r.mu.Unlock()
	if heard {
		d.remove(r)
	} else {
		d.clock.AfterFunc(unheard, func() {
			d.mu.Lock()
			goesOn := d.agents[r.id] != r // From a checkpoint of its domain.
			d.mu.Unlock()
			if !goesOn {
				d.remove(r)
			}
		})
	}
	return true
}

// keepAgain lies between two attempts to write how an agent ended.
const keepAgain = time.Second

// keepEnd returns when it is on disk how the agent ended, or that is of no interest
// any more. Until then its kernel process has to know: the disk may be full, and
// this daemon be killed.
func (d *System) keepEnd(r *record) {
	if r.spec().GetRemove() {
		return
	}
	for d.saveKnown(r) != nil {
		<-after(d.clock, keepAgain)
	}
}

// remove forgets an agent that has ended.
func (d *System) remove(r *record) {
	d.unreserve(r)
	r.saving.Lock() // Whoever is at it writes no file that stays.
	defer r.saving.Unlock()
	d.erase(r.id)
}

// hear registers interest in the end of the agent, so that it is not removed
// before it was told.
func (r *record) hear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heard++
}

// exitOf returns how the agent ended; done must be closed.
func (r *record) exitOf() *apiv1.Exit {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.exit
}

const shutdownTimeout = 10 * time.Second

// stopDomain ends a kernel process and every agent in it, and returns when
// nothing of the domain is left.
func (d *System) stopDomain(dom *domain) {
	ctx, cancel := background(shutdownTimeout)
	defer cancel()
	dom.stopping.Store(true)
	err := dom.call(ctx, control.MethodShutdown, control.ShutdownRequest{}, nil)
	dom.mu.Lock()
	info := dom.info
	dom.mu.Unlock()
	if err != nil {
		killProcess(info)
	}
	select {
	case <-dom.gone:
	case <-ctx.Done():
		killProcess(info)
		<-dom.gone
	}
}
