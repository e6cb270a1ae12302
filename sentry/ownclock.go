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

// An agent may have clocks of its own: CLOCK_REALTIME so much ahead of the kernel's, and
// so many times as fast, and CLOCK_MONOTONIC ahead, of which CLOCK_BOOTTIME is another
// name. Its programs read them where others read the kernel's:
//
//	the VDSO              a page of the agent's own, in the place of the kernel's  clockpage.go
//	system calls          moments are translated on their way in and out           gate_clock.go
//	/proc, sysinfo(2)     views.go, viewcpu.go
//
// Nothing else goes by them: CPU time, scheduling, quotas, leases and the times of files
// are by the kernel's. How long something takes is CLOCK_MONOTONIC's to say, which goes
// as fast as the kernel's, and so are durations that calls wait for.

// ownClocks are those of an agent.
type ownClocks struct {
	s    *Kernel
	a    *Agent
	page *clockPage
	// monotonic is immutable, as in a time namespace of Linux.
	monotonic clocks.Shift
	realtime  atomic.Pointer[clocks.Wall] // changed while page.mu is held
}

// agentClocks is what an agent keeps of them.
type agentClocks struct {
	own atomic.Pointer[ownClocks] // nil: the kernel's

	mu    sync.Mutex // held while they are made, set or given up
	ended bool       // +checklocks:mu
}

// has says whether the clock that a program calls id is one of the agent's own, unlike
// those of CPU time.
func (c *ownClocks) has(id int32) bool {
	switch id {
	case linux.CLOCK_MONOTONIC, linux.CLOCK_MONOTONIC_COARSE, linux.CLOCK_MONOTONIC_RAW, linux.CLOCK_BOOTTIME:
		return true
	}
	return isWall(id)
}

// isWall says whether id is CLOCK_REALTIME.
func isWall(id int32) bool { return id == linux.CLOCK_REALTIME || id == linux.CLOCK_REALTIME_COARSE }

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

// wallChange is what is to become of an agent's CLOCK_REALTIME: it is set to be ahead of
// the kernel's, or to show a time, or neither; and it goes so fast from then on.
type wallChange struct {
	offset *int64
	shows  *int64
	rate   clocks.Rate // 0: as it goes
}

// asked is the change that a request asks for.
func (s *Kernel) asked(offset *int64, wall, rate int64) (wallChange, error) {
	ch := wallChange{offset: offset, rate: clocks.Rate(rate)}
	if wall != 0 {
		ch.offset, ch.shows = nil, &wall
	}
	if rate != 0 && !ch.rate.Valid() {
		return ch, errClock("a clock cannot go so fast, or so slowly", "give a rate from %v to %v", clocks.Slowest, clocks.Fastest)
	}
	return ch, nil
}

// sets says that the clock is set, and may go back.
func (ch wallChange) sets() bool { return ch.offset != nil || ch.shows != nil }

// bothWithin is within what time two clocks are to be read that are to show the same
// moment.
const bothWithin = 20 * time.Microsecond

// bothClocks reads the kernel's CLOCK_REALTIME, CLOCK_MONOTONIC, and again the former.
func (s *Kernel) bothClocks() (before, monotonic, after int64) {
	for range 5 { // It may be interrupted in between.
		before = s.k.RealtimeClock().Now().Nanoseconds()
		monotonic = s.uptimeNS()
		after = s.k.RealtimeClock().Now().Nanoseconds()
		if after-before <= int64(bothWithin) {
			break
		}
	}
	return before, monotonic, after
}

// changed returns how a clock goes on after the change, and what it shows now. If it is
// not set it does not go back: it is what it was at the end of what counts as now, and
// goes on from the beginning of that.
func (s *Kernel) changed(w clocks.Wall, ch wallChange) (next clocks.Wall, shows int64) {
	before, monotonic, after := s.bothClocks()
	if w.Steady() {
		shows = w.Inside(monotonic)
	} else {
		shows = w.Inside(after)
	}
	rate := w.Rate()
	if ch.rate != 0 {
		rate = ch.rate
	}
	switch {
	case ch.shows != nil:
		shows = *ch.shows
	case ch.offset != nil && rate == clocks.Normal:
		return clocks.Ahead(clocks.Shift(*ch.offset)), clocks.Shift(*ch.offset).Inside(before)
	case ch.offset != nil:
		shows = clocks.Shift(*ch.offset).Inside(before)
	}
	return clocks.From(rate, before, monotonic, shows), shows
}

// check refuses a change after which the clock would show what it cannot. One that has
// come to its end may always go on as the kernel's.
func (s *Kernel) check(w clocks.Wall, ch wallChange) error {
	if !ch.sets() && ch.rate == clocks.Normal {
		return nil
	}
	if _, shows := s.changed(w, ch); shows < 0 || shows > lastWall {
		return errClock("CLOCK_REALTIME would be before 1970 or after 2241", "give an offset from now that is between the two")
	}
	return nil
}

