package sentry

import (
	"path"
	"strings"
	"sync"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"golang.org/x/sys/unix"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/grantfs"
)

// fileGrant is a grant of files in use: a mount in the agent's namespace, of a
// grantfs over the directory. It is the capability's door: when that dies, the
// files fail, the mappings are gone, and the mount is taken away.
type fileGrant struct {
	a     *Agent
	key   string // of the file system that the directory is in
	fs    *grantfs.FS
	mount *vfs.Mount
	inner vfs.VirtualDentry // the directory
	at    string

	// mu is held while the mount is put in its place or taken away; then
	// locks of the VFS are taken.
	mu sync.Mutex
	// over is set once the grant has ended.
	over bool // +checklocks:mu
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

// heldDir is a directory that an agent has by a grant, named name there.
type heldDir struct {
	name string
	key  string
	dir  vfs.VirtualDentry // with a reference
}

// openDerived mounts what c speaks of, which is in the directory from.
func (a *Agent) openDerived(c *capability.Capability, from heldDir) error {
	rel, err := below(from.name, c.Spec().Object.Name)
	if err != nil {
		return err
	}
	// Links cannot lead out of the giver's directory: it is the root here.
	dir, err := a.s.k.VFS().GetDentryAt(a.ctx, a.s.creds, &vfs.PathOperation{
		Root: from.dir, Start: from.dir, Path: fspath.Parse(rel),
	}, &vfs.GetDentryOptions{CheckSearchable: true})
	if err != nil {
		return errdefs.Wrap(err, errdefs.InvalidArgument, "open", errdefs.Resource("%s", c.Spec().Object.Name),
			errdefs.Fix("name a directory below the one that is delegated"))
	}
	return a.mountGrant(c, from.key, dir)
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
	spec := c.Spec()
	g := &fileGrant{a: a, key: key, inner: dir, at: orElse(spec.At, spec.Object.Name)}
	if err := checkTarget(g.at); err != nil {
		dir.DecRef(a.ctx)
		return err
	}
	var root *vfs.Dentry
	var err error
	g.fs, root, err = grantfs.New(a.ctx, a.s.k.VFS(), a.s.creds, dir, grantfs.Options{
		Name:   spec.Object.Name,
		Rights: spec.Rights,
		Bytes:  spec.Limits.Bytes,
		Inodes: spec.Limits.Count,
		Live:   c.Live,
		Denied: a.fileDenied(c),
	})
	if err != nil {
		dir.DecRef(a.ctx)
		return errdefs.Wrap(err, errdefs.InvalidArgument, "open", errdefs.Resource("%s", spec.Object.Name))
	}
	g.mount = a.s.k.VFS().NewDisconnectedMount(g.fs.Filesystem(), root, &vfs.MountOptions{
		ReadOnly: !mayChange(spec.Rights), Flags: vfs.MountFlags{NoSUID: true, NoDev: true},
	})
	root.DecRef(a.ctx)
	g.fs.Filesystem().DecRef(a.ctx) // The mount has one.
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
	return g.place(c)
}

// place mounts g in the agent's namespace, unless it has ended meanwhile.
func (g *fileGrant) place(c *capability.Capability) error {
	a := g.a
	mntns := a.mounts()
	if mntns == nil {
		return errdefs.New(errdefs.AgentNotRunning, "the agent has ended", errdefs.Resource("%s", a.id))
	}
	defer mntns.DecRef(a.ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return c.Err()
	}
	b := &rootBuilder{s: a.s, ctx: a.ctx, root: mntns.Root(a.ctx)}
	defer b.root.DecRef(a.ctx)
	g.mount.IncRef() // b.place takes one.
	return b.place(g.mount, g.at)
}

func mayChange(r abi.Rights) bool { return r&(abi.FSWrite|abi.FSCreate|abi.FSDelete) != 0 }

// checkTarget refuses to cover what an agent is made of.
func checkTarget(at string) error {
	if !path.IsAbs(at) || path.Clean(at) != at || at == "/" {
		return errdefs.New(errdefs.InvalidArgument, "the place inside is not an absolute path below /", errdefs.Resource("%q", at),
			errdefs.Fix("say where the files are to appear with at=/PATH"))
	}
	for _, own := range []string{"/proc", "/sys", "/dev", "/aios"} {
		if at == own || strings.HasPrefix(at, own+"/") {
			return errdefs.New(errdefs.InvalidArgument, own+" is the kernel's own", errdefs.Resource("%q", at),
				errdefs.Fix("say where else the files are to appear with at=/PATH"))
		}
	}
	return nil
}

// Revoke implements capability.Door.Revoke.
func (g *fileGrant) Revoke(c *capability.Capability) {
	g.fs.Revoke()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return
	}
	g.over = true
	a := g.a
	a.grantsMu.Lock()
	delete(a.grants, c.ID()) // Before the references are given back; see hold.
	a.grantsMu.Unlock()
	g.unmount()
	g.mount.DecRef(a.ctx)
	g.inner.DecRef(a.ctx)
}

