package sentry

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/hostarch"

	"aios.dev/aios/abi"
	"aios.dev/aios/account"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/sentry/swap"
)

// An agent that may swap and comes near its memory limit has pages that it does not
// use put away until there is room again. Which those are is found out by taking all
// pages from it, and giving it a while: what it needs it touches, and has it again
// at once. That is its working set; the rest is what it has not touched for longest.

// reclaimer puts pages of one agent away.
type reclaimer struct {
	// on is set while the agent may swap, busy while its goroutine runs.
	on   atomic.Bool
	busy atomic.Bool
	// short is closed and replaced when the agent is over its limit.
	mu    sync.Mutex
	short chan struct{} // +checklocks:mu
	// until is until when it is not tried again, as it did not help; in nanoseconds
	// since the kernel was started.
	until atomic.Int64
	// workingSet is what the agent touched of what was taken from it, last time.
	workingSet atomic.Uint64

	// Of its goroutine, of which there is one at a time. age is how long the agent
	// is given to touch what it needs, taken when its pages were taken last; outs
	// and ins are how many had gone and come back by the last time.
	age       time.Duration
	taken     time.Time
	outs, ins uint64
}

const (
	// ageTime is how long an agent is given to touch what it needs, at first, and
	// ageMost when it turned out to need longer.
	ageTime = 300 * time.Millisecond
	ageMost = 5 * time.Second
	// reclaimRetry is for how long nothing is tried that did not help.
	reclaimRetry = 2 * time.Second
	// reclaimTries is how often in a row it may not help, that is, free less than
	// reclaimLeast bytes.
	reclaimTries = 4
	reclaimLeast = 1 << 20
	// reclaimStop bounds how long an agent may take to stand still, and others that
	// change it, to be done.
	reclaimStop = 200 * time.Millisecond
	// reclaimPatience is for how long it may come to nothing for such a reason alone.
	reclaimPatience = 10 * time.Second
	// reclaimOver is for how long it may be over its limit with all put away that can
	// be: what is given back takes a while to be counted.
	reclaimOver = 2 * time.Second
)

// reclaimFrom is with how much of its limit an agent is too near to it, and
// reclaimTo with how much it is not any more.
func reclaimFrom(limit uint64) uint64 { return limit - limit/16 }
func reclaimTo(limit uint64) uint64   { return limit - limit/8 }

// reclaims has pages put away if a has so many bytes that it should, and reports
// whether that may keep it below its limit.
func (a *Agent) reclaims(used, limit uint64) bool {
	sw := a.swap.Load()
	if sw == nil || !sw.reclaim.on.Load() || sw.never.Load() != nil || used <= reclaimFrom(limit) {
		return false
	}
	r := &sw.reclaim
	if a.s.uptimeNS() < r.until.Load() {
		return false
	}
	if used > limit {
		r.mu.Lock()
		if r.short != nil {
			close(r.short)
			r.short = nil
		}
		r.mu.Unlock()
	}
	if r.busy.CompareAndSwap(false, true) {
		go a.reclaim(sw)
	}
	return used <= limit+oomRoom(limit)
}

// reclaim puts pages away until a has room again.
func (a *Agent) reclaim(sw *agentSwap) {
	r, clock := &sw.reclaim, a.s.cfg.Clock
	defer r.busy.Store(false)
	worked := clock.Now()
	var over time.Time
	for tries := 0; ; {
		limit := a.memoryLimit()
		before := a.usedNow()
		if limit == account.Unlimited || before <= reclaimFrom(limit) || a.dying.Load() || !r.on.Load() {
			return
		}
		r.learn(sw)
		if clock.Since(r.taken) >= r.age {
			a.putAwayOld(sw, sw.round.Load(), reclaimTo(limit))
		}
		if a.usedNow() <= reclaimTo(limit) {
			return
		}
		freed, still, err := a.reclaimOnce(sw, limit)
		after := a.usedNow()
		if u := sw.store.Usage(); err == nil && after < before {
			a.s.emit(a, event.MemorySwap, &eventv1.MemorySwap{
				Before: before, After: after, Limit: limit, WorkingSet: r.workingSet.Load(), File: u.File, FileLimit: u.FileLimit,
			})
		}
		late := errdefs.CodeOf(err) == errdefs.Timeout
		if !late {
			worked = clock.Now()
		}
		if !still {
			over = time.Time{}
		} else if over.IsZero() {
			over = clock.Now()
		}
		switch {
		case late && clock.Since(worked) < reclaimPatience:
			// A busy host, or somebody who has it in hand, is no reason to end it.
			nap(clock, 5*time.Millisecond)
		case err != nil, still && clock.Since(over) > reclaimOver:
			tries = reclaimTries
		case freed < reclaimLeast && after > reclaimFrom(limit):
			tries++
		default:
			tries = 0 // That it has more again is its own doing.
		}
		if tries >= reclaimTries {
			r.until.Store(a.s.uptimeNS() + int64(reclaimRetry))
			return
		}
	}
}

// learn gives the agent longer to touch what it needs if much of what was put away has
// come back since.
func (r *reclaimer) learn(sw *agentSwap) {
	outs, ins := sw.outs.Load(), sw.ins.Load()
	switch {
	case r.age == 0:
		r.age = ageTime
	case ins-r.ins > (outs-r.outs)/2:
		r.age = min(2*r.age, ageMost)
	default:
		r.age = max(r.age/2, ageTime)
	}
	r.outs, r.ins = outs, ins
}

