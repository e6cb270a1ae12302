package sentry

import (
	"strings"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
)

// What goes to the audit trail goes to the bus as well: the trail is what
// happened, for ever and beyond doubt; the bus is who may want to know now.

var trailTypes = map[string]event.Type{
	capability.OpMint: event.CapabilityGrant, capability.OpDelegate: event.CapabilityDelegate,
	capability.OpAttenuate: event.CapabilityAttenuate, capability.OpAmend: event.CapabilityAttenuate, capability.OpSeal: event.CapabilitySeal,
	capability.OpRenew: event.CapabilityRenew, capability.OpRevoke: event.CapabilityRevoke,
	capability.OpExpire: event.CapabilityExpire,
}

// tell publishes a record of the derivation tree. What an agent is made of
// when it comes and loses when it goes is in agent.spawn and agent.exit.
func (l *trail) tell(r capability.Record) {
	typ, ok := trailTypes[r.Op]
	if !ok || !l.s.events.Enabled(typ) {
		return
	}
	a := l.s.findAgent(r.Agent)
	if a != nil && a.gathers() && (r.Op == capability.OpMint || r.Op == capability.OpRevoke) && a.isMadeOf(r.Spec) {
		return
	}
	e := event.Event{Type: typ, Agent: r.Agent, Correlation: r.Correlation, Payload: &eventv1.Capability{
		Id: string(r.Cap), Parent: string(r.Parent), Grant: event.Text(r.Spec), Holder: r.Target, By: r.Actor, Reason: event.Text(r.Reason), Count: r.Count,
	}}
	l.s.publish(e)
}

// tellDenied publishes a refusal, and beside it a violation if no grant could
// have allowed what was tried, or the agent's own profile forbids it.
func (l *trail) tellDenied(d Denial) {
	// The agent may be gone by now.
	emit := func(t event.Type, p event.Payload) {
		l.s.publish(event.Event{Type: t, Agent: d.Agent, Payload: p})
	}
	errno := ""
	if d.Errno != 0 {
		errno = abi.ErrnoName(d.Errno)
	}
	emit(event.CapabilityDeny, &eventv1.CapabilityDeny{
		Operation: d.Operation, Object: event.Text(d.Object), Capability: d.Capability, Errno: errno, Reason: event.Text(d.Why), Count: d.Count,
	})
	profile := strings.HasPrefix(d.Object, seccompObject)
	class, _, _ := strings.Cut(d.Capability, ":")
	switch {
	case profile && strings.HasSuffix(d.Object, "SCMP_ACT_LOG"): // It went through.
	case profile:
		emit(event.SecurityViolation, &eventv1.SecurityViolation{
			Kind: "seccomp", Syscall: d.Operation, Detail: event.Text(d.Object), Errno: errno, Action: "deny", Count: d.Count,
		})
	case d.Never:
		emit(event.SecurityViolation, &eventv1.SecurityViolation{
			Kind: "capability", Syscall: d.Operation, Detail: event.Text(d.Object), Errno: errno, Action: "deny", Count: d.Count,
		})
	case class == "net":
		emit(event.NetRefused, &eventv1.NetRefused{Protocol: event.Text(d.Object), By: "capability", Errno: errno, Capability: d.Capability})
	}
}
