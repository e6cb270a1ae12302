package grantfs

import (
	"sync"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"aios.dev/aios/abi"
)

// A mapKey tells mappings apart. A file that was opened to be executed is mapped
// by the right to execute, any other by the right to read.
type mapKey struct {
	inner memmap.Mappable
	image bool
}

// A mapping is what the memory of agents is mapped to instead of a file of the
// inner file system. It implements memmap.Mappable. There is one for all
// mappings of a file through one grant, as shared futexes need; two agents with
// a grant each share the file's memory, but no futexes in it.
type mapping struct {
	mapKey
	fs   *FS
	path string // of the file when it was first mapped, to tell of refusals
	refs int    // files that use it; under FS.mapsMu

	mu sync.Mutex
	// spaces are the memories that map it.
	spaces memmap.MappingSet // +checklocks:mu
}

// ConfigureMMap implements vfs.FileDescriptionImpl.ConfigureMMap.
func (f *file) ConfigureMMap(ctx context.Context, opts *memmap.MMapOpts) error {
	p, err := f.begin("mmap", f.reads())
	if err != nil {
		return err
	}
	defer f.end(p)
	if f.kind != regularFile {
		return linuxerr.ENODEV
	}
	for _, limit := range []struct {
		right     abi.Rights
		wants     bool
		forbidden *bool
	}{
		{abi.FSExec, opts.Perms.Execute, &opts.MaxPerms.Execute},
		{abi.FSWrite, opts.Perms.Write && !opts.Private, &opts.MaxPerms.Write},
	} {
		if limit.right == abi.FSWrite && opts.Private {
			continue // It writes to memory of its own.
		}
		if err := f.fs.allows(limit.right); err != nil {
			if limit.wants {
				return f.refuse("mmap", limit.right, err)
			}
			*limit.forbidden = false
		}
	}
	if err := f.inner.ConfigureMMap(ctx, opts); err != nil {
		return err
	}
	if opts.MappingIdentity != nil {
		opts.MappingIdentity.DecRef(ctx) // f keeps the inner file.
		opts.MappingIdentity = nil
	}
	if opts.Mappable == nil {
		return linuxerr.ENODEV // It would be anonymous memory.
	}
	return vfs.GenericConfigureMMap(&f.vfsfd, f.mapped(opts.Mappable), opts)
}

// mapped returns the mapping for an inner Mappable, which lives as long as f.
func (f *file) mapped(inner memmap.Mappable) *mapping {
	fs, key := f.fs, mapKey{inner, f.image}
	path := fs.pathOf(f.dentry().inner, "")
	fs.mapsMu.Lock()
	defer fs.mapsMu.Unlock()
	for _, m := range f.maps {
		if m.mapKey == key {
			return m
		}
	}
	m := fs.maps[key]
	if m == nil {
		m = &mapping{mapKey: key, fs: fs, path: path}
		fs.maps[key] = m
	}
	m.refs++
	f.maps = append(f.maps, m)
	return m
}

// unmapAll forgets the mappings of f, which nobody maps any more.
func (fs *FS) unmapAll(f *file) {
	fs.mapsMu.Lock()
	defer fs.mapsMu.Unlock()
	for _, m := range f.maps {
		if m.refs--; m.refs == 0 {
			delete(fs.maps, m.mapKey)
		}
	}
	f.maps = nil
}

// perms returns what may be done with the memory now.
func (m *mapping) perms() hostarch.AccessType {
	base := abi.FSRead
	if m.image {
		base = abi.FSExec
	}
	if m.fs.allows(base) != nil {
		return hostarch.NoAccess
	}
	have := abi.Rights(m.fs.state.Load())
	return hostarch.AccessType{Read: true, Write: have.Has(abi.FSWrite), Execute: have.Has(abi.FSExec)}
}

// needs returns the rights that such an access takes.
func (m *mapping) needs(at hostarch.AccessType) abi.Rights {
	var need abi.Rights
	switch {
	case m.fs.gone():
		return anyRight // No other right would help.
	case m.image:
		need = abi.FSExec
	case at.Read:
		need = abi.FSRead
	}
	if at.Write {
		need |= abi.FSWrite
	}
	if at.Execute {
		need |= abi.FSExec
	}
	return need &^ abi.Rights(m.fs.state.Load())
}

// Translate implements memmap.Mappable.Translate. It is called with locks of the
// memory manager held and takes none of ours: a revocation first changes the
// state, then invalidates what was translated before.
func (m *mapping) Translate(ctx context.Context, required, optional memmap.MappableRange, at hostarch.AccessType) ([]memmap.Translation, error) {
	perms := m.perms()
	if !perms.Any() || !perms.SupersetOf(at) {
		if m.fs.deny != nil {
			m.fs.deny("fault", m.path, m.needs(at), unix.EACCES)
		}
		return nil, &memmap.BusError{Err: linuxerr.EACCES}
	}
	ts, err := m.inner.Translate(ctx, required, optional, at)
	for i := range ts {
		ts[i].Perms = ts[i].Perms.Intersect(perms)
	}
	return ts, err
}

// AddMapping implements memmap.Mappable.AddMapping. It succeeds also when the
// grant is revoked, for a process with a dead mapping must be able to fork.
func (m *mapping) AddMapping(ctx context.Context, ms memmap.MappingSpace, ar hostarch.AddrRange, offset uint64, writable bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.inner.AddMapping(ctx, ms, ar, offset, writable); err != nil {
		return err
	}
	m.spaces.AddMapping(ms, ar, offset, writable)
	return nil
}

// RemoveMapping implements memmap.Mappable.RemoveMapping.
func (m *mapping) RemoveMapping(ctx context.Context, ms memmap.MappingSpace, ar hostarch.AddrRange, offset uint64, writable bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inner.RemoveMapping(ctx, ms, ar, offset, writable)
	m.spaces.RemoveMapping(ms, ar, offset, writable)
}

// CopyMapping implements memmap.Mappable.CopyMapping.
func (m *mapping) CopyMapping(ctx context.Context, ms memmap.MappingSpace, srcAR, dstAR hostarch.AddrRange, offset uint64, writable bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.inner.CopyMapping(ctx, ms, srcAR, dstAR, offset, writable); err != nil {
		return err
	}
	m.spaces.AddMapping(ms, dstAR, offset, writable)
	return nil
}

// InvalidateUnsavable implements memmap.Mappable.InvalidateUnsavable.
func (m *mapping) InvalidateUnsavable(ctx context.Context) error {
	return m.inner.InvalidateUnsavable(ctx)
}

// invalidate makes every memory that maps m translate again. Where nothing may
// be done any more, private copies of its pages go too.
func (m *mapping) invalidate() {
	all := !m.perms().Any()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.spaces.InvalidateAll(memmap.InvalidateOpts{InvalidatePrivate: all})
}
