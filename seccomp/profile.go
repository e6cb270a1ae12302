// Package seccomp reads the seccomp profiles that agents are given and makes
// programs of them.
//
// A profile says which system calls an agent's programs may make, with which
// arguments, and what becomes of the others. It is written as the OCI runtime
// specification has it (linux.seccomp), or in the dialect of Docker, whose
// rules may depend on capabilities, architectures and the kernel's version.
// Parse takes either, bounds everything in it, and refuses what it does not
// know by name and place: a rule that was left out for a slip of the pen would
// be worse than none.
//
// What is not there: notification of a supervisor (SCMP_ACT_NOTIFY,
// listenerPath), because no supervisor of the host sees into an agent; and
// calls of other architectures than x86-64, which agents cannot make: rules for
// them change nothing. Names that this kernel does not know are remembered
// (Unknown) and otherwise ignored, as runc does: the kernel refuses those calls
// anyway.
//
// Key types: Profile, and Rule in it; Action is what becomes of a call, and
// Verdict an action with its errno. Of several rules that match a call the first
// in the file counts.
//
// This has nothing to do with the host's seccomp filters around a kernel
// process, which are in host/box/filter. The package is pure: it must import
// neither gVisor nor anything that does. Profiles are immutable.
package seccomp

import (
	"sync"

	"aios.dev/aios/abi"
)

// Action is what becomes of a call.
type Action uint8

// The actions, of which a Verdict is one.
const (
	Allow       Action = iota // it is made
	Log                       // it is made, and recorded
	Errno                     // it fails with an errno, or seems to succeed with 0
	Trace                     // a tracer decides; without one it fails with ENOSYS
	Trap                      // the thread gets a SIGSYS
	KillThread                // the thread ends
	KillProcess               // the process ends
)

// String returns the name of the action in a profile.
func (a Action) String() string {
	for name, known := range actions {
		if known == a && name != "SCMP_ACT_KILL" {
			return name
		}
	}
	return "?"
}

var actions = map[string]Action{
	"SCMP_ACT_ALLOW":        Allow,
	"SCMP_ACT_LOG":          Log,
	"SCMP_ACT_ERRNO":        Errno,
	"SCMP_ACT_TRACE":        Trace,
	"SCMP_ACT_TRAP":         Trap,
	"SCMP_ACT_KILL":         KillThread,
	"SCMP_ACT_KILL_THREAD":  KillThread,
	"SCMP_ACT_KILL_PROCESS": KillProcess,
}

// Verdict is what becomes of a call, in full.
type Verdict struct {
	Action Action
	// Data is the errno of Errno, and what a tracer is told by Trace.
	Data uint16
}

// Op is how a condition compares an argument with a value, unsigned and in 64
// bits.
type Op uint8

// The comparisons.
const (
	Equal        Op = iota // argument == Value
	NotEqual               // argument != Value
	Less                   // argument < Value
	LessEqual              // argument <= Value
	Greater                // argument > Value
	GreaterEqual           // argument >= Value
	MaskedEqual            // argument & Mask == Value
)

var ops = map[string]Op{
	"SCMP_CMP_EQ":        Equal,
	"SCMP_CMP_NE":        NotEqual,
	"SCMP_CMP_LT":        Less,
	"SCMP_CMP_LE":        LessEqual,
	"SCMP_CMP_GT":        Greater,
	"SCMP_CMP_GE":        GreaterEqual,
	"SCMP_CMP_MASKED_EQ": MaskedEqual,
}

// Condition is about one argument.
type Condition struct {
	Arg         uint8 // 0 to 5
	Op          Op
	Value, Mask uint64
}

// Holds reports whether an argument fulfils the condition.
func (c Condition) Holds(arg uint64) bool {
	switch c.Op {
	case Equal:
		return arg == c.Value
	case NotEqual:
		return arg != c.Value
	case Less:
		return arg < c.Value
	case LessEqual:
		return arg <= c.Value
	case Greater:
		return arg > c.Value
	case GreaterEqual:
		return arg >= c.Value
	case MaskedEqual:
		return arg&c.Mask == c.Value
	}
	return false
}

// Rule is what becomes of one call under conditions, all of which must hold.
type Rule struct {
	Conditions []Condition
	Verdict    Verdict
}

func (r Rule) matches(args [6]uint64) bool {
	for _, c := range r.Conditions {
		if !c.Holds(args[c.Arg]) {
			return false
		}
	}
	return true
}

// Profile is a profile that was read.
type Profile struct {
	fallback Verdict
	rules    map[uint32][]Rule // by number, in the order of the file
	unknown  []string
}

// Default returns what becomes of a call that no rule is about.
func (p *Profile) Default() Verdict { return p.fallback }

// Unknown returns the names of calls in the profile that this kernel does not
// know, once each. Some name calls of other architectures; others may be
// misspelt.
func (p *Profile) Unknown() []string { return p.unknown }

// Verdict returns what becomes of a call.
func (p *Profile) Verdict(call uint32, args [6]uint64) Verdict {
	for _, r := range p.rules[call] {
		if r.matches(args) {
			return r.Verdict
		}
	}
	return p.fallback
}

// Always returns what becomes of a call if that does not depend on its
// arguments.
func (p *Profile) Always(call uint32) (v Verdict, ok bool) {
	rules := p.rules[call]
	if len(rules) == 0 {
		return p.fallback, true
	}
	return rules[0].Verdict, len(rules[0].Conditions) == 0
}

// add appends a rule, unless those before it leave it nothing to match.
func (p *Profile) add(call uint32, r Rule) {
	rules := p.rules[call]
	if n := len(rules); n > 0 && len(rules[n-1].Conditions) == 0 {
		return
	}
	p.rules[call] = append(rules, r)
}

// numbers are the calls by name.
var numbers = sync.OnceValue(func() map[string]uint32 {
	m := make(map[string]uint32)
	for _, call := range abi.Syscalls() {
		m[call.Name] = uint32(call.Nr)
	}
	return m
})
