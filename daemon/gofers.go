package daemon

import (
	"fmt"
	"os/exec"
	"slices"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/recovery"
)

func goferComponent(dom *domain, dir hostDir) string {
	return fmt.Sprintf("directory %s in domain %s", dir, dom.name)
}

// cutDirectory is a directory whose gofer has ended, while agents may have it.
type cutDirectory struct {
	component string
	// Agents that had it then, and have not ended.
	agents map[string]bool
}

// awaitGofer collects a gofer. One ends by itself, and well, when its kernel
// process does; another has been killed or has crashed. Then agents that have
// the directory get EIO from it, and the next one that is given it gets it from
// a new gofer.
func (dom *domain) awaitGofer(cmd *exec.Cmd, key string, dir hostDir, image bool) {
	err := cmd.Wait()
	if err == nil {
		return
	}
	select {
	case <-dom.gone:
		return
	default:
	}
	d := dom.d
	d.log.Error("a gofer ended", "domain", dom.name, "directory", dir.String(), "err", err)
	dom.startMu.Lock()
	defer dom.startMu.Unlock()
	var holders []string
	if dom.mounts[key] {
		holders = dom.unmount(key)
	}
	if image && dom.host != nil { // It is put together anew.
		dom.unmount(dom.host.Base)
		dom.host = nil
		for _, r := range d.records() {
			r.mu.Lock()
			if r.domain == dom {
				holders = append(holders, r.id)
			}
			r.mu.Unlock()
		}
	}
	c := recovery.Component{
		Name: goferComponent(dom, dir), Level: recovery.Degraded, Reason: "its gofer ended: " + err.Error() + "; agents that have it get EIO",
		Fix: "start those agents again: a new gofer serves the next one that is given it",
	}
	cut := cutDirectory{c.Name, make(map[string]bool)}
	for _, id := range holders {
		cut.agents[id] = true
	}
	dom.mu.Lock()
	told := !dom.dead && len(cut.agents) > 0
	if told {
		dom.cut = append(dom.cut, cut)
		d.health.Set(c)
	}
	dom.mu.Unlock()
	if told {
		for _, id := range holders { // It may have ended in between.
			if r, err := d.find(id); err != nil || r.final() {
				dom.endCut(id)
			}
		}
	}
}

// unmount has the kernel process forget a file system, and returns the agents that
// have it by a grant: they keep it.
//
// +checklocks:dom.startMu
func (dom *domain) unmount(key string) []string {
	delete(dom.mounts, key)
	ctx, cancel := background(pingTimeout)
	defer cancel()
	var reply control.UnmountReply
	err := dom.call(ctx, control.MethodUnmount, control.UnmountRequest{Key: key}, &reply)
	if err != nil && errdefs.CodeOf(err) != errdefs.NotFound {
		dom.d.log.Warn("forgetting a file system", "domain", dom.name, "key", key, "err", err)
	}
	return reply.Agents
}

// mendCut forgets that a directory was cut off: it is served again, or, with
// "", the domain is gone.
func (dom *domain) mendCut(component string) {
	dom.mend(func(c cutDirectory) bool { return component == "" || c.component == component })
}

// endCut is the end of an agent, which may have been the last that had a
// directory which is cut off.
func (dom *domain) endCut(agent string) {
	dom.mend(func(c cutDirectory) bool {
		delete(c.agents, agent)
		return len(c.agents) == 0
	})
}

func (dom *domain) mend(mended func(cutDirectory) bool) {
	dom.mu.Lock()
	defer dom.mu.Unlock()
	dom.cut = slices.DeleteFunc(dom.cut, func(c cutDirectory) bool {
		if !mended(c) {
			return false
		}
		dom.d.health.Remove(c.component)
		return true
	})
}
