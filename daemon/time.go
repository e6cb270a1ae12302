package daemon

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"time"

	apiv1 "aios.dev/aios/api/v1"
	"aios.dev/aios/config"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/internal/safefile"
	"aios.dev/aios/ktime"
	"aios.dev/aios/ktime/sntp"
	"aios.dev/aios/recovery"
)

// The daemon's clock is the host's and an offset, which time servers give if the
// configuration names any. Every kernel process is told it, so that all stamps
// are by one clock. The host's clock is never set, and programs in agents see
// the host's.

// timekeeping has the clock follow time servers.
type timekeeping struct {
	wall *ktime.Disciplined // nil in tests that do without

	telling sync.Mutex // held while a kernel process is told

	mu   sync.Mutex // a leaf
	sync *sntp.Sync // nil while no servers are configured; +checklocks:mu
}

func (k *timekeeping) current() *sntp.Sync {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.sync
}

// componentTime is the time among the parts that are well or not.
const componentTime = "time"

// compileTime examines what the file says of time servers.
func (s *settings) compileTime(doc *config.Document) error {
	switch {
	case s.Time == nil:
		return nil
	case len(s.Time.Servers) == 0:
		return doc.Fail("time", errdefs.New(errdefs.InvalidArgument, "it names no servers", errdefs.Fix("write servers: [HOST, …]")))
	}
	spec, key, err := s.Time.Compile()
	if err != nil {
		return doc.Fail("time."+key, err)
	}
	s.time = spec
	return nil
}

// keptOffset is what a daemon leaves to the next one, so that the clock does not
// go back to the host's until servers have answered.
type keptOffset struct {
	Offset time.Duration `json:"offset"`
	At     time.Time     `json:"at"`
}

// offsetKept is for how long it is of use.
const offsetKept = 24 * time.Hour

func (d *System) offsetFile() string { return filepath.Join(d.paths.StateDir, "clock.json") }

// openTime begins with the offset of an earlier daemon, if servers are configured.
func (d *System) openTime(spec *sntp.Spec) {
	var kept keptOffset
	raw, err := os.ReadFile(d.offsetFile())
	if spec == nil || err != nil || json.Unmarshal(raw, &kept) != nil {
		return
	}
	if age := d.clock.Now().Sub(kept.At); age > -offsetKept && age < offsetKept && max(kept.Offset, -kept.Offset) <= spec.Limit {
		d.time.wall.Step(kept.Offset)
	}
}

// applyTime has the clock follow these servers; nil: the host's clock.
func (d *System) applyTime(spec *sntp.Spec) {
	k := &d.time
	old := k.current()
	if k.wall == nil || old != nil && spec != nil && old.Spec().Same(spec) {
		return
	}
	if old != nil {
		old.Stop()
	}
	var next *sntp.Sync
	if spec != nil {
		d.health.Set(recovery.Component{Name: componentTime})
		next = sntp.Start(spec, sntp.Options{
			Clock: k.wall, Log: d.log, OnBreaker: d.breakerChanged, OnChange: d.timeChanged, OnStep: d.clockStepped, OnSteer: d.clockSteered,
		})
	}
	k.mu.Lock()
	k.sync = next
	k.mu.Unlock()
	if next != nil {
		return
	}
	d.health.Remove(componentTime)
	os.Remove(d.offsetFile())
	if was, then := k.wall.Offset(); was != 0 || then != 0 {
		k.wall.Step(0)
		d.clockSteered(0, 0)
		d.clockStepped(-was, sntp.Status{State: "host"})
	}
}

// stopTime ends the questions to servers.
func (d *System) stopTime() {
	if s := d.time.current(); s != nil {
		s.Stop()
	}
}

// timeChanged hears that the time is known, or not any more.
func (d *System) timeChanged(st sntp.Status) {
	c := recovery.Component{Name: componentTime}
	typ := event.ClockSynced
	if st.State == sntp.Lost {
		typ = event.ClockLost
		c.Level, c.Reason, c.Fix = recovery.Degraded, "AIOS's clock goes on by itself: "+st.Reason.Error(), errdefs.FixOf(st.Reason)
	}
	d.health.Set(c)
	d.emit(typ, "", "", clockEvent(st))
}

// clockStepped hears that the clock was set.
func (d *System) clockStepped(by time.Duration, st sntp.Status) {
	p := clockEvent(st)
	p.Step = int64(by)
	d.emit(event.ClockStepped, "", "", p)
}

