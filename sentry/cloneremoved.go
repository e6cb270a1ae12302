package sentry

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/errdefs"
)

// What was removed and is in use still has no name by which the copy could open it.
// It is made anew there, and has one until everything is open.

// nameless is a file that was removed and is open still, or a directory that was and
// that a process is in.
type nameless struct {
	name string // for a while
	dir  bool
}

// path returns the name by which the agent reaches a file, which a file that was
// removed gets in the copy for a while.
func (f *fileCopier) path(old *vfs.FileDescription) (string, error) {
	vd := old.VirtualDentry()
	name, err := f.c.s.k.VFS().PathnameReachable(f.ctx, f.from, vd)
	if err == nil && name == "" {
		name = f.beneath(vd)
	}
	stat, serr := old.Stat(f.ctx, vfs.StatOptions{Mask: linux.STATX_NLINK | linux.STATX_TYPE | linux.STATX_MODE | linux.STATX_INO | linux.STATX_UID | linux.STATX_GID})
	if serr != nil {
		return "", errdefs.Wrap(serr, errdefs.Internal, "look at", errdefs.Resource("%s", name))
	}
	removed := stat.Nlink == 0 || vd.Dentry().IsDead()
	switch {
	case !removed && (err != nil || name == ""):
		return "", f.refuse(old, "it is in a file system that the agent does not see")
	case !removed:
		return name, nil
	}
	switch stat.Mode & linux.S_IFMT {
	case linux.S_IFREG, linux.S_IFIFO, linux.S_IFDIR:
		return f.anew(vd, name, stat)
	}
	return "", f.refuse(old, name+" was removed and is no plain file")
}

// anew makes, in the copy, a file like vd, which was removed: it has a name for a
// while, by which it can be opened.
func (f *fileCopier) anew(vd vfs.VirtualDentry, name string, stat linux.Statx) (string, error) {
	v := f.c.s.k.VFS()
	id := fileID{uint64(linux.MakeDeviceID(uint16(stat.DevMajor), stat.DevMinor)), stat.Ino}
	if x := f.deleted[id]; x.name != "" {
		return x.name, nil
	}
	p := fmt.Sprintf("/.clone-%d", len(f.deleted))
	x, mode, at := nameless{name: p}, linux.FileMode(stat.Mode&0o7777), creating(f.to, p)
	var file *vfs.FileDescription
	var err error
	switch stat.Mode & linux.S_IFMT {
	case linux.S_IFDIR:
		x.dir = true
		err = v.MkdirAt(f.ctx, f.c.s.creds, at, &vfs.MkdirOptions{Mode: mode})
	case linux.S_IFIFO:
		err = v.MknodAt(f.ctx, f.c.s.creds, at, &vfs.MknodOptions{Mode: linux.S_IFIFO | mode})
	default:
		file, err = v.OpenAt(f.ctx, f.c.s.creds, at, &vfs.OpenOptions{Flags: linux.O_WRONLY | linux.O_CREAT | linux.O_EXCL, Mode: mode & 0o777})
	}
	if err != nil {
		return "", errdefs.Wrap(err, errdefs.Internal, "make a file for one that was removed", errdefs.Resource("%s", name))
	}
	f.deleted[id] = x
	if file != nil {
		defer file.DecRef(f.ctx)
		err = f.content(vd, file)
	}
	v.SetStatAt(f.ctx, f.c.s.creds, at, &vfs.SetStatOptions{Stat: linux.Statx{
		Mask: linux.STATX_MODE | linux.STATX_UID | linux.STATX_GID, Mode: stat.Mode & 0o7777, UID: stat.UID, GID: stat.GID,
	}})
	return p, err
}

// find returns, with a reference, what is at the place of the directory vd in the
// copy.
func (f *fileCopier) find(vd vfs.VirtualDentry) (vfs.VirtualDentry, error) {
	v := f.c.s.k.VFS()
	name, err := v.PathnameReachable(f.ctx, f.from, vd)
	if vd.Dentry().IsDead() {
		stat, serr := v.StatAt(f.ctx, f.c.s.creds, &vfs.PathOperation{Root: vd, Start: vd}, &vfs.StatOptions{Mask: linux.STATX_BASIC_STATS})
		if err = serr; err == nil {
			name, err = f.anew(vd, name, stat)
		}
	}
	if err == nil && name != "" {
		found, err := v.GetDentryAt(f.ctx, f.c.s.creds, creating(f.to, name), &vfs.GetDentryOptions{})
		if err == nil {
			return found, nil
		}
	}
	return vfs.VirtualDentry{}, errdefs.New(errdefs.Unsupported, "a process is in a directory that the copy does not have", errdefs.Op("clone"),
		errdefs.Resource("%s", name), errdefs.Fix("have it leave that directory, and clone the agent then"))
}

// content copies the bytes of a file, which may have no name any more.
func (f *fileCopier) content(vd vfs.VirtualDentry, to *vfs.FileDescription) error {
	from, err := f.c.s.k.VFS().OpenAt(f.ctx, f.c.s.creds, &vfs.PathOperation{Root: vd, Start: vd}, &vfs.OpenOptions{Flags: linux.O_RDONLY})
	if err != nil {
		return errdefs.Wrap(err, errdefs.Internal, "read a file without a name")
	}
	defer from.DecRef(f.ctx)
	return copyBytes(f.ctx, from, to, nil)
}
