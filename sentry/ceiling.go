package sentry

import (
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// A ceiling keeps an agent from using more of the CPUs than somebody outside
// wants for a while, whatever it was granted. It is not a capability: what the
// agent holds, and what changes there meanwhile, counts again when the ceiling
// is lifted.

// maxCeilings is how many an agent may have.
const maxCeilings = 64

// Ceiling sets one of an agent's ceilings, or lifts it.
func (s *Kernel) Ceiling(req control.CeilingRequest) (struct{}, error) {
	var none struct{}
	a, err := s.agent(req.ID)
	if err != nil {
		return none, err
	}
	a.authMu.Lock()
	defer a.authMu.Unlock()
	_, there := a.ceilings[req.Name]
	switch {
	case req.MilliCPU == nil && !there:
		return none, nil
	case req.MilliCPU == nil:
		delete(a.ceilings, req.Name)
	case !there && len(a.ceilings) >= maxCeilings:
		return none, errdefs.Newf(errdefs.QuotaExceeded, "the agent has %d ceilings", maxCeilings).
			With(errdefs.Op("throttle"), errdefs.Resource("%s", a.id), errdefs.Fix("lift one first"))
	default:
		if a.ceilings == nil {
			a.ceilings = make(map[string]uint64)
		}
		a.ceilings[req.Name] = *req.MilliCPU
	}
	a.requota()
	return none, nil
}

// requota makes the agent's quota follow its grants, its ceilings and its storms.
//
// +checklocks:a.authMu
func (a *Agent) requota() {
	quota := a.cpuGranted
	for _, c := range a.ceilings {
		quota = min(quota, c)
	}
	a.setCPUQuota(quota)
	if a.held { // For moments: what it sees of CPUs need not follow.
		quota = min(quota, heldMilliCPU)
	}
	a.schedule(quota)
}