func clockEvent(st sntp.Status) *eventv1.Clock {
	p := &eventv1.Clock{
		State: string(st.State), Offset: int64(st.Now), Jitter: int64(st.Jitter), Stratum: uint32(st.Stratum), Reference: st.Reference,
		Servers: uint32(len(st.Servers)),
	}
	for _, v := range st.Servers {
		if v.State == "agrees" {
			p.Agree++
		}
	}
	if st.Reason != nil {
		p.Reason = event.Text(st.Reason.Error())
	}
	return p
}

// clockSteered tells kernel processes, and the next daemon.
func (d *System) clockSteered(_, then time.Duration) {
	for _, dom := range d.liveDomains() {
		dom.tellClock()
	}
	raw, err := json.Marshal(keptOffset{Offset: then, At: d.clock.Now()})
	if err == nil && then != 0 {
		err = safefile.Write(d.offsetFile(), raw)
	}
	if err != nil {
		d.log.Warn("the offset of the clock is not kept for the next daemon", "err", err)
	}
}

// tellClock tells a kernel process how the clock differs from the host's. The last
// word is the latest.
func (dom *domain) tellClock() {
	dom.d.time.telling.Lock()
	defer dom.d.time.telling.Unlock()
	dom.notify(control.MethodSteer, dom.d.steering())
}

// steering is how the clock differs from the host's.
func (d *System) steering() control.Steer {
	if d.time.wall == nil {
		return control.Steer{}
	}
	now, then := d.time.wall.Offset()
	return control.Steer{Now: now, Then: then}
}

// clockService serves the API's service Clock.
type clockService struct {
	apiv1.UnimplementedClockServer
	d *System
}

// TimeSync implements the RPC.
func (t clockService) TimeSync(ctx context.Context, _ *apiv1.TimeSyncRequest) (*apiv1.TimeStatusResponse, error) {
	s := t.d.time.current()
	if s == nil {
		return nil, errdefs.New(errdefs.WrongState, "no time servers are configured", errdefs.Op("ask for the time"),
			errdefs.Fix("name some in the configuration file, under time; see docs/time.md"))
	}
	s.Ask(ctx)
	return t.TimeStatus(ctx, nil)
}

// TimeStatus implements the RPC.
func (t clockService) TimeStatus(context.Context, *apiv1.TimeStatusRequest) (*apiv1.TimeStatusResponse, error) {
	d := t.d
	steer := d.steering()
	resp := &apiv1.TimeStatusResponse{
		NowUnixNano: d.clock.Now().UnixNano(), OffsetNano: int64(steer.Now), TargetNano: int64(steer.Then), State: "host",
	}
	s := d.time.current()
	if s == nil {
		return resp, nil
	}
	st, spec := s.Status(), s.Spec()
	resp.State, resp.SinceUnixNano, resp.Reference, resp.Stratum = string(st.State), st.Since.UnixNano(), st.Reference, uint32(st.Stratum)
	resp.JitterNano, resp.Steps, resp.LastSyncUnixNano = int64(st.Jitter), st.Steps, unixNano(st.LastSync)
	resp.IntervalNano, resp.StepNano, resp.LimitNano = int64(spec.Interval), int64(spec.Step), int64(spec.Limit)
	if st.Reason != nil {
		resp.Reason, resp.Fix = st.Reason.Error(), errdefs.FixOf(st.Reason)
	}
	for _, v := range st.Servers {
		p := &apiv1.TimeServer{
			Name: v.Name, State: v.State, Breaker: v.Breaker.State.String(), RetryInNano: int64(v.Breaker.RetryIn),
			OffsetNano: int64(v.Offset), DelayNano: int64(v.Delay), UncertaintyNano: int64(v.Uncertainty), JitterNano: int64(v.Jitter),
			Stratum: uint32(v.Stratum), Reference: v.Reference, LastAnswerUnixNano: unixNano(v.LastAnswer),
			Asked: v.Asked, Answered: v.Answered, Failed: v.Failed, ErrorUnixNano: unixNano(v.ErrAt),
		}
		if v.Err != nil {
			p.Error, p.Fix = v.Err.Error(), errdefs.FixOf(v.Err)
		}
		resp.Servers = append(resp.Servers, p)
	}
	return resp, nil
}

// unixNano is 0 for a time that is none.
func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
