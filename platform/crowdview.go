package platform

import (
	"time"

	"gvisor.dev/gvisor/pkg/context"
)

// Places is how a crowd's places were taken at one moment.
type Places struct {
	Limit int
	Slice time.Duration
	// Running have a place, and Waiting wait for one, the longest first: what
	// their first Switch was given.
	Running, Waiting []context.Context
	// Quota is in thousandths of a CPU; of a period's budget Used is used, and
	// Stopped says that it is used up. Without a quota, Used means nothing.
	Quota   uint64
	Used    time.Duration
	Stopped bool
}

// Places looks at who runs and who waits.
func (g *Crowd) Places() Places {
	g.mu.Lock()
	defer g.mu.Unlock()
	v := Places{Limit: g.limit, Slice: g.slice, Quota: g.quota.milli, Stopped: g.quota.stopped}
	for p := g.holders.next; p != &g.holders; p = p.next {
		g.settle(p)
		v.Running = append(v.Running, p.c.task)
	}
	for p := g.queue.next; p != &g.queue; p = p.next {
		v.Waiting = append(v.Waiting, p.c.task)
	}
	v.Used = time.Duration(g.use.spent.Load())
	return v
}
