package fabric

import (
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"

	"aios.dev/aios/abi"
	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
)

// View is what one capability gives of a region. It is that capability's door,
// and what the memory of agents is mapped to. There is one for all mappings by
// one capability, as shared futexes need; agents that hold a capability each
// share the pages, but no futexes in them.
type View struct {
	r   *Region
	cap *capability.Capability // nil: it had ended before the domain was saved
	// savedCap is its ID, in a checkpoint.
	savedCap capability.ID
	// barred: the labels of the region forbid it to the agent for now.
	barred atomic.Bool
	mapped atomic.Uint64 // bytes

	mu sync.Mutex
	// spaces are the memories that map it, and sizes how many bytes of it.
	spaces memmap.MappingSet              // +checklocks:mu
	sizes  map[memmap.MappingSpace]uint64 // +checklocks:mu
}

var (
	_ memmap.Mappable     = (*View)(nil)
	_ capability.Narrower = (*View)(nil)
)

// ViewOf returns what c gives of r.
func (r *Region) ViewOf(c *capability.Capability) (*View, error) {
	if o := c.Object(); o.Class != abi.ClassRegion || o.Name != r.name {
		return nil, errdefs.New(errdefs.CapabilityInvalid, "it is a capability to "+o.String(), errdefs.Resource("%s", r.name))
	}
	r.viewsMu.Lock()
	defer r.viewsMu.Unlock()
	if err := r.err(); err != nil {
		return nil, err
	}
	if v := r.views[c.ID()]; v != nil {
		return v, nil
	}
	v := &View{r: r, cap: c}
	if !c.Attach(v) {
		return nil, c.Err()
	}
	r.views[c.ID()] = v
	return v, nil
}

// Views returns the views that there are.
func (r *Region) Views() []*View {
	r.viewsMu.Lock()
	defer r.viewsMu.Unlock()
	out := make([]*View, 0, len(r.views))
	for _, v := range r.views {
		out = append(out, v)
	}
	return out
}

// Region returns what v is of.
func (v *View) Region() *Region { return v.r }

// Capability returns what v is by.
func (v *View) Capability() *capability.Capability { return v.cap }

// Mapped is how many bytes of memories map it.
func (v *View) Mapped() uint64 { return v.mapped.Load() }

// Err is why v does not give those rights now, or nil.
func (v *View) Err(want abi.Rights) error {
	res := errdefs.Resource("region %s", v.r.name)
	switch {
	case v.r.ended.Load():
		return v.r.err()
	case v.barred.Load():
		return errdefs.New(errdefs.LabelDenied, "it is secret, and the agent has network", res,
			errdefs.Fix("take the network from the agent: revoke its grants of net:*"))
	case v.cap == nil:
		return errdefs.New(errdefs.CapabilityRevoked, "it had ended when the domain was saved", res)
	case !v.cap.Live():
		return v.cap.Err()
	case !v.cap.Rights().Has(want):
		missing := (want &^ v.cap.Rights()).Format(abi.ClassRegion)
		return errdefs.New(errdefs.CapabilityDenied, "it does not give the right "+missing, res,
			errdefs.Fix("ask its owner for region:%s:%s", v.r.name, want.Format(abi.ClassRegion)))
	case want&abi.RegionWrite != 0 && v.r.sealed.Load() != nil:
		return v.r.isSealed()
	}
	return nil
}

// Bar keeps the region from the agent while barred, whatever its capability
// says: when it returns, nothing of it is mapped through v.
func (v *View) Bar(barred bool) {
	if v.barred.Swap(barred) != barred && barred {
		v.lose()
	}
}

// Revoke implements capability.Door.Revoke.
func (v *View) Revoke(c *capability.Capability) {
	v.r.viewsMu.Lock()
	if v.r.views[c.ID()] == v {
		delete(v.r.views, c.ID())
	}
	v.r.viewsMu.Unlock()
	v.lose()
}

// Narrowed implements capability.Narrower.Narrowed.
func (v *View) Narrowed(*capability.Capability) {
	perms := v.perms()
	v.invalidate(!perms.Read)
	if !perms.Write {
		v.r.waits.cut(v, perms.Read)
	}
}

// lose takes the pages away and tells of it.
func (v *View) lose() {
	v.invalidate(true)
	v.r.waits.cut(v, false)
	if v.r.store.opts.Lost != nil {
		v.r.store.opts.Lost(v, v.mapped.Load())
	}
}

// invalidate has the memories that map v translate again; with lost they lose
// their private copies, too.
func (v *View) invalidate(lost bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.spaces.InvalidateAll(memmap.InvalidateOpts{InvalidatePrivate: lost})
}

// perms is what may be done with the pages now.
func (v *View) perms() hostarch.AccessType {
	if v.r.ended.Load() || v.barred.Load() || v.cap == nil || !v.cap.Live() {
		return hostarch.NoAccess
	}
	have := v.cap.Rights()
	return hostarch.AccessType{
		Read:  have.Has(abi.RegionRead),
		Write: have.Has(abi.RegionRead|abi.RegionWrite) && v.r.sealed.Load() == nil,
	}
}

