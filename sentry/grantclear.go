package sentry

import (
	"slices"
	"sync"
	"time"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/ktime"
	"aios.dev/aios/recovery"
)

// clearing takes away what is left of grants of files that have ended: mounts
// through which nothing can be done any more. Whoever ended a few takes them
// away himself before he is answered, so that they are not even seen again.
// Nobody waits for thousands: they go slowly, in the background, a few at a
// time with long pauses, since to take a mount away and to tell so costs more
// than to end the grant, and agents that run have work to do. Who needs the
// place of one sooner takes away what is left of that agent alone.
//
// Agent.clearMu is held while something of that agent is taken away; under it
// come locks of fileGrant and of the VFS. mu is a leaf.
type clearing struct {
	clock ktime.Clock
	dog   *recovery.Watchdog // of run

	mu sync.Mutex
	// What is left of each agent, the oldest first.
	left map[*Agent][]*fileGrant // +checklocks:mu
	// Whose turn is next: agents of left, and some that had something left.
	turns []*Agent // +checklocks:mu
	// How much is left in all.
	count int // +checklocks:mu
	// A goroutine takes from left, or will.
	running bool // +checklocks:mu
}

const (
	// clearNow is how many mounts are waited for.
	clearNow = 64
	// clearDelay is when it begins where nobody waits.
	clearDelay = 20 * time.Millisecond
	// clearSlice mounts are taken away at a time, and clearPause follows: about
	// one part in a hundred of one CPU. A mount takes 20 to 40 µs.
	clearSlice = 16
	clearPause = 40 * time.Millisecond
	// clearMany is how much may be left before pauses get shorter.
	clearMany = 1 << 14
)

func (c *clearing) init(clock ktime.Clock, dog *recovery.Watchdog) {
	c.clock, c.dog = clock, dog
	c.left = make(map[*Agent][]*fileGrant) // +checklocksignore: the kernel boots.
}

// add has what is left of g taken away, sooner or later.
func (c *clearing) add(g *fileGrant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !g.a.clearTurn {
		g.a.clearTurn = true
		c.turns = append(c.turns, g.a)
	}
	c.left[g.a] = append(c.left[g.a], g)
	c.count++
	if !c.running {
		c.running = true
		c.clock.AfterFunc(clearDelay, c.run)
	}
}

// run takes away what nobody waits for.
func (c *clearing) run() {
	for {
		for range clearSlice {
			a := c.next()
			if a == nil {
				return
			}
			c.dog.Busy()
			a.clearMu.Lock()
			c.clearOne(a, nil)
			a.clearMu.Unlock()
			c.dog.Idle()
		}
		nap(c.clock, c.pause())
	}
}

// next returns an agent that something may be left of; nil when nothing is
// left, and then run has ended.
func (c *clearing) next() *Agent {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.turns) > 0 {
		a := c.turns[0]
		if len(c.left[a]) > 0 {
			return a
		}
		a.clearTurn = false
		c.turns[0], c.turns = nil, c.turns[1:]
	}
	c.turns, c.running = nil, false
	return nil
}

// pause is how long run leaves everybody alone.
func (c *clearing) pause() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return clearPause / time.Duration(1+c.count/clearMany)
}

// clearOne takes away the oldest of what is left of a, or what is left of the
// capability cap alone; it reports false when there is nothing.
//
// +checklocks:a.clearMu
func (c *clearing) clearOne(a *Agent, cap *capability.Capability) bool {
	c.mu.Lock()
	list := c.left[a]
	i := 0
	if cap != nil {
		i = slices.IndexFunc(list, func(g *fileGrant) bool { return g.cap == cap })
	}
	if i < 0 || len(list) == 0 {
		c.mu.Unlock()
		return false
	}
	g := list[i]
	switch {
	case len(list) == 1:
		delete(c.left, a)
	case i == 0:
		list[0] = nil
		c.left[a] = list[1:]
	default:
		c.left[a] = slices.Delete(list, i, i+1)
	}
	c.count--
	c.mu.Unlock()
	g.clear()
	return true
}

// settle returns when what is left of capabilities that have ended is taken
// away, unless that is a lot. The caller holds no lock that clear takes.
func (s *Kernel) settle(ended ...*capability.Capability) {
	var files []*capability.Capability
	for _, c := range ended {
		if c.Object().Class != abi.ClassFS {
			continue
		}
		if len(files) == clearNow {
			return
		}
		files = append(files, c)
	}
	for _, c := range files {
		if a := s.findAgent(c.Holder()); a != nil {
			a.clearMu.Lock()
			s.clearing.clearOne(a, c)
			a.clearMu.Unlock()
		}
	}
}

// settleFor returns when nothing is left to take away from a, so that something
// else can appear in its place. The caller holds no lock that clear takes.
func (c *clearing) settleFor(a *Agent) {
	a.clearMu.Lock()
	defer a.clearMu.Unlock()
	for c.clearOne(a, nil) {
	}
}
