package fabric

import (
	"context"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/state"

	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
	"aios.dev/aios/fabric/persist"
)

// What of this package is part of a checkpoint: all of it but the files of persistent
// regions, which have what was committed, and the capabilities, which are saved as
// what they are. While it is saved or loaded no task runs, nobody waits and nothing is
// committed: no locks are taken. Pages are where they were: gVisor saves them.

type contextKey int

// RestoredStore is the key of the *Store in the context of a restore.
const RestoredStore contextKey = 0

func restoredStore(ctx context.Context) *Store {
	s, _ := ctx.Value(RestoredStore).(*Store)
	if s == nil {
		state.Failf("there is no store of regions")
	}
	return s
}

// Saved is a Store as part of a checkpoint.
type Saved struct {
	Regions    []*Region
	start, end uint64 // of the chunk of zeros
}

// savedRegion is what a Region is saved as besides its fields, and View likewise.
type savedRegion struct {
	ended, gone bool
	born        int64
	sealed      []byte
	disk        *durable
	last        uint32 // member
	views       []*View
	members     []*Member
}

// Save returns what is to be saved.
//
// +checklocksignore
func (s *Store) Save() *Saved {
	return &Saved{Regions: s.List(), start: s.blank.fr.Start, end: s.blank.fr.End}
}

// Persistent are the names of those that are kept in files.
func (s *Saved) Persistent() (names []string) {
	for _, r := range s.Regions {
		if r.Persistent() {
			names = append(names, r.name)
		}
	}
	return names
}

// Load fills a Store that has no regions with those that were loaded. File returns the
// file that a persistent one is kept in, and find a capability; it is nil for one that
// has ended. What every region is charged is told, not asked for.
//
// +checklocksignore
func (s *Store) Load(saved *Saved, file func(name string) persist.File, find func(capability.ID) *capability.Capability, charged func(owner string, bytes uint64)) error {
	s.blank.fr = memmap.FileRange{Start: saved.start, End: saved.end}
	for _, r := range saved.Regions {
		if err := r.reopen(file); err != nil {
			return err
		}
		s.mu.Lock()
		s.regions[r.name] = r
		n := r.Charged()
		s.bytes += n
		if r.addr != 0 {
			s.window.takeAt(r.addr, r.size) // It is free: it was taken when this was saved.
		}
		s.mu.Unlock()
		charged(r.owner, n)
	}
	for _, r := range saved.Regions {
		for _, m := range r.saved.members {
			if r.waits.members[m.id] = m; m.alone {
				s.alone.add(m)
			}
		}
		for _, v := range r.saved.views {
			v.cap = find(v.savedCap)
			r.viewsMu.Lock()
			r.views[v.savedCap] = v
			r.viewsMu.Unlock()
			switch {
			case v.cap == nil:
				delete(r.views, v.savedCap)
				v.invalidate(true)
			case !v.cap.Attach(v):
				v.Revoke(v.cap)
			default:
				v.Narrowed(v.cap)
			}
		}
		r.saved = savedRegion{}
	}
	return nil
}

// reopen gives a persistent region its file again. If something else was committed to
// that meanwhile, all of the region is written by the next commit.
//
// +checklocksignore
func (r *Region) reopen(file func(name string) persist.File) error {
	d := r.disk.Load()
	if d == nil {
		return nil
	}
	f := file(r.name)
	if f == nil {
		return errdefs.New(errdefs.Protocol, "there is no file for it", errdefs.Op("restore"), errdefs.Resource("region %s", r.name))
	}
	store, err := persist.Open(f, r.name)
	if err != nil {
		return err
	}
	m := store.Meta()
	if m.Name != r.name || m.Size != r.size {
		return errdefs.New(errdefs.CheckpointMismatch, "its file is that of another region", errdefs.Op("restore"), errdefs.Resource("region %s", r.name),
			errdefs.Fix("put the file back that it had"))
	}
	d.store, d.file = store, f
	if lastOf(m) != d.last {
		d.base.drop(r.fam.free)
		d.charged, d.whole = 0, true
		r.waits.last = max(r.waits.last, m.Members)
	}
	return nil
}

// lastOf is the number of the version that a file has last.
func lastOf(m persist.Meta) uint64 {
	if n := len(m.Versions); n > 0 {
		return m.Versions[n-1].Number
	}
	return 0
}

func saveFields(m state.Sink, fields []any) {
	for i, f := range fields {
		m.Save(i, f)
	}
}

func loadFields(m state.Source, fields []any) {
	for i, f := range fields {
		m.Load(i, f)
	}
}