// Translate implements memmap.Mappable.Translate.
func (v *View) Translate(_ context.Context, required, optional memmap.MappableRange, at hostarch.AccessType) ([]memmap.Translation, error) {
	r := v.r
	r.fam.mu.Lock()
	defer r.fam.mu.Unlock()
	// Looked at under the lock: who takes rights away invalidates afterwards.
	perms := v.perms()
	if !perms.Read && r.zeros && required.End <= r.pages() && hostarch.Read.SupersetOf(at) {
		return r.store.blank.translate(r.store.opts.Memory, required)
	}
	if !perms.Read || !perms.SupersetOf(at) {
		return nil, &memmap.BusError{Err: linuxerr.EACCES}
	}
	if required.End > r.pages() {
		if required.Start >= r.pages() {
			return nil, &memmap.BusError{Err: linuxerr.EFAULT}
		}
		required.End = r.pages()
		ts, err := r.translate(required, memmap.MappableRange{Start: optional.Start, End: r.pages()}, at, perms)
		if err == nil {
			err = &memmap.BusError{Err: linuxerr.EFAULT}
		}
		return ts, err
	}
	optional.End = min(optional.End, r.pages())
	return r.translate(required, optional, at, perms)
}

// pages is where the last page of r ends.
func (r *Region) pages() uint64 { return r.size }

// translations gathers what Translate returns.
type translations struct {
	mf                 memmap.File
	required, optional memmap.MappableRange
	write              bool // where a frame can be written, the program may
	list               []memmap.Translation
}

// add appends the frame of chunk i; false if it would lie outside of what is
// required.
func (ts *translations) add(i uint64, f *frame, writable bool) bool {
	src := memmap.MappableRange{Start: i << chunkBits, End: i<<chunkBits + f.fr.Length()}.Intersect(ts.optional)
	t := memmap.Translation{
		Source: src, File: ts.mf, Offset: f.fr.Start + src.Start - i<<chunkBits,
		Perms: hostarch.AccessType{Read: true, Write: writable && ts.write},
	}
	if n := len(ts.list); n > 0 {
		last := &ts.list[n-1]
		if last.Perms == t.Perms && last.Offset+last.Source.Length() == t.Offset && last.Source.End == src.Start {
			last.Source.End = src.End
			return true
		}
		if src.Start >= ts.required.End {
			return false
		}
	}
	ts.list = append(ts.list, t)
	return true
}

// translate is Translate within the region.
//
// +checklocks:r.fam.mu
func (r *Region) translate(required, optional memmap.MappableRange, at, perms hostarch.AccessType) ([]memmap.Translation, error) {
	r.written = r.written || at.Write
	ts := translations{mf: r.fam.mf, required: required, optional: optional, write: perms.Write}
	first, last := required.Start>>chunkBits, (required.End-1)>>chunkBits
	for i := first; i <= last; i++ {
		f, writable, err := r.ours(i, at.Write)
		if err != nil {
			return ts.list, &memmap.BusError{Err: linuxerr.ENOMEM}
		}
		ts.add(i, f, writable)
	}
	// And what lies behind, side by side, so that it need not be asked for.
	for i := last + 1; i<<chunkBits < optional.End && i&(slabSize/chunkSize-1) != 0; i++ {
		f, shared := r.head.peek(i)
		if f == nil || f.home != r || !ts.add(i, f, !shared) {
			break
		}
	}
	return ts.list, nil
}

// AddMapping implements memmap.Mappable.AddMapping. It succeeds also when the
// right is gone, for a process with a dead mapping must be able to fork.
func (v *View) AddMapping(_ context.Context, ms memmap.MappingSpace, ar hostarch.AddrRange, offset uint64, writable bool) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.spaces.AddMapping(ms, ar, offset, writable)
	v.mapped.Add(uint64(ar.Length()))
	if v.sizes == nil {
		v.sizes = make(map[memmap.MappingSpace]uint64)
	}
	v.sizes[ms] += uint64(ar.Length())
	return nil
}

// RemoveMapping implements memmap.Mappable.RemoveMapping.
func (v *View) RemoveMapping(_ context.Context, ms memmap.MappingSpace, ar hostarch.AddrRange, offset uint64, writable bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.spaces.RemoveMapping(ms, ar, offset, writable)
	v.mapped.Add(-uint64(ar.Length()))
	if v.sizes[ms] -= uint64(ar.Length()); v.sizes[ms] == 0 {
		delete(v.sizes, ms)
		v.r.waits.unmapped(v, ms)
	}
}

// CopyMapping implements memmap.Mappable.CopyMapping.
func (v *View) CopyMapping(ctx context.Context, ms memmap.MappingSpace, _, dst hostarch.AddrRange, offset uint64, writable bool) error {
	return v.AddMapping(ctx, ms, dst, offset, writable)
}

// InvalidateUnsavable implements memmap.Mappable.InvalidateUnsavable.
func (v *View) InvalidateUnsavable(context.Context) error { return nil }
