package control

import (
	"time"

	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/fabric/semantic"
)

// Methods by which the daemon exercises authority in a kernel process.
const (
	MethodCapGrant     = "cap.grant"
	MethodCapList      = "cap.list"
	MethodCapDelegate  = "cap.delegate"
	MethodCapExport    = "cap.export"
	MethodCapAttenuate = "cap.attenuate"
	MethodCapSeal      = "cap.seal"
	MethodCapRenew     = "cap.renew"
	MethodCapRevoke    = "cap.revoke"
	MethodCapExplain   = "cap.explain"
	MethodAnswer       = "answer"
	MethodAuditPull    = "audit.pull"
	MethodAuditAck     = "audit.ack"
	MethodAccount      = "account"
	MethodPromised     = "promised"
)

// Grant is authority that an agent is given. Key is the file system that a
// grant of files opens, which MethodMount has made known.
type Grant struct {
	Spec string `json:"spec"`
	Key  string `json:"key,omitempty"`
}

// Actor is who asks, and the request it belongs to.
type Actor struct {
	Name        string `json:"name"`
	Correlation string `json:"correlation,omitempty"`
}

// GrantRequest mints capabilities in a running agent: all or none. With
// Origin they stand for a capability of another domain.
type GrantRequest struct {
	ID     string        `json:"id"`
	Grants []Grant       `json:"grants"`
	Origin capability.ID `json:"origin,omitempty"`
	Actor  Actor         `json:"actor"`
}

// Cap describes a capability.
type Cap struct {
	ID       capability.ID     `json:"id"`
	Handle   capability.Handle `json:"handle,omitempty"` // 0: in no table here
	Agent    string            `json:"agent,omitempty"`
	Spec     string            `json:"spec"`
	Parent   capability.ID     `json:"parent,omitempty"`
	Origin   capability.ID     `json:"origin,omitempty"` // its original in another domain
	Remote   string            `json:"remote,omitempty"` // where its image is: DOMAIN/AGENT
	Badge    uint64            `json:"badge,omitempty"`
	Sealed   bool              `json:"sealed,omitempty"`
	Lease    time.Duration     `json:"lease,omitempty"` // that is left
	Children int               `json:"children,omitempty"`
	// Rest is what is left of its limits, in words.
	Rest string `json:"rest,omitempty"`
	// Key is the file system of a grant of files.
	Key string `json:"key,omitempty"`
}

// CapsReply holds capabilities, parents before children.
type CapsReply struct {
	Caps []Cap `json:"caps"`
}

// CapListRequest asks for the capabilities of an agent, of one capability, or
// with neither for all of the domain.
type CapListRequest struct {
	ID  string        `json:"id,omitempty"`
	Cap capability.ID `json:"cap,omitempty"`
}

// CapRequest names a capability and what is to become of it: delegate,
// export, attenuate, seal, renew.
type CapRequest struct {
	Cap capability.ID `json:"cap"`
	// To is the agent that a delegation goes to; for an export DOMAIN/AGENT.
	To     string            `json:"to,omitempty"`
	Change capability.Change `json:"change"`
	Move   bool              `json:"move,omitempty"`
	Lease  time.Duration     `json:"lease,omitempty"`
	Actor  Actor             `json:"actor"`
}

// RevokeRequest takes back a capability and what was derived from it, or with
// KeepSelf only the latter; or everything that an agent holds.
type RevokeRequest struct {
	Cap      capability.ID `json:"cap,omitempty"`
	Agent    string        `json:"agent,omitempty"`
	KeepSelf bool          `json:"keep_self,omitempty"`
	// Origin takes back the images of a capability of another domain.
	Origin capability.ID `json:"origin,omitempty"`
	Reason string        `json:"reason,omitempty"`
	Actor  Actor         `json:"actor"`
}

// RevokeReply says what died. Exports live on in other domains until the
// daemon has revoked them there.
type RevokeReply struct {
	Count   int      `json:"count"`
	Agents  []string `json:"agents,omitempty"`
	Exports []Export `json:"exports,omitempty"`
}

// Export is a capability whose image is in another domain.
type Export struct {
	Origin capability.ID `json:"origin"`
	Remote string        `json:"remote"` // DOMAIN/AGENT
}

// ExplainRequest asks what would happen if the agent did something.
type ExplainRequest struct {
	ID string `json:"id"`
	Op string `json:"op"`
}

// ExplainReply is the answer.
type ExplainReply struct {
	Allowed    bool   `json:"allowed"`
	Why        string `json:"why"`
	Capability string `json:"capability,omitempty"` // that allows it
	Missing    string `json:"missing,omitempty"`    // what to ask for
	Errno      string `json:"errno,omitempty"`
}

// EventAsk is the event that the kernel process needs the daemon's help with
// something that reaches beyond the domain; its body is an Ask, and the daemon
// replies with MethodAnswer.
const EventAsk = "ask"