// StateTypeName implements state.Type.
func (*Saved) StateTypeName() string { return "aios/fabric.Saved" }

// StateFields implements state.Type.
func (*Saved) StateFields() []string { return []string{"Regions", "start", "end"} }

func (s *Saved) fields() []any { return []any{&s.Regions, &s.start, &s.end} }

// StateSave implements state.SaverLoader.
func (s *Saved) StateSave(m state.Sink) { saveFields(m, s.fields()) }

// StateLoad implements state.SaverLoader.
func (s *Saved) StateLoad(_ context.Context, m state.Source) { loadFields(m, s.fields()) }

// StateTypeName implements state.Type.
func (*family) StateTypeName() string { return "aios/fabric.family" }

// StateFields implements state.Type.
func (*family) StateFields() []string { return nil }

// StateSave implements state.SaverLoader.
func (*family) StateSave(state.Sink) {}

// StateLoad implements state.SaverLoader.
func (fam *family) StateLoad(ctx context.Context, _ state.Source) {
	fam.mf = restoredStore(ctx).opts.Memory
}

// StateTypeName implements state.Type.
func (*Region) StateTypeName() string { return "aios/fabric.Region" }

// StateFields implements state.Type.
func (*Region) StateFields() []string {
	return []string{
		"fam", "name", "owner", "size", "addr", "labels", "keep", "zeros", "lineage", "memID", "root", "depth", "versions", "present", "number",
		"ended", "gone", "born", "sealed", "disk", "last", "views", "members",
	}
}

// fields are what StateFields names.
//
// +checklocksignore
func (r *Region) fields() []any {
	x := &r.saved
	return []any{
		&r.fam, &r.name, &r.owner, &r.size, &r.addr, &r.labels, &r.keep, &r.zeros, &r.lineage, &r.memID, &r.head.root, &r.head.depth, &r.versions, &r.present, &r.last,
		&x.ended, &x.gone, &x.born, &x.sealed, &x.disk, &x.last, &x.views, &x.members,
	}
}

// StateSave implements state.SaverLoader.
//
// +checklocksignore
func (r *Region) StateSave(m state.Sink) {
	x := savedRegion{ended: r.ended.Load(), gone: r.gone.Load(), born: r.born.UnixNano(), last: r.waits.last}
	if d := r.sealed.Load(); d != nil {
		x.sealed = slices.Clone(d[:])
	}
	if !x.ended {
		x.disk = r.disk.Load()
	}
	for _, v := range r.views {
		x.views = append(x.views, v)
	}
	for _, mb := range r.waits.members {
		x.members = append(x.members, mb)
	}
	if x.disk != nil {
		x.disk.last = lastOf(x.disk.store.Meta())
	}
	r.saved = x
	saveFields(m, r.fields())
}

// StateLoad implements state.SaverLoader.
//
// +checklocksignore
func (r *Region) StateLoad(ctx context.Context, m state.Source) {
	loadFields(m, r.fields())
	r.store, r.views = restoredStore(ctx), make(map[capability.ID]*View)
	m.AfterLoad(r.loaded)
}

// loaded takes over what Region is saved as besides its fields.
//
// +checklocksignore
func (r *Region) loaded() {
	x := &r.saved
	r.ended.Store(x.ended)
	r.gone.Store(x.gone)
	r.born = time.Unix(0, x.born)
	if len(x.sealed) == len(Digest{}) {
		d := Digest(x.sealed)
		r.sealed.Store(&d)
	}
	if x.disk != nil {
		r.disk.Store(x.disk)
	}
	r.waits.last, r.waits.members = x.last, make(map[uint32]*Member)
}

// StateTypeName implements state.Type.
func (*durable) StateTypeName() string { return "aios/fabric.durable" }

// StateFields implements state.Type.
func (*durable) StateFields() []string {
	return []string{"root", "depth", "charged", "whole", "last"}
}

// fields are what StateFields names.
//
// +checklocksignore
func (d *durable) fields() []any {
	return []any{&d.base.root, &d.base.depth, &d.charged, &d.whole, &d.last}
}

// StateSave implements state.SaverLoader.
func (d *durable) StateSave(m state.Sink) { saveFields(m, d.fields()) }

// StateLoad implements state.SaverLoader.
func (d *durable) StateLoad(_ context.Context, m state.Source) { loadFields(m, d.fields()) }

// StateTypeName implements state.Type.
func (*Version) StateTypeName() string { return "aios/fabric.Version" }

// StateFields implements state.Type.
func (*Version) StateFields() []string {
	return []string{"number", "comment", "charged", "root", "depth", "present", "made"}
}

