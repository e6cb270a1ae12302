package capability

// Operations that Record names.
const (
	OpMint      = "mint"
	OpDelegate  = "delegate"
	OpAttenuate = "attenuate"
	OpAmend     = "amend"
	OpSeal      = "seal"
	OpRenew     = "renew"
	OpRevoke    = "revoke"
	OpExpire    = "expire"
	// OpLost is what happens to every other holder that loses by a revocation
	// or an expiry.
	OpLost = "lost"
	// OpDenied is for those who refuse at a door; no Space writes it.
	OpDenied = "denied"
)

// Record is one entry of the audit trail.
type Record struct {
	Op    string
	Actor string // who asked
	Agent string // whose capability it was
	// Target is whom it was given to, for a delegation.
	Target string
	Cap    ID // what it was done to, or what came of it
	Parent ID
	Spec   string // what Cap says
	Reason string
	// Correlation is that of the Actor.
	Correlation string
	// Count is how many capabilities were lost: in all for a revocation or an
	// expiry, by this agent for a loss.
	Count uint64
}

// record queues what by did to c.
//
// +checklocks:s.mu
func (s *Space) record(r Record, c *Capability, by Actor) {
	if s.audit == nil {
		return
	}
	r.Actor, r.Correlation = by.Name, by.Correlation
	r.Cap, r.Spec = c.id, c.Spec().String()
	if r.Agent == "" {
		r.Agent = c.whose()
	}
	if c.parent != nil {
		r.Parent = c.parent.id
	}
	s.pending = append(s.pending, r)
}

// whose names the holder of c, wherever it is.
func (c *Capability) whose() string {
	if c.table == nil {
		return c.remote
	}
	return c.table.holder
}

// drain hands out what is queued. When it returns, everything that was queued
// before the call has been handed out, by whomever.
func (s *Space) drain() {
	if s.audit == nil {
		return
	}
	s.emit.Lock()
	defer s.emit.Unlock()
	s.mu.Lock()
	list := s.pending
	s.pending = nil
	s.mu.Unlock()
	for _, r := range list {
		s.audit(r)
	}
}

// tell calls Changed for a holder, unless that has been done since its last
// change.
func (s *Space) tell(t *table) {
	if s.changed == nil || t == nil {
		return
	}
	version := t.version.Load()
	t.notify.Lock()
	defer t.notify.Unlock()
	if t.told >= version {
		return
	}
	version = t.version.Load()
	s.changed(t.holder)
	t.told = version
}

// settle tells what was done once Space.mu is released.
func (s *Space) settle(tables ...*table) {
	for _, t := range tables {
		s.tell(t)
	}
	s.drain()
}
