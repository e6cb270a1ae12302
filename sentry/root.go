package sentry

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/devpts"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/overlay"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/proc"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/ctlfs"
)

// A rootBuilder puts an agent's root directory together:
//
//	/            overlay: the agent's tmpfs over the image
//	/usr …       overlay, per grafted layer: the same tmpfs over a host directory
//	/proc        of the agent's PID namespace
//	/sys         shared, read-only; each sees its own limits there
//	/aios        the control tree
//	/tmp         the same tmpfs, without an overlay, if the image has nothing there
//	/dev         overlay: the same tmpfs over the kernel's devices
//	/dev/pts     the agent's own terminals
//	grants       host directories, as they were granted (grants.go)
//
// gVisor's overlay wants layers without submounts, so a host directory below
// an image cannot be part of the image's overlay; it gets one of its own, and
// a rename between the two answers EXDEV.
type rootBuilder struct {
	s    *Kernel
	ctx  context.Context
	root vfs.VirtualDentry
}

// rootLayers is what a root was composed of.
type rootLayers struct {
	control.Root
	disk uint64
	tmp  bool // /tmp is a directory of the upper layer itself
}

// upperName is where in the upper layer a file of the agent is, if it is there.
func (r *rootLayers) upperName(name string) string {
	dir, rest := "root", name
	for i, l := range r.Layers {
		if after, ok := strings.CutPrefix(name, l.Target); ok && (after == "" || after[0] == '/') {
			dir, rest = fmt.Sprintf("layer%d", i), after
		}
	}
	for _, d := range []string{"/dev", "/tmp"} {
		if after, ok := strings.CutPrefix(name, d); ok && (after == "" || after[0] == '/') && (d != "/tmp" || r.tmp) {
			dir, rest = d[1:], after
		}
	}
	return dir + rest
}

// lowerName is the reverse of upperName.
func (r *rootLayers) lowerName(name string) string {
	dir, rest, _ := strings.Cut(strings.TrimPrefix(name, "/"), "/")
	switch dir {
	case "root":
		return "/" + rest
	case "dev", "tmp":
		return path.Join("/", dir, rest)
	}
	for i, l := range r.Layers {
		if dir == fmt.Sprintf("layer%d", i) {
			return path.Join(l.Target, rest)
		}
	}
	return ""
}

// movedTo returns where in the upper layer of another root what is in that of r
// belongs; nil: where it is.
func (r *rootLayers) movedTo(to *rootLayers) func(string) string {
	same := r.tmp == to.tmp && slices.EqualFunc(r.Layers, to.Layers, func(x, y control.Bind) bool { return x.Target == y.Target })
	if same {
		return nil
	}
	return func(name string) string {
		if at := r.lowerName(name); at != "" {
			return path.Clean(to.upperName(at))
		}
		return ""
	}
}

// newRoot gives ns a mount namespace with a fresh root. With from, what is in the
// upper layer of that is in it, where it was for the agent.
func (s *Kernel) newRoot(ns *namespaces, root control.Root, disk uint64, from *namespaces) (err error) {
	ctx := s.context(ns, s.creds, 0)
	upper, err := s.newUpper(ctx, disk)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			upper.DecRef(ctx)
		}
	}()
	made := rootLayers{root, disk, s.tmpIsEmpty(ctx, root.Base)}
	if from != nil {
		// gVisor renames nothing without a mount namespace.
		within := (&namespaces{uts: ns.uts, ipc: ns.ipc, net: ns.net, mnt: from.mnt}).counting(ns.pid())
		if ns.base, err = s.copyUpper(s.context(within, s.creds, 0), from.upper, upper, from.root.movedTo(&made)); err != nil {
			return err
		}
	}
	mnt, err := s.composeRoot(ctx, root, upper, made.tmp)
	if err != nil {
		return err
	}
	ns.mnt, ns.upper, ns.root = mnt, upper, made
	return nil
}

// composeRoot returns a mount namespace with a root over upper, for the caller to
// own.
func (s *Kernel) composeRoot(ctx context.Context, root control.Root, upper *vfs.Mount, tmp bool) (_ *vfs.MountNamespace, err error) {

	fs, dentry, err := s.newOverlay(ctx, upper, "root", root.Base)
	if err != nil {
		return nil, err
	}
	mntns := s.k.VFS().NewMountNamespaceFrom(ctx, s.creds, fs, dentry, &vfs.MountOptions{}, s.k, false)
	b := &rootBuilder{s: s, ctx: ctx, root: mntns.Root(ctx)}
	defer b.root.DecRef(ctx)
	defer func() {
		if err != nil {
			mntns.DecRef(ctx)
		}
	}()
	for i, l := range root.Layers {
		fs, dentry, err := s.newOverlay(ctx, upper, fmt.Sprintf("layer%d", i), l.Key)
		if err != nil {
			return nil, err
		}
		mnt := s.k.VFS().NewDisconnectedMount(fs, dentry, &vfs.MountOptions{ReadOnly: l.ReadOnly})
		dentry.DecRef(ctx)
		fs.DecRef(ctx)
		if err := b.place(mnt, l.Target); err != nil {
			return nil, err
		}
	}
	if tmp {
		if err := b.tmp(upper); err != nil {
			return nil, err
		}
	}
	for _, dir := range root.Hide {
		if err := b.hide(dir); err != nil {
			return nil, err
		}
	}
	if err := b.kernelMounts(upper); err != nil {
		return nil, err
	}
	return mntns, nil
}

