package sentry

import (
	"cmp"
	"path"
	"slices"
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/event"
	"aios.dev/aios/sentry/grantfs"
)

// Where grants of files appear: in the agent's own mount namespace, one perhaps
// inside of another.

// newMount returns a mount of fs that is nowhere yet.
func (a *Agent) newMount(fs *grantfs.FS, root *vfs.Dentry) *vfs.Mount {
	return a.s.k.VFS().NewDisconnectedMount(fs.Filesystem(), root, &vfs.MountOptions{
		ReadOnly: !mayChange(fs.Rights()), Flags: vfs.MountFlags{NoSUID: true, NoDev: true},
	})
}

// mayPlace refuses where nothing could be mounted.
func (a *Agent) mayPlace(target string) error {
	if err := checkTarget(target); err != nil {
		return err
	}
	a.s.clearing.settleFor(a)
	mntns := a.mounts()
	if mntns == nil {
		return errdefs.New(errdefs.AgentNotRunning, "the agent has ended", errdefs.Resource("%s", a.id))
	}
	defer mntns.DecRef(a.ctx)
	root := mntns.Root(a.ctx)
	defer root.DecRef(a.ctx)
	stat, err := a.s.k.VFS().StatAt(a.ctx, a.s.creds, at(root, target), &vfs.StatOptions{Mask: linux.STATX_TYPE})
	if err == nil && stat.Mode&linux.S_IFMT != linux.S_IFDIR {
		err = linuxerr.ENOTDIR
	}
	if linuxerr.Equals(linuxerr.ENOENT, err) {
		return nil // It is made.
	}
	return errdefs.Wrap(err, errdefs.InvalidArgument, "mount at", errdefs.Resource("%s", target))
}

// place mounts g in the agent's namespace, unless it has ended meanwhile.
//
// +checklocks:g.mu
func (g *fileGrant) place() error {
	a := g.a
	mntns := a.mounts()
	if mntns == nil {
		return errdefs.New(errdefs.AgentNotRunning, "the agent has ended", errdefs.Resource("%s", a.id))
	}
	defer mntns.DecRef(a.ctx)
	if g.over {
		return g.cap.Err()
	}
	b := &rootBuilder{s: a.s, ctx: a.ctx, root: mntns.Root(a.ctx)}
	defer b.root.DecRef(a.ctx)
	g.view.mount.IncRef() // b.place takes one.
	return b.place(g.view.mount, g.view.at)
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

// unmount takes the mount out of the agent's namespace, if it is where it was
// put, with others that ended under it, and puts back what appears inside. An
// agent that may mount could have moved or covered it; what is in it fails all
// the same.
//
// +checklocks:g.mu
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
	gone := false // Its own mount is.
	for !gone || a.buried.Load() {
		fs := a.unmountEnded(v, root, g.view.at)
		if fs == nil {
			break
		}
		gone = gone || fs == g.view.fs
	}
	if !gone {
		a.buried.Store(true)
	}
	g.tellMount(event.FileUnmount)
	for _, inner := range a.grantsInside(g.view.at) {
		inner.putBack()
	}
}

// unmountEnded takes away the mount at a place if it is of a grant that has
// ended, and returns its file system; else nil.
func (a *Agent) unmountEnded(v *vfs.VirtualFilesystem, root vfs.VirtualDentry, place string) *grantfs.FS {
	vd, err := v.GetDentryAt(a.ctx, a.s.creds, at(root, place), &vfs.GetDentryOptions{})
	if err != nil {
		return nil
	}
	defer vd.DecRef(a.ctx)
	fs, ok := vd.Mount().Filesystem().Impl().(*grantfs.FS)
	if !ok || fs.Rights() != 0 || vd.Dentry() != vd.Mount().Root() {
		return nil
	}
	// It is found already: there is no path left to walk.
	if v.UmountAt(a.ctx, a.s.creds, &vfs.PathOperation{Root: root, Start: vd}, &vfs.UmountOptions{Flags: linux.MNT_DETACH}) != nil {
		return nil
	}
	return fs
}

// grantsInside returns the grants that appear below a path, the outer first.
func (a *Agent) grantsInside(dir string) []*fileGrant {
	a.grantsMu.Lock()
	defer a.grantsMu.Unlock()
	var out []*fileGrant
	for _, g := range a.grants {
		if strings.HasPrefix(g.view.at, dir+"/") {
			out = append(out, g)
		}
	}
	slices.SortFunc(out, func(x, y *fileGrant) int { return cmp.Compare(len(x.view.at), len(y.view.at)) })
	return out
}

// putBack mounts g again, after what it appeared in has gone and taken it along.
func (g *fileGrant) putBack() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over || !g.cap.Live() {
		return
	}
	a := g.a
	mount := a.newMount(g.view.fs, g.view.mount.Root())
	g.view.mount.DecRef(a.ctx)
	a.grantsMu.Lock()
	g.view.mount = mount
	a.grantsMu.Unlock()
	if err := g.place(); err != nil {
		g.hidden(err)
	}
}

// hidden records that a grant is in force and does not appear.
func (g *fileGrant) hidden(why error) {
	g.a.s.gate.denials.note(Denial{Agent: g.a.id, Operation: "mount", Object: g.cap.Object().Name, Errno: errdefs.Errno(why), Why: why.Error()})
}

// pathDepth counts the directories in the place of a grant of files; others
// have none.
func pathDepth(text string) int {
	spec, err := capability.ParseSpec(text)
	if err != nil || spec.Object.Class != abi.ClassFS {
		return 0
	}
	return strings.Count(spec.Target(), "/")
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
