package sentry

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/sentry/kernel"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
)

// refuseCheckpoint says what in the domain cannot be part of a checkpoint: what
// reaches out of it, and what is in the middle of something. Caller holds the
// lifeMu of all agents.
func (s *Kernel) refuseCheckpoint(agents []*Agent) error {
	refuse := func(who, what, fix string) error {
		return errdefs.New(errdefs.CheckpointRefused, what, errdefs.Op("checkpoint"), errdefs.Resource("%s", who), errdefs.Fix("%s", fix))
	}
	for _, a := range agents {
		who := a.label()
		if a.dying.Load() || a.killed.Load() != nil || a.mustBe(abi.StateRunning, abi.StatePaused, abi.StateTemplate) != nil || a.firstGroup() == nil {
			return refuse(who, "it is about to end", "try again when it has ended")
		}
		if a.warming != nil && a.mustBe(abi.StateTemplate) != nil { // Somebody waits for that.
			return refuse(who, "it is about to become a template", "try again when it is one, or end it")
		}
		if a.debugger.Load() != nil {
			return refuse(who, "it is being debugged", "end the debugger")
		}
		if a.cloning.Load() > 0 && a.mustBe(abi.StatePaused) == nil {
			return refuse(who, "it was paused while it made a process", "let it go on, and try again")
		}
		if err := a.refuseGrants(refuse); err != nil {
			return err
		}
		if err := a.refuseTasks(refuse); err != nil {
			return err
		}
	}
	return nil
}

// refuseTasks does the same for an agent's tasks.
func (a *Agent) refuseTasks(refuse func(who, what, fix string) error) error {
	for _, t := range a.ns.pid().Tasks() {
		if t.ExitState() != kernel.TaskExitNone {
			continue
		}
		who := fmt.Sprintf("%s, process %d (%s)", a.label(), a.ns.pid().IDOfTask(t), t.Name())
		if t.NetworkNamespace() != a.ns.net {
			return refuse(who, "it has a network of its own", "end it")
		}
	}
	return nil
}
