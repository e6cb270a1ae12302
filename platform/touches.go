package platform

import (
	"sync"

	"gvisor.dev/gvisor/pkg/hostarch"
	gvplatform "gvisor.dev/gvisor/pkg/sentry/platform"
)

// Touch is a page that a task has touched where it was not mapped for that.
type Touch struct {
	Space gvplatform.MemoryManager
	Addr  hostarch.Addr // of the page
	Write bool
}

// Touches notes the first pages that tasks touch like that, each once, and once more
// if it is written to later.
type Touches struct {
	most int

	mu   sync.Mutex // leaf
	seen map[Touch]struct{}
	list []Touch // in the order of the first
}

// NewTouches returns one that notes so many.
func NewTouches(most int) *Touches {
	return &Touches{most: most, seen: make(map[Touch]struct{})}
}

// List is what was noted.
func (n *Touches) List() []Touch {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.list[:len(n.list):len(n.list)]
}

func (n *Touches) note(space gvplatform.MemoryManager, addr hostarch.Addr, at hostarch.AccessType) {
	t := Touch{space, addr.RoundDown(), at.Write}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.seen[t]; ok || len(n.list) >= n.most {
		return
	}
	n.seen[t] = struct{}{}
	n.list = append(n.list, t)
}

// NoteTouches has it note in n what its tasks touch, from now on; nil: nothing.
func (g *Crowd) NoteTouches(n *Touches) { g.touches.Store(n) }
