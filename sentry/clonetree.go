package sentry

import (
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/errdefs"
)

// An agent's files that it has made or changed are in one tmpfs, its upper layer.
// A copy of the agent gets one of its own with the same in it: that is all that
// copyUpper is asked for, and all that a file system that copies in no time would
// have to offer.

// treeCopier copies one file system into another.
type treeCopier struct {
	s     *Kernel
	ctx   context.Context
	links map[uint64]vfs.VirtualDentry // of files with several names, the copy
}

// copyUpper fills an upper layer with what is in another.
func (s *Kernel) copyUpper(ctx context.Context, from, to *vfs.Mount) error {
	c := &treeCopier{s: s, ctx: ctx, links: make(map[uint64]vfs.VirtualDentry)}
	defer func() {
		for _, vd := range c.links {
			vd.DecRef(ctx)
		}
	}()
	return errdefs.Wrap(c.dir(vfs.MakeVirtualDentry(from, from.Root()), vfs.MakeVirtualDentry(to, to.Root())), errdefs.HostIO, "copy the agent's files")
}

func below1(dir vfs.VirtualDentry, name string) *vfs.PathOperation {
	return &vfs.PathOperation{Root: dir, Start: dir, Path: fspath.Parse(name)}
}

// dir copies what is in a directory.
func (c *treeCopier) dir(from, to vfs.VirtualDentry) error {
	v := c.s.k.VFS()
	d, err := v.OpenAt(c.ctx, c.s.creds, below1(from, ""), &vfs.OpenOptions{Flags: linux.O_RDONLY | linux.O_DIRECTORY})
	if err != nil {
		return err
	}
	var names []string
	err = d.IterDirents(c.ctx, vfs.IterDirentsCallbackFunc(func(e vfs.Dirent) error {
		if e.Name != "." && e.Name != ".." {
			names = append(names, e.Name)
		}
		return nil
	}))
	d.DecRef(c.ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := c.entry(from, to, name); err != nil {
			return err
		}
	}
	return nil
}

// entry copies one file or directory.
func (c *treeCopier) entry(fromDir, toDir vfs.VirtualDentry, name string) error {
	v, from, to := c.s.k.VFS(), below1(fromDir, name), below1(toDir, name)
	stat, err := v.StatAt(c.ctx, c.s.creds, from, &vfs.StatOptions{Mask: linux.STATX_BASIC_STATS})
	if err != nil {
		return err
	}
	mode := linux.FileMode(stat.Mode & 0o7777)
	kind := stat.Mode & linux.S_IFMT
	if kind != linux.S_IFDIR && stat.Nlink > 1 {
		if first, ok := c.links[stat.Ino]; ok {
			return v.LinkAt(c.ctx, c.s.creds, below1(first, ""), to)
		}
	}
	switch kind {
	case linux.S_IFDIR:
		err = v.MkdirAt(c.ctx, c.s.creds, to, &vfs.MkdirOptions{Mode: mode})
		if err == nil {
			err = c.inside(from, to)
		}
	case linux.S_IFREG:
		err = c.regular(from, to, mode)
	case linux.S_IFLNK:
		var target string
		if target, err = v.ReadlinkAt(c.ctx, c.s.creds, from); err == nil {
			err = v.SymlinkAt(c.ctx, c.s.creds, to, target)
		}
	default:
		err = v.MknodAt(c.ctx, c.s.creds, to, &vfs.MknodOptions{
			Mode: linux.FileMode(stat.Mode), DevMajor: stat.RdevMajor, DevMinor: stat.RdevMinor,
		})
	}
	if err != nil {
		return err
	}
	if err := c.attributes(from, to, &stat); err != nil {
		return err
	}
	if kind != linux.S_IFDIR && stat.Nlink > 1 {
		vd, err := v.GetDentryAt(c.ctx, c.s.creds, to, &vfs.GetDentryOptions{})
		if err != nil {
			return err
		}
		c.links[stat.Ino] = vd
	}
	return nil
}