// newUpper returns the tmpfs that takes what the agent writes.
func (s *Kernel) newUpper(ctx context.Context, disk uint64) (*vfs.Mount, error) {
	opts := vfs.GetFilesystemOptions{InternalMount: true}
	if disk > 0 {
		opts.Data = fmt.Sprintf("size=%d", disk)
	}
	mnt, err := s.k.VFS().MountDisconnected(ctx, s.creds, "", tmpfs.Name, &vfs.MountOptions{GetFilesystemOptions: opts})
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "create the writable layer")
	}
	return mnt, nil
}

// newOverlay returns an overlay of a fresh directory of upper over the file
// system known as key.
func (s *Kernel) newOverlay(ctx context.Context, upper *vfs.Mount, dir, key string) (*vfs.Filesystem, *vfs.Dentry, error) {
	v := s.k.VFS()
	lower, err := s.mount(key)
	if err != nil {
		return nil, nil, err
	}
	defer lower.DecRef(ctx)
	lowerRoot := vfs.MakeVirtualDentry(lower, lower.Root())
	upperRoot := vfs.MakeVirtualDentry(upper, upper.Root())
	stat, err := v.StatAt(ctx, s.creds, at(lowerRoot, ""), &vfs.StatOptions{Mask: linux.STATX_MODE | linux.STATX_UID | linux.STATX_GID})
	if err != nil {
		return nil, nil, errdefs.Wrap(err, errdefs.ImageInvalid, "read the root of", errdefs.Resource("%s", key))
	}
	// It is there already in a copy.
	if err := v.MkdirAt(ctx, s.creds, creating(upperRoot, dir), &vfs.MkdirOptions{Mode: linux.FileMode(stat.Mode & 07777)}); err != nil && !linuxerr.Equals(linuxerr.EEXIST, err) {
		return nil, nil, errdefs.Wrap(err, errdefs.Internal, "create the writable layer")
	}
	up, err := v.GetDentryAt(ctx, s.creds, at(upperRoot, dir), &vfs.GetDentryOptions{})
	if err != nil {
		return nil, nil, errdefs.Wrap(err, errdefs.Internal, "open the writable layer")
	}
	defer up.DecRef(ctx)
	fs, dentry, err := v.NewFilesystem(ctx, s.creds, "", overlay.Name, &vfs.MountOptions{
		GetFilesystemOptions: vfs.GetFilesystemOptions{
			InternalMount: true,
			InternalData:  overlay.FilesystemOptions{UpperRoot: up, LowerRoots: []vfs.VirtualDentry{lowerRoot}},
		},
	})
	if err != nil {
		return nil, nil, errdefs.Wrap(err, errdefs.ImageInvalid, "overlay", errdefs.Resource("%s", key))
	}
	return fs, dentry, nil
}

// kernelMounts adds what every agent sees of the kernel.
func (b *rootBuilder) kernelMounts(upper *vfs.Mount) error {
	v := b.s.k.VFS()
	devFS, devRoot, err := b.s.newOverlay(b.ctx, upper, "dev", devKey)
	if err != nil {
		return err
	}
	devMount := v.NewDisconnectedMount(devFS, devRoot, &vfs.MountOptions{Flags: vfs.MountFlags{NoExec: true, NoSUID: true}})
	devRoot.DecRef(b.ctx)
	devFS.DecRef(b.ctx)
	if err := b.place(devMount, "/dev"); err != nil {
		return err
	}
	sysMount := v.NewDisconnectedMount(b.s.sysfs, b.s.sysRoot, &vfs.MountOptions{
		ReadOnly: true, Flags: vfs.MountFlags{NoExec: true, NoSUID: true, NoDev: true},
	})
	if err := b.place(sysMount, "/sys"); err != nil {
		return err
	}
	cgroupMount := v.NewDisconnectedMount(b.s.views.cgroup, b.s.views.cgroupRoot, &vfs.MountOptions{
		ReadOnly: true, Flags: vfs.MountFlags{NoExec: true, NoSUID: true, NoDev: true},
	})
	if err := b.place(cgroupMount, "/sys/fs/cgroup"); err != nil {
		return err
	}
	for _, m := range []struct {
		fsType, target, data string
		flags                vfs.MountFlags
	}{
		{ctlfs.Name, ctlfs.Mountpoint, "", vfs.MountFlags{NoExec: true, NoSUID: true, NoDev: true}},
		{proc.Name, "/proc", "", vfs.MountFlags{NoExec: true, NoSUID: true, NoDev: true}},
		{devpts.Name, "/dev/pts", "newinstance,mode=0755,ptmxmode=0666", vfs.MountFlags{NoExec: true, NoSUID: true}},
	} {
		mnt, err := v.MountDisconnected(b.ctx, b.s.creds, "", m.fsType, &vfs.MountOptions{
			Flags: m.flags,
			GetFilesystemOptions: vfs.GetFilesystemOptions{
				InternalMount: true, Data: m.data,
			},
		})
		if err != nil {
			return errdefs.Wrap(err, errdefs.Internal, "mount", errdefs.Resource("%s", m.target))
		}
		if err := b.place(mnt, m.target); err != nil {
			return err
		}
	}
	return nil
}

