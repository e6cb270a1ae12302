package sentry

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"

	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/sentry/ctlfs"
	"aios.dev/aios/sentry/ctlfs/command"
)

// The door of events. An agent listens through capabilities of class event: what
// it hears is within one of them, asked anew for every event. When one that it
// listens through ends, or is narrowed, the subscription ends.

// Bounds of what one agent listens to.
const (
	maxWatches = 16      // open files
	watchBytes = 1 << 20 // of payloads that wait for one
)

// agentWatch is what an open file of events listens to. It is the door of the
// capabilities that it listens through.
type agentWatch struct {
	a     *Agent
	ready func()
	id    string // of its own events

	// mu is held while it changes. The locks of the bus, and those of the doors
	// of capabilities, are taken under it.
	mu    sync.Mutex
	sub   *event.Subscription // +checklocks:mu
	scope *watchScope         // +checklocks:mu
	want  *command.Watch      // +checklocks:mu
	// Why it has ended, or nil.
	over error // +checklocks:mu
	// That it ended is published.
	told bool // +checklocks:mu
	// How many gaps it told of, and how many events the bus had dropped then.
	gaps    uint64 // +checklocks:mu
	dropped uint64 // +checklocks:mu
}

var (
	_ ctlfs.Watch         = (*agentWatch)(nil)
	_ capability.Narrower = (*agentWatch)(nil)
)

// watch begins to listen to what the agent may see of what is wanted.
func (a *Agent) watch(want *command.Watch, ready func()) (*agentWatch, error) {
	if n := a.watches.Add(1); n > maxWatches {
		a.watches.Add(-1)
		return nil, errdefs.Newf(errdefs.FileLimit, "the agent has %d files of events open", maxWatches).With(errdefs.Op("subscribe"),
			errdefs.Fix("close one; several topics can be had from one file"))
	}
	w := &agentWatch{a: a, ready: ready, id: a.s.events.Source() + "." + strconv.FormatUint(a.s.watchIDs.Add(1), 10)}
	if err := w.Change(want); err != nil {
		a.watches.Add(-1)
		return nil, err
	}
	return w, nil
}

// Change implements ctlfs.Watch.
func (w *agentWatch) Change(want *command.Watch) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over != nil {
		return w.over
	}
	var scope *watchScope
	for { // What ends in between is not found again.
		var err error
		if scope, err = w.a.watchScope(want); err != nil {
			return err
		}
		if w.attach(scope) {
			break
		}
	}
	w.publish(event.BusSubscribe, want, &eventv1.BusSubscription{}) // It does not hear of itself.
	sub, err := w.a.s.events.Subscribe(event.Options{
		Name: w.a.id, Topics: scope.types.Topics(), Agents: scope.agents, Floor: want.Floor, Keep: scope.admits,
		Capacity: want.Queue, Bytes: watchBytes, Policy: want.Policy, OnReady: w.ready,
	})
	if err != nil { // It cannot be: the topics are the bus's own.
		w.detach(scope, w.scope)
		return err
	}
	oldSub, oldScope, oldWant := w.sub, w.scope, w.want
	w.sub, w.scope, w.want, w.dropped = sub, scope, want, w.a.s.events.Dropped()
	if oldSub != nil {
		oldSub.Close(nil)
		w.detach(oldScope, scope)
		w.tellEnd(oldSub, oldWant, "it was changed")
		w.told = false
	}
	return nil
}

// attach has w told when what scope is through ends; it reports false, and has
// undone it, if something has ended already.
//
// +checklocks:w.mu
func (w *agentWatch) attach(scope *watchScope) bool {
	for _, p := range scope.parts {
		if !p.through.Attach(w) {
			w.detach(scope, w.scope)
			return false
		}
	}
	return true
}

// detach leaves the capabilities of a scope, but for those of another.
func (w *agentWatch) detach(scope, but *watchScope) {
	for _, p := range scope.parts {
		if but == nil || !but.isThrough(p.through) {
			p.through.Detach(w)
		}
	}
}

// Revoke implements capability.Door.
func (w *agentWatch) Revoke(c *capability.Capability) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over == nil && w.scope.isThrough(c) {
		w.end(c.Err())
	}
}

// Narrowed implements capability.Narrower.
func (w *agentWatch) Narrowed(c *capability.Capability) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over != nil {
		return
	}
	for _, p := range w.scope.parts {
		if p.through == c && p.object != c.Object() {
			w.end(errdefs.New(errdefs.CapabilityRevoked, "it was narrowed to "+c.Object().String(), errdefs.Resource("%s (%s)", c.ID(), p.object),
				errdefs.Fix("open /aios/events again")))
			return
		}
	}
}

// end ends it, with why whoever reads is told. Nobody reads another event once
// it has returned.
//
// +checklocks:w.mu
func (w *agentWatch) end(why error) {
	w.over = why
	w.sub.Close(why)
	w.detach(w.scope, nil)
	w.tellEnd(w.sub, w.want, event.Text(why.Error()))
}

// Err implements ctlfs.Watch.
func (w *agentWatch) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err()
}

// +checklocks:w.mu
func (w *agentWatch) err() error {
	if w.over != nil {
		return w.over
	}
	for _, p := range w.scope.parts { // A lease ends before anybody says so.
		if err := p.through.Err(); err != nil {
			w.end(err)
			break
		}
	}
	return w.over
}

