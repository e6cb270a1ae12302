package daemon

import (
	"runtime"
	"sync/atomic"
	"time"

	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/recovery"
)

// The daemon watches over its own parts: each is busy while it has something to
// do, and must then come to an end in time. What hangs is nearly always the
// host's disk.

const (
	dogTick    = time.Second
	dogTimeout = 15 * time.Second
	// dogStacks is how much of the stacks of all goroutines is recorded.
	dogStacks = 64 << 10
)

// daemonDogs are the watchdogs over parts of the daemon.
type daemonDogs struct {
	set                    *recovery.Watchdogs
	journal, trail, health *recovery.Watchdog
	d                      atomic.Pointer[System] // nil while it starts
}

func newDaemonDogs(cfg recovery.WatchdogConfig) *daemonDogs {
	w := &daemonDogs{}
	cfg.OnChange = w.changed
	w.set = recovery.NewWatchdogs(cfg)
	for _, d := range []struct {
		name string
		dog  **recovery.Watchdog
	}{{"writer of the journal", &w.journal}, {"writer of the audit trail", &w.trail}, {"look at health", &w.health}} {
		*d.dog = w.set.Add(d.name, dogTimeout)
		(*d.dog).Idle()
	}
	return w
}

// busy is what a part calls when it begins to do something, and when it is done.
func busy(d *recovery.Watchdog) func(bool) {
	return func(yes bool) {
		if yes {
			d.Busy()
		} else {
			d.Idle()
		}
	}
}

func watchdogComponent(name string) string { return "watchdog " + name }

// changed tells of a part that does not come to an end, or has come to one.
func (w *daemonDogs) changed(e recovery.Expiry) {
	d := w.d.Load()
	switch {
	case d == nil:
	case !e.Late:
		d.health.Remove(watchdogComponent(e.Name))
	default:
		stacks := make([]byte, dogStacks)
		stacks = stacks[:runtime.Stack(stacks, true)]
		d.log.Error("a part of the daemon does not come to an end", "part", e.Name, "for", e.Unfed, "stacks", string(stacks))
		go func() { // The bus may be what hangs.
			d.emit(event.WatchdogExpired, "", "", &eventv1.WatchdogExpired{
				Name: e.Name, Timeout: int64(dogTimeout), Late: int64(e.Unfed), Action: "record", Stack: event.Text(string(stacks)),
			})
			d.health.Set(recovery.Component{
				Name: watchdogComponent(e.Name), Level: recovery.Failed, Reason: "it has not come to an end for " + e.Unfed.String(),
				Fix: "look at the disk of the state directory first; the daemon's log has the stacks; `aiosctl daemon stop` and any other command start a new one",
			})
		}()
	}
}
