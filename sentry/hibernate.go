package sentry

import (
	"time"

	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/usage"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
)

const (
	// idleLooks is how often a task is looked at, idlePause apart, until it is
	// seen to do something.
	idleLooks = 5
	idlePause = 2 * time.Millisecond
	// hibernateTimeout bounds how long tasks may take to stand still.
	hibernateTimeout = 2 * time.Second
	// releaseTimeout bounds how long is waited until memory that nobody has any more
	// went back to the host, and releasePause is how often that is looked at.
	releaseTimeout = 2 * time.Second
	releasePause   = time.Millisecond
)

// Hibernate swaps all memory of an idle agent out that can be. Its tasks go on
// waiting for what they wait for; what they touch when that comes is brought back.
func (s *Kernel) Hibernate(req control.HibernateRequest) (control.HibernateReply, error) {
	var r control.HibernateReply
	a, err := s.agent(req.ID)
	if err != nil {
		return r, err
	}
	a.lifeMu.Lock()
	defer a.lifeMu.Unlock()
	if err := a.mustBe(abi.StateRunning, abi.StatePaused); err != nil {
		return r, err
	}
	if a.dying.Load() {
		return r, errdefs.New(errdefs.AgentNotRunning, "the agent is being killed", errdefs.Resource("%s", a.id))
	}
	if a.debugger.Load() != nil {
		return r, a.noHibernation("the agent is being debugged", "end the debugger first")
	}
	sw, err := a.swapOf()
	if err != nil {
		return r, err
	}
	if why := sw.never.Load(); why != nil {
		return r, a.noHibernation(*why+": nothing of the agent can be swapped out", "it stays so until the agent ends")
	}
	if t := a.busy(); t != nil {
		return r, a.noHibernation("the agent is not idle: thread "+a.idOf(t)+" ("+t.Name()+") runs", "try again when it waits for something")
	}
	began := s.cfg.Clock.Now()
	before := a.snapshot().Memory.Now
	k, err := a.takePages(sw, began.Add(hibernateTimeout), everywhere)
	r.Pause = s.cfg.Clock.Since(began)
	if err != nil {
		return r, err
	}
	for _, p := range a.swapPages() {
		if _, err = p.putAway(); err != nil {
			break
		}
	}
	if err != nil && errdefs.CodeOf(err) != errdefs.SwapFull {
		return r, err
	}
	a.demoteAll(sw)
	a.awaitReleased(s.cfg.Clock.Now().Add(releaseTimeout))
	u := sw.store.Usage()
	r.Before, r.After = before, a.snapshot().Memory.Now
	r.Taken, r.Compressed, r.File = k.moved, u.MemoryData, u.FileData
	r.Took = s.cfg.Clock.Since(began)
	s.emitFor(a, event.MemoryHibernate, &eventv1.MemoryHibernate{Before: r.Before, After: r.After, PauseNanos: int64(r.Pause)}, req.Actor.Correlation)
	return r, nil
}

func (a *Agent) noHibernation(why, fix string) error {
	return errdefs.New(errdefs.WrongState, why, errdefs.Op("hibernate"), errdefs.Resource("%s", a.id), errdefs.Fix("%s", fix))
}

// everywhere picks all mappings.
func everywhere(hostarch.AddrRange) bool { return true }

// busy returns a task that does not wait, or nil.
func (a *Agent) busy() (runs *kernel.Task) {
	for n := range idleLooks {
		if n > 0 {
			nap(a.s.cfg.Clock, idlePause)
		}
		runs = nil
		for _, t := range a.ns.pid().Tasks() {
			switch t.TaskGoroutineState() {
			case kernel.TaskGoroutineRunningSys, kernel.TaskGoroutineRunningApp:
				if t.ExitState() == kernel.TaskExitNone {
					runs = t
				}
			}
		}
		if runs == nil {
			return nil
		}
	}
	return runs
}

// awaitReleased returns when memory that was the agent's went back to the host, or it is
// late. gVisor gives it back from behind, piece by piece, and until then it counts.
func (a *Agent) awaitReleased(late time.Time) {
	clock := a.s.cfg.Clock
	for clock.Now().Before(late) {
		stats, _ := usage.MemoryAccounting.CopyPerCg(a.memID)
		if stats.System == 0 {
			return
		}
		nap(clock, releasePause)
	}
}

// takePages takes the pages of the agent's mappings that pick wants from its address
// spaces, while it stands still. The caller holds its lifeMu.
func (a *Agent) takePages(sw *agentSwap, late time.Time, pick func(hostarch.AddrRange) bool) (*taking, error) {
	k := &taking{sw: sw, ctx: a.s.context(a.ns, a.s.creds, a.memID)}
	h := a.halt(nil)
	defer h.release()
	if stuck := h.await(a.s.cfg.Clock, late); len(stuck) > 0 {
		return k, errdefs.New(errdefs.Timeout, "process "+stuck[0].Name()+" is in a call that does not end", errdefs.Op("swap out"),
			errdefs.Resource("%s", a.id), errdefs.Fix("try again"))
	}
	sw.round.Add(1)
	sw.sys.taking.Add(1)
	defer sw.sys.taking.Add(-1)
	for _, m := range a.spaces() {
		err := k.space(m, pick)
		m.DecUsers(k.ctx)
		if err != nil {
			return k, err
		}
	}
	return k, nil
}

// swapPages are the pages of all objects that the agent maps, each once.
func (a *Agent) swapPages() (out []*swapPage) {
	sys := a.s.swapOn.Load()
	if sys == nil {
		return nil
	}
	ctx := a.s.k.SupervisorContext()
	seen := make(map[*swapPage]bool)
	for _, m := range a.spaces() {
		for _, o := range sys.objects(m) {
			o.mu.Lock()
			for _, p := range o.pages {
				if p != nil && !seen[p] {
					seen[p] = true
					out = append(out, p)
				}
			}
			o.mu.Unlock()
		}
		m.DecUsers(ctx)
	}
	return out
}

// demoteAll moves what is compressed to the file, as long as there is room.
func (a *Agent) demoteAll(sw *agentSwap) {
	if !sw.store.HasFile() {
		return
	}
	for _, p := range a.swapPages() {
		moved, err := p.demote()
		if err != nil {
			return // The file is full, or broken: it is in memory still.
		}
		if moved {
			p.home.fileOuts.Add(1)
		}
	}
}
