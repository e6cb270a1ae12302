package sentry

import (
	"path"
	"strings"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/mm"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"aios.dev/aios/errdefs"
)

// A fork of an address space shares what is mapped to be shared. A copy of an
// agent must share nothing with its original but what never changes: files of the
// agent are mapped anew from the copy's own, and memory that processes of the agent
// share is copied, once for all of them.

// mapping is one line of /proc/PID/maps.
type mapping struct {
	addr   hostarch.AddrRange
	perms  hostarch.AccessType
	shared bool
	offset uint64
	id     fileID
	path   string
}

// forkMemory copies an address space. What a program wants left out when it forks itself,
// by madvise(2), is copied all the same.
func (s *Kernel) forkMemory(ctx context.Context, old *kernel.Task) (*kernel.TaskImage, error) {
	img, err := old.TaskImage().Fork(ctx, s.k, false)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "copy memory")
	}
	from := old.MemoryManager()
	if img.MemoryManager.VirtualMemorySize() == from.VirtualMemorySize() {
		return img, nil
	}
	has := make(map[hostarch.Addr]hostarch.Addr)
	img.MemoryManager.ReadMapsDataInto(ctx, func(start, end hostarch.Addr, _ hostarch.AccessType, _ string, _ uint64, _, _ uint32, _ uint64, _ string) {
		has[start] = end
	})
	var left []hostarch.AddrRange
	from.ReadMapsDataInto(ctx, func(start, end hostarch.Addr, _ hostarch.AccessType, _ string, _ uint64, _, _ uint32, _ uint64, _ string) {
		if has[start] != end {
			left = append(left, hostarch.AddrRange{Start: start, End: end})
		}
	})
	img.MemoryManager.DecUsers(ctx)
	set := func(m *mm.MemoryManager, leave bool) {
		for _, r := range left {
			m.SetDontFork(r.Start, uint64(r.Length()), leave)
		}
	}
	set(from, false)
	img, err = old.TaskImage().Fork(ctx, s.k, false)
	set(from, true)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "copy memory")
	}
	set(img.MemoryManager, true)
	return img, nil
}

// memory sets up the address spaces of the copy.
func (c *copying) memory() error {
	shared := make(map[fileID]*vfs.FileDescription)
	defer func() {
		for _, f := range shared {
			f.DecRef(c.ctx)
		}
	}()
	for old, t := range c.images {
		var all []mapping
		// Names are as the original sees them.
		old.ReadMapsDataInto(c.src.ctx, func(start, end hostarch.Addr, perms hostarch.AccessType, private string, offset uint64, major, minor uint32, ino uint64, name string) {
			if private == "s" || ino != 0 && strings.HasPrefix(name, "/") {
				all = append(all, mapping{hostarch.AddrRange{Start: start, End: end}, perms, private == "s", offset,
					fileID{uint64(major)<<20 | uint64(minor), ino}, name})
			}
		})
		m := t.MemoryManager()
		for _, x := range all {
			var err error
			switch {
			case strings.HasPrefix(x.path, "[aio]"):
				err = c.copyAIO(old, m, x)
			case c.isSegment(x):
				err = c.mapSegment(t, m, x)
			case x.shared:
				c.noteShared(x)
				err = c.mapShared(old, m, x, shared)
			case c.changes(x.path):
				err = c.mapPrivate(m, x)
			}
			if err != nil {
				return err
			}
		}
		if err := c.program(old, m); err != nil {
			return err
		}
	}
	return nil
}

// changes reports whether the file of that name is another one in the copy: it is
// one that the agent has made or changed, or in a directory that it was granted.
func (c *copying) changes(name string) bool {
	if gone, ok := strings.CutSuffix(name, " (deleted)"); ok {
		// What is mapped of it stays as it is, but for what is not the copy's.
		return c.fresh != nil && c.files.granted(gone)
	}
	if c.files.granted(name) || isRegion(name) {
		return true
	}
	ns := c.dst.ns
	if ns.upper == nil {
		return true
	}
	upper := vfs.MakeVirtualDentry(ns.upper, ns.upper.Root())
	_, err := c.s.k.VFS().StatAt(c.ctx, c.s.creds, creating(upper, ns.root.upperName(name)), &vfs.StatOptions{})
	return err == nil
}

// mapShared maps what the copy has in the place of what its original shares.
func (c *copying) mapShared(old, m *mm.MemoryManager, x mapping, shared map[fileID]*vfs.FileDescription) error {
	file := shared[x.id]
	if file == nil {
		for o, f := range c.files.files {
			if idOf(c.ctx, o) == x.id && f.IsReadable() {
				file = f
				file.IncRef()
				break
			}
		}
	}
	if file == nil && strings.HasPrefix(x.path, "/") && !strings.HasSuffix(x.path, " (deleted)") {
		for _, flags := range []uint32{linux.O_RDWR, linux.O_RDONLY} {
			var err error
			if file, err = c.s.k.VFS().OpenAt(c.ctxOf(x.path), c.s.creds, creating(c.files.to, x.path), &vfs.OpenOptions{Flags: flags | linux.O_NOCTTY}); err == nil {
				break
			}
		}
	}
	if file == nil {
		var err error
		if file, err = c.anonymous(old, x); err != nil {
			return err
		}
	}
	shared[x.id] = file
	return c.mapFile(m, x, file)
}

