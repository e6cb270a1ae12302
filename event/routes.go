package event

import (
	"slices"
	"sync"
	"sync/atomic"
)

// routes say which subscriptions an event is for. Bus.mu is held when they
// change; to look one up takes no lock.
type routes struct {
	// By type, the subscriptions to events of every agent.
	ofAll atomic.Pointer[[typeCount][]*Subscription]
	// By agent, those to events of some: *agentRoute, which does not change.
	byAgent sync.Map
	// How many agents are in byAgent.
	agents atomic.Int32
}

// agentRoute is who listens to events of one agent.
type agentRoute struct {
	listeners []listener
	types     Set // of all of them
}

type listener struct {
	s     *Subscription
	types Set
}

func (r *agentRoute) has(t Type) bool { return r != nil && r.types.Has(t) }

// of returns who listens to events of one agent in particular, or nil.
func (r *routes) of(agent string) *agentRoute {
	if agent == "" || r.agents.Load() == 0 {
		return nil
	}
	v, _ := r.byAgent.Load(agent)
	found, _ := v.(*agentRoute)
	return found
}

// change puts another route in the place of an agent's.
func (r *routes) change(agent string, listeners []listener) {
	_, was := r.byAgent.Load(agent)
	if len(listeners) == 0 {
		if was {
			r.byAgent.Delete(agent)
			r.agents.Add(-1)
		}
		return
	}
	next := &agentRoute{listeners: listeners}
	for i := range listeners {
		next.types.union(&listeners[i].types)
	}
	r.byAgent.Store(agent, next)
	if !was {
		r.agents.Add(1)
	}
}

// enlist has a subscription get what it asks for.
//
// +checklocks:b.mu
func (b *Bus) enlist(s *Subscription) {
	for t := range Type(typeCount) {
		if s.types.Has(t) {
			b.wants[t]++
		}
	}
	for _, agent := range s.opts.Agents {
		var listeners []listener
		if r := b.of(agent); r != nil {
			listeners = slices.Clone(r.listeners)
		}
		b.change(agent, append(listeners, listener{s, s.types}))
	}
	if len(s.opts.Agents) == 0 {
		b.rerouteAll(s, func(list []*Subscription) []*Subscription { return append(slices.Clone(list), s) }, 1)
	}
}

// dismiss undoes enlist.
//
// +checklocks:b.mu
func (b *Bus) dismiss(s *Subscription) {
	for t := range Type(typeCount) {
		if s.types.Has(t) {
			b.wants[t]--
		}
	}
	for _, agent := range s.opts.Agents {
		if r := b.of(agent); r != nil {
			b.change(agent, slices.DeleteFunc(slices.Clone(r.listeners), func(l listener) bool { return l.s == s }))
		}
	}
	if len(s.opts.Agents) == 0 {
		b.rerouteAll(s, func(list []*Subscription) []*Subscription {
			return slices.DeleteFunc(slices.Clone(list), func(o *Subscription) bool { return o == s })
		}, -1)
	}
}

// rerouteAll changes the routes of the types of a subscription to events of
// every agent.
//
// +checklocks:b.mu
func (b *Bus) rerouteAll(s *Subscription, change func([]*Subscription) []*Subscription, by int) {
	next := *b.ofAll.Load()
	for t := range Type(typeCount) {
		if s.types.Has(t) {
			next[t] = change(next[t])
			b.wantsOfAll[t] += by
		}
	}
	b.ofAll.Store(&next)
}

// tellWanted makes known which types are wanted.
//
// +checklocks:b.mu
func (b *Bus) tellWanted() {
	var all, ofAll Set
	for t := range Type(typeCount) {
		if b.wants[t] > 0 {
			all.add(t)
		}
		if b.wantsOfAll[t] > 0 {
			ofAll.add(t)
		}
	}
	changed := false
	for i := range all {
		b.wantedOfAll[i].Store(ofAll[i])
		changed = b.wanted[i].Swap(all[i]) != all[i] || changed
	}
	if changed && b.cfg.OnWanted != nil {
		b.cfg.OnWanted(all)
	}
}

// rouseAll wakes the subscribers that want to hear of it, because the bus has
// dropped events that may have been for them.
//
// +checklocks:b.merge
func (b *Bus) rouseAll() {
	b.mu.Lock()
	subs := slices.Clone(b.subs)
	b.mu.Unlock()
	for _, s := range subs {
		s.call()
	}
}

// Dropped is how many events the bus itself has dropped and announced so far.
func (b *Bus) Dropped() uint64 { return b.announced.Load() }
