package recovery

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"aios.dev/aios/ktime"
)

// Expiry says that a watchdog was not fed in time (Late), or that one that had
// expired was fed again.
type Expiry struct {
	Name string
	Late bool
	// Unfed is for how long it was not fed.
	Unfed time.Duration
	// Times is how many times it has expired since it was made.
	Times uint64
}

// WatchdogConfig describes a set of watchdogs.
type WatchdogConfig struct {
	Clock ktime.Clock
	// Tick is how often they are looked at.
	Tick time.Duration
	// OnChange hears of expiries and of recoveries, on the goroutine that looks
	// at all watchdogs: while it runs nothing else expires.
	OnChange func(Expiry)
}

// Watchdogs looks at its watchdogs at every tick, as long as there are any.
// Time that it did not see does not count: when a tick comes late, because the
// host slept, the process was stopped or the clock jumped, every watchdog ages
// by at most two ticks, so that those who were stopped with it get their chance
// to feed.
type Watchdogs struct {
	cfg WatchdogConfig
	out outbox[Expiry]

	mu sync.Mutex
	// In no order.
	all map[*Watchdog]struct{} // +checklocks:mu
	// Nil while there are none.
	timer ktime.Timer // +checklocks:mu
	last  time.Time   // +checklocks:mu
	ended bool        // +checklocks:mu
}

// Watchdog watches over one thing.
type Watchdog struct {
	name    string
	timeout time.Duration
	set     *Watchdogs
	fed     atomic.Bool // since the last tick
	paused  atomic.Int32
	idle    bool // of the goroutine that calls Busy and Idle
	// Under the set's mu.
	age   time.Duration
	late  bool
	times uint64
}

// NewWatchdogs returns an empty set.
func NewWatchdogs(cfg WatchdogConfig) *Watchdogs {
	w := &Watchdogs{cfg: cfg, all: make(map[*Watchdog]struct{})}
	w.out.f = cfg.OnChange
	return w
}

// Add returns a watchdog that expires when it is not fed for timeout. It counts
// as fed now.
func (w *Watchdogs) Add(name string, timeout time.Duration) *Watchdog {
	d := &Watchdog{name: name, timeout: timeout, set: w}
	d.fed.Store(true)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return d
	}
	w.all[d] = struct{}{}
	if w.timer == nil {
		w.last = w.cfg.Clock.Now()
		w.timer = w.cfg.Clock.AfterFunc(w.cfg.Tick, w.tick)
	}
	return d
}

// tick looks at all watchdogs.
func (w *Watchdogs) tick() {
	w.look()
	w.out.flush()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = nil
	if len(w.all) > 0 {
		w.timer = w.cfg.Clock.AfterFunc(w.cfg.Tick, w.tick)
	}
}

func (w *Watchdogs) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	passed := w.cfg.Clock.Since(w.last)
	w.last = w.cfg.Clock.Now()
	passed = min(max(passed, 0), 2*w.cfg.Tick)
	for d := range w.all {
		if d.fed.Swap(false) || d.paused.Load() > 0 {
			if d.late {
				w.out.put(Expiry{Name: d.name, Unfed: d.age, Times: d.times})
			}
			d.age, d.late = 0, false
			continue
		}
		d.age += passed
		if !d.late && d.age >= d.timeout {
			d.late = true
			d.times++
			w.out.put(Expiry{Name: d.name, Late: true, Unfed: d.age, Times: d.times})
		}
	}
}

// Late lists the watchdogs that have expired and were not fed since.
func (w *Watchdogs) Late() []Expiry {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []Expiry
	for d := range w.all {
		if d.late {
			out = append(out, Expiry{Name: d.name, Late: true, Unfed: d.age, Times: d.times})
		}
	}
	return out
}

// WatchdogStatus is a watchdog as it stands.
type WatchdogStatus struct {
	Name    string
	Timeout time.Duration
	// Unfed is for how long it was not fed, as the ticks see it.
	Unfed time.Duration
	// Late says that it has expired and was not fed since.
	Late bool
	// Waits says that it is not watched now: what it watches over waits for
	// something to do.
	Waits bool
	Times uint64 // that it has expired
}

// List returns all watchdogs by name.
func (w *Watchdogs) List() []WatchdogStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]WatchdogStatus, 0, len(w.all))
	for d := range w.all {
		out = append(out, WatchdogStatus{
			Name: d.name, Timeout: d.timeout, Unfed: d.age, Late: d.late, Waits: d.paused.Load() > 0, Times: d.times,
		})
	}
	slices.SortFunc(out, func(a, b WatchdogStatus) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Close ends the watch. Watchdogs may be fed on, to no effect.
func (w *Watchdogs) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	if w.timer != nil {
		w.timer.Stop()
	}
	clear(w.all)
}

// Feed says that what is watched goes on. It is one atomic store, safe
// anywhere, and does nothing on a nil Watchdog.
func (d *Watchdog) Feed() {
	if d != nil {
		d.fed.Store(true)
	}
}

// Left is how long it can still go without being fed.
func (d *Watchdog) Left() time.Duration {
	if d == nil {
		return 0
	}
	d.set.mu.Lock()
	defer d.set.mu.Unlock()
	if d.fed.Load() || d.paused.Load() > 0 {
		return d.timeout
	}
	return max(0, d.timeout-d.age)
}

// Pause stops the watch until resume is called: what is watched waits for
// something that may take any time.
func (d *Watchdog) Pause() (resume func()) {
	if d == nil {
		return func() {}
	}
	d.paused.Add(1)
	return sync.OnceFunc(func() {
		d.fed.Store(true)
		d.paused.Add(-1)
	})
}

// Busy says that what is watched has something to do and reports within the
// timeout; Idle, that it waits for more, for however long. A watchdog is busy
// at first. Both are for one goroutine, and do nothing on a nil Watchdog.
func (d *Watchdog) Busy() {
	if d != nil && d.idle {
		d.idle = false
		d.fed.Store(true)
		d.paused.Add(-1)
	}
}

// Idle says that what is watched waits for something to do: see Busy.
func (d *Watchdog) Idle() {
	if d != nil && !d.idle {
		d.idle = true
		d.paused.Add(1)
	}
}

// Remove ends the watch over one thing. If it had expired, nothing says that it
// recovered.
func (d *Watchdog) Remove() {
	if d == nil {
		return
	}
	d.set.mu.Lock()
	defer d.set.mu.Unlock()
	delete(d.set.all, d)
}