// anonymous makes memory without a file like that which is mapped somewhere.
func (c *copying) anonymous(old *mm.MemoryManager, x mapping) (*vfs.FileDescription, error) {
	// How much of it is mapped is found among all that map it.
	size := uint64(0)
	type part struct {
		m *mm.MemoryManager
		x mapping
	}
	var parts []part
	for m := range c.images {
		m.ReadMapsDataInto(c.src.ctx, func(start, end hostarch.Addr, perms hostarch.AccessType, private string, offset uint64, major, minor uint32, ino uint64, name string) {
			if id := (fileID{uint64(major)<<20 | uint64(minor), ino}); private == "s" && id == x.id {
				size = max(size, offset+uint64(end-start))
				parts = append(parts, part{m, mapping{addr: hostarch.AddrRange{Start: start, End: end}, perms: perms, offset: offset}})
			}
		})
	}
	file, err := tmpfs.NewZeroFile(c.ctx, c.s.creds, c.s.k.ShmMount(), size)
	if err != nil {
		return nil, errdefs.Wrap(err, errdefs.Internal, "make shared memory")
	}
	buf := make([]byte, copyChunk)
	for _, p := range parts {
		for at := p.x.addr.Start; at < p.x.addr.End; {
			n := min(uint64(p.x.addr.End-at), uint64(len(buf)))
			if _, err := p.m.CopyIn(c.ctx, at, buf[:n], usermem.IOOpts{IgnorePermissions: true}); err != nil {
				break // Beyond the end of a file.
			}
			if !zero(buf[:n]) {
				if _, err := file.PWrite(c.ctx, usermem.BytesIOSequence(buf[:n]), int64(p.x.offset+uint64(at-p.x.addr.Start)), vfs.WriteOptions{}); err != nil {
					file.DecRef(c.ctx)
					return nil, errdefs.Wrap(err, errdefs.Internal, "copy shared memory")
				}
			}
			at += hostarch.Addr(n)
		}
	}
	return file, nil
}

// mapFile maps a file in the place of another mapping.
func (c *copying) mapFile(m *mm.MemoryManager, x mapping, file *vfs.FileDescription) error {
	opts := memmap.MMapOpts{
		Length: uint64(x.addr.Length()), Offset: x.offset, Addr: x.addr.Start, Fixed: true, Unmap: true,
		Perms: x.perms, MaxPerms: hostarch.AnyAccess, Private: !x.shared,
	}
	if x.shared && !file.IsWritable() {
		opts.MaxPerms.Write = false
	}
	if err := file.ConfigureMMap(c.ctxOf(x.path), &opts); err != nil {
		return errdefs.Wrap(err, errdefs.Internal, "map", errdefs.Resource("%s", x.path))
	}
	if opts.MappingIdentity != nil {
		defer opts.MappingIdentity.DecRef(c.ctx)
	}
	_, err := m.MMap(c.ctx, opts)
	return errdefs.Wrap(err, errdefs.Internal, "map", errdefs.Resource("%s", x.path))
}

// mapPrivate maps the copy's own file, and keeps what the program has changed.
func (c *copying) mapPrivate(m *mm.MemoryManager, x mapping) error {
	file, err := c.s.k.VFS().OpenAt(c.ctxOf(x.path), c.s.creds, creating(c.files.to, x.path), &vfs.OpenOptions{Flags: linux.O_RDONLY})
	if err != nil {
		if c.fresh != nil && c.files.granted(x.path) {
			return errdefs.New(errdefs.Unsupported, "the template has mapped a file of a directory that the agent is not granted", errdefs.Op("spawn"),
				errdefs.Resource("%s", x.path), errdefs.Fix("grant the agent that directory, at the same place"))
		}
		if linuxerr.Equals(linuxerr.ENOENT, err) {
			return nil
		}
		return errdefs.Wrap(err, errdefs.Internal, "open", errdefs.Resource("%s", x.path))
	}
	defer file.DecRef(c.ctx)
	was := make([]byte, x.addr.Length())
	n, _ := m.CopyIn(c.ctx, x.addr.Start, was, usermem.IOOpts{IgnorePermissions: true})
	if err := c.mapFile(m, x, file); err != nil {
		return err
	}
	is := make([]byte, hostarch.PageSize)
	for at := 0; at < n; at += hostarch.PageSize {
		page := was[at:min(at+hostarch.PageSize, n)]
		addr := x.addr.Start + hostarch.Addr(at)
		got, err := m.CopyIn(c.ctx, addr, is[:len(page)], usermem.IOOpts{IgnorePermissions: true})
		if err == nil && got == len(page) && string(is[:got]) == string(page) {
			continue
		}
		if _, err := m.CopyOut(c.ctx, addr, page, usermem.IOOpts{IgnorePermissions: true}); err != nil {
			return errdefs.Wrap(err, errdefs.Internal, "copy memory", errdefs.Resource("%s", x.path))
		}
	}
	return nil
}

// program has the copy's address space name the program file as the copy sees it.
func (c *copying) program(old, m *mm.MemoryManager) error {
	exe := old.Executable()
	if exe == nil {
		return nil
	}
	defer exe.DecRef(c.ctx)
	name, err := c.s.k.VFS().PathnameReachable(c.ctx, c.files.from, exe.VirtualDentry())
	if err != nil || name == "" || exe.Dentry().IsDead() {
		return nil
	}
	file, err := c.s.k.VFS().OpenAt(c.ctx, c.s.creds, creating(c.files.to, path.Clean(name)), &vfs.OpenOptions{Flags: linux.O_RDONLY})
	if err != nil {
		return nil
	}
	m.SetExecutable(c.ctx, file) // It takes a reference of its own.
	file.DecRef(c.ctx)
	return nil
}
