package audit

import "aios.dev/aios/capability"

// FromRecord is the entry for what a derivation tree did in a domain.
func FromRecord(domain string, r capability.Record) Entry {
	return Entry{
		Op: r.Op, Domain: domain, Actor: r.Actor, Agent: r.Agent, Target: r.Target,
		Cap: string(r.Cap), Parent: string(r.Parent), Spec: r.Spec,
		Reason: r.Reason, Count: r.Count, Correlation: r.Correlation,
	}
}
