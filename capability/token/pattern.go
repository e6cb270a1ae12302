package token

import (
	"slices"
	"strings"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
)

// The operations, each a group of methods of the API.
const (
	OpList    = "list"
	OpInspect = "inspect"
	OpSpawn   = "spawn"
	OpExec    = "exec"
	OpSignal  = "signal"
	OpPause   = "pause"
	OpWait    = "wait"
	OpAttach  = "attach"
	OpLogs    = "logs"
	OpEvents  = "events"
	OpDebug   = "debug"
	OpRemove  = "remove"
	OpGrant   = "grant"
	OpRevoke  = "revoke"
	OpAudit   = "audit"
	OpImage   = "image"
	OpDomain  = "domain"
	OpToken   = "token"
	OpDaemon  = "daemon"
)

// Op is what is known of an operation.
type Op struct {
	Name string
	// Agent says that the operation is done to an agent, so that the patterns
	// of a token count.
	Agent   bool
	Meaning string
}

var ops = []Op{
	{OpList, true, "see that an agent exists, its name and state"},
	{OpInspect, true, "see an agent's description, capabilities and account; explain a decision"},
	{OpSpawn, true, "start an agent, with no more than the token's grants"},
	{OpExec, true, "start a further program in an agent"},
	{OpSignal, true, "signal and kill an agent"},
	{OpPause, true, "pause and resume an agent, copy it, and say what it does"},
	{OpWait, true, "wait for an agent's end"},
	{OpAttach, true, "use an agent's standard streams and terminal"},
	{OpLogs, true, "read an agent's log"},
	{OpEvents, true, "see what an agent does, as events"},
	{OpDebug, true, "dump and debug an agent, whose memory that shows and changes; read and remove its dumps"},
	{OpRemove, true, "forget an agent that has ended"},
	{OpGrant, true, "give an agent more, no more than the token's grants; delegate, attenuate, seal, renew"},
	{OpRevoke, true, "take capabilities from an agent"},
	{OpAudit, false, "read and verify the audit trail, of all agents"},
	{OpImage, false, "list, import and remove images"},
	{OpDomain, false, "list and stop domains"},
	{OpToken, false, "see the daemon's key and what it trusts; check and revoke tokens"},
	{OpDaemon, false, "see what the host offers and recent errors; stop the daemon"},
}

// Ops returns every operation. The caller must not change what it is given.
func Ops() []Op { return ops }

// Agent is what a token's patterns are compared with.
type Agent struct {
	ID, Name string
	Labels   map[string]string
	// Tokens are the IDs of the token that it was spawned with, Authority.IDs;
	// nil when it was spawned without one. For a spawn, those of the token that
	// asks.
	Tokens []ID
}

// ParsePattern reads a pattern of agents and returns its canonical form:
//
//   - every agent
//     own            agents that were spawned with this token or one made from it
//     id:ID          one agent
//     name:GLOB      agents by name; * stands for any number of characters
//     label:KEY=GLOB agents by the value of a label
//
// A bare ID or name stands for id: or name:. IDs are never used again; names
// are, and whoever may spawn chooses name and labels.
func ParsePattern(text string) (string, error) {
	p := text
	if !strings.Contains(p, ":") && p != "*" && p != "own" {
		if abi.IsAgentID(p) {
			p = "id:" + p
		} else {
			p = "name:" + p
		}
	}
	if !validPattern(p) {
		return "", errdefs.New(errdefs.InvalidArgument, "not a pattern of agents", errdefs.Resource("%.80q", text),
			errdefs.Fix("write *, own, id:ID, name:GLOB or label:KEY=GLOB"))
	}
	return p, nil
}

func validPattern(p string) bool {
	if p == "*" || p == "own" {
		return true
	}
	kind, rest, _ := strings.Cut(p, ":")
	switch kind {
	case "id":
		return abi.IsAgentID(rest)
	case "name":
		return word(rest, abi.MaxNameLen, "._-*")
	case "label":
		key, glob, ok := strings.Cut(rest, "=")
		return ok && word(key, abi.MaxNameLen, "._/-") && printable(glob, 128) && len(p) <= maxPattern
	}
	return false
}

// matches reports whether a pattern of the block with ID block chooses a.
func (a *Agent) matches(pattern string, block ID) bool {
	switch pattern {
	case "*":
		return true
	case "own":
		return slices.Contains(a.Tokens, block)
	}
	kind, rest, _ := strings.Cut(pattern, ":")
	switch kind {
	case "id":
		return a.ID == rest
	case "name":
		return a.Name != "" && glob(rest, a.Name)
	case "label":
		key, pattern, _ := strings.Cut(rest, "=")
		value, ok := a.Labels[key]
		return ok && glob(pattern, value)
	}
	return false
}

// glob reports whether s is of the form pattern, in which * stands for any
// number of characters. It takes time in proportion to the product of the
// lengths at most.
func glob(pattern, s string) bool {
	star, mark := -1, 0
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