// unmount takes the mount out of the agent's namespace, if it is where it was
// put. An agent that may mount could have moved or covered it; what is in it
// fails all the same.
func (g *fileGrant) unmount() {
	a := g.a
	mntns := a.mounts()
	if mntns == nil {
		return
	}
	defer mntns.DecRef(a.ctx)
	v := a.s.k.VFS()
	root := mntns.Root(a.ctx)
	defer root.DecRef(a.ctx)
	vd, err := v.GetDentryAt(a.ctx, a.s.creds, at(root, g.at), &vfs.GetDentryOptions{})
	if err != nil {
		return
	}
	mine := vd.Mount() == g.mount
	vd.DecRef(a.ctx)
	if mine {
		v.UmountAt(a.ctx, a.s.creds, at(root, g.at), &vfs.UmountOptions{Flags: linux.MNT_DETACH})
	}
}

// Narrowed implements capability.Narrower.Narrowed.
func (g *fileGrant) Narrowed(c *capability.Capability) {
	spec := c.Spec()
	g.fs.SetRights(spec.Rights)
	g.fs.SetQuota(spec.Limits.Bytes, spec.Limits.Count)
}

// grantOf returns the door of a grant of files.
func (a *Agent) grantOf(id capability.ID) *fileGrant {
	a.grantsMu.Lock()
	defer a.grantsMu.Unlock()
	return a.grants[id]
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
	g.inner.IncRef()
	return heldDir{name: c.Object().Name, key: g.key, dir: g.inner}, true
}

// fileDenied returns what grantfs calls when it refuses something.
func (a *Agent) fileDenied(c *capability.Capability) func(op, name string, missing abi.Rights, errno unix.Errno) {
	return func(op, name string, missing abi.Rights, errno unix.Errno) {
		d := Denial{Agent: a.id, Operation: op, Object: name, Errno: errno}
		if missing != 0 {
			d.Capability = "fs:" + c.Object().Name + ":" + missing.Format(abi.ClassFS)
		}
		a.s.gate.denials.note(d)
	}
}

// pathDepth counts the directories in the place of a grant of files; others
// have none.
func pathDepth(text string) int {
	spec, err := capability.ParseSpec(text)
	if err != nil || spec.Object.Class != abi.ClassFS {
		return 0
	}
	return strings.Count(orElse(spec.At, spec.Object.Name), "/")
}

func orElse(s, other string) string {
	if s != "" {
		return s
	}
	return other
}

// mounts returns the agent's mount namespace with a reference, or nil when the
// agent has ended.
func (a *Agent) mounts() *vfs.MountNamespace {
	a.grantsMu.Lock()
	defer a.grantsMu.Unlock()
	if a.released {
		return nil
	}
	mntns := a.ns.mnt
	mntns.IncRef()
	return mntns
}
