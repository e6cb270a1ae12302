package sentry

import (
	"log/slog"
	"time"

	"gvisor.dev/gvisor/pkg/log"

	"aios.dev/aios/control"
	"aios.dev/aios/klog"
)

// LogGVisor is the subsystem of what gVisor's packages log.
const LogGVisor = "gvisor"

// kernelLog is the loggers of the kernel's subsystems.
type kernelLog struct {
	all *klog.Log
	// boot tells of the domain, agent of agents and their ends, limit of limits
	// and of memory that ran out, gate of calls that were refused.
	boot, agent, limit, gate *slog.Logger
}

func newKernelLog(l *klog.Log) kernelLog {
	if l == nil {
		l = klog.Discard()
	}
	return kernelLog{
		all: l, boot: l.Subsystem("boot"), agent: l.Subsystem("agent"), limit: l.Subsystem("limit"), gate: l.Subsystem("gate"),
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
