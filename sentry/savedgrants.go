package sentry

import (
	"cmp"
	"context"
	"slices"

	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/state"

	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/grantfs"
)

// savedGrant is a grant of files in use, as part of a checkpoint.
type savedGrant struct {
	id    string // of the capability
	key   string
	name  string
	at    string
	fs    *grantfs.FS
	mount *vfs.Mount
	inner vfs.VirtualDentry
}

// StateTypeName implements state.Type.
func (*savedGrant) StateTypeName() string { return "aios/sentry.savedGrant" }

// StateFields implements state.Type.
func (*savedGrant) StateFields() []string {
	return []string{"id", "key", "name", "at", "fs", "mount", "inner"}
}

// fields are what StateFields names.
func (g *savedGrant) fields() []any {
	return []any{&g.id, &g.key, &g.name, &g.at, &g.fs, &g.mount, &g.inner}
}

// StateSave implements state.SaverLoader.
func (g *savedGrant) StateSave(m state.Sink) { saveAll(m, g.fields()) }

// StateLoad implements state.SaverLoader.
func (g *savedGrant) StateLoad(_ context.Context, m state.Source) { loadAll(m, g.fields()) }

func init() { state.Register((*savedGrant)(nil)) }

// refuseGrants says which grant of files cannot be part of a checkpoint.
func (a *Agent) refuseGrants(refuse func(who, what, fix string) error) error {
	a.grantsMu.Lock()
	defer a.grantsMu.Unlock()
	for _, g := range a.grants {
		if g.view.fs.Linked() {
			return refuse(a.label(), "it is connected to a socket in "+g.view.name+", which is of the host", "end the connection, or revoke the grant")
		}
	}
	return nil
}

// savedGrants are the grants of files that the agent uses.
func (a *Agent) savedGrants() (out []*savedGrant) {
	a.grantsMu.Lock()
	defer a.grantsMu.Unlock()
	for id, g := range a.grants {
		v := g.view
		out = append(out, &savedGrant{string(id), g.key, v.name, v.at, v.fs, v.mount, v.inner})
	}
	slices.SortFunc(out, func(x, y *savedGrant) int { return cmp.Compare(x.id, y.id) })
	return out
}

// adoptGrants gives the agent the grants of files that it used. One that was made less
// since the checkpoint was made is so before the agent goes on.
func (a *Agent) adoptGrants(saved []*savedGrant) error {
	for _, x := range saved {
		c, err := a.s.space.ByID(capability.ID(x.id))
		if err != nil || x.fs == nil || x.mount == nil {
			return errdefs.New(errdefs.CheckpointDamaged, "a directory is there without its grant", errdefs.Op("restore"), errdefs.Resource("%s", x.name))
		}
		g := &fileGrant{a: a, cap: c, key: x.key, view: fileView{x.name, x.at, x.fs, x.mount, x.inner}}
		x.fs.Adopt(c.Live, a.fileDenied(c))
		a.grantsMu.Lock()
		a.grants[c.ID()] = g
		a.grantsMu.Unlock()
		if !c.Attach(g) {
			g.Revoke(c)
			continue
		}
		g.Narrowed(c)
	}
	return nil
}
