package trap

import (
	"strings"

	"aios.dev/aios/errdefs"
)

// Action is what is done about a fault or a violation.
type Action uint8

// The actions, from the mildest outward.
const (
	Deliver     Action = iota // a fault: its signal is the program's business
	Deny                      // a violation: the call fails, no more
	Ignore                    // a misaligned access: done, and not told again
	Dump                      // write a core dump, then as Deliver or Deny
	KillProcess               // end the process
	Freeze                    // pause the agent for somebody to look at
	Quarantine                // freeze it, and take back all it was granted
	KillAgent                 // end the agent
	KillDomain                // end the domain with all its agents
	actionCount
)

// Scope is a fault domain.
type Scope uint8

// The fault domains, each within the next.
const (
	ScopeProcess Scope = iota
	ScopeAgent
	ScopeDomain
	ScopeHost
)

// String is the scope's name.
func (s Scope) String() string {
	return [...]string{"process", "agent", "domain", "host"}[min(s, ScopeHost)]
}

// ActionInfo is what is known of an action.
type ActionInfo struct {
	Action Action
	Name   string
	// Scope is the outermost fault domain that it touches.
	Scope Scope
	// Fault and Violation say what it can be chosen for.
	Fault, Violation bool
	Meaning          string
}

var actions = [actionCount]ActionInfo{
	{Deliver, "deliver", ScopeProcess, true, false, "the program gets the signal, as on Linux"},
	{Deny, "deny", ScopeProcess, false, true, "the call fails"},
	{Ignore, "ignore", ScopeProcess, true, false, "of alignment-check only: the access is made, and the process not told of others"},
	{Dump, "dump", ScopeProcess, true, true, "a core dump is written; then as deliver or deny"},
	{KillProcess, "kill-process", ScopeProcess, true, true, "the process ends"},
	{Freeze, "freeze", ScopeAgent, true, true, "the agent is paused, until somebody resumes or kills it"},
	{Quarantine, "quarantine", ScopeAgent, true, true, "the agent is paused and everything it was granted taken back; memory and files stay"},
	{KillAgent, "kill-agent", ScopeAgent, true, true, "the agent ends"},
	{KillDomain, "kill-domain", ScopeDomain, true, true, "the domain ends, with every agent in it"},
}

// Actions returns every action. The caller must not change it.
func Actions() []ActionInfo { return actions[:] }

// Info returns what is known of a.
func (a Action) Info() ActionInfo {
	if a >= actionCount {
		return ActionInfo{Action: a, Name: "?"}
	}
	return actions[a]
}

// String is the action's name.
func (a Action) String() string { return a.Info().Name }

// parseAction reads the name of an action that can be chosen for faults, or
// for violations.
func parseAction(text string, fault bool) (Action, error) {
	var names []string
	for _, i := range actions {
		if fault && !i.Fault || !fault && !i.Violation {
			continue
		}
		if i.Name == text {
			return i.Action, nil
		}
		names = append(names, i.Name)
	}
	what := "a violation"
	if fault {
		what = "a fault"
	}
	return 0, errdefs.New(errdefs.InvalidArgument, "no action on "+what+" has that name", errdefs.Resource("%q", text),
		errdefs.Fix("the actions are: %s", strings.Join(names, ", ")))
}
