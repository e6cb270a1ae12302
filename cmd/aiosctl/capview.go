package main

import apiv1 "aios.dev/aios/api/v1"

// Like view.go, a stable interface: fields are only ever added. Durations are
// nanoseconds.

type capView struct {
	ID        string `json:"id"`
	Handle    uint64 `json:"handle,omitempty"`
	Agent     string `json:"agent,omitempty"`
	AgentName string `json:"agent_name,omitempty"`
	Domain    string `json:"domain,omitempty"`
	Spec      string `json:"spec"`
	Left      string `json:"left,omitempty"`
	Parent    string `json:"parent,omitempty"`
	Origin    string `json:"origin,omitempty"`
	Remote    string `json:"remote,omitempty"`
	Badge     uint64 `json:"badge,omitempty"`
	Sealed    bool   `json:"sealed"`
	LeaseNano int64  `json:"lease_nano,omitempty"`
	Children  uint32 `json:"children"`
}

func viewCap(c *apiv1.Capability) capView {
	return capView{
		ID: c.GetId(), Handle: c.GetHandle(), Agent: c.GetAgent(), AgentName: c.GetAgentName(), Domain: c.GetDomain(),
		Spec: c.GetSpec(), Left: c.GetRest(), Parent: c.GetParent(), Origin: c.GetOrigin(), Remote: c.GetRemote(),
		Badge: c.GetBadge(), Sealed: c.GetSealed(), LeaseNano: c.GetLeaseNano(), Children: c.GetChildren(),
	}
}

type explainView struct {
	Allowed    bool   `json:"allowed"`
	Why        string `json:"why"`
	Capability string `json:"capability,omitempty"`
	Missing    string `json:"missing,omitempty"`
	Errno      string `json:"errno,omitempty"`
}

func viewExplain(r *apiv1.CapExplainResponse) explainView {
	return explainView{Allowed: r.GetAllowed(), Why: r.GetWhy(), Capability: r.GetCapability(), Missing: r.GetMissing(), Errno: r.GetErrno()}
}

type profileView struct {
	Name   string   `json:"name"`
	About  string   `json:"about,omitempty"`
	File   string   `json:"file,omitempty"`
	Grants []string `json:"grants"`
}

type verifyView struct {
	OK       bool     `json:"ok"`
	Entries  uint64   `json:"entries"`
	Segments uint32   `json:"segments"`
	First    uint64   `json:"first,omitempty"`
	Last     uint64   `json:"last,omitempty"`
	Head     string   `json:"head,omitempty"`
	Broken   string   `json:"broken,omitempty"`
	Notes    []string `json:"notes,omitempty"`
}

func viewVerify(r *apiv1.AuditVerifyResponse) verifyView {
	return verifyView{
		OK: r.GetOk(), Entries: r.GetEntries(), Segments: r.GetSegments(), First: r.GetFirst(), Last: r.GetLast(),
		Head: r.GetHead(), Broken: r.GetBroken(), Notes: r.GetNotes(),
	}
}