// fields are what StateFields names, but the time.
//
// +checklocksignore
func (v *Version) fields() []any {
	return []any{&v.number, &v.comment, &v.charged, &v.tree.root, &v.tree.depth, &v.present}
}

// StateSave implements state.SaverLoader.
func (v *Version) StateSave(m state.Sink) {
	saveFields(m, v.fields())
	m.SaveValue(len(v.fields()), v.made.UnixNano())
}

// StateLoad implements state.SaverLoader.
func (v *Version) StateLoad(_ context.Context, m state.Source) {
	loadFields(m, v.fields())
	m.LoadValue(len(v.fields()), new(int64), func(x any) { v.made = time.Unix(0, x.(int64)) })
}

// StateTypeName implements state.Type.
func (*node) StateTypeName() string { return "aios/fabric.node" }

// StateFields implements state.Type.
func (*node) StateFields() []string { return []string{"refs", "kids", "frames"} }

// StateSave implements state.SaverLoader.
func (n *node) StateSave(m state.Sink) {
	m.Save(0, &n.refs)
	m.Save(1, &n.kids)
	m.Save(2, &n.frames)
}

// StateLoad implements state.SaverLoader.
func (n *node) StateLoad(_ context.Context, m state.Source) {
	m.Load(0, &n.refs)
	m.Load(1, &n.kids)
	m.Load(2, &n.frames)
}

// StateTypeName implements state.Type.
func (*frame) StateTypeName() string { return "aios/fabric.frame" }

// StateFields implements state.Type.
func (*frame) StateFields() []string { return []string{"start", "end", "refs", "home"} }

func (f *frame) fields() []any { return []any{&f.fr.Start, &f.fr.End, &f.refs, &f.home} }

// StateSave implements state.SaverLoader.
func (f *frame) StateSave(m state.Sink) { saveFields(m, f.fields()) }

// StateLoad implements state.SaverLoader.
func (f *frame) StateLoad(_ context.Context, m state.Source) { loadFields(m, f.fields()) }

// StateTypeName implements state.Type.
func (*View) StateTypeName() string { return "aios/fabric.View" }

// StateFields implements state.Type.
func (*View) StateFields() []string { return []string{"r", "cap", "spaces", "barred", "mapped"} }

// StateSave implements state.SaverLoader.
//
// +checklocksignore
func (v *View) StateSave(m state.Sink) {
	if v.cap != nil {
		v.savedCap = v.cap.ID()
	}
	m.Save(0, &v.r)
	m.Save(1, (*string)(&v.savedCap))
	m.Save(2, &v.spaces)
	m.SaveValue(3, v.barred.Load())
	m.SaveValue(4, v.mapped.Load())
}

// StateLoad implements state.SaverLoader. Until Store.Load gives it a capability, and if
// it does not, the view is of one that has ended.
//
// +checklocksignore
func (v *View) StateLoad(_ context.Context, m state.Source) {
	m.Load(0, &v.r)
	m.Load(1, (*string)(&v.savedCap))
	m.Load(2, &v.spaces)
	m.LoadValue(3, new(bool), func(x any) { v.barred.Store(x.(bool)) })
	m.LoadValue(4, new(uint64), func(x any) { v.mapped.Store(x.(uint64)) })
	m.AfterLoad(v.measure)
}

// measure counts how much each memory maps.
//
// +checklocksignore
func (v *View) measure() {
	v.sizes = make(map[memmap.MappingSpace]uint64)
	for seg := v.spaces.FirstSegment(); seg.Ok(); seg = seg.NextSegment() {
		for mapping := range seg.Value() {
			v.sizes[mapping.MappingSpace] += seg.Range().Length()
		}
	}
}

// StateTypeName implements state.Type.
func (*Member) StateTypeName() string { return "aios/fabric.Member" }

// StateFields implements state.Type.
func (*Member) StateFields() []string { return []string{"view", "id", "space", "task", "alone"} }

func (mb *Member) fields() []any { return []any{&mb.view, &mb.id, &mb.space, &mb.task, &mb.alone} }

// StateSave implements state.SaverLoader.
func (mb *Member) StateSave(m state.Sink) { saveFields(m, mb.fields()) }

// StateLoad implements state.SaverLoader.
func (mb *Member) StateLoad(_ context.Context, m state.Source) { loadFields(m, mb.fields()) }

func init() {
	for _, t := range []state.Type{
		(*Saved)(nil), (*family)(nil), (*Region)(nil), (*durable)(nil), (*Version)(nil), (*node)(nil), (*frame)(nil), (*View)(nil), (*Member)(nil),
	} {
		state.Register(t)
	}
}