// reclaimOnce looks for pages that a does not use and puts them away, and returns how
// many bytes that freed. While it is over its limit it stands still, and so it does not
// grow, whoever else has it in hand; still says that it is over the limit all the same.
func (a *Agent) reclaimOnce(sw *agentSwap, limit uint64) (freed int64, still bool, err error) {
	shortly := sw.reclaim.awaitShort()
	if a.usedNow() > limit {
		defer a.stalled(&a.pressure.memory)()
		h := a.halt(nil)
		defer h.release()
		err = a.heldStill(reclaimStop, func() error {
			if err := a.takeAll(sw); err != nil {
				return err
			}
			freed = a.putAwayOld(sw, sw.round.Load(), reclaimTo(limit))
			still = a.usedNow() > limit
			return nil
		})
		return freed, still, err
	}
	defer a.stopWhen(shortly)()
	if err := a.heldStill(0, func() error { return a.takeAll(sw) }); err != nil {
		return 0, false, err
	}
	if a.usedNow() <= limit {
		timer := make(chan struct{})
		stop := a.s.cfg.Clock.AfterFunc(sw.reclaim.age, func() { close(timer) })
		select {
		case <-timer:
		case <-shortly:
			stop.Stop()
		}
	}
	a.dropStale(sw)
	return a.putAwayOld(sw, sw.round.Load(), reclaimTo(limit)), false, nil
}

// stopWhen has the agent stand still from when short is closed until what it returns is
// called: it must not grow as fast as its pages are put away.
func (a *Agent) stopWhen(short <-chan struct{}) (release func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-done:
			return
		case <-short:
		}
		defer a.stalled(&a.pressure.memory)()
		h := a.halt(nil)
		defer h.release()
		<-done
	}()
	return func() {
		close(done)
		<-ended
	}
}

// awaitShort returns what is closed when the agent is over its limit.
func (r *reclaimer) awaitShort() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.short = make(chan struct{})
	return r.short
}

// usedNow counts what the agent has.
func (a *Agent) usedNow() uint64 {
	m := &a.account.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	return a.countLocked()
}

// heldStill calls f while nobody else stops the agent, or changes what it consists of;
// it waits so long for those who do.
//
// +checklocksignore: the analysis does not know TryLock.
func (a *Agent) heldStill(wait time.Duration, f func() error) error {
	a.s.still.RLock()
	defer a.s.still.RUnlock()
	clock := a.s.cfg.Clock
	for began := clock.Now(); !a.lifeMu.TryLock(); {
		nap(clock, min(5*time.Millisecond, max(wait/40, time.Millisecond)))
		if clock.Since(began) < wait {
			continue
		}
		return errdefs.New(errdefs.Timeout, "the agent is being changed", errdefs.Op("swap out"), errdefs.Resource("%s", a.id))
	}
	defer a.lifeMu.Unlock()
	if err := a.mustBe(abi.StateRunning, abi.StatePaused); err != nil {
		return err
	}
	if a.debugger.Load() != nil {
		return errdefs.New(errdefs.WrongState, "the agent is being debugged", errdefs.Op("swap out"), errdefs.Resource("%s", a.id))
	}
	return f()
}

// takeAll takes all pages from the agent, which then shows what it needs. The caller
// holds its lifeMu.
func (a *Agent) takeAll(sw *agentSwap) error {
	sw.reclaim.taken = a.s.cfg.Clock.Now()
	_, err := a.takePages(sw, a.s.cfg.Clock.Now().Add(reclaimStop), everywhere)
	return err
}

// dropStale forgets pages that the agent has replaced by its own, and notes how much
// of what was taken it has touched.
func (a *Agent) dropStale(sw *agentSwap) {
	var touched uint64
	a.heldStill(0, func() error { // It is done the next time.
		h := a.halt(nil)
		defer h.release()
		if len(h.await(a.s.cfg.Clock, a.s.cfg.Clock.Now().Add(reclaimStop))) > 0 {
			return nil
		}
		ctx := a.s.context(a.ns, a.s.creds, a.memID)
		for _, m := range a.spaces() {
			sc, err := scan(ctx, m, true)
			if err != nil {
				m.DecUsers(ctx)
				return err
			}
			for i := range sc.mappings {
				vm := &sc.mappings[i]
				for _, ar := range vm.shown {
					touched += uint64(ar.Length())
				}
				for _, own := range vm.own {
					touched += uint64(own.ar.Length())
					for _, at := range sw.sys.mappings(m, own.ar) {
						at.o.forget(m, at.off, at.off+uint64(at.ar.Length()))
					}
				}
			}
			m.DecUsers(ctx)
		}
		sw.reclaim.workingSet.Store(touched)
		return nil
	})
}

// putAwayOld puts pages away that were not touched since round, the oldest first,
// until the agent has no more than so many bytes, and returns how many that freed.
func (a *Agent) putAwayOld(sw *agentSwap, round uint32, to uint64) (freed int64) {
	used := a.usedNow()
	if used <= to {
		return 0
	}
	pages := a.swapPages()
	pages = slices.DeleteFunc(pages, func(p *swapPage) bool { return p.home == sw && p.touched.Load() >= round })
	slices.SortStableFunc(pages, func(p, q *swapPage) int { return cmp.Compare(p.touched.Load(), q.touched.Load()) })
	file := sw.store.HasFile()
	for _, p := range pages {
		if freed >= int64(used-to) {
			return freed
		}
		away, err := p.putAway()
		if err != nil {
			return freed
		}
		if away {
			freed += hostarch.PageSize
			if !file {
				freed -= int64(p.size())
			}
		}
		if file {
			if moved, err := p.demote(); err != nil {
				file = false // It is full, or broken: what is compressed stays in memory.
			} else if moved {
				p.home.fileOuts.Add(1)
			}
		}
	}
	return freed
}

// size is how many bytes the page takes in memory where it is put away.
func (p *swapPage) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.resident || p.blob.Place != swap.InMemory {
		return 0
	}
	return p.blob.Len()
}
