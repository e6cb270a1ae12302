package sentry

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"gvisor.dev/gvisor/pkg/log"

	"aios.dev/aios/control"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/klog"
)

// LogGVisor is the subsystem of what gVisor's packages log.
const LogGVisor = "gvisor"

// kernelLog is the log of the kernel. Each of its subsystems has the events
// whose topics begin with its name; "boot" tells of the domain itself.
type kernelLog struct {
	all  *klog.Log
	boot *slog.Logger
	// By type; nil for what is not logged.
	of []*typeLog
}

// typeLog is how events of one type are logged.
type typeLog struct {
	handler slog.Handler
	level   slog.Level
	topic   string
}

func newKernelLog(l *klog.Log) kernelLog {
	if l == nil {
		l = klog.Discard()
	}
	k := kernelLog{all: l, boot: l.Subsystem("boot")}
	for _, info := range event.Types() {
		part, _, _ := strings.Cut(info.Topic, ".")
		if info.OnDemand || ofDaemon[part] {
			continue
		}
		for len(k.of) <= int(info.Type) {
			k.of = append(k.of, nil)
		}
		k.of[info.Type] = &typeLog{handler: l.Subsystem(part).Handler(), level: levelOf(info.Type, info.Severity), topic: info.Topic}
	}
	return k
}

// ofDaemon is the topics that kernel processes have no events of.
var ofDaemon = map[string]bool{
	"alert": true, "breaker": true, "config": true, "daemon": true, "health": true, "sink": true,
}

// levelOf is the level at which an event of a type is logged: by its severity,
// but that what agents do all the time is for debugging.
func levelOf(t event.Type, s event.Severity) slog.Level {
	switch {
	case t == event.AgentSpawn || t == event.AgentExit:
		return slog.LevelInfo
	case s <= event.Info:
		return slog.LevelDebug
	case s == event.Notice:
		return klog.LevelNotice
	case s == event.Warning:
		return slog.LevelWarn
	case s == event.Error:
		return slog.LevelError
	default:
		return klog.LevelCritical
	}
}

// publish gives an event to the log, and to the bus: whoever hears of it finds
// it in the log.
func (s *Kernel) publish(e event.Event) {
	s.logEvent(&e)
	s.events.Publish(e)
}

func (s *Kernel) logEvent(e *event.Event) {
	if int(e.Type) >= len(s.log.of) || s.log.of[e.Type] == nil {
		return
	}
	to := s.log.of[e.Type]
	if !to.handler.Enabled(context.Background(), to.level) {
		return
	}
	// The type is what the limits of rates know as the place in the code.
	r := slog.NewRecord(s.cfg.Clock.Now(), to.level, to.topic, uintptr(e.Type))
	if e.Agent != "" {
		r.AddAttrs(klog.Agent(e.Agent))
	}
	if e.Payload != nil {
		addFields(&r, e.Payload.ProtoReflect())
	}
	_ = to.handler.Handle(context.Background(), r)
}

// addFields adds what a payload says to r. Lists are left out: the arguments
// of programs are never logged.
func addFields(r *slog.Record, m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.IsList() || f.IsMap() || !m.Has(f) {
			continue
		}
		switch v := m.Get(f); f.Kind() {
		case protoreflect.MessageKind:
			addFields(r, v.Message())
		case protoreflect.BytesKind:
		default:
			r.AddAttrs(slog.Any(string(f.Name()), v.Interface()))
		}
	}
}

// logged takes every record of the log: the agent that it is about may read
// it, and it is an event if somebody asked for those.
func (s *Kernel) logged(r *klog.Record) {
	if t, ok := event.TypeByTopic(r.Message); r.Agent != "" && !(ok && withheld.Has(t)) {
		if a := s.findAgent(r.Agent); a != nil {
			a.dmesg.add(r)
		}
	}
	if s.events.EnabledFor(event.KernelLog, r.Agent) {
		p := &eventv1.KernelLog{Level: klog.LevelName(r.Level), Subsystem: r.Subsystem, Message: event.Text(r.Message), Seq: r.Seq}
		if r.Attrs != "" {
			p.Fields = map[string]string{"attributes": event.Text("{" + r.Attrs + "}")}
		}
		s.events.Publish(event.Event{Type: event.KernelLog, Agent: r.Agent, Payload: p})
	}
}

// KlogLevels changes and returns the levels of subsystems.
func (s *Kernel) KlogLevels(req control.KlogLevels) (control.KlogLevels, error) {
	return control.SetKlogLevels(s.log.all, req)
}

// LogGVisorTo makes gVisor's packages log to l, as a subsystem. It must be
// called before they do.
func LogGVisorTo(l *klog.Log) {
	p := l.Printer(LogGVisor, func(level slog.Level) { log.SetLevel(gvisorLevel(level)) })
	log.SetTarget(gvisorEmitter{p})
}

// gvisorLevel is the level at which gVisor must log so that level is there.
func gvisorLevel(level slog.Level) log.Level {
	switch {
	case level <= slog.LevelDebug:
		return log.Debug
	case level <= klog.LevelNotice:
		return log.Info
	default:
		return log.Warning
	}
}

// gvisorEmitter is where gVisor's log goes.
type gvisorEmitter struct{ p *klog.Printer }

// Emit implements gVisor's log.Emitter.
func (e gvisorEmitter) Emit(depth int, level log.Level, _ time.Time, format string, args ...any) {
	to := slog.LevelWarn
	switch level {
	case log.Debug:
		to = slog.LevelDebug
	case log.Info:
		to = slog.LevelInfo
	}
	e.p.Printf(depth+1, to, format, args...)
}
