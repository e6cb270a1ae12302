package control

import "aios.dev/aios/account"

// Methods by which the daemon watches agents and acts on alerts.
const (
	MethodAccounts = "accounts" // AccountsReply
	MethodCeiling  = "ceiling"  // CeilingRequest
)

// AccountsReply has what each agent that runs uses, by ID.
type AccountsReply struct {
	Agents map[string]account.Snapshot `json:"agents"`
}

// CeilingRequest keeps an agent from using more CPU than so many thousandths,
// whatever it was granted: until it is lifted, with nil. Each name has a ceiling
// of its own, and the lowest counts.
type CeilingRequest struct {
	ID       string  `json:"id"`
	Name     string  `json:"name"`
	MilliCPU *uint64 `json:"milli_cpu,omitempty"`
}
