package ctlfs

import (
	"time"

	"gvisor.dev/gvisor/pkg/context"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/event"
	"aios.dev/aios/fabric"
	"aios.dev/aios/sentry/ctlfs/command"
)

// Authority is the kernel, as an agent may ask it. Calls may come from any
// task at once.
//
// The ctx of a call is that of the task that makes it, on its own goroutine;
// a call that waits for another process should be marked as an uninterruptible
// sleep there. An error with a code of errdefs reaches the program as the
// errno of that code.
type Authority interface {
	// Space is where the capabilities are.
	Space() *capability.Space
	// Holder returns the agent that the calling task belongs to; ok is false
	// if it is no agent's.
	Holder(ctx context.Context) (agent string, ok bool)
	// Actor names agent for the audit trail, with a correlation of its own for
	// every call. It is not privileged.
	Actor(agent string) capability.Actor
	// Self returns the name of agent and of its domain.
	Self(agent string) (name, domain string)

	// Delegate derives from c, which by holds, for an agent in this domain or
	// another.
	Delegate(ctx context.Context, by capability.Actor, c *capability.Capability, to string, change capability.Change, move bool) (*capability.Capability, error)
	// Attenuate narrows c, which by holds, in place.
	Attenuate(by capability.Actor, c *capability.Capability, change capability.Change) (*capability.Capability, error)
	// Renew extends the lease of c, which by holds or gave.
	Renew(ctx context.Context, by capability.Actor, c *capability.Capability, lease time.Duration) error
	// Revoke ends c and what was derived from it, in every domain, or with
	// childrenOnly all of that but c. It returns how many died.
	Revoke(ctx context.Context, by capability.Actor, c *capability.Capability, childrenOnly bool) (int, error)
	// Act does to another agent what c, of class agent, allows.
	Act(ctx context.Context, by capability.Actor, c *capability.Capability, do Action) (string, error)

	// Watch begins to listen for agent to what it may see of what want asks
	// for. ready is called when there may be something to read, with locks of
	// the bus held: it must neither block nor call the Watch.
	Watch(agent string, want *command.Watch, ready func()) (Watch, error)

	// Regions lists the regions that agent holds a capability to; OpenRegion
	// returns one of them, by a capability with these rights; Fabric carries out a
	// command about one, and returns the answer.
	Regions(agent string) []*fabric.Region
	OpenRegion(agent, name string, want abi.Rights) (*fabric.View, error)
	Fabric(ctx context.Context, by capability.Actor, req *control.FabricRequest) (control.FabricReply, error)

	// Memory returns semantic memory for one connection of agent.
	Memory(agent string) Memory

	// Explain says whether agent may do op, which is text from a program, and
	// why. It answers on one or more lines.
	Explain(ctx context.Context, agent, op string) (allowed bool, why string, err error)
	// Stats returns the account of agent as a JSON object.
	Stats(agent string) ([]byte, error)
	// Watchdog tells how agent's watchdog stands; SetWatchdog feeds, arms or
	// disarms it.
	Watchdog(agent string) (Watchdog, error)
	SetWatchdog(agent string, o WatchdogOrder) error
	// Hint tells what agent says of what it does, SetHint has it say something
	// else.
	Hint(agent string) (string, error)
	SetHint(agent, hint string) error
	// Past tells what agent is a copy of. Ready says that its program is warm, and
	// reports whether it may go on: one that becomes a template may not.
	// WantSignal says whether the process of the calling task wants SIGAIOSCLONE.
	Past(agent string) (Past, error)
	Ready(agent string) bool
	WantSignal(ctx context.Context, agent string, want bool) error
	// Denied reports a refusal to log and audit trail. This package reports
	// every one of a call through its doors; the methods above do not.
	Denied(agent, op, object string, why error)
}

// Watch is what an open /aios/events listens to. Any goroutine may call it.
type Watch interface {
	// Change puts another wish in the place of the one before; what waited of
	// that is gone.
	Change(want *command.Watch) error
	// Read takes events that wait, as event.Subscription.Read does.
	Read(events []event.Event) (int, error)
	// Missed is how many events are missing behind the last that was read, if
	// nothing waits; dropped says that the bus has dropped some, perhaps of
	// these. Both are told once.
	Missed() (n uint64, dropped bool)
	// Gap makes an event that says that n events are missing; 0 if nobody knows
	// how many.
	Gap(where string, n uint64) event.Event
	// Name returns the name of an agent, "" if it has none.
	Name(agent string) string
	// Err is why the authority to listen has ended, or nil. From then on nothing
	// is read.
	Err() error
	Close()
}

// Verbs of an Action.
const (
	ActSignal  = "signal"
	ActPause   = "pause"
	ActResume  = "resume"
	ActInspect = "inspect"
)

// Action is what an agent wants done to another.
type Action struct {
	Verb string // one of the above
	// Agent is the ID or name of the other one, which the capability covers;
	// empty for the object of the capability.
	Agent string
	// Signal is the number of the signal.
	Signal int
}
