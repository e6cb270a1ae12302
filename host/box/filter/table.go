package filter

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"aios.dev/aios/host/box"
)

// Op is how a guard compares an argument.
type Op uint8

// The comparisons, of all 64 bits and unsigned.
const (
	Equal    Op = iota // argument == Value
	NotEqual           // argument != Value
	Masked             // argument & Mask == Value
	Greater            // argument > Value
)

// Guard is a condition on one argument of a call.
type Guard struct {
	Arg         uint8 // 0 to 5
	Op          Op
	Mask, Value uint64
}

// Holds reports whether an argument fulfils the condition.
func (g Guard) Holds(arg uint64) bool {
	switch g.Op {
	case Equal:
		return arg == g.Value
	case NotEqual:
		return arg != g.Value
	case Masked:
		return arg&g.Mask == g.Value
	case Greater:
		return arg > g.Value
	}
	return false
}

// within reports whether what fulfils g fulfils o.
func (g Guard) within(o Guard) bool {
	return g == o || g.Arg == o.Arg && g.Op == Equal && o.Holds(g.Value)
}

// Rule lets a call through whose arguments fulfil every guard. A guard says all
// that a rule says about its argument: libseccomp takes one per argument.
type Rule struct {
	Call   uint32 // the number on x86-64
	Guards []Guard
	// Skip makes the call succeed and do nothing.
	Skip bool
}

// Matches reports whether the rule is about the call.
func (r Rule) Matches(call uint32, args [6]uint64) bool {
	if r.Call != call {
		return false
	}
	for _, g := range r.Guards {
		if !g.Holds(args[g.Arg]) {
			return false
		}
	}
	return true
}

// within reports whether o does for every call what r does.
func (r Rule) within(o Rule) bool {
	if r.Call != o.Call || r.Skip != o.Skip {
		return false
	}
	for _, og := range o.Guards {
		if !slices.ContainsFunc(r.Guards, func(g Guard) bool { return g.within(og) }) {
			return false
		}
	}
	return true
}

// Table is the rules of one program. Rules of one call are alternatives, and
// no call matches both one that skips and one that does not. What no rule
// matches kills the process, and so does every call of another architecture.
type Table []Rule

// Answer is what becomes of a call.
type Answer uint8

// The answers.
const (
	Kill Answer = iota
	Skip
	Allow
)

// Answer looks a call up.
func (t Table) Answer(call uint32, args [6]uint64) Answer {
	for _, r := range t {
		if r.Matches(call, args) {
			if r.Skip {
				return Skip
			}
			return Allow
		}
	}
	return Kill
}

// Digest identifies the table: the key of the program that is made from it.
func (t Table) Digest() [sha256.Size]byte {
	var b strings.Builder
	for _, r := range t {
		fmt.Fprintf(&b, "%d %v %+v\n", r.Call, r.Skip, r.Guards)
	}
	return sha256.Sum256([]byte(b.String()))
}

// always lets calls through whatever their arguments are.
func always(calls ...uint32) Table {
	t := make(Table, len(calls))
	for i, c := range calls {
		t[i] = Rule{Call: c}
	}
	return t
}

// on lets one call through under conditions.
func on(call uint32, guards ...Guard) Table { return Table{{Call: call, Guards: guards}} }

// each lets one call through for any of the values of one argument, under
// further conditions.
func each(call uint32, arg uint8, values []uint64, guards ...Guard) Table {
	var t Table
	for _, v := range values {
		t = append(t, Rule{Call: call, Guards: append([]Guard{is(arg, v)}, guards...)})
	}
	return t
}

func is(arg uint8, v uint64) Guard { return Guard{Arg: arg, Op: Equal, Value: v} }

// none wants all of these bits to be zero, has wants them set.
func none(arg uint8, bits uint64) Guard { return Guard{Arg: arg, Op: Masked, Mask: bits} }
func has(arg uint8, bits uint64) Guard {
	return Guard{Arg: arg, Op: Masked, Mask: bits, Value: bits}
}

// fd wants a descriptor: no AT_FDCWD, nothing negative.
func fd(arg uint8) Guard { return none(arg, 0xffffffff80000000) }

// self wants the process's own PID.
func self(arg uint8) Guard { return is(arg, box.PIDPlaceholder) }

// noExec wants a mapping that is not executable. It is part of every rule of
// mmap and mprotect, so that no process can make itself new code.
func noExec(arg uint8) Guard { return none(arg, unix.PROT_EXEC) }
