package daemon

import (
	"errors"
	"sync"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/ktime"
	"aios.dev/aios/recovery"
)

// A domain can be saved from time to time, in its own place in the state directory.
// When its kernel process dies, it goes on from there.

const (
	minEvery = 200 * time.Millisecond
	maxEvery = 24 * time.Hour
	// savingTimeout is how long a checkpoint that nobody waits for may take.
	savingTimeout = 5 * time.Minute
)

// checkpointRounds are the checkpoints that nobody asks for.
type checkpointRounds struct {
	mu    sync.Mutex
	timer ktime.Timer   // nil: there are none; +checklocks:mu
	every time.Duration // +checklocks:mu
	last  time.Time     // +checklocks:mu
	over  bool          // +checklocks:mu
}

// did notes that a checkpoint was made.
func (c *checkpointRounds) did(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = at
}

func (c *checkpointRounds) lastDone() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// start has the domain saved so often; 0: not at all.
func (c *checkpointRounds) start(dom *domain, every time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.every = every
	c.armLocked(dom)
}

// +checklocks:c.mu
func (c *checkpointRounds) armLocked(dom *domain) {
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	if c.every > 0 && !c.over {
		c.timer = dom.d.clock.AfterFunc(c.every, func() { go c.round(dom) })
	}
}

// end is the end of the domain.
func (c *checkpointRounds) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.timer != nil {
		c.timer.Stop()
	}
}

// round saves the domain once, and has the next one follow.
func (c *checkpointRounds) round(dom *domain) {
	d := dom.d
	ctx, cancel := background(savingTimeout)
	dir, err := d.checkpointDir("", dom.name)
	var m *manifest
	if err == nil && len(d.recordsOf(dom)) > 0 {
		m, err = d.checkpoint(ctx, dom, dir, false)
	}
	cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	name := checkpointsOf(dom)
	switch {
	case err != nil:
		d.health.Set(recovery.Component{
			Name: name, Level: recovery.Degraded, Reason: err.Error(), Fix: orElse(errdefs.FixOf(err), "`aiosctl domain checkpoint "+dom.name+"` says more"),
		})
	case m != nil:
		d.health.Remove(name)
		d.emit(event.DomainCheckpoint, "", dom.name, &eventv1.DomainCheckpoint{
			Dir: dir, Agents: uint32(len(m.Agents)), Bytes: uint64(m.bytes()), Pause: int64(m.Pause),
		})
	}
	c.armLocked(dom)
}

func checkpointsOf(dom *domain) string { return "checkpoints of domain " + dom.name }

// setEvery has the domain saved so often, by a later daemon too.
func (dom *domain) setEvery(every time.Duration) error {
	dom.mu.Lock()
	dom.info.CheckpointEvery = every
	info := dom.info
	dom.mu.Unlock()
	dom.rounds.start(dom, every)
	if every == 0 {
		dom.d.health.Remove(checkpointsOf(dom))
	}
	return dom.d.saveDomain(info)
}

// innermost is what the first who knew of a failure says that it is about.
func innermost(err error) (resource string) {
	var e *errdefs.Error
	for errors.As(err, &e) {
		resource, err = orElse(e.Resource, resource), e.Cause
	}
	return resource
}

// restoreCrashed has a domain whose kernel process died go on from its last
// checkpoint. Agents that are not in it, or all if there is none, are started again
// if that is wished.
func (d *System) restoreCrashed(dom *domain, info domainInfo, lost []*record, v verdict) {
	d.health.Remove(checkpointsOf(dom))
	again := make(map[string]bool)
	err := error(errdefs.New(errdefs.WrongState, restartBudgetUsed, errdefs.Op("restore"), errdefs.Resource("%s", dom.name)))
	if v.ok {
		if v.wait > 0 {
			<-after(d.clock, v.wait)
		}
		var dir string
		ctx, cancel := background(savingTimeout)
		if dir, err = d.checkpointDir("", dom.name); err == nil {
			r, _, failed := d.restoreDomain(ctx, dir, dom.name, restoreOptions{crash: &info})
			if errdefs.CodeOf(failed) == errdefs.CheckpointFile {
				// Most likely an agent itself went on to write to it.
				changed := innermost(failed)
				d.log.Warn("files of the host have changed since the checkpoint was made, and are taken as they are", "domain", dom.name, "file", changed)
				r, _, failed = d.restoreDomain(ctx, dir, dom.name, restoreOptions{crash: &info, forceFiles: true, changed: changed})
			}
			if err = failed; err == nil {
				for _, rec := range r.records {
					again[rec.id] = true
				}
			}
		}
		cancel()
	}
	if err != nil {
		d.log.Error("a domain does not go on from its checkpoint", "domain", dom.name, "err", err)
		d.health.Set(recovery.Component{
			Name: domainComponent(dom.name), Level: recovery.Failed, Reason: "it died, and does not go on from its checkpoint: " + err.Error(),
			Fix: orElse(errdefs.FixOf(err), "`aiosctl domain restore "+dom.name+"` tries again"),
		})
	}
	for _, r := range lost {
		if !again[r.id] {
			if r.isTemplate() {
				d.settle(r)
			}
			d.scheduleRestart(r)
		}
	}
	d.revokeOrphans()
}
