package lifecycle

import (
	"fmt"
	"slices"
	"strings"

	"aios.dev/aios/errdefs"
)

// Op is an operation of an agent's life.
type Op string

// The operations. The table says what each is.
const (
	Spawn  Op = "spawn"
	Exec   Op = "exec"
	Pause  Op = "pause"
	Resume Op = "resume"
	// Hibernate takes the memory of an agent that waits on; a domain that is saved
	// and ends is a Checkpoint of its agents.
	Hibernate Op = "hibernate"

	Clone Op = "clone"
	Merge Op = "merge"
	// Specialize is a clone whose copy has less authority.
	Specialize Op = "specialize"
	// Split is a clone of some processes, which end in the original.
	Split Op = "split"
	// Upgrade has a program of another image run in the agent's place.
	Upgrade Op = "upgrade"

	Checkpoint Op = "checkpoint"
	Restore    Op = "restore"

	Kill Op = "kill"
	Exit Op = "exit"
)

// OpInfo describes an operation.
type OpInfo struct {
	Op Op
	// Refusable says that hooks are asked before; else they are told only.
	Refusable bool
	// Doc says what happens to an agent: "is started".
	Doc string
}

// ops has one row for each operation. To add one is to add a row, and to Begin
// it where it is done.
var ops = []OpInfo{
	{Spawn, true, "is started, or started again"},
	{Exec, true, "gets a further program, by `aiosctl exec`"},
	{Pause, true, "is stopped, with every task of it"},
	{Resume, true, "goes on"},
	{Hibernate, true, "is idle, and its memory is swapped out by `aiosctl hibernate`; not by its own swap near its limit"},
	{Clone, true, "is copied while it runs; the copies are not asked about on their own"},
	{Merge, true, "is a copy that is folded back into its original, and ends; it is not asked about that end on its own"},
	{Specialize, true, "is copied while it runs; the copy has less authority, for good, and is not asked about on its own"},
	{Split, true, "has some of its processes become an agent of their own, which is not asked about on its own"},
	{Upgrade, true, "gets another image and program, and keeps what else it is and has; or is what it was, if that program is not well"},
	{Checkpoint, true, "is saved with its domain, or is to be: by `aiosctl domain checkpoint`, and by `domain hibernate`, after which it is no more until it is restored"},
	{Restore, true, "goes on where a checkpoint of its domain was made"},
	{Kill, true, "is to end: a KILL or TERM from outside, or AIOS itself ends it"},
	{Exit, false, "has ended, for whatever reason"},
}

// Ops returns every operation. The caller must not change what it is given.
func Ops() []OpInfo { return ops }

func infoOf(op Op) (OpInfo, bool) {
	i := slices.IndexFunc(ops, func(o OpInfo) bool { return o.Op == op })
	if i < 0 {
		return OpInfo{}, false
	}
	return ops[i], true
}

// ParseOp finds an operation by its name.
func ParseOp(name string) (Op, error) {
	if o, ok := infoOf(Op(name)); ok {
		return o.Op, nil
	}
	var names []string
	for _, o := range ops {
		names = append(names, string(o.Op))
	}
	return "", errdefs.New(errdefs.InvalidArgument, fmt.Sprintf("%.40q is no operation", name),
		errdefs.Fix("write some of %s", strings.Join(names, ", ")))
}

// Agent is whom an operation is done to.
type Agent struct {
	ID      string            `json:"id"`
	Name    string            `json:"name,omitempty"`
	Domain  string            `json:"domain"`
	Image   string            `json:"image"`
	Program []string          `json:"program"`
	Grants  []string          `json:"grants"`
	Profile string            `json:"profile,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
}

// Label is how messages name the agent.
func (a *Agent) Label() string {
	if a.Name != "" {
		return a.Name
	}
	return a.ID
}

// Caller is on whose behalf an operation is done.
type Caller struct {
	// Name is as the audit trail has it: "uid:1000", "daemon", "kernel" …
	Name string `json:"name"`
	// UID is that of the user, if it is known who asks.
	UID *uint32 `json:"uid,omitempty"`
}

// End is how an agent ended.
type End struct {
	Code   int32  `json:"code"`
	Signal int32  `json:"signal,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Operation is one operation on one agent. Nobody changes it once it has begun.
type Operation struct {
	Op    Op    `json:"operation"`
	Agent Agent `json:"agent"`
	// Again says that a spawn is that of an agent that had ended.
	Again bool `json:"again,omitempty"`
	// Program is what an exec or an upgrade starts.
	Program []string `json:"program,omitempty"`
	// Copies are the names of what a clone makes, or IDs where it has none.
	Copies []string `json:"copies,omitempty"`
	// Image is what an upgrade gives the agent.
	Image string `json:"image,omitempty"`
	// Into is the name of what a merge folds a copy into, or its ID.
	Into string `json:"into,omitempty"`
	// Signal is what a kill sends.
	Signal int32 `json:"signal,omitempty"`
	// Reason is why AIOS does it.
	Reason string `json:"reason,omitempty"`
	// End is how it ended, of an exit.
	End *End `json:"exit,omitempty"`
	// Settled says that no hook can refuse it.
	Settled     bool   `json:"settled,omitempty"`
	Caller      Caller `json:"caller"`
	Correlation string `json:"correlation,omitempty"`
}

// Phase is when a hook is called.
type Phase string

// The phases.
const (
	Before  Phase = "before"  // it is about to be done, unless the hook refuses
	After   Phase = "after"   // it was done, or failed
	Aborted Phase = "aborted" // the hook had agreed, and it is not done
)
