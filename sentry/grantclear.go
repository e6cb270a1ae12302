package sentry

import (
	"sync"
	"time"

	"aios.dev/aios/ktime"
	"aios.dev/aios/recovery"
)

// clearing takes away what is left of grants of files that have ended: mounts
// through which nothing can be done any more. A few are taken away before
// whoever revoked them hears of it, so that they are not even seen again; that
// nobody waits for thousands of them is what makes it quick to revoke a large
// tree, and they go slowly, for the sake of agents that have work to do. mu is
// a leaf.
type clearing struct {
	clock ktime.Clock
	dog   *recovery.Watchdog

	mu    sync.Mutex
	queue []*fileGrant // +checklocks:mu
	// A goroutine takes from queue, or will.
	armed, running bool // +checklocks:mu
	// How many are left of each agent.
	of map[*Agent]int // +checklocks:mu
	// How many there were, ever.
	queued, cleared uint64 // +checklocks:mu
	// Those with the least until first.
	waiters []clearWait // +checklocks:mu
}

// clearWait is somebody who waits until so many were cleared.
type clearWait struct {
	until uint64
	done  chan struct{}
}

const (
	// clearNow is how many mounts are waited for.
	clearNow = 64
	// clearDelay is when it begins where nobody calls settle.
	clearDelay = 20 * time.Millisecond
	// clearPause follows after every clearNow mounts that nobody waits for.
	clearPause = 5 * time.Millisecond
)

func (c *clearing) init(clock ktime.Clock, dog *recovery.Watchdog) {
	c.clock, c.dog = clock, dog
	c.of = make(map[*Agent]int) // +checklocksignore: the kernel boots.
}

// add has what is left of g taken away soon.
func (c *clearing) add(g *fileGrant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, g)
	c.of[g.a]++
	c.queued++
	if !c.armed && !c.running {
		c.armed = true
		c.clock.AfterFunc(clearDelay, c.start)
	}
}

func (c *clearing) start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.startLocked()
}

// +checklocks:c.mu
func (c *clearing) startLocked() {
	c.armed = false
	if !c.running && len(c.queue) > 0 {
		c.running = true
		go c.run()
	}
}

func (c *clearing) run() {
	for n := 1; ; n++ {
		c.mu.Lock()
		if len(c.queue) == 0 {
			c.queue, c.running = nil, false
			c.mu.Unlock()
			return
		}
		g := c.queue[0]
		c.queue[0], c.queue = nil, c.queue[1:]
		hurry := len(c.waiters) > 0
		c.mu.Unlock()
		if n%clearNow == 0 && !hurry {
			nap(c.clock, clearPause)
		}
		c.dog.Busy()
		g.clear()
		c.dog.Idle()
		c.note(g)
	}
}

// note counts a mount that was taken away.
func (c *clearing) note(g *fileGrant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of[g.a]--; c.of[g.a] == 0 {
		delete(c.of, g.a)
	}
	c.cleared++
	for len(c.waiters) > 0 && c.waiters[0].until <= c.cleared {
		close(c.waiters[0].done)
		c.waiters = c.waiters[1:]
	}
}

// settle returns when everything that was added before is taken away, unless
// that is a lot. The caller holds no lock that clear takes.
func (c *clearing) settle() {
	c.await(func() bool { return c.queued-c.cleared <= clearNow }) // +checklocksignore: await locks.
}

// settleFor returns when nothing is left to take away from a, so that something
// else can appear in its place. The caller holds no lock that clear takes.
func (c *clearing) settleFor(a *Agent) {
	c.await(func() bool { return c.of[a] > 0 }) // +checklocksignore: await locks.
}

// await lets everything begin to go, and waits for what is queued now if it is
// worth it, which is asked under c.mu.
func (c *clearing) await(worth func() bool) {
	c.mu.Lock()
	c.startLocked()
	if c.queued == c.cleared || !worth() {
		c.mu.Unlock()
		return
	}
	w := clearWait{until: c.queued, done: make(chan struct{})}
	c.waiters = append(c.waiters, w)
	c.mu.Unlock()
	<-w.done
}
