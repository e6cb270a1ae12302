package sentry

import (
	"cmp"
	"runtime"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/abi"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/ktime"
)

// pauseTimeout bounds how long Pause waits for tasks that are inside the
// kernel, for example in a read of a host directory.
const pauseTimeout = 5 * time.Second

// Pause stops every task of the agent. When it returns none runs. An agent
// with a task that cannot be stopped in pauseTimeout goes on as it was.
func (s *Kernel) Pause(req control.AgentRequest) (struct{}, error) {
	a, err := s.agent(req.ID)
	if err != nil {
		return struct{}{}, err
	}
	return struct{}{}, s.pauseFor(a, cmp.Or(req.By.By, "operator"))
}

// pauseFor stops every task of the agent, for whoever wants it.
func (s *Kernel) pauseFor(a *Agent, by string) error {
	a.lifeMu.Lock()
	defer a.lifeMu.Unlock()
	if err := a.mustBe(abi.StateRunning); err != nil {
		return err
	}
	if a.dying.Load() {
		// Stopping it now would keep it from ending.
		return errdefs.New(errdefs.AgentNotRunning, "the agent is being killed", errdefs.Resource("%s", a.id))
	}
	a.dog.hold()
	if err := a.freeze(); err != nil {
		a.thaw(nil)
		a.dog.release()
		return err
	}
	a.setState(abi.StatePaused)
	s.emit(a, event.AgentPause, &eventv1.AgentPause{By: by})
	return nil
}

// freeze stops every task that is not stopped yet.
//
// +checklocks:a.lifeMu
func (a *Agent) freeze() error {
	if err := a.notOnTrial(); err != nil {
		return err
	}
	held := make(map[*kernel.Task]bool)
	late := a.s.cfg.Clock.Now().Add(pauseTimeout)
	for found := true; found; {
		found = false
		// A task that was about to clone may have added another.
		for _, t := range a.ns.pid().Tasks() {
			if !held[t] {
				held[t], found = true, true
				t.BeginExternalStop()
				a.stopped = append(a.stopped, t)
			}
		}
		for _, t := range a.stopped {
			if !awaitStop(a.s.cfg.Clock, t, late) {
				return errdefs.New(errdefs.Timeout, "process "+t.Name()+" is in a call that does not end", errdefs.Op("pause"),
					errdefs.Resource("%s", a.id), errdefs.Fix("try again, or kill the agent"))
			}
		}
	}
	return nil
}

// awaitStop reports whether t runs no code of the agent any more, waiting for
// that until late. Nearly always a task stops within microseconds; one that is
// busy inside the kernel is looked at ever less often.
func awaitStop(clock ktime.Clock, t *kernel.Task, late time.Time) bool {
	const spins = 100
	pause := 50 * time.Microsecond
	for n := 0; t.TaskGoroutineState() != kernel.TaskGoroutineStopped && t.ExitState() == kernel.TaskExitNone; n++ {
		if n < spins {
			runtime.Gosched()
			continue
		}
		if clock.Now().After(late) {
			return false
		}
		nap(clock, pause)
		pause = min(2*pause, 10*time.Millisecond)
	}
	return true
}

// awaitStops waits until the tasks of an agent that is stopped stand still: those of
// one that comes from a checkpoint, or is a copy, are started for that.
//
// +checklocks:a.lifeMu
func (a *Agent) awaitStops() {
	late := a.s.cfg.Clock.Now().Add(pauseTimeout)
	for _, t := range a.stopped {
		awaitStop(a.s.cfg.Clock, t, late)
	}
}

// nap waits for d.
func nap(clock ktime.Clock, d time.Duration) {
	woken := make(chan struct{})
	clock.AfterFunc(d, func() { close(woken) })
	<-woken
}

// thaw lets stopped tasks go on: those of one process, or all.
//
// +checklocks:a.lifeMu
func (a *Agent) thaw(only *kernel.ThreadGroup) {
	var rest []*kernel.Task
	for _, t := range a.stopped {
		if only == nil || t.ThreadGroup() == only {
			t.EndExternalStop()
		} else {
			rest = append(rest, t)
		}
	}
	a.stopped = rest
}

// Resume lets a paused agent go on.
func (s *Kernel) Resume(req control.AgentRequest) (struct{}, error) {
	var none struct{}
	a, err := s.agent(req.ID)
	if err != nil {
		return none, err
	}
	if err := a.mustBe(abi.StatePaused); err != nil {
		if errdefs.CodeOf(err) == errdefs.WrongState {
			return none, errdefs.New(errdefs.WrongState, "the agent is not paused", errdefs.Resource("%s", a.id))
		}
		return none, err
	}
	a.unpause(req.By.By)
	return none, nil
}

// unpause lets a paused agent go on; others it leaves alone. By is who wants
// it, if that is not an operator.
func (a *Agent) unpause(by string) {
	a.lifeMu.Lock()
	defer a.lifeMu.Unlock()
	switch {
	case a.mustBe(abi.StatePaused) == nil:
	case a.mustBe(abi.StateTemplate) == nil && a.dying.Load():
	default:
		return
	}
	if a.oom.frozen.Swap(0) != 0 { // It is looked at anew.
		a.pressure.memory.change(-1, a.s.uptimeNS(), false)
	}
	a.thaw(nil)
	a.dog.release()
	a.setState(abi.StateRunning)
	a.s.emit(a, event.AgentResume, &eventv1.AgentPause{By: by})
}

func (a *Agent) setState(st abi.State) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.state.Final() {
		a.state = st
	}
}
