package sentry

import (
	"sync"
	"syscall"
	"time"

	"aios.dev/aios/ktime"
)

// Denial is a system call that was refused for want of a capability.
type Denial struct {
	Agent string // its ID
	// Operation is the name of the call; Object what it was about, as far as
	// the gate knows.
	Operation, Object string
	// Capability is the text of a grant that would have allowed it; empty if
	// none can.
	Capability string
	Errno      syscall.Errno
	// Why says more, for people; or "".
	Why string
	// Never is set for what no grant can ever allow.
	Never bool
	// Count is how often this happened since it was last told.
	Count uint64
}

// How often denials are told, and how many different ones of one agent are
// told apart until then.
const (
	denialsEvery    = time.Second
	denialsPerAgent = 64
)

// denials counts refusals and tells of them once a second at most, so that an
// agent that tries the same thing in a loop makes one record of it. The first
// after a quiet second is told at once.
//
// Telling is done on a goroutine of its own: who is refused does not wait.
type denials struct {
	clock ktime.Clock

	mu   sync.Mutex   // leaf
	tell func(Denial) // +checklocks:mu
	// By what happened, Count being 0 in the key.
	pending map[Denial]uint64 // +checklocks:mu
	// How many of pending belong to an agent.
	kinds map[string]int // +checklocks:mu
	// When flush is due or at work; else nil, and nothing is pending.
	timer ktime.Timer // +checklocks:mu
	// When they were last told.
	last time.Time // +checklocks:mu
}

func (d *denials) init(clock ktime.Clock) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clock = clock
	d.pending = make(map[Denial]uint64)
	d.kinds = make(map[string]int)
}

// OnDenied has tell called for everything that the gate refuses, one call at a
// time. What is refused while nobody listens is not told later.
func (s *Kernel) OnDenied(tell func(Denial)) {
	d := &s.gate.denials
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tell = tell
}

// note counts one refusal.
func (d *denials) note(what Denial) {
	what.Count = 0
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.tell == nil {
		return
	}
	if d.pending[what] == 0 {
		if d.kinds[what.Agent] >= denialsPerAgent {
			// An agent that varies what it tries is counted all the same.
			what = Denial{Agent: what.Agent, Operation: "*", Object: "more than can be told apart", Errno: what.Errno}
		}
		if d.pending[what] == 0 {
			d.kinds[what.Agent]++
		}
	}
	d.pending[what]++
	if d.timer == nil {
		d.timer = d.clock.AfterFunc(max(0, denialsEvery-d.clock.Since(d.last)), d.flush)
	}
}

// flush tells what is pending.
func (d *denials) flush() {
	d.mu.Lock()
	pending, tell := d.pending, d.tell
	d.pending = make(map[Denial]uint64)
	clear(d.kinds)
	d.mu.Unlock()
	for what, n := range pending {
		what.Count = n
		tell(what)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = d.clock.Now()
	d.timer = nil
	if len(d.pending) > 0 {
		d.timer = d.clock.AfterFunc(denialsEvery, d.flush)
	}
}
