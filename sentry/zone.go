package sentry

import (
	"path"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/control"
	"aios.dev/aios/errdefs"
)

const (
	zoneFile = "/etc/localtime"
	zoneName = "/etc/timezone"
	zoneDir  = "/usr/share/zoneinfo"
)

// setZone has the programs of the agent find its time zone, wherever they look for
// it: in TZ, in /etc/localtime, by name. It writes to the agent's own layer, before
// anything is mounted there for it.
func (a *Agent) setZone(z *control.Zone) error {
	if z == nil {
		return nil
	}
	root := a.ns.mnt.Root(a.ctx)
	defer root.DecRef(a.ctx)
	if err := a.replaceFile(root, zoneFile, z.Data); err != nil {
		return errdefs.Wrap(err, errdefs.ImageInvalid, "set the time zone", errdefs.Resource("%s", zoneFile), errdefs.Fix("use an image whose /etc is a directory"))
	}
	if err := a.replaceFile(root, zoneName, []byte(z.Name+"\n")); err != nil {
		return errdefs.Wrap(err, errdefs.ImageInvalid, "set the time zone", errdefs.Resource("%s", zoneName), errdefs.Fix("use an image whose /etc is a directory"))
	}
	a.zone = z.Name
	named := path.Join(zoneDir, z.Name)
	if stat, err := a.s.k.VFS().StatAt(a.ctx, a.s.creds, at(root, named), &vfs.StatOptions{Mask: linux.STATX_TYPE}); err == nil && stat.Mode&linux.S_IFMT == linux.S_IFREG {
		return nil
	}
	if err := a.replaceFile(root, named, z.Data); err != nil {
		// What is there cannot be written to. C libraries read a file, too.
		a.zone = ":" + zoneFile
	}
	return nil
}

// replaceFile makes a file of the agent's own layer, and the directories that it is
// in.
func (a *Agent) replaceFile(root vfs.VirtualDentry, name string, data []byte) error {
	v := a.s.k.VFS()
	if err := v.MkdirAllAt(a.ctx, path.Dir(name), root, a.s.creds, &vfs.MkdirOptions{Mode: 0o755}, true); err != nil {
		return err
	}
	if err := v.UnlinkAt(a.ctx, a.s.creds, creating(root, name)); err != nil && !linuxerr.Equals(linuxerr.ENOENT, err) {
		return err
	}
	f, err := v.OpenAt(a.ctx, a.s.creds, creating(root, name), &vfs.OpenOptions{Flags: linux.O_WRONLY | linux.O_CREAT | linux.O_EXCL, Mode: 0o644})
	if err != nil {
		return err
	}
	defer f.DecRef(a.ctx)
	n, err := f.Write(a.ctx, usermem.BytesIOSequence(data), vfs.WriteOptions{})
	if err == nil && n != int64(len(data)) {
		err = linuxerr.ENOSPC
	}
	return err
}