// tmp mounts a directory of upper, without an overlay between: programs put
// their many small files there, and an overlay looks each up again every time.
func (b *rootBuilder) tmp(upper *vfs.Mount) error {
	v := b.s.k.VFS()
	upperRoot := vfs.MakeVirtualDentry(upper, upper.Root())
	if err := v.MkdirAt(b.ctx, b.s.creds, creating(upperRoot, "tmp"), &vfs.MkdirOptions{Mode: 0o1777}); err != nil && !linuxerr.Equals(linuxerr.EEXIST, err) {
		return errdefs.Wrap(err, errdefs.Internal, "create /tmp")
	}
	dir, err := v.GetDentryAt(b.ctx, b.s.creds, at(upperRoot, "tmp"), &vfs.GetDentryOptions{})
	if err != nil {
		return errdefs.Wrap(err, errdefs.Internal, "open /tmp")
	}
	mnt := v.NewDisconnectedMount(upper.Filesystem(), dir.Dentry(), &vfs.MountOptions{Flags: vfs.MountFlags{NoSUID: true, NoDev: true}})
	dir.DecRef(b.ctx)
	return b.place(mnt, "/tmp")
}

// tmpIsEmpty reports whether the image has nothing in /tmp. It is asked once
// for each image.
func (s *Kernel) tmpIsEmpty(ctx context.Context, base string) bool {
	if empty, ok := s.emptyTmp.Load(base); ok {
		return empty.(bool)
	}
	mnt, err := s.mount(base)
	if err != nil {
		return false // Whoever mounts it will say why.
	}
	defer mnt.DecRef(ctx)
	empty := true
	root := vfs.MakeVirtualDentry(mnt, mnt.Root())
	if dir, err := s.k.VFS().OpenAt(ctx, s.creds, at(root, "tmp"), &vfs.OpenOptions{Flags: linux.O_RDONLY | linux.O_DIRECTORY}); err == nil {
		dir.IterDirents(ctx, vfs.IterDirentsCallbackFunc(func(d vfs.Dirent) error {
			if d.Name != "." && d.Name != ".." {
				empty = false
			}
			return nil
		}))
		dir.DecRef(ctx)
	}
	s.emptyTmp.Store(base, empty)
	return empty
}

// hide covers a directory of the image with an empty one.
func (b *rootBuilder) hide(dir string) error {
	empty := b.s.k.VFS().NewDisconnectedMount(b.s.emptyFS, b.s.emptyRoot, &vfs.MountOptions{ReadOnly: true})
	return b.place(empty, dir)
}

// place attaches mnt, whose reference it takes, creating the directory.
func (b *rootBuilder) place(mnt *vfs.Mount, target string) error {
	defer mnt.DecRef(b.ctx)
	v := b.s.k.VFS()
	bad := func(err error, op string) error {
		return errdefs.Wrap(err, errdefs.InvalidArgument, op, errdefs.Resource("%s", target))
	}
	stat, err := v.StatAt(b.ctx, b.s.creds, at(b.root, target), &vfs.StatOptions{Mask: linux.STATX_TYPE})
	switch {
	case linuxerr.Equals(linuxerr.ENOENT, err):
		err := v.MkdirAllAt(b.ctx, target, b.root, b.s.creds, &vfs.MkdirOptions{Mode: 0o755}, true)
		if err != nil {
			return bad(err, "create the mount point")
		}
	case err != nil:
		return bad(err, "mount at")
	case stat.Mode&linux.S_IFMT != linux.S_IFDIR:
		return bad(linuxerr.ENOTDIR, "mount at") // gVisor would, and hide the file.
	}
	return bad(v.ConnectMountAt(b.ctx, b.s.creds, mnt, at(b.root, target)), "mount at")
}

// at is the path below root; symlinks in it resolve inside root.
func at(root vfs.VirtualDentry, p string) *vfs.PathOperation {
	return &vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(p), FollowFinalSymlink: true}
}

// creating is the path below root of something that does not exist yet.
func creating(root vfs.VirtualDentry, p string) *vfs.PathOperation {
	return &vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(p)}
}
