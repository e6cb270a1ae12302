package daemon

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"os"
	"sync"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	"aios.dev/aios/event/hub"
	"aios.dev/aios/event/journal"
	eventv1 "aios.dev/aios/event/v1"
)

// openEvents opens the hub. It is done before any domain is known.
func (d *System) openEvents() error {
	var boot [8]byte
	if _, err := rand.Read(boot[:]); err != nil {
		return errdefs.Wrap(err, errdefs.HostFeature, "name this boot")
	}
	keep := d.configured.current().Journal
	h, err := hub.Open(hub.Config{
		Dir: d.paths.Events, Source: "d" + hex.EncodeToString(boot[:]), Clock: d.clock,
		Names: func(agent string) string {
			name, _ := d.eventNames.Load(agent)
			text, _ := name.(string)
			return text
		},
		OnWanted: d.eventsWanted,
		Journal:  journal.Options{KeepBytes: int64(keep.Size), KeepAge: keep.Age, Busy: busy(d.dogs.journal)},
	})
	d.events = h
	return err
}

// emit publishes an event of the daemon itself; about no agent or no domain
// when those are "". It does not wait, and may be called with any lock.
func (d *System) emit(t event.Type, agent, domain string, p event.Payload) {
	d.events.Emit(event.Event{Type: t, Agent: agent, Domain: domain, Payload: p})
}

// domainEvents is the part of a domain that is about the bus.
type domainEvents struct {
	mu sync.Mutex
	// The last number that was taken, and that was acknowledged.
	taken, acked uint64 // +checklocks:mu
	// Where the journal has the last one that was taken.
	cursor uint64 // +checklocks:mu
	// An acknowledgement is on its way.
	acking bool // +checklocks:mu
	// Of agents whose end was reported (1) and whose event of it did not come
	// yet, or the other way round (-1).
	ends map[string]int // +checklocks:mu
}

// maxEnds bounds what is remembered of ends whose other half does not come:
// events that a kernel process had to drop, which it counts.
const maxEnds = 4096

// end notes one half of an agent's end.
func (st *domainEvents) end(agent string, half int) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ends == nil {
		st.ends = make(map[string]int)
	}
	switch n, known := st.ends[agent]; {
	case n+half == 0:
		delete(st.ends, agent)
	case known || len(st.ends) < maxEnds:
		st.ends[agent] = half
	}
}

// sayEnds publishes the ends that a kernel process has reported and could not
// say on the bus any more before it died.
func (dom *domain) sayEnds() {
	st := &dom.events
	st.mu.Lock()
	ends := st.ends
	st.ends = nil
	st.mu.Unlock()
	for id, half := range ends {
		r, err := dom.d.find(id)
		if half < 0 || err != nil {
			continue
		}
		r.mu.Lock()
		exit, lifetime := r.exit, r.ended.Sub(r.created)
		r.mu.Unlock()
		dom.d.emit(event.AgentExit, id, dom.name, &eventv1.AgentExit{
			Code: exit.GetCode(), Signal: exit.GetSignal(), Reason: exit.GetReason(), Lifetime: int64(lifetime),
		})
	}
}

