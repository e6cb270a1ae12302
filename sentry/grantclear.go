package sentry

import "sync"

// clearing takes away what is left of grants of files that have ended: mounts
// through which nothing can be done any more. A few are taken away before
// whoever revoked them hears of it, so that they are not even seen again; that
// nobody waits for thousands of them is what makes it quick to revoke a large
// tree. The zero value is ready. mu is a leaf.
type clearing struct {
	mu    sync.Mutex
	queue []*fileGrant // +checklocks:mu
	// A goroutine takes from queue.
	busy bool // +checklocks:mu
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

// clearNow is how many mounts are waited for.
const clearNow = 64

// add has what is left of g taken away soon.
func (c *clearing) add(g *fileGrant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = make(map[*Agent]int)
	}
	c.queue = append(c.queue, g)
	c.of[g.a]++
	c.queued++
	if !c.busy {
		c.busy = true
		go c.run()
	}
}

func (c *clearing) run() {
	for {
		c.mu.Lock()
		batch := c.queue
		c.queue = nil
		c.busy = len(batch) > 0
		c.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		for _, g := range batch {
			g.clear()
			c.note(g)
		}
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
	c.mu.Lock()
	if c.queued-c.cleared > clearNow {
		c.mu.Unlock()
		return
	}
	c.waitLocked()
}

// settleFor returns when nothing is left to take away from a, so that something
// else can appear in its place. The caller holds no lock that clear takes.
func (c *clearing) settleFor(a *Agent) {
	c.mu.Lock()
	if c.of[a] == 0 {
		c.mu.Unlock()
		return
	}
	c.waitLocked()
}

// waitLocked waits for what is queued, and releases c.mu.
//
// +checklocksrelease:c.mu
func (c *clearing) waitLocked() {
	if c.queued == c.cleared {
		c.mu.Unlock()
		return
	}
	w := clearWait{until: c.queued, done: make(chan struct{})}
	c.waiters = append(c.waiters, w)
	c.mu.Unlock()
	<-w.done
}
