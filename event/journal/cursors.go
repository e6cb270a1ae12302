package journal

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/internal/safefile"
	"aios.dev/aios/ktime"
)

// MaxDurable is how many durable subscriptions there may be.
const MaxDurable = 1024

// saveDelay gathers acknowledgements into one write of the file. What a daemon
// that is killed did not write is delivered once more.
const saveDelay = 500 * time.Millisecond

// Position is a durable subscription: who acknowledged what.
type Position struct {
	Name string `json:"name"`
	// Next is the cursor of the first record that was not acknowledged.
	Next    uint64 `json:"next"`
	Created int64  `json:"created"`
	Acked   int64  `json:"acked,omitempty"` // when it last was
	// Lost counts records that were deleted before they were delivered.
	Lost uint64 `json:"lost,omitempty"`
	// Spec is what is subscribed to, in the subscriber's words.
	Spec json.RawMessage `json:"spec,omitempty"`
}

// Cursors are the positions of durable subscriptions, in one file.
type Cursors struct {
	path  string
	clock ktime.Clock

	// saveMu is held while the file is written; it is taken before mu.
	saveMu sync.Mutex

	mu    sync.Mutex
	all   map[string]*Position // +checklocks:mu
	dirty bool                 // +checklocks:mu
	armed bool                 // +checklocks:mu
}

// OpenCursors reads the file at path, which may not exist yet.
func OpenCursors(path string, clock ktime.Clock) (*Cursors, error) {
	c := &Cursors{path: path, clock: clock, all: make(map[string]*Position)}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, safefile.Fail(err, "read durable subscriptions", path)
	}
	list, err := parsePositions(raw)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.HostIO, "read durable subscriptions", errdefs.Resource("%s", path),
			errdefs.Fix("move %s away: every durable subscriber then begins anew", filepath.Base(path)))
	}
	for _, p := range list {
		c.all[p.Name] = p // +checklocksignore: nobody else knows c yet.
	}
	return c, nil
}

// parsePositions reads what save writes.
func parsePositions(raw []byte) ([]*Position, error) {
	var list []*Position
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, err
	}
	for _, p := range list {
		if p == nil || p.Name == "" || p.Next == 0 {
			return nil, errdefs.New(errdefs.HostIO, "it is not a list of positions")
		}
	}
	return list, nil
}

// Create adds a position, at once on disk. One of that name is an error.
func (c *Cursors) Create(name string, next uint64, spec json.RawMessage) (Position, error) {
	c.mu.Lock()
	if c.all[name] != nil {
		c.mu.Unlock()
		return Position{}, errdefs.New(errdefs.AlreadyExists, "there is a durable subscription of this name", errdefs.Resource("%s", name))
	}
	if len(c.all) >= MaxDurable {
		c.mu.Unlock()
		return Position{}, errdefs.Newf(errdefs.QuotaExceeded, "there are %d durable subscriptions", MaxDurable).
			With(errdefs.Fix("forget one: `aiosctl events stats` lists them"))
	}
	p := &Position{Name: name, Next: max(next, 1), Created: c.clock.Now().UnixNano(), Spec: spec}
	c.all[name], c.dirty = p, true
	out := *p
	c.mu.Unlock()
	if err := c.Save(); err != nil {
		c.mu.Lock()
		delete(c.all, name)
		c.mu.Unlock()
		return Position{}, err
	}
	return out, nil
}

// Get returns the position of that name.
func (c *Cursors) Get(name string) (Position, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.all[name]
	if p == nil {
		return Position{}, false
	}
	return *p, true
}

// Ack acknowledges everything up to a cursor. It never goes back.
func (c *Cursors) Ack(name string, cursor uint64) error {
	return c.change(name, func(p *Position) {
		if cursor+1 > p.Next {
			p.Next = cursor + 1
		}
		p.Acked = c.clock.Now().UnixNano()
	})
}

// Advance moves a position, never back, over records that nobody has to
// acknowledge.
func (c *Cursors) Advance(name string, next uint64) error {
	return c.change(name, func(p *Position) { p.Next = max(p.Next, next) })
}

// Missed counts records that were gone before they could be delivered.
func (c *Cursors) Missed(name string, lost uint64) error {
	return c.change(name, func(p *Position) { p.Lost += lost })
}

func (c *Cursors) change(name string, f func(*Position)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.all[name]
	if p == nil {
		return noDurable(name)
	}
	was := *p
	f(p)
	if p.Next == was.Next && p.Lost == was.Lost && p.Acked == was.Acked {
		return nil
	}
	c.dirty = true
	if !c.armed {
		c.armed = true
		c.clock.AfterFunc(saveDelay, func() {
			c.mu.Lock()
			c.armed = false
			c.mu.Unlock()
			c.Save() // If it fails, the next one has all that this one had.
		})
	}
	return nil
}

func noDurable(name string) error {
	return errdefs.New(errdefs.NotFound, "there is no durable subscription of this name", errdefs.Resource("%s", name),
		errdefs.Fix("`aiosctl events stats` lists them"))
}

// Remove forgets a position.
func (c *Cursors) Remove(name string) error {
	c.mu.Lock()
	p := c.all[name]
	if p == nil {
		c.mu.Unlock()
		return noDurable(name)
	}
	delete(c.all, name)
	c.dirty = true
	c.mu.Unlock()
	return c.Save()
}

// List returns all positions by name.
func (c *Cursors) List() []Position {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Position, 0, len(c.all))
	for _, p := range c.all {
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b Position) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Save writes the file, if there is anything new.
func (c *Cursors) Save() error {
	c.saveMu.Lock()
	defer c.saveMu.Unlock()
	c.mu.Lock()
	dirty := c.dirty
	c.dirty = false
	c.mu.Unlock()
	if !dirty {
		return nil
	}
	raw, err := json.MarshalIndent(c.List(), "", " ")
	if err == nil {
		err = safefile.Write(c.path, append(raw, '\n'))
	}
	if err != nil {
		c.mu.Lock()
		c.dirty = true
		c.mu.Unlock()
		return safefile.Fail(err, "write durable subscriptions", c.path)
	}
	return nil
}