// takeEvents takes events that a kernel process pushed.
func (dom *domain) takeEvents(body json.RawMessage) {
	var batch control.EventBatch
	if json.Unmarshal(body, &batch) != nil {
		return
	}
	d := dom.d
	if batch.Lost > 0 {
		d.emit(event.BusLost, "", dom.name, &eventv1.BusLost{Where: "outbox", Name: dom.name, Count: batch.Lost})
	}
	st := &dom.events
	st.mu.Lock()
	taken := st.taken
	st.mu.Unlock()
	events := make([]event.Event, 0, len(batch.Events))
	for i, raw := range batch.Events {
		e, err := hub.Unmarshal(raw)
		if err != nil {
			d.events.Skip()
			continue
		}
		e.Domain = dom.name // Whatever a kernel process says.
		events = append(events, e)
		if batch.First+uint64(i) > taken {
			switch e.Type {
			case event.AgentExit:
				st.end(e.Agent, -1)
			case event.AgentKill, event.AgentPause, event.AgentResume:
				d.tellHooks(e)
			}
		}
	}
	cursor := d.events.Take(events)
	if len(batch.Events) == 0 {
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.taken, st.cursor = max(st.taken, batch.First+uint64(len(batch.Events))-1), max(st.cursor, cursor)
	if !st.acking {
		st.acking = true
		d.clock.AfterFunc(ackDelay, dom.ackEvents)
	}
}

// ackEvents lets the kernel process forget what was taken, once it is in the
// file of the journal, or counted as lost.
func (dom *domain) ackEvents() {
	st := &dom.events
	st.mu.Lock()
	if !dom.d.events.Kept(st.cursor) {
		dom.d.clock.AfterFunc(ackDelay, dom.ackEvents) // The disk is slow.
		st.mu.Unlock()
		return
	}
	st.acking = false
	last := st.taken
	fresh := last > st.acked
	st.acked = max(st.acked, last)
	st.mu.Unlock()
	if fresh {
		dom.notify(control.MethodEventsAck, control.EventsAck{Last: last})
	}
}

// eventsWanted tells every domain which types to make on demand. The hub calls
// it with its locks held.
func (d *System) eventsWanted(topics []string) {
	d.wanted.mu.Lock()
	defer d.wanted.mu.Unlock()
	d.wanted.topics = topics
	if !d.wanted.armed {
		d.wanted.armed = true
		d.clock.AfterFunc(0, d.tellWanted)
	}
}

// wantedTopics are the types that are made on demand and wanted now. mu is a
// leaf.
type wantedTopics struct {
	mu     sync.Mutex
	topics []string // +checklocks:mu
	armed  bool     // +checklocks:mu
	// tellMu keeps what domains are told in order; taken before mu.
	tellMu sync.Mutex
}

// tellWanted tells every domain what is wanted now, and returns when they have
// heard.
func (d *System) tellWanted() {
	d.wanted.tellMu.Lock()
	defer d.wanted.tellMu.Unlock()
	d.wanted.mu.Lock()
	d.wanted.armed = false
	topics := d.wanted.topics
	d.wanted.mu.Unlock()
	for _, dom := range d.liveDomains() {
		dom.want(topics)
	}
}

// wantTimeout bounds how long a subscriber waits for a domain that does not
// answer.
const wantTimeout = time.Second

func (dom *domain) want(topics []string) {
	ctx, cancel := background(wantTimeout)
	defer cancel()
	if err := dom.call(ctx, control.MethodEventsWant, control.EventsWant{Topics: topics}, nil); err != nil {
		dom.d.log.Warn("asking a domain for events", "domain", dom.name, "err", err)
	}
}

// joinEvents has a domain that was just connected send its events.
func (dom *domain) joinEvents() {
	dom.notify(control.MethodEventsPull, struct{}{})
	dom.d.wanted.mu.Lock()
	topics := dom.d.wanted.topics
	dom.d.wanted.mu.Unlock()
	if len(topics) > 0 {
		dom.notify(control.MethodEventsWant, control.EventsWant{Topics: topics})
	}
}

// runningFile exists while a daemon runs.
func (d *System) runningFile() string { return d.paths.Events + "/running" }

// sayStarted publishes that the daemon serves, and notes that it does.
func (d *System) sayStarted() {
	_, err := os.Stat(d.runningFile())
	if err := os.WriteFile(d.runningFile(), nil, 0o600); err != nil {
		d.log.Warn("noting that the daemon runs", "err", err)
	}
	d.emit(event.DaemonStart, "", "", &eventv1.DaemonStart{
		Pid: int32(os.Getpid()), Version: abi.Version, StateDir: d.paths.StateDir,
		Adopted: uint32(len(d.liveDomains())), AfterCrash: err == nil,
	})
}

// sayStopped publishes that the daemon ends.
func (d *System) sayStopped() {
	d.emit(event.DaemonStop, "", "", &eventv1.DaemonStop{
		Lifetime: int64(d.clock.Since(d.started)), DomainsLeft: uint32(len(d.liveDomains())),
	})
	os.Remove(d.runningFile())
	if err := d.events.Close(); err != nil {
		d.log.Warn("closing the journal of events", "err", err)
	}
}

// endsWithin is how old the end of an agent may be that is still looked for in
// the journal.
const endsWithin = 2 * time.Hour

// sayOldEnds publishes the ends of agents that an earlier daemon wrote down,
// whose events neither it nor their kernel processes lived to put into the
// journal.
func (d *System) sayOldEnds(records map[string]*record) {
	open := make(map[string]*record)
	for id, r := range records {
		r.mu.Lock()
		recent := r.state == abi.StateExited && d.clock.Since(r.ended) < endsWithin
		r.mu.Unlock()
		d.mu.Lock()
		lives := d.domains[r.domName] != nil // Then it says so itself.
		d.mu.Unlock()
		if recent && !lives {
			open[id] = r
		}
	}
	if len(open) == 0 {
		return
	}
	ctx, cancel := background(adoptTimeout)
	defer cancel()
	from := max(1, d.events.Cursor(d.clock.Now().Add(-2*endsWithin).UnixNano()))
	sub, err := d.events.Subscribe(hub.Options{Name: "daemon", Topics: []string{"agent.exit"}, From: from, Past: true})
	if err != nil {
		return
	}
	defer sub.Close()
	for {
		e, _, err := sub.Next(ctx)
		if err != nil {
			break
		}
		delete(open, e.Agent)
	}
	if ctx.Err() != nil {
		return // Not all was read: better not said than said twice.
	}
	for id, r := range open {
		r.mu.Lock()
		p := &eventv1.AgentExit{
			Code: r.exit.GetCode(), Signal: r.exit.GetSignal(), Reason: r.exit.GetReason(), Lifetime: int64(r.ended.Sub(r.created)),
		}
		r.mu.Unlock()
		d.emit(event.AgentExit, id, r.domName, p)
	}
}
