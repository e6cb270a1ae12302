package daemon

import (
	"sync"
	"time"

	"aios.dev/aios/control"
	"aios.dev/aios/host/cgroup"
)

// The host cgroup of a domain is the backstop behind the limits of its agents,
// and follows their sum: what they may use together, and what the kernel
// process needs for itself on top.
const (
	// ownMemory is for the kernel process without agents, agentMemory for
	// what it and its stub processes keep for one agent, in bytes.
	ownMemory   = 512 << 20
	agentMemory = 4 << 20
	// ownCPU is what the kernel process may use on top, in thousandths.
	ownCPU = 1000
	// regroupDelay gathers changes that follow each other.
	regroupDelay = 20 * time.Millisecond
)

// regrouping remembers that a domain's cgroup is to be set anew.
type regrouping struct {
	// setMu is held while it is set, so that what is newer wins. It is taken
	// before mu.
	setMu sync.Mutex
	// Nil until it was found.
	group *cgroup.Group // +checklocks:setMu
	// What was set last.
	last cgroup.Limits // +checklocks:setMu

	mu sync.Mutex
	// A call is on its way.
	armed bool // +checklocks:mu
}

// regroup makes the domain's host cgroup follow its agents, soon.
func (dom *domain) regroup() {
	dom.group.mu.Lock()
	defer dom.group.mu.Unlock()
	if dom.group.armed {
		return
	}
	dom.group.armed = true
	dom.d.clock.AfterFunc(regroupDelay, dom.regroupNow)
}

func (dom *domain) regroupNow() {
	dom.group.setMu.Lock()
	defer dom.group.setMu.Unlock()
	dom.group.mu.Lock()
	dom.group.armed = false
	dom.group.mu.Unlock()
	ctx, cancel := background(adoptTimeout)
	defer cancel()
	var p control.Promised
	if dom.call(ctx, control.MethodPromised, struct{}{}, &p) != nil {
		return // It has died, and its cgroup goes with it.
	}
	if dom.group.group == nil {
		g, err := cgroup.Load(dom.d.groupParent(), dom.name)
		if err != nil {
			return // The host offers none; the domain was started without.
		}
		dom.group.group = g
	}
	limits := groupLimits(p, hostMemory())
	if limits == dom.group.last {
		return
	}
	dom.group.last = limits
	use, err := dom.group.group.Stats()
	if err == nil {
		err = dom.group.group.SetLimits(aboveUse(limits, use))
	}
	if err != nil {
		dom.d.log.Warn("setting host cgroup", "domain", dom.name, "err", err)
	}
}

// aboveUse raises limits to well above what the domain uses now: a kernel
// process keeps memory of agents that have ended for those that come.
func aboveUse(l cgroup.Limits, use cgroup.Stats) cgroup.Limits {
	if l.MemoryBytes > 0 {
		l.MemoryBytes = max(l.MemoryBytes, use.MemoryBytes+use.MemoryBytes/4+ownMemory)
	}
	return l
}

// groupLimits are those of the host cgroup of a domain whose agents may use p
// together. Host threads are not bounded by them: on ptrace, 512 tasks that
// fork come to nine thousand, and a kernel process that is refused one dies.
func groupLimits(p control.Promised, host uint64) cgroup.Limits {
	most := uint64(float64(host) * groupMemoryShare)
	l := cgroup.Limits{MemoryBytes: int64(most), PidsMax: groupPidsMax}
	if !p.MemoryUnlimited {
		l.MemoryBytes = int64(min(most, p.MemoryBytes+ownMemory+uint64(p.Agents)*agentMemory))
	}
	if !p.CPUUnlimited && p.Agents > 0 {
		l.CPUMilli = int64(p.MilliCPU + ownCPU)
	}
	return l
}