// Read implements ctlfs.Watch.
func (w *agentWatch) Read(events []event.Event) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.err(); err != nil {
		return 0, err
	}
	n, err := w.sub.Read(events)
	if errors.Is(err, event.ErrFellBehind) {
		w.tellEnd(w.sub, w.want, err.Error())
	}
	return n, err
}

// Missed implements ctlfs.Watch.
func (w *agentWatch) Missed() (n uint64, dropped bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := w.a.s.events.Dropped(); now != w.dropped {
		w.dropped = now
		dropped = !w.scope.seesLost() // Who sees it is told how many.
	}
	return w.sub.Missed(), dropped
}

// Gap implements ctlfs.Watch.
func (w *agentWatch) Gap(where string, n uint64) event.Event {
	w.mu.Lock()
	w.gaps++
	seq := w.gaps
	w.mu.Unlock()
	e := event.Event{
		Type: event.BusLost, Severity: event.Warning, Source: w.id, Seq: seq, Domain: w.a.s.cfg.Domain, Agent: w.a.id,
		Payload: &eventv1.BusLost{Where: where, Name: watchName, Count: n},
	}
	e.Wall, e.Mono = w.a.s.events.Now()
	return e
}

// Name implements ctlfs.Watch.
func (w *agentWatch) Name(agent string) string { return w.a.s.nameOf(agent) }

// Close implements ctlfs.Watch.
func (w *agentWatch) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over == nil {
		w.end(errWatchClosed)
	}
	w.a.watches.Add(-1)
}

var errWatchClosed = errdefs.New(errdefs.Cancelled, "the file was closed")

// watchName is what subscriptions of agents are called.
const watchName = ctlfs.Mountpoint + "/events"

// tellEnd publishes that a subscription has ended, once.
//
// +checklocks:w.mu
func (w *agentWatch) tellEnd(sub *event.Subscription, want *command.Watch, reason string) {
	if w.told {
		return
	}
	w.told = true
	p := &eventv1.BusSubscription{Reason: reason}
	p.Delivered, p.Lost = sub.Counts()
	w.publish(event.BusUnsubscribe, want, p)
}

func (w *agentWatch) publish(t event.Type, want *command.Watch, p *eventv1.BusSubscription) {
	p.Name, p.Topics, p.By, p.Policy = watchName, want.Names(), w.a.id, want.Policy.String()
	if want.Filter != nil {
		p.Filter = event.Text(want.Filter.String())
	}
	w.a.s.emit(w.a, t, p)
}

// nameOf returns the name of an agent that is there, or has ended not long ago.
func (s *Kernel) nameOf(id string) string {
	if a := s.findAgent(id); a != nil {
		return a.name
	}
	return s.gone.name(id)
}

// maxGone is how many agents' names are remembered when they have ended: events
// of their end are read later.
const maxGone = 1024

// goneNames remembers the names of agents that ended.
type goneNames struct {
	mu    sync.Mutex
	names map[string]string // +checklocks:mu
	order []string          // +checklocks:mu
}

func (g *goneNames) add(id, name string) {
	if name == "" {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.names == nil {
		g.names = make(map[string]string)
	}
	if len(g.order) == maxGone {
		delete(g.names, g.order[0])
		g.order = append(g.order[:0], g.order[1:]...)
	}
	g.names[id] = name
	g.order = append(g.order, id)
}

func (g *goneNames) name(id string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.names[id]
}

// ofAgent puts the ID of an agent in the place of its name in an object of class
// event: names are used again.
func (s *Kernel) ofAgent(o capability.Object) (capability.Object, error) {
	pattern, whose := topicOf(o)
	if !isName(whose) {
		return o, nil
	}
	a := s.agentNamed(whose)
	if a == nil {
		return o, errdefs.New(errdefs.AgentNotFound, "no agent of this domain has that name", errdefs.Resource("%s", o),
			errdefs.Fix("name an agent of the domain: events of others are not here"))
	}
	o.Name = pattern + "@" + a.id
	return o, nil
}

// namingAgent is ofAgent for what a capability is to be. If it is to one agent's
// events, another's name is as much beyond it as one that nobody has: whether
// there is such an agent it does not tell.
func (s *Kernel) namingAgent(c *capability.Capability, ch capability.Change) (capability.Change, error) {
	if ch.Object == nil {
		return ch, nil
	}
	object := capability.Object{Class: c.Object().Class, Name: *ch.Object}
	named, err := s.ofAgent(object)
	if _, whose := topicOf(c.Object()); whose != "" && err != nil {
		return ch, nil
	}
	if err == nil {
		ch.Object = &named.Name
	}
	return ch, err
}

// topicOf splits an object of class event; of others it returns nothing.
func topicOf(o capability.Object) (pattern, whose string) {
	if !strings.Contains(o.Name, "@") || !isEvents(o) {
		return o.Name, ""
	}
	return o.Topic()
}

// isThrough reports whether something is heard through c.
func (sc *watchScope) isThrough(c *capability.Capability) bool {
	return slices.ContainsFunc(sc.parts, func(p watchPart) bool { return p.through == c })
}
