package sentry

import (
	"path"
	"strings"
	"sync"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"golang.org/x/sys/unix"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	eventv1 "aios.dev/aios/event/v1"
	"aios.dev/aios/sentry/grantfs"
	"aios.dev/aios/sentry/trap"
)

// fileGrant is a grant of files in use: a mount in the agent's namespace, of a
// grantfs over the directory. It is the capability's door: when that dies, the
// files fail, the mappings are gone, and the mount is taken away.
type fileGrant struct {
	a   *Agent
	cap *capability.Capability
	key string // of the file system that the directory is in

	// mu is held while the grant is narrowed or taken away, and while it is put
	// in its place; then locks of the VFS are taken, and the mu of grants that
	// appear inside of it.
	mu sync.Mutex
	// over is set once the grant has ended.
	over bool // +checklocks:mu
	// view is written under mu and a.grantsMu, and read under either.
	view fileView
}

// fileView is what a grant of files shows.
type fileView struct {
	name  string // of the directory, as the capability has it
	at    string // where it appears
	fs    *grantfs.FS
	mount *vfs.Mount
	inner vfs.VirtualDentry // the directory
}

func (v *fileView) release(ctx context.Context) {
	v.mount.DecRef(ctx)
	v.inner.DecRef(ctx)
}

var _ capability.Narrower = (*fileGrant)(nil)

// openGrant mounts what c speaks of, which is the root of the file system key.
func (a *Agent) openGrant(c *capability.Capability, key string) error {
	mnt, err := a.s.mount(key)
	if err != nil {
		return err
	}
	dir := vfs.MakeVirtualDentry(mnt, mnt.Root())
	dir.IncRef()
	mnt.DecRef(a.ctx)
	return a.mountGrant(c, key, dir)
}

// heldDir is a directory that an agent has by a grant.
type heldDir struct {
	key  string
	name string
	dir  vfs.VirtualDentry // with a reference
	fs   *grantfs.FS       // through which it is used; for its quota
}

// openDerived mounts what c speaks of, which is in the directory from. With
// move it answers for what was used of the quota through that.
func (a *Agent) openDerived(c *capability.Capability, from heldDir, move bool) error {
	dir, err := a.s.findBelow(a.ctx, from.dir, from.name, c.Object().Name)
	if err == nil {
		err = a.mountGrant(c, from.key, dir)
	}
	if g := a.grantOf(c.ID()); g != nil && move {
		g.inherit(from.fs)
	}
	return err
}

// mayOpen reports whether what is derived from spec, which from is open for,
// could be opened.
func (a *Agent) mayOpen(from heldDir, spec capability.Spec, ch capability.Change) error {
	object := spec.Object.Name
	if ch.Object != nil {
		object = *ch.Object
	}
	dir, err := a.s.findBelow(a.ctx, from.dir, from.name, object)
	if err != nil {
		return err
	}
	dir.DecRef(a.ctx)
	if ch.At != nil {
		return a.mayPlace(*ch.At)
	}
	rest, err := below(spec.Object.Name, object)
	if err != nil {
		return err
	}
	return a.mayPlace(path.Join(spec.Target(), rest))
}

// findBelow returns what is called inner, with a reference, where the directory
// dir is called outer.
func (s *Kernel) findBelow(ctx context.Context, dir vfs.VirtualDentry, outer, inner string) (vfs.VirtualDentry, error) {
	rel, err := below(outer, inner)
	if err != nil {
		return vfs.VirtualDentry{}, err
	}
	// Links cannot lead out of the directory: it is the root here.
	found, err := s.k.VFS().GetDentryAt(ctx, s.creds, &vfs.PathOperation{
		Root: dir, Start: dir, Path: fspath.Parse(rel),
	}, &vfs.GetDentryOptions{CheckSearchable: true})
	return found, errdefs.Wrap(err, errdefs.InvalidArgument, "open", errdefs.Resource("%s", inner),
		errdefs.Fix("name a directory below %s", outer))
}

