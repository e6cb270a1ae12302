package sentry

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"

	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/sentry/clocks"
)

// An agent may have clocks of its own: CLOCK_REALTIME so much ahead of the kernel's,
// and CLOCK_MONOTONIC, of which CLOCK_BOOTTIME is another name. Its programs read them
// where others read the kernel's:
//
//	the VDSO              a page of the agent's own, in the place of the kernel's  clockpage.go
//	system calls          moments are translated on their way in and out           gate_clock.go
//	/proc, sysinfo(2)     views.go, viewcpu.go
//
// Nothing else goes by them: CPU time, scheduling, quotas, leases and the times of files
// are by the kernel's. How long something takes is the same by both.

// ownClocks are those of an agent.
type ownClocks struct {
	s    *Kernel
	page *clockPage
	// monotonic is immutable, as in a time namespace of Linux.
	monotonic clocks.Shift
	realtime  atomic.Int64 // a clocks.Shift
}

// agentClocks is what an agent keeps of them.
type agentClocks struct {
	own atomic.Pointer[ownClocks] // nil: the kernel's

	mu    sync.Mutex // held while they are made, set or given up
	ended bool       // +checklocks:mu
}

// shift returns how far ahead of the kernel's the clock is that a program calls id; ok
// is false for clocks that are the kernel's, such as those of CPU time.
func (c *ownClocks) shift(id int32) (s clocks.Shift, ok bool) {
	switch id {
	case linux.CLOCK_REALTIME, linux.CLOCK_REALTIME_COARSE:
		return c.ahead(), true
	case linux.CLOCK_MONOTONIC, linux.CLOCK_MONOTONIC_COARSE, linux.CLOCK_MONOTONIC_RAW, linux.CLOCK_BOOTTIME:
		return c.monotonic, true
	}
	return 0, false
}

// What clocks may show: from the beginning of their count until so many years before
// its end, so that an agent lives to see no overflow.
const (
	lastWall = math.MaxInt64 - int64(20*365*24*time.Hour) // in 2242
	lastMono = int64(100 * 365 * 24 * time.Hour)
)

// errClock refuses what a clock cannot show.
func errClock(what, fix string, args ...any) error {
	return errdefs.New(errdefs.InvalidArgument, what, errdefs.Op("set the clock"), errdefs.Fix(fix, args...))
}

// wallShift examines how far ahead CLOCK_REALTIME is to be.
func (s *Kernel) wallShift(offset int64) (clocks.Shift, error) {
	shift := clocks.Shift(offset)
	if now := shift.Inside(s.k.RealtimeClock().Now().Nanoseconds()); now < 0 || now > lastWall {
		return 0, errClock("CLOCK_REALTIME would be before 1970 or after 2241", "give an offset from now that is between the two")
	}
	return shift, nil
}

// wallOffset is the offset by which CLOCK_REALTIME shows wall now.
func (s *Kernel) wallOffset(wall int64) int64 {
	return int64(clocks.Shift(-s.k.RealtimeClock().Now().Nanoseconds()).Inside(wall))
}

// beginClock gives an agent the clocks that it is started with, if it gets any.
func (a *Agent) beginClock(req *control.Clock, actor control.Actor) error {
	if req == nil {
		return nil
	}
	s := a.s
	offset := req.Offset
	if req.Wall != 0 {
		offset = s.wallOffset(req.Wall)
	}
	realtime, err := s.wallShift(offset)
	if err != nil {
		return err
	}
	monotonic := clocks.Shift(req.Monotonic)
	if now := monotonic.Inside(s.uptimeNS()); now < 0 || now > lastMono {
		return errClock("CLOCK_MONOTONIC would be negative, or more than a hundred years",
			"give an offset from -%v up: that is what it shows now", time.Duration(s.uptimeNS()).Round(time.Millisecond))
	}
	if err := a.makeClock(realtime, monotonic); err != nil {
		return err
	}
	a.tellClock(control.Clock{}, s.actor(actor))
	return nil
}

// makeClock gives the agent clocks that it had none of.
func (a *Agent) makeClock(realtime, monotonic clocks.Shift) error {
	a.clock.mu.Lock()
	defer a.clock.mu.Unlock()
	_, err := a.makeClockLocked(realtime, monotonic)
	return err
}

