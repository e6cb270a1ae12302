package grantfs

import (
	"context"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/state"

	"aios.dev/aios/abi"
)

// What of this package is part of a checkpoint. No operation is under way then, but
// those that block, which begin anew: gates are empty. A connection through a socket
// file cannot be saved; whoever makes a checkpoint looks for them with Linked.

// Linked reports whether there are connections through socket files.
func (fs *FS) Linked() bool {
	fs.filesMu.Lock()
	defer fs.filesMu.Unlock()
	return len(fs.links) > 0
}

// Adopt completes what was loaded, when all of it is: with what Options has of live and
// denied.
func (fs *FS) Adopt(live func() bool, denied func(op, path string, right abi.Rights, errno unix.Errno)) {
	fs.live, fs.deny = live, denied
	fs.gate.init()
	fs.mapsMu.Lock()
	fs.maps = make(map[mapKey]*mapping, len(fs.loaded.maps))
	for _, m := range fs.loaded.maps {
		fs.maps[m.mapKey] = m
	}
	fs.mapsMu.Unlock()
	l := &fs.quota
	l.nodesMu.Lock()
	l.nodes = make(map[nodeKey]*node, len(fs.loaded.nodes))
	for _, n := range fs.loaded.nodes {
		l.nodes[n.key] = n
	}
	l.nodesMu.Unlock()
	fs.filesMu.Lock()
	fs.links = make(map[*link]struct{})
	fs.filesMu.Unlock()
	fs.loaded = lists{}
}

// lists are maps, as they are saved.
type lists struct {
	maps  []*mapping
	nodes []*node
}

// StateTypeName implements state.Type.
func (*fsType) StateTypeName() string { return "aios/grantfs.fsType" }

// StateFields implements state.Type.
func (*fsType) StateFields() []string { return nil }

// StateSave implements state.SaverLoader.
func (*fsType) StateSave(state.Sink) {}

// StateLoad implements state.SaverLoader.
func (*fsType) StateLoad(context.Context, state.Source) {}

// StateTypeName implements state.Type.
func (*FS) StateTypeName() string { return "aios/grantfs.FS" }

// StateFields implements state.Type.
func (*FS) StateFields() []string {
	return []string{
		"vfsfs", "vfs", "creds", "name", "mnt", "root", "changed", "dentries", "files", "maps", "nodes",
		"state", "watched", "hints", "on", "bytesLimited", "bytes", "bytesUsed", "inodesLimited", "inodes", "inodesUsed",
	}
}

// StateSave implements state.SaverLoader.
//
// +checklocksignore
func (fs *FS) StateSave(m state.Sink) {
	fs.loaded = lists{}
	for _, x := range fs.maps {
		fs.loaded.maps = append(fs.loaded.maps, x)
	}
	for _, n := range fs.quota.nodes {
		fs.loaded.nodes = append(fs.loaded.nodes, n)
	}
	for i, f := range fs.fields() {
		m.Save(i, f)
	}
	n := len(fs.fields())
	m.SaveValue(n, fs.state.Load())
	m.SaveValue(n+1, fs.watched.Load())
	m.SaveValue(n+2, fs.hints.Load())
	m.SaveValue(n+3, fs.quota.on.Load())
	for i, a := range []*account{&fs.quota.bytes, &fs.quota.inodes} {
		m.Save(n+4+3*i, &a.limited)
		m.Save(n+5+3*i, &a.limit)
		m.Save(n+6+3*i, &a.used)
	}
}

// fields are what StateFields names first.
//
// +checklocksignore
func (fs *FS) fields() []any {
	return []any{
		&fs.vfsfs, &fs.vfs, &fs.creds, &fs.name, &fs.mnt, &fs.root, &fs.changed, &fs.dentries, &fs.files, &fs.loaded.maps, &fs.loaded.nodes,
	}
}

// StateLoad implements state.SaverLoader.
//
// +checklocksignore
func (fs *FS) StateLoad(_ context.Context, m state.Source) {
	for i, f := range fs.fields() {
		m.Load(i, f)
	}
	n := len(fs.fields())
	m.LoadValue(n, new(uint32), func(v any) { fs.state.Store(v.(uint32)) })
	m.LoadValue(n+1, new(bool), func(v any) { fs.watched.Store(v.(bool)) })
	m.LoadValue(n+2, new(uint32), func(v any) { fs.hints.Store(v.(uint32)) })
	m.LoadValue(n+3, new(bool), func(v any) { fs.quota.on.Store(v.(bool)) })
	for i, a := range []*account{&fs.quota.bytes, &fs.quota.inodes} {
		m.Load(n+4+3*i, &a.limited)
		m.Load(n+5+3*i, &a.limit)
		m.Load(n+6+3*i, &a.used)
	}
}

