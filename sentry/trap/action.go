package trap

import (
	"strings"

	"aios.dev/aios/errdefs"
)

// Action is what is done about a fault, a violation, a watchdog that expired or
// memory that runs out.
type Action uint8

// The actions, from the mildest outward.
const (
	Deliver     Action = iota // a fault, a watchdog: a signal, the program's business
	Deny                      // a violation: the call fails, no more
	Ignore                    // a misaligned access: done, and not told again
	Dump                      // write a core dump, then as Deliver or Deny
	KillProcess               // end the process
	Freeze                    // pause the agent for somebody to look at
	Quarantine                // freeze it, and take back all it was granted
	KillAgent                 // end the agent
	Restart                   // end it, and start it again from its definition
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
	// Uses are what it can be chosen for.
	Uses    Use
	Meaning string
}

// Use is what a policy is about; a set of bits.
type Use uint8

// What policies are about.
const (
	OnFault Use = 1 << iota
	OnViolation
	OnWatchdog
	OnOOM

	onAll = OnFault | OnViolation | OnWatchdog
)

// String is what messages call it.
func (u Use) String() string {
	switch u {
	case OnFault:
		return "a fault"
	case OnViolation:
		return "a violation"
	case OnWatchdog:
		return "a watchdog"
	case OnOOM:
		return "memory that runs out"
	}
	return "?"
}

var actions = [actionCount]ActionInfo{
	{Deliver, "deliver", ScopeProcess, OnFault | OnWatchdog, "the program gets the signal of the fault, as on Linux; of a watchdog SIGABRT"},
	{Deny, "deny", ScopeProcess, OnViolation, "the call fails"},
	{Ignore, "ignore", ScopeProcess, OnFault, "of alignment-check only: the access is made, and the process not told of others"},
	{Dump, "dump", ScopeProcess, onAll, "a core dump is written; then as deliver or deny; of a watchdog nothing more"},
	{KillProcess, "kill-process", ScopeProcess, OnFault | OnViolation | OnOOM, "the process ends; of memory the one with the most of it"},
	{Freeze, "freeze", ScopeAgent, onAll | OnOOM, "the agent is paused, until somebody resumes or kills it"},
	{Quarantine, "quarantine", ScopeAgent, onAll, "the agent is paused and everything it was granted taken back; memory and files stay"},
	{KillAgent, "kill-agent", ScopeAgent, onAll | OnOOM, "the agent ends"},
	{Restart, "restart", ScopeAgent, onAll | OnOOM, "the agent ends and is started again from its definition, as often as its restart budget allows"},
	{KillDomain, "kill-domain", ScopeDomain, onAll, "the domain ends, with every agent in it"},
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

// ActionNames lists the actions that can be chosen for a use.
func ActionNames(u Use) []string {
	var names []string
	for _, i := range actions {
		if i.Uses&u != 0 {
			names = append(names, i.Name)
		}
	}
	return names
}

// parseAction reads the name of an action that can be chosen for a use.
func parseAction(text string, u Use) (Action, error) {
	for _, i := range actions {
		if i.Uses&u != 0 && i.Name == text {
			return i.Action, nil
		}
	}
	return 0, errdefs.New(errdefs.InvalidArgument, "no action on "+u.String()+" has that name", errdefs.Resource("%q", text),
		errdefs.Fix("the actions are: %s", strings.Join(ActionNames(u), ", ")))
}
