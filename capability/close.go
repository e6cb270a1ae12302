package capability

import "aios.dev/aios/errdefs"

// CloseHolder has a holder be given nothing any more, by nobody, and nothing that it has
// become more: it keeps what it has, and can only lose of it. It cannot be undone.
func (s *Space) CloseHolder(holder string) {
	if t := s.holder(holder); t != nil {
		s.mu.Lock()
		t.closed = true
		s.mu.Unlock()
	}
}

// HolderClosed reports whether a holder is closed.
func (s *Space) HolderClosed(holder string) bool {
	t := s.holder(holder)
	if t == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return t.closed
}

// open refuses to give something to a holder that is closed. It needs Space.mu.
func (t *table) open() error {
	if t == nil || !t.closed {
		return nil
	}
	return errdefs.New(errdefs.AgentSealed, "it was specialised: it can be given nothing any more", errdefs.Resource("%s", t.holder),
		errdefs.Fix("specialise its original again, with what is needed"))
}