// StateTypeName implements state.Type.
func (*dentry) StateTypeName() string { return "aios/grantfs.dentry" }

// StateFields implements state.Type.
func (*dentry) StateFields() []string {
	return []string{"vfsd", "fs", "inner", "hint", "watches", "refs"}
}

// StateSave implements state.SaverLoader.
func (d *dentry) StateSave(m state.Sink) {
	m.SaveValue(5, d.refs.Load())
	m.Save(0, &d.vfsd)
	m.Save(1, &d.fs)
	m.Save(2, &d.inner)
	m.Save(3, &d.hint)
	m.Save(4, &d.watches)
}

// StateLoad implements state.SaverLoader.
func (d *dentry) StateLoad(_ context.Context, m state.Source) {
	m.Load(0, &d.vfsd)
	m.Load(1, &d.fs)
	m.Load(2, &d.inner)
	m.Load(3, &d.hint)
	m.Load(4, &d.watches)
	m.LoadValue(5, new(int64), func(v any) { d.refs.Store(v.(int64)) })
}

// StateTypeName implements state.Type.
func (*file) StateTypeName() string { return "aios/grantfs.file" }

// StateFields implements state.Type.
func (*file) StateFields() []string {
	return []string{
		"vfsfd", "FileDescriptionDefaultImpl", "fs", "inner", "kind", "image", "hint", "node", "waiters", "bsd", "posix", "maps", "flags",
	}
}

// fields are what StateFields names, but flags.
//
// +checklocksignore
func (f *file) fields() []any {
	return []any{
		&f.vfsfd, &f.FileDescriptionDefaultImpl, &f.fs, &f.inner, (*uint8)(&f.kind), &f.image, &f.hint, &f.node, &f.waiters, &f.bsd, &f.posix, &f.maps,
	}
}

// StateSave implements state.SaverLoader.
func (f *file) StateSave(m state.Sink) {
	for i, x := range f.fields() {
		m.Save(i, x)
	}
	m.SaveValue(len(f.fields()), f.flags.Load())
}

// StateLoad implements state.SaverLoader.
func (f *file) StateLoad(_ context.Context, m state.Source) {
	for i, x := range f.fields() {
		m.Load(i, x)
	}
	m.LoadValue(len(f.fields()), new(uint32), func(v any) { f.flags.Store(v.(uint32)) })
}

// StateTypeName implements state.Type.
func (*mapping) StateTypeName() string { return "aios/grantfs.mapping" }

// StateFields implements state.Type.
func (*mapping) StateFields() []string {
	return []string{"inner", "image", "fs", "path", "refs", "spaces"}
}

// fields are what StateFields names.
//
// +checklocksignore
func (m *mapping) fields() []any {
	return []any{&m.inner, &m.image, &m.fs, &m.path, &m.refs, &m.spaces}
}

// StateSave implements state.SaverLoader.
func (m *mapping) StateSave(s state.Sink) {
	for i, x := range m.fields() {
		s.Save(i, x)
	}
}

// StateLoad implements state.SaverLoader.
func (m *mapping) StateLoad(_ context.Context, s state.Source) {
	for i, x := range m.fields() {
		s.Load(i, x)
	}
}

// StateTypeName implements state.Type.
func (*node) StateTypeName() string { return "aios/grantfs.node" }

// StateFields implements state.Type.
func (*node) StateFields() []string { return []string{"major", "minor", "ino", "refs", "orphan"} }

// fields are what StateFields names.
//
// +checklocksignore
func (n *node) fields() []any {
	return []any{&n.key.major, &n.key.minor, &n.key.ino, &n.refs, &n.orphan}
}

// StateSave implements state.SaverLoader.
func (n *node) StateSave(m state.Sink) {
	for i, x := range n.fields() {
		m.Save(i, x)
	}
}

// StateLoad implements state.SaverLoader.
func (n *node) StateLoad(_ context.Context, m state.Source) {
	for i, x := range n.fields() {
		m.Load(i, x)
	}
}

func init() {
	for _, t := range []state.Type{(*fsType)(nil), (*FS)(nil), (*dentry)(nil), (*file)(nil), (*mapping)(nil), (*node)(nil)} {
		state.Register(t)
	}
}