// inside copies what is in the directory from.
func (c *treeCopier) inside(from, to *vfs.PathOperation) error {
	v := c.s.k.VFS()
	f, err := v.GetDentryAt(c.ctx, c.s.creds, from, &vfs.GetDentryOptions{})
	if err != nil {
		return err
	}
	defer f.DecRef(c.ctx)
	t, err := v.GetDentryAt(c.ctx, c.s.creds, to, &vfs.GetDentryOptions{})
	if err != nil {
		return err
	}
	defer t.DecRef(c.ctx)
	return c.dir(f, t)
}

// attributes copies what is said about a file.
func (c *treeCopier) attributes(from, to *vfs.PathOperation, stat *linux.Statx) error {
	v := c.s.k.VFS()
	if stat.Mode&linux.S_IFMT != linux.S_IFLNK {
		names, err := v.ListXattrAt(c.ctx, c.s.creds, from, 0)
		if err != nil {
			names = nil // It can have none.
		}
		for _, n := range names {
			value, err := v.GetXattrAt(c.ctx, c.s.creds, from, &vfs.GetXattrOptions{Name: n, Size: linux.XATTR_SIZE_MAX})
			if err != nil {
				return err
			}
			if err := v.SetXattrAt(c.ctx, c.s.creds, to, &vfs.SetXattrOptions{Name: n, Value: value}); err != nil {
				return err
			}
		}
	}
	set := linux.Statx{
		Mask: linux.STATX_UID | linux.STATX_GID | linux.STATX_ATIME | linux.STATX_MTIME,
		UID:  stat.UID, GID: stat.GID, Atime: stat.Atime, Mtime: stat.Mtime,
	}
	if stat.Mode&linux.S_IFMT != linux.S_IFLNK {
		set.Mask |= linux.STATX_MODE
		set.Mode = stat.Mode & 0o7777
	}
	return v.SetStatAt(c.ctx, c.s.creds, to, &vfs.SetStatOptions{Stat: set})
}

// regular copies a plain file.
func (c *treeCopier) regular(from, to *vfs.PathOperation, mode linux.FileMode) error {
	v := c.s.k.VFS()
	in, err := v.OpenAt(c.ctx, c.s.creds, from, &vfs.OpenOptions{Flags: linux.O_RDONLY})
	if err != nil {
		return err
	}
	defer in.DecRef(c.ctx)
	out, err := v.OpenAt(c.ctx, c.s.creds, to, &vfs.OpenOptions{Flags: linux.O_WRONLY | linux.O_CREAT | linux.O_EXCL, Mode: mode})
	if err != nil {
		return err
	}
	defer out.DecRef(c.ctx)
	return copyBytes(c.ctx, in, out)
}

// copyChunk is how much is copied at a time.
const copyChunk = 256 << 10

// copyBytes makes the content of out that of in. Holes stay holes.
func copyBytes(ctx context.Context, in, out *vfs.FileDescription) error {
	stat, err := in.Stat(ctx, vfs.StatOptions{Mask: linux.STATX_SIZE})
	if err != nil || stat.Size == 0 {
		return err
	}
	buf := make([]byte, min(stat.Size, copyChunk))
	for at := uint64(0); at < stat.Size; {
		n, err := in.PRead(ctx, usermem.BytesIOSequence(buf), int64(at), vfs.ReadOptions{})
		if n == 0 {
			break
		}
		if err != nil && n < 0 {
			return err
		}
		if p := buf[:n]; !zero(p) {
			for len(p) > 0 {
				w, err := out.PWrite(ctx, usermem.BytesIOSequence(p), int64(at)+n-int64(len(p)), vfs.WriteOptions{})
				if err != nil && w == 0 {
					return err
				}
				p = p[w:]
			}
		}
		at += uint64(n)
	}
	return out.SetStat(ctx, vfs.SetStatOptions{Stat: linux.Statx{Mask: linux.STATX_SIZE, Size: stat.Size}})
}

func zero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}