// below returns what leads from the directory outer to inner.
func below(outer, inner string) (string, error) {
	if inner == outer {
		return "", nil
	}
	rel, ok := strings.CutPrefix(inner, strings.TrimSuffix(outer, "/")+"/")
	if !ok {
		return "", errdefs.Newf(errdefs.RightsExceed, "%s is not below %s", inner, outer)
	}
	return rel, nil
}

// mountGrant takes over the reference of dir.
func (a *Agent) mountGrant(c *capability.Capability, key string, dir vfs.VirtualDentry) error {
	a.s.clearing.settleFor(a) // It may appear in the place of one that has ended.
	spec := c.Spec()
	view, err := a.newView(c, spec, dir)
	if err != nil {
		return err
	}
	g := &fileGrant{a: a, cap: c, key: key, view: view}
	a.grantsMu.Lock()
	a.grants[c.ID()] = g
	a.grantsMu.Unlock()
	if !c.Attach(g) {
		g.Revoke(c)
		return c.Err()
	}
	if c.Spec() != spec { // It was narrowed before it had a door.
		g.Narrowed(c)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	err = g.place()
	if err == nil {
		g.tellMount(event.FileMount)
	}
	return err
}

// tellMount publishes that the grant appeared in the agent, or went.
func (g *fileGrant) tellMount(t event.Type) {
	rights := g.cap.Spec().Rights
	g.a.s.emit(g.a, t, &eventv1.FileMount{
		Target: event.Text(g.view.at), Source: event.Text(g.view.name), Type: "grant",
		ReadOnly: rights&abi.FSWrite == 0, Grant: event.Text(g.cap.Spec().String()),
	})
}

// newView makes what shows dir, whose reference it takes over, as spec says.
func (a *Agent) newView(c *capability.Capability, spec capability.Spec, dir vfs.VirtualDentry) (fileView, error) {
	view := fileView{name: spec.Object.Name, at: spec.Target(), inner: dir}
	if err := checkTarget(view.at); err != nil {
		dir.DecRef(a.ctx)
		return view, err
	}
	var root *vfs.Dentry
	var err error
	view.fs, root, err = grantfs.New(a.ctx, a.s.k.VFS(), a.s.creds, dir, grantfs.Options{
		Name:   spec.Object.Name,
		Rights: spec.Rights,
		Bytes:  roomOf(c, capability.KindBytes),
		Inodes: roomOf(c, capability.KindCount),
		Live:   c.Live,
		Denied: a.fileDenied(c),
	})
	if err != nil {
		dir.DecRef(a.ctx)
		return view, errdefs.Wrap(err, errdefs.InvalidArgument, "open", errdefs.Resource("%s", spec.Object.Name))
	}
	view.mount = a.newMount(view.fs, root)
	root.DecRef(a.ctx)
	view.fs.Filesystem().DecRef(a.ctx) // The mount has one.
	return view, nil
}

// roomOf is what c has not handed on of a limit, as grantfs counts.
func roomOf(c *capability.Capability, k capability.Kind) uint64 {
	left, limited := c.Left(k)
	switch {
	case !limited:
		return 0
	case left == 0:
		return grantfs.NoRoom
	}
	return left
}

// Revoke implements capability.Door.Revoke.
func (g *fileGrant) Revoke(c *capability.Capability) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return
	}
	g.view.fs.Revoke()
	g.over = true
	a := g.a
	a.grantsMu.Lock()
	delete(a.grants, c.ID()) // Before the references are given back; see hold.
	a.grantsMu.Unlock()
	if !c.Live() { // Else it was moved away, to who inherits.
		g.cede(c)
	}
	a.s.clearing.add(g)
}

// clear takes away what is left of g, which is over.
func (g *fileGrant) clear() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unmount()
	g.view.release(g.a.ctx)
}

