package daemon

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/capability/audit"
	"aios.dev/aios/config"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/recovery"
)

// configured is what is configured at present. applyMu is held while that
// changes, and is taken before mu.
type configured struct {
	applyMu sync.Mutex

	mu   sync.Mutex
	now  *settings // +checklocks:mu
	read time.Time // +checklocks:mu
	// Why the file as it is now is not in force; nil when it is.
	failure error // +checklocks:mu
}

// set notes what is configured from now on.
func (c *configured) set(s *settings, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now, c.read, c.failure = s, at, nil
}

// current is what is configured.
func (c *configured) current() *settings {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil {
		return new(settings)
	}
	return c.now
}

// componentConfig is the configuration among the parts that are well or not.
const componentConfig = "configuration"

// maxChanges is how many changes one event tells.
const maxChanges = 64

// reload reads the configuration file again. If all of it makes sense, what has
// changed counts from now on; else nothing changes.
func (d *System) reload(by control.Actor) ([]config.Change, error) {
	c := &d.configured
	c.applyMu.Lock()
	defer c.applyMu.Unlock()
	next, err := readSettings(d.paths)
	if err != nil {
		c.mu.Lock()
		c.failure = err
		c.mu.Unlock()
		d.log.Error("the configuration file cannot be used; the one before stays in force", "err", err, "fix", errdefs.FixOf(err), "by", by.Name)
		d.health.Set(recovery.Component{
			Name: componentConfig, Level: recovery.Degraded, Reason: "the file cannot be used, what was read before stays in force: " + err.Error(),
			Fix: errdefs.FixOf(err) + ", then `aiosctl daemon reload`",
		})
		return nil, err
	}
	if err := d.applyHooks(next.hooks); err != nil {
		return nil, err
	}
	changes := config.Diff(&c.current().Config, &next.Config)
	c.set(next, d.clock.Now())
	d.health.Remove(componentConfig)
	d.applySinks(next.sinks)
	d.applyAlerts(next.alerts)
	d.applyTime(next.time)
	d.tellConfig(changes, by)
	return changes, nil
}

// tellConfig says what is configured otherwise than before.
func (d *System) tellConfig(changes []config.Change, by control.Actor) {
	if len(changes) == 0 {
		return
	}
	p := &eventv1.ConfigChanged{File: d.paths.Config, By: by.Name}
	var keys []string
	for _, ch := range changes {
		if len(keys) == maxChanges {
			more := fmt.Sprintf("%d more", len(changes)-maxChanges)
			keys = append(keys, more)
			p.Changes = append(p.Changes, &eventv1.ConfigChanged_Change{Key: "…", After: more})
			break
		}
		keys = append(keys, ch.Key)
		p.Changes = append(p.Changes, &eventv1.ConfigChanged_Change{Key: ch.Key, Before: event.Text(ch.Before), After: event.Text(ch.After)})
	}
	d.events.Emit(event.Event{Type: event.ConfigChanged, Correlation: by.Correlation, Payload: p})
	d.record(audit.Entry{
		Op: "config", Actor: by.Name, Target: d.paths.Config, Correlation: by.Correlation,
		Reason: strings.Join(keys, " "),
	})
	d.log.Info("the configuration has changed", "file", d.paths.Config, "keys", strings.Join(keys, " "), "by", by.Name)
}

// reloadOnHangup reads the configuration again for each SIGHUP, until the
// returned function is called.
func (d *System) reloadOnHangup() (stop func()) {
	hups := make(chan os.Signal, 1)
	signal.Notify(hups, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-hups:
				_, _ = d.reload(control.Actor{Name: "SIGHUP", Correlation: errdefs.NewCorrelation()}) // It says so itself.
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Ignore(syscall.SIGHUP)
		close(done)
	}
}

// ConfigReload implements the RPC.
func (d *System) ConfigReload(ctx context.Context, _ *apiv1.ConfigReloadRequest) (*apiv1.ConfigReloadResponse, error) {
	changes, err := d.reload(actor(ctx))
	if err != nil {
		return nil, err
	}
	resp := &apiv1.ConfigReloadResponse{File: d.paths.Config, Exists: d.configured.current().exists}
	for _, ch := range changes {
		resp.Changes = append(resp.Changes, &apiv1.ConfigChange{Key: ch.Key, Before: ch.Before, After: ch.After, NeedsRestart: ch.Restart})
	}
	return resp, nil
}

// ConfigStatus implements the RPC.
func (d *System) ConfigStatus(context.Context, *apiv1.ConfigStatusRequest) (*apiv1.ConfigStatusResponse, error) {
	c := &d.configured
	resp := &apiv1.ConfigStatusResponse{File: d.paths.Config, Exists: c.current().exists}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.read.IsZero() {
		resp.ReadUnixNano = c.read.UnixNano()
	}
	if c.failure != nil {
		resp.Failure = c.failure.Error()
	}
	return resp, nil
}
