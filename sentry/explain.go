package sentry

import (
	"cmp"
	"slices"
	"strings"
	"syscall"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
)

// Explanation is the answer to the question whether an agent may do something.
type Explanation struct {
	Allowed bool
	// Why is a sentence for people.
	Why string
	// Capability names what allows it, if anything has to: IDs, joined by
	// spaces.
	Capability string
	// Missing is the text of the grant to ask for; empty if there is none.
	Missing string
	// Errno is what a refused program sees.
	Errno syscall.Errno
}

// HeldCapability is a live capability of the agent that is asked about.
type HeldCapability struct {
	ID string
	abi.Held
}

// LookupFunc says what an agent that wants to do something with a file would
// get: an error or 0, why, and which capability the mount that it is on belongs
// to, none for the agent's own root.
type LookupFunc func(path string, want abi.Rights) (errno syscall.Errno, why, capability string)

// Explain says what would happen if an agent with that mask, which holds held,
// did what text says. It changes nothing, and asks the doors in the order in
// which the operation would meet them.
func Explain(text string, mask uint64, held []HeldCapability, lookup LookupFunc) (Explanation, error) {
	op, problem := abi.ParseOperation(text)
	if problem != "" {
		return Explanation{}, errdefs.New(errdefs.InvalidArgument, problem, errdefs.Op("explain"),
			errdefs.Resource("%.80q", text), errdefs.Fix("ask about one of: "+abi.OperationUsage))
	}
	e := explainer{op: op, held: held}
	for _, ask := range []func() (Explanation, bool){
		func() (Explanation, bool) { return e.gate(mask) },
		e.objects,
		func() (Explanation, bool) { return e.file(lookup) },
	} {
		if refused, ok := ask(); !ok {
			return refused, nil
		}
	}
	return e.allowed(), nil
}

// explainer gathers why an operation is allowed.
type explainer struct {
	op   abi.Operation
	held []HeldCapability
	why  []string
	ids  []string
}

// gate asks for the groups that the mask must have.
func (e *explainer) gate(mask uint64) (Explanation, bool) {
	plain := make([]abi.Held, len(e.held))
	for i, h := range e.held {
		plain[i] = h.Held
	}
	for _, info := range abi.Groups() {
		bit := info.Group.Bit()
		if e.op.Groups&bit == 0 || info.Free {
			continue
		}
		if info.Never {
			return e.refused(info.Errno, "", "no agent is given the system calls of group "+info.Name+" ("+info.Meaning+")"), false
		}
		needs := info.Needs.String()
		if mask&bit == 0 {
			return e.refused(info.Errno, needs, e.subject()+" needs "+needs+", which the agent does not hold"+e.exceptions()), false
		}
		if i, ok := info.Group.OpenedBy(plain); ok {
			e.because(needs, e.held[i].ID)
		}
	}
	return Explanation{}, true
}

// objects asks for capabilities to what lies behind the gate.
func (e *explainer) objects() (Explanation, bool) {
	for _, need := range e.op.Needs {
		h, ok := e.find(need)
		if !ok {
			return e.refused(e.refusalErrno(need), need.String(), e.subject()+" needs "+need.String()+", which the agent does not hold"), false
		}
		e.because(need.String(), h.ID)
	}
	return Explanation{}, true
}

// find returns a capability that covers need.
func (e *explainer) find(need abi.Held) (HeldCapability, bool) {
	object := capability.Object{Class: need.Class, Name: need.Object}
	for _, h := range e.held {
		if h.Rights.Has(need.Rights) && (capability.Object{Class: h.Class, Name: h.Object}).Contains(object) {
			return h, true
		}
	}
	return HeldCapability{}, false
}

// refusalErrno is what a program sees when it has no capability to an object.
func (e *explainer) refusalErrno(need abi.Held) syscall.Errno {
	switch need.Class {
	case abi.ClassRegion:
		for _, h := range e.held {
			if h.Class == need.Class && h.Object == need.Object {
				return syscall.EPERM
			}
		}
		return syscall.ENOENT // Who holds nothing of it is not told that it is there.
	case abi.ClassNet:
		return syscall.ENETUNREACH // The gate is open, the network has no way.
	case abi.ClassAgent:
		return syscall.EPERM
	}
	return syscall.EACCES
}

// file asks the agent's mounts.
func (e *explainer) file(lookup LookupFunc) (Explanation, bool) {
	if e.op.Path == "" {
		return Explanation{}, true
	}
	errno, why, id := lookup(e.op.Path, e.op.Want)
	if errno != 0 {
		need := abi.Held{Class: abi.ClassFS, Object: e.op.Path, Rights: e.op.Want}
		return e.refused(errno, need.String(), why), false
	}
	e.why = append(e.why, why)
	if id != "" {
		e.ids = append(e.ids, id)
	}
	return Explanation{}, true
}

// because notes that a capability gives what was needed.
func (e *explainer) because(needs, id string) {
	why := needs
	if id != "" {
		why += " from " + id
		for _, known := range e.ids {
			if known == id {
				id = ""
			}
		}
	}
	if id != "" {
		e.ids = append(e.ids, id)
	}
	if !slices.Contains(e.why, why) {
		e.why = append(e.why, why)
	}
}

// allowed is the answer when nobody objected.
func (e *explainer) allowed() Explanation {
	why := e.subject() + " needs no capability"
	if len(e.why) > 0 {
		why = "the agent has " + strings.Join(e.why, ", and ")
		if e.op.Path != "" && len(e.why) == 1 {
			why = e.why[0]
		}
	}
	return Explanation{Allowed: true, Why: why, Capability: strings.Join(e.ids, " ")}
}

func (e *explainer) refused(errno syscall.Errno, missing, why string) Explanation {
	return Explanation{Why: why, Missing: missing, Errno: errno}
}

// subject is what the sentences are about.
func (e *explainer) subject() string { return cmp.Or(e.op.Verb, e.op.Call.Name) }

// exceptions says when the call would be allowed all the same.
func (e *explainer) exceptions() string {
	if rule := e.op.Call.Rule.String(); rule != "" && e.op.Call.Rule != abi.RuleExec {
		return " (" + strings.ReplaceAll(rule, "`", "") + ")"
	}
	return ""
}
