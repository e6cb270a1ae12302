package sentry

import (
	"slices"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/netstack"
)

// An agent is specialised: it is copied, and the copy has less authority, for good.
// What every agent is made of is divided as for any copy; of the rest the copy has
// what is named. Then nothing can be given to it any more, by nobody: its table is
// closed, and so are those of its own copies.

// narrowing is what copies are to have of their original's authority. Nil: their
// part of all.
type narrowing struct {
	keep []capability.Spec
	used []bool // of the copy that is being made
	cpu  *capability.Spec
	// cpuUsed says that it is within something that the original has.
	cpuUsed bool
}

func newNarrowing(req *control.Specialize) (*narrowing, error) {
	if req == nil {
		return nil, nil
	}
	n := &narrowing{used: make([]bool, len(req.Keep))}
	for _, text := range req.Keep {
		spec, err := capability.ParseSpec(text)
		if err != nil {
			return nil, err
		}
		n.keep = append(n.keep, spec)
	}
	if req.CPU != "" {
		spec, err := capability.ParseSpec(req.CPU)
		if err != nil {
			return nil, err
		}
		if spec.Object.Class != abi.ClassCPU {
			return nil, errdefs.New(errdefs.InvalidArgument, "it is no grant of CPU time", errdefs.Op("specialize"), errdefs.Resource("%s", req.CPU))
		}
		n.cpu = &spec
	}
	return n, nil
}

// made are the classes of what every agent is made of.
var made = []abi.Class{abi.ClassMem, abi.ClassProc, abi.ClassCPU, abi.ClassIO}

// changes returns what a copy gets of a capability, of which its part has these
// limits.
func (n *narrowing) changes(old *capability.Spec, limits *capability.Limits) (all []capability.Change) {
	whole := capability.Change{Limits: limits}
	if n == nil {
		return []capability.Change{whole}
	}
	for i := range n.keep {
		k := &n.keep[i]
		if n.used[i] || !old.Object.Contains(k.Object) || k.Rights&^old.Rights != 0 {
			continue
		}
		n.used[i] = true
		ch := narrowed(k, old, limits)
		if k.At != "" {
			ch.At = &k.At
		}
		if k.Lease > 0 {
			ch.Lease = &k.Lease
		}
		all = append(all, ch)
	}
	switch {
	case len(all) > 0 || !slices.Contains(made, old.Object.Class):
		return all
	case old.Object.Class == abi.ClassCPU && n.cpu != nil && old.Object.Contains(n.cpu.Object):
		n.cpuUsed = true
		return []capability.Change{narrowed(n.cpu, old, limits)}
	}
	return []capability.Change{whole}
}

// narrowed is the change by which a capability comes to say what k does, and in whose
// part of the limits k says nothing of.
func narrowed(k, old *capability.Spec, limits *capability.Limits) capability.Change {
	ch := capability.Change{Object: &k.Object.Name, Rights: &k.Rights}
	sum := old.Limits
	if limits != nil {
		sum = *limits
	}
	for kind := capability.KindBytes; kind <= capability.KindLast; kind++ {
		if v := k.Limits.Get(kind); v != 0 {
			sum.Set(kind, v)
		}
	}
	if sum != (capability.Limits{}) {
		ch.Limits = &sum
	}
	return ch
}

// complete refuses if there is something that nothing of the original covers, and is
// ready for another copy.
func (n *narrowing) complete() error {
	if n == nil {
		return nil
	}
	var missing *capability.Spec
	if i := slices.Index(n.used, false); i >= 0 {
		missing = &n.keep[i]
	} else if n.cpu != nil && !n.cpuUsed {
		missing = n.cpu
	}
	clear(n.used)
	n.cpuUsed = false
	if missing == nil {
		return nil
	}
	return errdefs.New(errdefs.RightsExceed, "the agent has nothing that covers it, or that may be handed on", errdefs.Op("specialize"),
		errdefs.Resource("%s", missing.String()), errdefs.Fix("see what it has: aiosctl cap ls"))
}

// cutNarrowed ends the sockets of a copy that may do less on the network than its
// original, as those of an agent are ended from which that is taken.
func (c *copying) cutNarrowed() {
	if c.f.only == nil {
		return
	}
	may := func(a *Agent) abi.Rights {
		a.authMu.Lock()
		defer a.authMu.Unlock()
		return a.netRights
	}
	if may(c.src)&^may(c.dst) != 0 {
		netstack.Cut(c.dst.network())
	}
}

// tellSpecialize tells the bus that a copy with less authority was made.
func (a *Agent) tellSpecialize(dst *Agent, req control.CloneRequest, tasks int, pause time.Duration) {
	p := &eventv1.AgentSpecialize{Copy: dst.id, Name: dst.name, Tasks: uint32(tasks), PauseNanos: int64(pause), Cpu: event.Text(req.Only.CPU)}
	for _, k := range req.Only.Keep {
		p.Kept = append(p.Kept, event.Text(k))
	}
	a.s.emitFor(a, event.AgentSpecialize, p, req.Actor.Correlation)
}
