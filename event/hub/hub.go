// Package hub is where the events of all domains come together in the daemon:
// it keeps them in a journal, and gives them to subscribers.
//
// Key types:
//
//   - Hub takes events, of kernel processes with Take and the daemon's own with
//     Emit. Those of one source keep their order; what comes twice, because a
//     kernel process was not told that it had arrived, is dropped.
//   - Subscription is one subscriber: of what happens from now on, of the past
//     first, or durable, which means that it has a name, acknowledges what it
//     has, and goes on there after it was away.
//
// What is kept: every event but those of types that are only made on demand,
// which reach those who listen at that time. A cursor is the place of an event
// in the journal.
//
// What may be lost, each time counted: a subscriber that is slower than what
// happens loses what its policy says, and learns how many; a journal that cannot
// be written says so with an event of its own; what was deleted to keep the
// journal in bounds is a gap for who wanted to read it.
//
// Lock order: Hub.mu, then the locks of package event; Hub.durableMu, then
// progress.mu; the journal's are leaves. Filters run with Hub.mu held. Times are nanoseconds. The package knows
// no domain and no capability: who may subscribe to what is decided by its
// callers.
package hub

import (
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	"aios.dev/aios/event/journal"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/ktime"
)

// Config is what a hub is made of.
type Config struct {
	// Dir holds the journal and the positions of durable subscribers.
	Dir string
	// Source names this boot of the daemon.
	Source string
	Clock  ktime.Clock
	// Names returns the name of an agent, for filters; it must not block.
	Names func(agent string) string
	// OnWanted hears which types that are made on demand somebody listens to,
	// whenever that changes. It must not block or call the hub.
	OnWanted func(topics []string)
	// Keep bounds the journal; zero values stand for the journal's own.
	Journal journal.Options
}

// maxSources bounds of how many sources the hub remembers the last event.
const maxSources = 4096

// Hub takes events and gives them to subscribers.
type Hub struct {
	cfg     Config
	bus     *event.Bus
	journal *journal.Journal
	cursors *journal.Cursors
	began   time.Time

	mu sync.Mutex
	// Of the daemon's own events.
	seq uint64 // +checklocks:mu
	// The last number by source.
	seen map[string]uint64 // +checklocks:mu
	// Dropped because they had come before.
	twice uint64 // +checklocks:mu
	// Of a later version, and not understood.
	unknown uint64 // +checklocks:mu

	durableMu sync.Mutex
	// The durable subscriptions that are read at present, by name.
	reading map[string]*progress // +checklocks:durableMu
}

// Open opens the hub whose journal is in a directory, which is made if need be.
func Open(cfg Config) (*Hub, error) {
	if cfg.Clock == nil {
		cfg.Clock = ktime.Real
	}
	if cfg.Names == nil {
		cfg.Names = func(string) string { return "" }
	}
	h := &Hub{cfg: cfg, began: cfg.Clock.Now(), seen: make(map[string]uint64), reading: make(map[string]*progress)}
	dir := filepath.Join(cfg.Dir, "journal")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "make the journal of events")
	}
	o := cfg.Journal
	o.Clock, o.Failed, o.Recovered = cfg.Clock, h.failed, h.recovered
	h.bus = event.New(event.Config{Source: cfg.Source, Clock: cfg.Clock, OnWanted: h.wanted})
	var err error
	if h.cursors, err = journal.OpenCursors(filepath.Join(cfg.Dir, "subscribers.json"), cfg.Clock); err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.journal, err = journal.Open(dir, o) // Failed, if it is called, waits for it.
	h.mu.Unlock()
	if err != nil {
		return nil, err
	}
	h.remember()
	return h, nil
}

// rememberLast is how many records of the journal are looked at for the last
// event of each source: at least as many as a kernel process keeps until they
// are acknowledged.
const rememberLast = 1 << 16

