package daemon

import (
	"fmt"
	"os/exec"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/recovery"
)

func goferComponent(dom *domain, dir hostDir) string {
	return fmt.Sprintf("directory %s in domain %s", dir, dom.name)
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
	if dom.mounts[key] {
		dom.unmount(key)
	}
	if image && dom.host != nil { // It is put together anew.
		dom.unmount(dom.host.Base)
		dom.host = nil
	}
	c := recovery.Component{
		Name: goferComponent(dom, dir), Level: recovery.Degraded, Reason: "its gofer ended: " + err.Error() + "; agents that have it get EIO",
		Fix: "start those agents again: a new gofer serves the next one that is given it",
	}
	dom.mu.Lock()
	dead := dom.dead
	if !dead {
		dom.cut = append(dom.cut, c.Name)
	}
	dom.mu.Unlock()
	if !dead {
		d.health.Set(c)
	}
}

// unmount has the kernel process forget a file system: agents that have it keep
// it.
//
// +checklocks:dom.startMu
func (dom *domain) unmount(key string) {
	delete(dom.mounts, key)
	ctx, cancel := background(pingTimeout)
	defer cancel()
	err := dom.call(ctx, control.MethodUnmount, control.UnmountRequest{Key: key}, nil)
	if err != nil && errdefs.CodeOf(err) != errdefs.NotFound {
		dom.d.log.Warn("forgetting a file system", "domain", dom.name, "key", key, "err", err)
	}
}

// mendCut forgets that a directory was cut off: it is served again, or, with
// "", the domain is gone.
func (dom *domain) mendCut(name string) {
	dom.mu.Lock()
	var rest, mended []string
	for _, n := range dom.cut {
		if name == "" || n == name {
			mended = append(mended, n)
		} else {
			rest = append(rest, n)
		}
	}
	dom.cut = rest
	dom.mu.Unlock()
	for _, n := range mended {
		dom.d.health.Remove(n)
	}
}
