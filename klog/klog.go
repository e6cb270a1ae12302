package klog

import (
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// Config is what a Log is made of.
type Config struct {
	Clock ktime.Clock
	// Ring keeps the records; nil for a log that keeps none.
	Ring *Ring
	// Out, unless nil, gets every record of at least OutLevel as a line: of
	// JSON if JSON is set, else of text.
	Out      io.Writer
	OutLevel slog.Level
	JSON     bool
	// Settings are levels to begin with; otherwise LevelInfo.
	Settings []Setting
}

// Log is the log of one process.
type Log struct {
	cfg    Config
	opened time.Time
	sites  [sites]limiter
	hook   atomic.Pointer[func(*Record)]

	outMu sync.Mutex

	mu sync.Mutex
	// By name.
	subs map[string]*subsystem // +checklocks:mu
	// What was set, by name; subsystems below have the same.
	set map[string]slog.Level // +checklocks:mu
}

// maxSubsystems bounds the subsystems of a log; further ones are one, "other".
const maxSubsystems = 128

// subsystem is a part of a process, with a level of its own.
type subsystem struct {
	name    string
	level   atomic.Int64
	limit   limiter
	written atomic.Uint64
	// In all, of which site and subsystem limits tell each record's part.
	suppressed atomic.Uint64
	// onLevel hears of changes; nil for nobody. Set before the log is used.
	onLevel func(slog.Level)
}

// New opens a log.
func New(cfg Config) *Log {
	if cfg.Clock == nil {
		cfg.Clock = ktime.Real
	}
	l := &Log{cfg: cfg, opened: cfg.Clock.Now(), subs: make(map[string]*subsystem), set: make(map[string]slog.Level)}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range cfg.Settings {
		l.set[s.Subsystem] = s.Level
	}
	return l
}

// Discard returns a log that keeps nothing.
func Discard() *Log {
	return New(Config{Settings: []Setting{{"*", LevelCritical + 1}}})
}

// Subsystem returns the logger of a subsystem, which it makes known.
func (l *Log) Subsystem(name string) *slog.Logger {
	return slog.New(&handler{l: l, sub: l.subsystem(name, nil)})
}

func (l *Log) subsystem(name string, onLevel func(slog.Level)) *subsystem {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.subs[name]; s != nil {
		return s
	}
	if len(l.subs) >= maxSubsystems {
		if s := l.subs["other"]; s != nil {
			return s
		}
		name = "other"
	}
	s := &subsystem{name: name, onLevel: onLevel}
	l.subs[name] = s
	l.applyLocked(s)
	return s
}

// applyLocked gives s the level of the longest name that it is below.
//
// +checklocks:l.mu
func (l *Log) applyLocked(s *subsystem) {
	level, ok := l.set[s.name]
	for name := s.name; !ok && strings.Contains(name, "/"); {
		name = name[:strings.LastIndexByte(name, '/')]
		level, ok = l.set[name]
	}
	if !ok {
		if level, ok = l.set["*"]; !ok {
			level = slog.LevelInfo
		}
	}
	s.level.Store(int64(level))
	if s.onLevel != nil {
		s.onLevel(level)
	}
}

// SetLevel lets a subsystem, and those below it that have no level of their
// own, log from level on; "*" means all, whatever they were given before.
func (l *Log) SetLevel(name string, level slog.Level) error {
	return l.SetLevels(Setting{name, level})
}

// SetLevels is SetLevel for each in turn, or for none if one is wrong.
func (l *Log) SetLevels(settings ...Setting) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range settings {
		if s.Subsystem != "*" && !l.knownLocked(s.Subsystem) {
			return errdefs.New(errdefs.NotFound, "there is no such subsystem", errdefs.Resource("%q", s.Subsystem),
				errdefs.Fix("use one of %s, or * for all", strings.Join(l.namesLocked(), ", ")))
		}
	}
	for _, s := range settings {
		if s.Subsystem == "*" {
			clear(l.set)
		}
		l.set[s.Subsystem] = s.Level
	}
	for _, s := range l.subs {
		l.applyLocked(s)
	}
	return nil
}

// +checklocks:l.mu
func (l *Log) knownLocked(name string) bool {
	for n := range l.subs {
		if n == name || strings.HasPrefix(n, name+"/") {
			return true
		}
	}
	return false
}

// +checklocks:l.mu
func (l *Log) namesLocked() []string {
	names := make([]string, 0, len(l.subs))
	for n := range l.subs {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Subsystem is what a log tells of one of its subsystems.
type Subsystem struct {
	Name  string
	Level slog.Level
	// Written and Suppressed count records.
	Written, Suppressed uint64
}

// Subsystems returns all, by name.
func (l *Log) Subsystems() []Subsystem {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Subsystem, 0, len(l.subs))
	for _, n := range l.namesLocked() {
		s := l.subs[n]
		out = append(out, Subsystem{n, slog.Level(s.level.Load()), s.written.Load(), s.suppressed.Load()})
	}
	return out
}

// OnRecord has f called with every record, on the goroutine that logs. f must
// not block, and not log; it may keep nothing of what it is given but strings.
func (l *Log) OnRecord(f func(*Record)) { l.hook.Store(&f) }

// admit reports whether a call at pc may write, and how many from there and
// its subsystem were not.
func (l *Log) admit(s *subsystem, level slog.Level, pc uintptr, mono int64) (uint32, bool) {
	if level >= LevelCritical {
		return 0, true
	}
	site := l.siteOf(pc)
	if !site.allow(mono, siteBurst, sitePerSec) || !s.limit.allow(mono, subsystemBurst, subsystemPerSec) {
		s.suppressed.Add(1)
		return 0, false
	}
	var n uint32
	if site.suppressed.Load() > 0 {
		n += site.suppressed.Swap(0)
	}
	if s.limit.suppressed.Load() > 0 {
		n += s.limit.suppressed.Swap(0)
	}
	return n, true
}

// write passes a record on. Its texts are scrubbed.
func (l *Log) write(s *subsystem, r *Record) {
	s.written.Add(1)
	if l.cfg.Ring != nil {
		l.cfg.Ring.Write(r)
	}
	if l.cfg.Out != nil && r.Level >= l.cfg.OutLevel {
		var line []byte
		if l.cfg.JSON {
			line = r.AppendJSON(nil)
		} else {
			line = r.AppendText(nil)
		}
		l.outMu.Lock()
		l.cfg.Out.Write(line) // Where it does not work, the ring has it.
		l.outMu.Unlock()
	}
	if f := l.hook.Load(); f != nil {
		(*f)(r)
	}
}
