package main

import (
	"log/slog"
	"os"

	"aios.dev/aios/control"
	"aios.dev/aios/klog"
	"aios.dev/aios/ktime"
	"aios.dev/aios/sentry"
)

// openLog opens the log of the kernel process, in the ring that it was handed.
// What is at least a warning is written to the domain's file too.
func openLog(cfg control.KernelConfig, clock ktime.Clock) (*klog.Log, error) {
	settings, err := klog.ParseSettings(cfg.LogLevels)
	if err != nil {
		return nil, err
	}
	c := klog.Config{
		Clock: clock, Out: os.Stderr, OutLevel: slog.LevelWarn, JSON: cfg.LogJSON,
		Settings: append([]klog.Setting{{Subsystem: sentry.LogGVisor, Level: slog.LevelWarn}}, settings...),
	}
	if cfg.RingFD != 0 {
		f := os.NewFile(uintptr(cfg.RingFD), "ring")
		c.Ring, err = klog.Map(f, cfg.Domain, clock.Now().UnixNano())
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	l := klog.New(c)
	sentry.LogGVisorTo(l)
	return l, nil
}
