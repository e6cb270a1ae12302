package account

// Saved is what a Ledger knows of one resource, as part of a checkpoint.
type Saved struct {
	Resource string `json:"resource"`
	Used     uint64 `json:"used"`
	Peak     uint64 `json:"peak"`
	Refused  uint64 `json:"refused,omitempty"`
}

// Save returns what was used, by resource. Limits are not among it.
func (l *Ledger) Save() []Saved {
	out := make([]Saved, 0, resources)
	for r := range resources {
		out = append(out, Saved{r.String(), l.Used(r), l.Peak(r), l.Refused(r)})
	}
	return out
}

// Load has a new Ledger go on from what another one saved. Nobody is told.
func (l *Ledger) Load(saved []Saved) {
	for _, x := range saved {
		for r := range resources {
			if r.String() == x.Resource {
				e := &l.entries[r]
				e.used.Store(x.Used)
				e.peak.Store(x.Peak)
				e.refused.Store(x.Refused)
			}
		}
	}
}
