package sentry

import (
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
)

// bootEvents makes the bus. Everything else may publish from then on.
func (s *Kernel) bootEvents() error {
	var boot [8]byte
	if _, err := rand.Read(boot[:]); err != nil {
		return errdefs.Wrap(err, errdefs.HostFeature, "name this boot")
	}
	s.events = event.New(event.Config{
		Domain: s.cfg.Domain, Source: "k" + hex.EncodeToString(boot[:]), Clock: s.cfg.Clock, CPUs: s.cfg.CPUs,
		OnWanted: s.eventsWanted,
	})
	return s.outbox.open(s)
}

// emit publishes an event of an agent, or with no agent one of the domain.
// Whoever has to work for the payload asks s.events.Enabled first.
func (s *Kernel) emit(a *Agent, t event.Type, p event.Payload) { s.emitFor(a, t, p, "") }

// emitFor is emit of what a request caused.
func (s *Kernel) emitFor(a *Agent, t event.Type, p event.Payload, correlation string) {
	e := event.Event{Type: t, Payload: p, Correlation: correlation}
	if a != nil {
		e.Agent = a.id
	}
	s.publish(e)
}

// processOf names the process of a task as its agent sees it.
func processOf(t *kernel.Task) *eventv1.Process {
	ns := t.PIDNamespace()
	return &eventv1.Process{
		Pid: int32(ns.IDOfThreadGroup(t.ThreadGroup())), Tid: int32(ns.IDOfTask(t)), Name: event.Text(t.Name()),
	}
}

// Bounds of the outbox.
const (
	outboxMax   = 32768    // events
	outboxBytes = 32 << 20 // of all of them
	outboxBatch = 256      // events in one message
	outboxChunk = 1 << 20  // bytes in one message, about
	// outboxPause is how long events gather after a batch went out.
	outboxPause = 300 * time.Microsecond
)

// outbox holds the events of the bus that are for the daemon until it has
// acknowledged them. Without a daemon they wait here; when there is no more
// room the oldest are dropped and counted.
type outbox struct {
	s   *Kernel
	sub *event.Subscription

	// sendMu keeps messages in order. It is taken before mu.
	sendMu sync.Mutex

	mu sync.Mutex
	// Not yet acknowledged, the oldest first; the first has the number first.
	queue [][]byte // +checklocks:mu
	bytes int      // +checklocks:mu
	first uint64   // +checklocks:mu
	// How many of queue were sent.
	sent int // +checklocks:mu
	// Dropped since the last batch, here and by the subscription.
	lost uint64 // +checklocks:mu
	// What of the subscription's losses is counted already.
	counted uint64 // +checklocks:mu
}

// open subscribes for the daemon, to everything that is not made on demand.
func (o *outbox) open(s *Kernel) error {
	sub, err := s.events.Subscribe(event.Options{Name: "daemon", Capacity: outboxMax})
	if err != nil {
		return err
	}
	o.s, o.sub = s, sub
	o.first = 1 // +checklocksignore: the kernel boots.
	go o.run()
	return nil
}

// run passes on what the subscription gets.
func (o *outbox) run() {
	batch := make([]event.Event, outboxBatch)
	for {
		n, err := o.sub.Read(batch)
		switch {
		case err != nil:
			return
		case n == 0:
			<-o.sub.Ready()
			continue
		}
		o.s.dogs.outbox.Busy()
		o.put(batch[:n])
		clear(batch[:n])
		for o.flushSome() {
			o.s.dogs.outbox.Feed()
		}
		o.s.dogs.outbox.Idle()
		nap(o.s.cfg.Clock, outboxPause)
	}
}

func (o *outbox) put(events []event.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range events {
		b := events[i].Marshal(nil)
		o.queue = append(o.queue, b)
		o.bytes += len(b)
	}
	drop := 0
	for left := len(o.queue); left > outboxMax || o.bytes > outboxBytes; left-- {
		o.bytes -= len(o.queue[drop])
		drop++
	}
	if drop > 0 {
		o.queue = append([][]byte(nil), o.queue[drop:]...)
		o.first += uint64(drop)
		o.lost += uint64(drop)
		o.sent = max(0, o.sent-drop)
	}
	if lost := o.sub.Lost(); lost > o.counted {
		o.lost += lost - o.counted
		o.counted = lost
	}
}

// flushSome sends one batch, and reports whether there may be another.
func (o *outbox) flushSome() bool {
	o.sendMu.Lock()
	defer o.sendMu.Unlock()
	o.mu.Lock()
	rest := o.queue[o.sent:]
	n, size := 0, 0
	for n < len(rest) && n < outboxBatch && size < outboxChunk {
		size += len(rest[n])
		n++
	}
	batch := control.EventBatch{First: o.first + uint64(o.sent), Lost: o.lost, Events: rest[:n]}
	o.mu.Unlock()
	if n == 0 && batch.Lost == 0 || o.s.cfg.Push == nil || o.s.cfg.Push(control.EventEvents, batch) == 0 {
		return false // The daemon pulls when it is back.
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	// Meanwhile events may have been acknowledged or dropped.
	if next := batch.First + uint64(n); next > o.first {
		o.sent = max(o.sent, int(next-o.first))
	}
	o.lost -= batch.Lost
	return o.sent < len(o.queue)
}

// pull sends everything again that was not acknowledged.
func (o *outbox) pull() {
	o.sendMu.Lock()
	o.mu.Lock()
	o.sent = 0
	o.mu.Unlock()
	o.sendMu.Unlock()
	for o.flushSome() {
	}
}

// ack forgets the events up to last.
func (o *outbox) ack(last uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if last < o.first {
		return
	}
	n := min(int(last-o.first+1), len(o.queue))
	for _, b := range o.queue[:n] {
		o.bytes -= len(b)
	}
	o.queue = append([][]byte(nil), o.queue[n:]...)
	o.first += uint64(n)
	o.sent = max(0, o.sent-n)
}

// want has types made that are only made on demand.
func (o *outbox) want(topics []string) error {
	for _, info := range event.Types() {
		if !info.OnDemand {
			topics = append(topics, info.Topic)
		}
	}
	return o.sub.Retopic(topics)
}
