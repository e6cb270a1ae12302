package recovery

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"aios.dev/aios/ktime"
)

// Level is how well something is.
type Level uint8

// Levels, from the best to the worst.
const (
	OK       Level = iota // does what it is for
	Degraded              // does it partly, or something that is not asked for now
	Failed                // does not do it
)

// String returns "ok", "degraded" or "failed".
func (l Level) String() string {
	switch l {
	case OK:
		return "ok"
	case Degraded:
		return "degraded"
	case Failed:
		return "failed"
	}
	return fmt.Sprintf("level %d", uint8(l))
}

// Component is one part of a system and how it is.
type Component struct {
	Name  string
	Level Level
	// Reason is why it is not ok, or what there is to say of it.
	Reason string
	// Fix is what to do about it.
	Fix string
	// Since is when it came to this level.
	Since time.Time
}

// HealthChange says that a component came from one level to another, or that
// one that was not ok is no part of the system any more (To is OK then).
type HealthChange struct {
	Component
	From Level
	// For is how long it was at the earlier level.
	For time.Duration
}

// Health is what is known of the components of a system.
type Health struct {
	clock ktime.Clock
	out   outbox[HealthChange]

	mu  sync.Mutex
	all map[string]Component // +checklocks:mu
}

// NewHealth returns a registry without components. onChange, if not nil, hears
// when a component changes its level; one that is new counts as having been
// ok.
func NewHealth(clock ktime.Clock, onChange func(HealthChange)) *Health {
	return &Health{clock: clock, out: outbox[HealthChange]{f: onChange}, all: make(map[string]Component)}
}

// Set says how a component is. Since is filled in.
func (h *Health) Set(c Component) {
	h.mu.Lock()
	now := h.clock.Now()
	old, known := h.all[c.Name]
	c.Since = now
	if known && old.Level == c.Level {
		c.Since = old.Since
	}
	h.all[c.Name] = c
	if c.Level != old.Level {
		change := HealthChange{Component: c, From: old.Level}
		if known {
			change.For = now.Sub(old.Since)
		}
		h.out.put(change)
	}
	h.mu.Unlock()
	h.out.flush()
}

// Remove says that a component is no part of the system any more.
func (h *Health) Remove(name string) {
	h.mu.Lock()
	old, known := h.all[name]
	delete(h.all, name)
	if known && old.Level != OK {
		now := h.clock.Now()
		h.out.put(HealthChange{Component: Component{Name: name, Reason: "removed", Since: now}, From: old.Level, For: now.Sub(old.Since)})
	}
	h.mu.Unlock()
	h.out.flush()
}

// List returns all components by name.
func (h *Health) List() []Component {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]Component, 0, len(h.all))
	for _, c := range h.all {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Component) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Worst is the worst level of any component.
func (h *Health) Worst() Level {
	worst := OK
	for _, c := range h.List() {
		worst = max(worst, c.Level)
	}
	return worst
}