// remember finds out what the journal has of each source.
func (h *Hub) remember() {
	from := h.journal.First()
	// An earlier daemon that was killed makes the newest numbers leap.
	if last := h.journal.Last(); last > rememberLast+journal.Leap {
		from = max(from, last-rememberLast-journal.Leap)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.journal.Read(from)
	defer r.Close()
	for {
		rec, gap, err := r.Read()
		switch {
		case err != nil:
			return
		case gap != nil:
			continue
		}
		if e, ok := decode(rec); ok {
			h.seen[e.Source] = max(h.seen[e.Source], e.Seq)
		}
	}
}

// decode reads an event out of the journal.
func decode(rec journal.Record) (event.Event, bool) {
	e, err := Unmarshal(rec.Data)
	e.Cursor = rec.Cursor
	return e, err == nil
}

// Unmarshal reads an event as it travels and is kept.
func Unmarshal(data []byte) (event.Event, error) {
	m := new(eventv1.Event)
	if err := proto.Unmarshal(data, m); err != nil {
		return event.Event{}, errdefs.Wrap(err, errdefs.Protocol, "read event")
	}
	return event.FromProto(m)
}

// failed says that the journal is not written.
func (h *Hub) failed(err error) {
	h.Emit(event.Event{Type: event.HealthDegraded, Payload: &eventv1.Health{
		Component: "journal", State: "degraded", Reason: event.Text(err.Error()),
		Lost: "events are not kept", StillWorks: "subscribers that listen get them",
	}})
}

func (h *Hub) recovered(lost uint64) {
	if lost > 0 {
		h.Emit(event.Event{Type: event.BusLost, Payload: &eventv1.BusLost{Where: "journal", Count: lost}})
	}
	h.Emit(event.Event{Type: event.HealthRestored, Payload: &eventv1.Health{Component: "journal", State: "ok"}})
}

// wanted passes on which types have to be made.
func (h *Hub) wanted(set event.Set) {
	if h.cfg.OnWanted == nil {
		return
	}
	var topics []string
	for _, info := range event.Types() {
		if info.OnDemand && set.Has(info.Type) {
			topics = append(topics, info.Topic)
		}
	}
	h.cfg.OnWanted(topics)
}

// Emit takes an event of the daemon itself, and returns it with its number.
func (h *Hub) Emit(e event.Event) event.Event {
	if h == nil {
		return e
	}
	info := e.Type.Info()
	if info.OnDemand && !h.bus.Enabled(e.Type) {
		return e
	}
	now := h.cfg.Clock.Now()
	if e.Wall == 0 {
		e.Wall = now.UnixNano()
	}
	if e.Mono == 0 {
		e.Mono = int64(now.Sub(h.began))
	}
	if e.Severity == 0 {
		e.Severity = info.Severity
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq++
	e.Seq, e.Source = h.seq, h.cfg.Source
	h.seen[e.Source] = e.Seq
	h.keep(&e)
	h.bus.Relay([]event.Event{e})
	return e
}

// Take takes events of another source, in their order. The source may forget
// them when Kept says so of the cursor that is returned.
func (h *Hub) Take(events []event.Event) (cursor uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fresh := events[:0]
	for _, e := range events {
		if e.Seq <= h.seen[e.Source] {
			h.twice++
			continue
		}
		if len(h.seen) >= maxSources {
			h.forget(e.Source)
		}
		h.seen[e.Source] = e.Seq
		h.keep(&e)
		fresh = append(fresh, e)
	}
	h.bus.Relay(fresh)
	return h.journal.Last()
}

// Kept reports whether everything up to a cursor is in the journal's files,
// where it outlives the daemon, or counted as lost.
func (h *Hub) Kept(cursor uint64) bool {
	written, _ := h.journal.Written()
	return written >= cursor
}

// keep gives an event to the journal.
//
// +checklocks:h.mu
func (h *Hub) keep(e *event.Event) {
	if e.Type.Info().OnDemand {
		e.Cursor = h.journal.Last()
		return
	}
	e.Cursor = h.journal.Append(e.Wall, e.Marshal(nil))
}

// forget makes room for another source, at the cost of one of which an event
// might be taken twice.
//
// +checklocks:h.mu
func (h *Hub) forget(but string) {
	for source := range h.seen {
		if source != but && source != h.cfg.Source {
			delete(h.seen, source)
			return
		}
	}
}

// Close ends every subscription, and the journal.
func (h *Hub) Close() error {
	h.bus.CloseAll(errdefs.New(errdefs.DaemonUnreachable, "the daemon ends", errdefs.Op("read events")))
	if err := h.cursors.Save(); err != nil {
		return err
	}
	return h.journal.Close()
}

// Stats are the counts of a hub.
type Stats struct {
	Bus     event.Stats
	Journal journal.Stats
	Durable []journal.Position
	// Twice is how many events came again and were dropped, Unknown how many
	// were of a later version.
	Twice, Unknown uint64
}

// Stats returns the counts.
func (h *Hub) Stats() Stats {
	st := Stats{Bus: h.bus.Stats(), Journal: h.journal.Stats(), Durable: h.cursors.List()}
	h.mu.Lock()
	defer h.mu.Unlock()
	st.Twice, st.Unknown = h.twice, h.unknown
	return st
}

// Skip counts an event that this build does not understand.
func (h *Hub) Skip() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unknown++
}

// Cursor returns a cursor to read from in order to see what happened at a time
// or later.
func (h *Hub) Cursor(at int64) uint64 { return h.journal.After(at) }
