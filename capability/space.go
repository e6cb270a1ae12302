package capability

import (
	"slices"
	"sync"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/ktime"
)

// Options are what a Space needs and whom it tells.
type Options struct {
	// Clock ends the leases; nil is ktime.Real.
	Clock ktime.Clock
	// Audit is told every change, in the order in which they happened, one at
	// a time, before the call that made the change returns.
	Audit func(Record)
	// Changed is told that the table of holder, or a limit in it, is another.
	// Calls for one holder do not overlap, and the last begins after the last
	// change, so that what it reads from Effective stands. The call that made
	// the change returns after it.
	Changed func(holder string)

	// MaxPerHolder bounds what one holder holds, and how many are derived
	// directly from what it holds, or held; 0 is 4096.
	MaxPerHolder int
	// MaxNodes bounds the tree; 0 is 262144.
	MaxNodes int
	// MaxDepth bounds how many derivations follow each other; 0 is 64.
	MaxDepth int
}

// Actor is who asks for a change.
type Actor struct {
	// Name is "daemon", "operator" or the ID of an agent.
	Name string
	// Privileged actors may do to any capability what its holder or giver may.
	Privileged bool
	// Correlation follows a request through logs and records.
	Correlation string
}

// Space is the tree of one kernel process and the tables of its agents.
type Space struct {
	leases  *ktime.Exact // its time is that of the Space
	audit   func(Record)
	changed func(string)

	maxPerHolder int
	maxNodes     int
	maxDepth     int

	// emit is held while records are handed out.
	emit sync.Mutex

	mu        sync.Mutex
	byID      map[uint64]*Capability // by the number of the ID; +checklocks:mu
	firstRoot *Capability            // +checklocks:mu
	lastRoot  *Capability            // +checklocks:mu
	pending   []Record               // +checklocks:mu
	active    map[*batch]struct{}    // +checklocks:mu

	holdersMu sync.RWMutex
	holders   map[string]*table // +checklocks:holdersMu
}

// NewSpace returns a Space without holders.
func NewSpace(o Options) *Space {
	if o.Clock == nil {
		o.Clock = ktime.Real
	}
	orElse := func(n, d int) int {
		if n <= 0 {
			return d
		}
		return n
	}
	return &Space{
		leases: ktime.NewExact(o.Clock), audit: o.Audit, changed: o.Changed,
		maxPerHolder: orElse(o.MaxPerHolder, 4096),
		maxNodes:     orElse(o.MaxNodes, 262144),
		maxDepth:     orElse(o.MaxDepth, 64),
		byID:         make(map[uint64]*Capability),
		active:       make(map[*batch]struct{}),
		holders:      make(map[string]*table),
	}
}

// now is the time since the Space began, in nanoseconds.
func (s *Space) now() int64 { return int64(s.leases.Now()) }

// before reports whether t is yet to come. Kept out of line, so that Live,
// which seldom asks, is not.
//
//go:noinline
func (s *Space) before(t int64) bool { return t != 0 && s.now() < t }

// AddHolder gives id an empty table.
func (s *Space) AddHolder(id string) error {
	if id == "" || len(id) > maxName {
		return errdefs.New(errdefs.InvalidArgument, "it cannot name a holder of capabilities", errdefs.Op("add holder"),
			errdefs.Resource("%s", quote(id)), errdefs.Fix("name it by its agent ID"))
	}
	s.holdersMu.Lock()
	defer s.holdersMu.Unlock()
	if s.holders[id] != nil {
		return errdefs.New(errdefs.AlreadyExists, "it has a table of capabilities already", errdefs.Op("add holder"),
			errdefs.Resource("%s", id), errdefs.Fix("remove the holder first"))
	}
	s.holders[id] = newTable(id)
	return nil
}

// holder returns the table of id, or nil.
func (s *Space) holder(id string) *table {
	s.holdersMu.RLock()
	t := s.holders[id]
	s.holdersMu.RUnlock()
	return t
}

// table returns the table of id.
func (s *Space) table(id string) (*table, error) {
	if t := s.holder(id); t != nil {
		return t, nil
	}
	return nil, errdefs.New(errdefs.AgentNotFound, "nobody of that ID holds capabilities here",
		errdefs.Resource("%s", quote(id)), errdefs.Fix("name an agent of this domain that has not ended, by its ID"))
}

// Lookup returns what holder calls h. It finds what is live, and nothing else.
func (s *Space) Lookup(holder string, h Handle) (*Capability, error) {
	t, err := s.table(holder)
	if err != nil {
		return nil, err
	}
	c, given := t.get(h)
	if c == nil {
		return nil, noSuchHandle(holder, h, given)
	}
	if !c.Live() {
		return nil, c.Err()
	}
	return c, nil
}

func noSuchHandle(holder string, h Handle, given bool) error {
	detail := "it was never given"
	if given {
		detail = "what it stood for was revoked, has expired or was moved away"
	}
	return errdefs.New(errdefs.CapabilityNotFound, detail, errdefs.Op("look up handle"),
		errdefs.Resource("%d of %s", uint64(h), holder), errdefs.Fix("list the capabilities that are held"))
}

// ByID returns the capability of that name, if it has not been revoked. It may
// have been moved away.
func (s *Space) ByID(id ID) (*Capability, error) {
	var c *Capability
	if IsID(string(id)) {
		s.mu.Lock()
		c = s.byID[id.number()]
		s.mu.Unlock()
	}
	if c == nil {
		return nil, errdefs.New(errdefs.CapabilityNotFound, "no capability has that ID: it never existed here, was revoked or has expired",
			errdefs.Resource("%s", quote(string(id))), errdefs.Fix("list the capabilities of the domain"))
	}
	return c, nil
}

// List returns what holder holds and may use, by handle.
func (s *Space) List(holder string) []*Capability {
	t := s.holder(holder)
	if t == nil {
		return nil
	}
	return slices.DeleteFunc(t.all(), func(c *Capability) bool { return !c.Live() })
}

// Tree returns every capability, each after the one it was derived from and
// before its younger siblings. Those that were moved away are among them.
func (s *Space) Tree() []*Capability {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*Capability, 0, len(s.byID))
	for r := s.firstRoot; r != nil; r = r.next {
		for n := r; n != nil; n = n.following(r) {
			out = append(out, n)
		}
	}
	return out
}

// Children returns what was derived directly from c, the oldest first.
func (s *Space) Children(c *Capability) []*Capability {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*Capability
	for n := c.firstChild; n != nil; n = n.next {
		out = append(out, n)
	}
	return out
}

// Close stops the timer of the leases. They end on time nevertheless, but
// nobody is told.
func (s *Space) Close() {
	s.leases.Close()
}
