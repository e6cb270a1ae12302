package sentry

import (
	"path"
	"syscall"

	gverrors "gvisor.dev/gvisor/pkg/errors"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/abi"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/sentry/grantfs"
)

// explain says what would happen if the agent's first user did what text says.
func (a *Agent) explain(text string) (Explanation, error) {
	if op, problem := abi.ParseOperation(text); problem == "" && len(op.Needs) == 1 && op.Needs[0].Class == abi.ClassEvent {
		return a.explainWatch(op.Needs[0].Object)
	}
	var held []HeldCapability
	for _, c := range a.s.space.List(a.id) {
		if c.Live() {
			o := c.Object()
			held = append(held, HeldCapability{ID: string(c.ID()), Held: abi.Held{Class: o.Class, Object: o.Name, Rights: c.Rights()}})
		}
	}
	mntns := a.mounts()
	if mntns == nil {
		return Explanation{}, errdefs.New(errdefs.AgentNotRunning, "the agent has ended", errdefs.Resource("%s", a.id))
	}
	defer mntns.DecRef(a.ctx)
	root := mntns.Root(a.ctx)
	defer root.DecRef(a.ctx)
	return Explain(text, a.gate.mask.Load(), held, func(name string, want abi.Rights) (syscall.Errno, string, string) {
		return a.lookup(root, name, want)
	})
}

// lookup says what the agent's root user would get.
func (a *Agent) lookup(root vfs.VirtualDentry, name string, want abi.Rights) (syscall.Errno, string, string) {
	v := a.s.k.VFS()
	name = path.Clean("/" + name)
	vd, err := v.GetDentryAt(a.ctx, a.s.creds, at(root, name), &vfs.GetDentryOptions{})
	exists := err == nil
	if linuxerr.Equals(linuxerr.ENOENT, err) && want&abi.FSCreate != 0 {
		vd, err = v.GetDentryAt(a.ctx, a.s.creds, at(root, path.Dir(name)), &vfs.GetDentryOptions{})
	}
	switch {
	case linuxerr.Equals(linuxerr.ENOENT, err):
		return syscall.ENOENT, "there is no such file in the agent's image or in what it was granted", ""
	case err != nil:
		return errnoFrom(err), "the path cannot be followed: " + err.Error(), ""
	}
	defer vd.DecRef(a.ctx)
	if fs, ok := vd.Mount().Filesystem().Impl().(*grantfs.FS); ok {
		return a.lookupGrant(fs, want)
	}
	if want&(abi.FSWrite|abi.FSCreate|abi.FSDelete) != 0 && vd.Mount().ReadOnly() {
		return syscall.EROFS, "it is the kernel's own, and read-only", ""
	}
	if exists {
		access := vfs.AccessTypes(0)
		for right, t := range map[abi.Rights]vfs.AccessTypes{abi.FSRead: vfs.MayRead, abi.FSWrite: vfs.MayWrite, abi.FSExec: vfs.MayExec} {
			if want&right != 0 {
				access |= t
			}
		}
		if err := v.AccessAt(a.ctx, a.s.creds, access, at(root, name)); err != nil {
			return errnoFrom(err), "the mode of the file does not allow it", ""
		}
	}
	return 0, "it is in the agent's own image", ""
}

// lookupGrant finds the capability of a grant of files.
func (a *Agent) lookupGrant(fs *grantfs.FS, want abi.Rights) (syscall.Errno, string, string) {
	a.grantsMu.Lock()
	defer a.grantsMu.Unlock()
	for id, g := range a.grants {
		if g.view.fs != fs {
			continue
		}
		if missing := want &^ fs.Rights(); missing != 0 {
			return syscall.EACCES, "the grant " + string(id) + " does not give " + missing.Format(abi.ClassFS), ""
		}
		return 0, "it is granted", string(id)
	}
	return syscall.EACCES, "what granted it was revoked", ""
}

// errnoFrom returns the errno in an error of gVisor.
func errnoFrom(err error) syscall.Errno {
	switch e := err.(type) {
	case *gverrors.Error:
		return linuxerr.ToUnix(e)
	case syscall.Errno:
		return e
	}
	if e, ok := linuxerr.TranslateError(err); ok {
		return linuxerr.ToUnix(e)
	}
	return syscall.EIO
}
