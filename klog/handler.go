package klog

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"time"
)

// AgentKey is the key of the attribute that says which agent a record is
// about, by its ID.
const AgentKey = "agent"

// Agent is that attribute.
func Agent(id string) slog.Attr { return slog.String(AgentKey, id) }

// handler is the slog.Handler of a subsystem.
type handler struct {
	l   *Log
	sub *subsystem
	// What With and WithGroup have gathered.
	agent  string
	attrs  string
	prefix string
}

var _ slog.Handler = (*handler)(nil)

// Enabled implements slog.Handler.
func (h *handler) Enabled(_ context.Context, level slog.Level) bool {
	return int64(level) >= h.sub.level.Load()
}

// Handle implements slog.Handler.
func (h *handler) Handle(_ context.Context, r slog.Record) error {
	now := h.l.cfg.Clock.Now()
	mono := int64(now.Sub(h.l.opened))
	suppressed, ok := h.l.admit(h.sub, r.Level, r.PC, mono)
	if !ok {
		return nil
	}
	rec := Record{
		Wall: now.UnixNano(), Mono: mono, Level: r.Level, Subsystem: h.sub.name,
		Agent: h.agent, Message: Scrub(r.Message), Suppressed: suppressed,
	}
	attrs := []byte(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		if h.prefix == "" && a.Key == AgentKey && a.Value.Kind() == slog.KindString {
			rec.Agent = Scrub(a.Value.String())
		} else {
			attrs = appendAttr(attrs, h.prefix, a, 0)
		}
		return true
	})
	rec.Attrs = string(attrs)
	h.l.write(h.sub, &rec)
	return nil
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *h
	b := []byte(h.attrs)
	for _, a := range attrs {
		if h.prefix == "" && a.Key == AgentKey && a.Value.Kind() == slog.KindString {
			n.agent = Scrub(a.Value.String())
		} else {
			b = appendAttr(b, h.prefix, a, 0)
		}
	}
	n.attrs = string(b)
	return &n
}

// WithGroup implements slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	n := *h
	n.prefix += name + "."
	return &n
}

// Printer is a subsystem whose messages a library formats: it brings its own
// place in the code and cannot give attributes.
type Printer struct{ h handler }

// Printer returns a printer for a subsystem, which it makes known. onLevel is
// called with the level that the library needs to log from, now and whenever
// it changes; it must not log.
func (l *Log) Printer(name string, onLevel func(slog.Level)) *Printer {
	return &Printer{handler{l: l, sub: l.subsystem(name, onLevel)}}
}

// Printf logs a message whose place in the code is depth callers up: 0 is the
// caller of Printf.
func (p *Printer) Printf(depth int, level slog.Level, format string, args ...any) {
	if !p.h.Enabled(context.Background(), level) {
		return
	}
	var pcs [1]uintptr
	runtime.Callers(depth+2, pcs[:])
	p.PrintAt(pcs[0], level, format, args...)
}

// PrintAt logs a message of the place pc.
func (p *Printer) PrintAt(pc uintptr, level slog.Level, format string, args ...any) {
	now := p.h.l.cfg.Clock.Now()
	mono := int64(now.Sub(p.h.l.opened))
	suppressed, ok := p.h.l.admit(p.h.sub, level, pc, mono)
	if !ok {
		return
	}
	p.h.l.write(p.h.sub, &Record{
		Wall: now.UnixNano(), Mono: mono, Level: level, Subsystem: p.h.sub.name, Suppressed: suppressed,
		Message: Scrub(strings.TrimRight(fmt.Sprintf(format, args...), "\n")),
	})
}

// Mono returns the time since the log was opened, by which records are stamped.
func (l *Log) Mono() time.Duration { return l.cfg.Clock.Since(l.opened) }