// +checklocks:a.clock.mu
func (a *Agent) makeClockLocked(realtime, monotonic clocks.Shift) (*ownClocks, error) {
	if a.clock.ended {
		return nil, errdefs.New(errdefs.AgentNotRunning, "the agent has ended", errdefs.Resource("%s", a.id))
	}
	c := &ownClocks{s: a.s, monotonic: monotonic}
	c.realtime.Store(int64(realtime))
	var err error
	if c.page, err = a.s.clocks.newPage(a.s, c); err != nil {
		return nil, err
	}
	a.clock.own.Store(c)
	a.crowd.OwnClock() // What executes another program from now on gets the page.
	for _, m := range a.spaces() {
		c.page.mapInto(a.ctx, m)
		m.DecUsers(a.ctx)
	}
	return c, nil
}

// setWall has the agent's CLOCK_REALTIME be so far ahead of the kernel's from now on.
// Calls that wait until a moment of it wait anew.
func (a *Agent) setWall(offset int64, by capability.Actor) error {
	shift, err := a.s.wallShift(offset)
	if err != nil {
		return err
	}
	a.clock.mu.Lock()
	was := a.clockNow()
	c := a.clock.own.Load()
	switch {
	case c == nil && shift == 0:
	case c == nil:
		_, err = a.makeClockLocked(shift, 0)
	default:
		c.realtime.Store(int64(shift))
		c.page.rewrite(true)
	}
	a.clock.mu.Unlock()
	if err != nil || was.Offset == int64(shift) {
		return err
	}
	a.interruptTasks()
	a.tellClock(was, by)
	return nil
}

// clockNow says how far ahead the agent's clocks are.
func (a *Agent) clockNow() control.Clock {
	c := a.clock.own.Load()
	if c == nil {
		return control.Clock{}
	}
	return control.Clock{Offset: c.realtime.Load(), Monotonic: int64(c.monotonic)}
}

// ownClock is clockNow, or nil if its clocks are the kernel's.
func (a *Agent) ownClock() *control.Clock {
	if a.clock.own.Load() == nil {
		return nil
	}
	now := a.clockNow()
	return &now
}

// inheritClock gives a copy the clocks of its original.
func (a *Agent) inheritClock(from *Agent) error {
	c := from.clock.own.Load()
	if c == nil {
		return nil
	}
	return a.makeClock(c.ahead(), c.monotonic)
}

// endClock gives the clocks up. The page stays for as long as something maps it.
func (a *Agent) endClock() {
	a.clock.mu.Lock()
	defer a.clock.mu.Unlock()
	a.clock.ended = true
	if c := a.clock.own.Load(); c != nil {
		a.s.clocks.dropPage(c.page)
	}
}

// opClock is the operation of an audit record.
const opClock = "clock"

// tellClock says that the agent's clocks are not what they were.
func (a *Agent) tellClock(was control.Clock, by capability.Actor) {
	now := a.clockNow()
	a.s.emitFor(a, event.AgentClock, &eventv1.AgentClock{
		Offset: now.Offset, WasOffset: was.Offset, Monotonic: now.Monotonic, By: by.Name,
	}, by.Correlation)
	text := fmt.Sprintf("offset=%v", time.Duration(now.Offset))
	if now.Monotonic != 0 {
		text += fmt.Sprintf(",monotonic=%v", time.Duration(now.Monotonic))
	}
	a.s.trail.put(control.AuditRecord{Record: capability.Record{
		Op: opClock, Actor: by.Name, Agent: a.id, Target: text, Correlation: by.Correlation,
		Reason: fmt.Sprintf("was offset=%v", time.Duration(was.Offset)),
	}})
}

// Clock sets how far ahead an agent's CLOCK_REALTIME is, or says how far.
func (s *Kernel) Clock(req control.ClockRequest) (control.ClockReply, error) {
	var reply control.ClockReply
	a, err := s.agent(req.ID)
	if err == nil {
		err = a.mustLive()
	}
	if err != nil {
		return reply, err
	}
	reply.Was = a.clockNow()
	switch {
	case req.Wall != 0:
		err = a.setWall(s.wallOffset(req.Wall), s.actor(req.Actor))
	case req.Offset != nil:
		err = a.setWall(*req.Offset, s.actor(req.Actor))
	}
	if err != nil {
		return reply, err
	}
	s.trail.flush()
	reply.Clock = a.clockNow()
	reply.Realtime = clocks.Shift(reply.Clock.Offset).Inside(s.k.RealtimeClock().Now().Nanoseconds())
	reply.Uptime = clocks.Shift(reply.Clock.Monotonic).Inside(s.uptimeNS())
	return reply, nil
}