// cede has what c was derived from answer for the room that c's files take and
// c has no quota for: to hand on, to fill and to take back makes no room.
//
// +checklocks:g.mu
func (g *fileGrant) cede(c *capability.Capability) {
	for p := c.Parent(); p != nil; p = p.Parent() {
		if giver, ok := g.a.s.byID.Load(p.Holder()); ok {
			if to := giver.(*Agent).viewOf(p.ID()); to.fs != nil {
				g.view.fs.Cede(to.fs)
				return
			}
		}
	}
}

// inherit makes g answer for what was used of a quota through from.
func (g *fileGrant) inherit(from *grantfs.FS) {
	g.mu.Lock()
	defer g.mu.Unlock()
	from.Cede(g.view.fs)
}

// Narrowed implements capability.Narrower.Narrowed.
func (g *fileGrant) Narrowed(c *capability.Capability) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return
	}
	spec := c.Spec()
	if spec.Object.Name != g.view.name {
		if err := g.reopen(c, spec); err != nil { // Nothing is open then.
			g.hidden(err)
		}
		return
	}
	g.view.fs.SetRights(spec.Rights)
	g.limit(c)
}

// limit makes the quota what c says and has not handed on.
//
// +checklocks:g.mu
func (g *fileGrant) limit(c *capability.Capability) {
	g.view.fs.SetQuota(roomOf(c, capability.KindBytes), roomOf(c, capability.KindCount))
	g.cede(c)
}

// requota is limit for who does not have it locked.
func (g *fileGrant) requota(c *capability.Capability) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.over {
		g.limit(c)
	}
}

// reopen shows a part of the directory in place of all of it. What is open is
// of the whole, and is closed.
//
// +checklocks:g.mu
func (g *fileGrant) reopen(c *capability.Capability, spec capability.Spec) error {
	a, old := g.a, g.view
	old.fs.Revoke()
	g.unmount()
	dir, err := a.s.findBelow(a.ctx, old.inner, old.name, spec.Object.Name)
	if err != nil {
		return err
	}
	view, err := a.newView(c, spec, dir)
	if err != nil {
		return err
	}
	old.fs.Cede(view.fs)
	a.grantsMu.Lock()
	g.view = view
	a.grantsMu.Unlock()
	old.release(a.ctx)
	return g.place()
}

// grantOf returns the door of a grant of files.
func (a *Agent) grantOf(id capability.ID) *fileGrant {
	a.grantsMu.Lock()
	defer a.grantsMu.Unlock()
	return a.grants[id]
}

// hasGrantOf reports whether a grant of the agent is in the file system key.
func (a *Agent) hasGrantOf(key string) bool {
	a.grantsMu.Lock()
	defer a.grantsMu.Unlock()
	for _, g := range a.grants {
		if g.key == key {
			return true
		}
	}
	return false
}

// viewOf returns what a grant of files shows; nothing if it has ended.
func (a *Agent) viewOf(id capability.ID) fileView {
	a.grantsMu.Lock()
	defer a.grantsMu.Unlock()
	if g := a.grants[id]; g != nil {
		return g.view
	}
	return fileView{}
}

// hold returns the directory of a grant of files, with a reference; ok is
// false if the grant has ended.
func (a *Agent) hold(c *capability.Capability) (d heldDir, ok bool) {
	a.grantsMu.Lock()
	defer a.grantsMu.Unlock()
	g := a.grants[c.ID()]
	if g == nil {
		return heldDir{}, false
	}
	g.view.inner.IncRef()
	return heldDir{key: g.key, name: g.view.name, dir: g.view.inner, fs: g.view.fs}, true
}

// fileDenied returns what grantfs calls when it refuses something.
func (a *Agent) fileDenied(c *capability.Capability) func(op, name string, missing abi.Rights, errno unix.Errno) {
	return func(op, name string, missing abi.Rights, errno unix.Errno) {
		d := Denial{Agent: a.id, Operation: op, Object: name, Errno: errno}
		if missing != 0 {
			d.Capability = "fs:" + c.Object().Name + ":" + missing.Format(abi.ClassFS)
		}
		a.s.gate.denials.note(d)
		a.violated(nil, trap.ViolatesFS, op+" "+name)
	}
}
