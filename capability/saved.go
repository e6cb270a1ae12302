package capability

import (
	"time"

	"aios.dev/aios/errdefs"
)

// Saved is a Space as it is part of a checkpoint: what Save returns, and Load takes.
type Saved struct {
	Holders []SavedHolder `json:"holders"`
	// Nodes are in the order of Tree.
	Nodes []SavedNode `json:"nodes"`
}

// SavedHolder is the table of a holder.
type SavedHolder struct {
	ID   string `json:"id"`
	Last Handle `json:"last"`
	// Closed is of one that can be given nothing any more.
	Closed bool `json:"closed,omitempty"`
}

// SavedNode is one capability.
type SavedNode struct {
	ID     ID     `json:"id"`
	Parent ID     `json:"parent,omitempty"`
	Holder string `json:"holder,omitempty"`
	Handle Handle `json:"handle,omitempty"`
	Remote string `json:"remote,omitempty"`
	Origin ID     `json:"origin,omitempty"`
	Spec   Spec   `json:"spec"`
	Moved  bool   `json:"moved,omitempty"`
	Heir   bool   `json:"heir,omitempty"`
	// Left is what was left of its own lease, nil without one, and Until when that
	// ends by the clock of the wall.
	Left  *time.Duration `json:"left,omitempty"`
	Until time.Time      `json:"until,omitzero"`
}

// Save returns all that the Space knows, at the moment now of the clock of the wall.
func (s *Space) Save(now time.Time) Saved {
	var out Saved
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holdersMu.RLock()
	for id, t := range s.holders {
		t.mu.RLock()
		out.Holders = append(out.Holders, SavedHolder{id, t.last, t.closed})
		t.mu.RUnlock()
	}
	s.holdersMu.RUnlock()
	for r := s.firstRoot; r != nil; r = r.next {
		for c := r; c != nil; c = c.following(r) {
			n := SavedNode{ID: c.id, Holder: c.Holder(), Handle: c.handle, Remote: c.remote, Origin: c.origin, Spec: c.Spec(), Moved: c.moved, Heir: c.heir}
			if c.parent != nil {
				n.Parent = c.parent.id
			}
			if c.own != forever {
				left := time.Duration(max(0, c.own-s.now()))
				n.Left, n.Until = &left, now.Add(left)
			}
			out.Nodes = append(out.Nodes, n)
		}
	}
	return out
}

// Load fills a Space that has neither holders nor capabilities with what another one
// saved, at the moment now of the clock of the wall. Leases have gone on meanwhile:
// one that has ended since ends at once, and none gets longer when the clock was set
// back. Nobody is told of what is loaded.
func (s *Space) Load(saved Saved, now time.Time) error {
	for _, h := range saved.Holders {
		if err := s.AddHolder(h.ID); err != nil {
			return err
		}
	}
	s.mu.Lock()
	err := s.load(saved, now)
	s.mu.Unlock()
	return err
}

// load is Load with s.mu held.
//
// +checklocksignore
func (s *Space) load(saved Saved, now time.Time) error {
	bad := func(id ID, why string) error {
		return errdefs.New(errdefs.CheckpointDamaged, why, errdefs.Op("load capabilities"), errdefs.Resource("%s", id))
	}
	over := make(chan struct{})
	close(over)
	if len(s.byID) > 0 {
		return bad("", "there are capabilities already")
	}
	for _, n := range saved.Nodes {
		if !IsID(string(n.ID)) || s.byID[n.ID.number()] != nil {
			return bad(n.ID, "it is not the ID of one capability")
		}
		c := &Capability{s: s, id: n.ID, number: n.ID.number(), remote: n.Remote, origin: n.Origin, moved: n.Moved, heir: n.Heir}
		if n.Parent != "" {
			if c.parent = s.byID[n.Parent.number()]; c.parent == nil {
				return bad(n.ID, "what it was derived from is missing")
			}
		}
		if n.Holder != "" {
			if c.table = s.holder(n.Holder); c.table == nil {
				return bad(n.ID, "nobody holds it")
			}
		}
		spec := n.Spec
		c.spec.Store(&spec)
		c.own, c.expiry = forever, forever
		if p := c.parent; p != nil {
			c.depth, c.expiry = p.depth+1, p.expiry
			if p.table != nil {
				p.table.given++
			}
			p.carve(&spec.Limits)
		}
		if n.Left != nil {
			c.own = later(s.now(), max(0, min(*n.Left, n.Until.Sub(now))))
			c.expiry = min(c.own, c.expiry)
		}
		s.link(c)
		if c.moved {
			c.end.Store(&ending{code: errdefs.CapabilityRevoked, what: "was moved away", root: c.id, batch: &batch{done: over}})
		} else {
			c.until.Store(c.expiry)
			if c.table != nil && n.Handle != 0 {
				c.handle = n.Handle
				c.table.load(c)
			}
		}
		s.lease(c)
	}
	for _, h := range saved.Holders {
		t := s.holder(h.ID)
		t.mu.Lock()
		t.last = max(t.last, h.Last)
		t.mu.Unlock()
		t.closed = h.Closed
		t.version.Add(1)
	}
	return nil
}

// load gives c the handle that it has.
func (t *table) load(c *Capability) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i, found := t.find(c.handle)
	if found {
		t.held[i].c = c
		return
	}
	t.held = append(t.held, holding{})
	copy(t.held[i+1:], t.held[i:])
	t.held[i] = holding{c.handle, c}
	t.last = max(t.last, c.handle)
}