// Kinds of Ask.
const (
	AskDelegate = "delegate" // to an agent that is not in this domain
	AskRevoke   = "revoke"   // images in other domains
	AskEnded    = "ended"    // images here, whose originals have no use any more
	AskMemory   = "memory"   // of semantic memory
	AskSwapFile = "swap"     // a file, which comes with MethodSwapFile
)

// Ask is a question to the daemon.
type Ask struct {
	Seq  uint64 `json:"seq"`
	Kind string `json:"kind"`
	// Agent asks.
	Agent   string      `json:"agent"`
	Cap     *CapRequest `json:"cap,omitempty"`
	Exports []Export    `json:"exports,omitempty"`
	Actor   Actor       `json:"actor"`
	// Memory is the question to semantic memory.
	Memory *semantic.Request `json:"memory,omitempty"`
}

// Answer is the daemon's reply.
type Answer struct {
	Seq uint64 `json:"seq"`
	Cap *Cap   `json:"cap,omitempty"` // what a delegation made
	// Memory is what semantic memory answered.
	Memory *semantic.Reply `json:"memory,omitempty"`
	Err    *wireError      `json:"error,omitempty"`
}

// NewAnswer returns the reply to the Ask numbered seq.
func NewAnswer(seq uint64, c *Cap, err error) Answer {
	return Answer{Seq: seq, Cap: c, Err: toWire(err)}
}

// Error returns the daemon's refusal, or nil.
func (a Answer) Error() error {
	if a.Err == nil {
		return nil
	}
	return a.Err.error()
}

// EventLimit is the event that an agent reached a limit; its body is a
// LimitEvent.
const EventLimit = "limit"

// LimitEvent says that an agent came near a limit or reached it.
type LimitEvent struct {
	ID       string    `json:"id"`
	Resource string    `json:"resource"`
	Level    string    `json:"level"` // soft, hard
	Used     uint64    `json:"used"`
	Limit    uint64    `json:"limit"`
	Time     time.Time `json:"time"`
}

// EventAudit is the event that there are audit records; its body is an
// AuditBatch, which the daemon acknowledges with MethodAuditAck once it has
// written it.
const EventAudit = "audit"

// AuditBatch is a run of records, the first of which has the number First.
// Lost counts records that were dropped before it because nobody took them.
type AuditBatch struct {
	First   uint64        `json:"first"`
	Lost    uint64        `json:"lost,omitempty"`
	Records []AuditRecord `json:"records"`
}

// AuditRecord is one event of the audit trail.
type AuditRecord struct {
	Time  time.Time    `json:"time"`
	Errno string       `json:"errno,omitempty"` // of a refusal
	Code  errdefs.Code `json:"code,omitempty"`
	capability.Record
}

// AuditAck says that every record up to Last has been written.
type AuditAck struct {
	Last uint64 `json:"last"`
}

// MethodSetCPU changes, or tells, what an agent's own capability to CPU time says.
const MethodSetCPU = "cpu.set"

// SetCPURequest is a grant of class cpu in the place of the agent's own; without
// one it asks what that is.
type SetCPURequest struct {
	ID   string `json:"id"`
	Spec string `json:"spec,omitempty"`
	// Was, unless it is empty, is what the capability must say before.
	Was   string `json:"was,omitempty"`
	Actor Actor  `json:"actor"`
}

// SetCPUReply says which capability it was, and what it said before and says now.
type SetCPUReply struct {
	Cap  string `json:"cap"`
	Was  string `json:"was"`
	Spec string `json:"spec"`
}

// MethodClock sets or tells how far ahead of the kernel's an agent's clocks are, and how
// fast they go.
const MethodClock = "clock.set"

// ClockRequest has CLOCK_REALTIME be ahead by Offset, or show Wall since 1970, and go as
// fast as Rate says, as in Clock; or, without any, asks.
type ClockRequest struct {
	ID     string `json:"id"`
	Offset *int64 `json:"offset_ns,omitempty"`
	Wall   int64  `json:"wall_ns,omitempty"`
	Rate   int64  `json:"rate_ppb,omitempty"`
	Actor  Actor  `json:"actor"`
}

// ClockReply is how the clocks go and went, and what they show, in nanoseconds.
type ClockReply struct {
	Clock    Clock `json:"clock"`
	Was      Clock `json:"was"`
	Realtime int64 `json:"realtime_ns"`
	Uptime   int64 `json:"uptime_ns"`
}

// MethodHint sets or tells what an agent is taken to do.
const MethodHint = "hint"

// HintRequest names a hint, or none to ask for it.
type HintRequest struct {
	ID    string `json:"id"`
	Hint  string `json:"hint,omitempty"`
	Actor Actor  `json:"actor"`
}

// HintReply is the hint that holds, and the one that held before.
type HintReply struct {
	Hint string `json:"hint"`
	Was  string `json:"was"`
}
