package daemon

import (
	"context"
	"strings"

	"aios.dev/aios/capability"
	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

// What is delegated to another domain is a node in the giver's and an image in
// the taker's; neither may outlive the other. While both domains live they tell
// the daemon. When one dies, the daemon looks for what it leaves.

// revokeOriginals ends the nodes whose images have ended.
func (d *System) revokeOriginals(ctx context.Context, images []control.Export, by control.Actor) {
	for _, e := range images {
		for _, dom := range d.liveDomains() {
			r := control.RevokeRequest{Cap: e.Origin, Reason: "its image in another domain ended", Actor: by}
			if dom.call(ctx, control.MethodCapRevoke, r, nil) == nil {
				break
			}
		}
	}
}

// revokeOrphans ends images whose originals are gone, and nodes whose images
// are, after a domain has died.
func (d *System) revokeOrphans() {
	if !d.crossed.Load() {
		return // There never was any.
	}
	ctx, cancel := background(adoptTimeout)
	defer cancel()
	type image struct {
		dom *domain
		cap control.Cap
	}
	originals := make(map[capability.ID]bool)
	domains := make(map[string]bool)
	var images []image
	all := d.liveDomains()
	for _, dom := range all {
		domains[dom.name] = true
		var reply control.CapsReply
		if err := dom.call(ctx, control.MethodCapList, control.CapListRequest{}, &reply); err != nil {
			if errdefs.CodeOf(err) != errdefs.DomainDied {
				d.log.Warn("listing capabilities", "domain", dom.name, "err", err)
			}
			return // Its own death is looked at next.
		}
		for _, c := range reply.Caps {
			if c.Remote != "" {
				originals[c.ID] = true
			}
			if c.Remote != "" || c.Origin != "" {
				images = append(images, image{dom, c})
			}
		}
	}
	for _, i := range images {
		r := control.RevokeRequest{Actor: control.Actor{Name: "daemon"}}
		remote, _, _ := strings.Cut(i.cap.Remote, "/")
		switch {
		case i.cap.Origin != "" && !originals[i.cap.Origin]:
			r.Origin, r.Reason = i.cap.Origin, "the domain of its original died"
		case remote != "" && !domains[remote]:
			r.Cap, r.Reason = i.cap.ID, "the domain of its image died"
		default:
			continue
		}
		if err := i.dom.call(ctx, control.MethodCapRevoke, r, nil); err != nil && errdefs.CodeOf(err) != errdefs.CapabilityNotFound {
			d.log.Warn("revoking what a dead domain left", "domain", i.dom.name, "err", err)
		}
	}
}