// beginClock gives an agent the clocks that it is started with, if it gets any.
func (a *Agent) beginClock(req *control.Clock, actor control.Actor) error {
	if req == nil {
		return nil
	}
	s, none := a.s, clocks.Ahead(0)
	ch, err := s.asked(&req.Offset, req.Wall, req.Rate)
	if err == nil {
		err = s.check(none, ch)
	}
	if err != nil {
		return err
	}
	monotonic := clocks.Shift(req.Monotonic)
	if now := monotonic.Inside(s.uptimeNS()); now < 0 || now > lastMono {
		return errClock("CLOCK_MONOTONIC would be negative, or more than a hundred years",
			"give an offset from -%v up: that is what it shows now", time.Duration(s.uptimeNS()).Round(time.Millisecond))
	}
	realtime, _ := s.changed(none, ch)
	if err := a.makeClock(realtime, monotonic); err != nil {
		return err
	}
	a.tellClock(clockOf(0, clocks.Normal, 0), s.actor(actor))
	return nil
}

// makeClock gives the agent clocks that it had none of.
func (a *Agent) makeClock(realtime clocks.Wall, monotonic clocks.Shift) error {
	a.clock.mu.Lock()
	defer a.clock.mu.Unlock()
	_, err := a.makeClockLocked(realtime, monotonic)
	return err
}

// +checklocks:a.clock.mu
func (a *Agent) makeClockLocked(realtime clocks.Wall, monotonic clocks.Shift) (*ownClocks, error) {
	if a.clock.ended {
		return nil, errdefs.New(errdefs.AgentNotRunning, "the agent has ended", errdefs.Resource("%s", a.id))
	}
	c := &ownClocks{s: a.s, a: a, monotonic: monotonic}
	c.realtime.Store(&realtime)
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

// setWall changes the agent's CLOCK_REALTIME. Calls that wait until a moment of it wait
// anew.
func (a *Agent) setWall(ch wallChange, by capability.Actor) error {
	a.clock.mu.Lock()
	was := a.clockNow()
	changed, err := a.setWallLocked(ch)
	a.clock.mu.Unlock()
	if err != nil || !changed {
		return err
	}
	a.interruptTasks()
	a.tellClock(was, by)
	return nil
}

// +checklocks:a.clock.mu
func (a *Agent) setWallLocked(ch wallChange) (changed bool, err error) {
	c, wall := a.clock.own.Load(), clocks.Ahead(0)
	if c != nil {
		wall = c.ahead()
	}
	if err := a.s.check(wall, ch); err != nil {
		return false, err
	}
	// What is not merely ahead is set to something else whenever it is set.
	if next, _ := a.s.changed(wall, ch); next == wall || !ch.sets() && next.Rate() == wall.Rate() {
		return false, nil
	}
	if c == nil { // Programs go on with the page as with the kernel's, and then it is set.
		if c, err = a.makeClockLocked(wall, 0); err != nil {
			return false, err
		}
	}
	c.page.turn(ch.sets(), func(w clocks.Wall) clocks.Wall {
		next, _ := a.s.changed(w, ch)
		return next
	})
	return true, nil
}

// racesOut says that a clock that goes fast has come to the last that it may show.
func (c *ownClocks) racesOut() bool {
	w := c.ahead()
	return w.Rate() > clocks.Normal && w.Inside(c.s.uptimeNS()) > lastWall
}

// slowDown has such a clock go on as fast as the kernel's, for what is left of years that
// can be counted.
func (c *ownClocks) slowDown() {
	c.a.setWall(wallChange{rate: clocks.Normal}, capability.Actor{Name: "kernel", Privileged: true})
}

// clockOf is what is told of clocks.
func clockOf(offset clocks.Shift, rate clocks.Rate, monotonic clocks.Shift) control.Clock {
	return control.Clock{Offset: int64(offset), Rate: int64(rate), Monotonic: int64(monotonic)}
}

// clockNow says how far ahead the agent's clocks are, and how fast they go.
func (a *Agent) clockNow() control.Clock {
	c := a.clock.own.Load()
	if c == nil {
		return clockOf(0, clocks.Normal, 0)
	}
	return clockOf(c.offset(), c.ahead().Rate(), c.monotonic)
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
		Rate: clocks.Rate(now.Rate).Float(), WasRate: clocks.Rate(was.Rate).Float(),
	}, by.Correlation)
	text := wallText(now)
	if now.Monotonic != 0 {
		text += fmt.Sprintf(",monotonic=%v", time.Duration(now.Monotonic))
	}
	a.s.trail.put(control.AuditRecord{Record: capability.Record{
		Op: opClock, Actor: by.Name, Agent: a.id, Target: text, Correlation: by.Correlation,
		Reason: "was " + wallText(was),
	}})
}

// wallText is how CLOCK_REALTIME goes, in an audit record.
func wallText(c control.Clock) string {
	text := fmt.Sprintf("offset=%v", time.Duration(c.Offset))
	if r := clocks.Rate(c.Rate); r != clocks.Normal {
		text += fmt.Sprintf(",rate=%v", r)
	}
	return text
}

// Clock sets how far ahead an agent's CLOCK_REALTIME is and how fast it goes, or says it.
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
	ch, err := s.asked(req.Offset, req.Wall, req.Rate)
	if err == nil && (ch.sets() || ch.rate != 0) {
		err = a.setWall(ch, s.actor(req.Actor))
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
