package fabric

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/safemem"
	"gvisor.dev/gvisor/pkg/sentry/usage"

	"aios.dev/aios/capability"
	"aios.dev/aios/errdefs"
)

// Region is memory with a name. Its methods may be called concurrently.
type Region struct {
	store   *Store
	fam     *family
	name    string
	owner   string
	size    uint64
	addr    uint64
	labels  []string
	keep    int
	zeros   bool
	lineage string
	memID   uint32
	born    time.Time

	// ended: nothing may be done with it. gone: and nobody has it mapped.
	ended atomic.Bool
	gone  atomic.Bool
	fence Fence
	waits waits
	disk  atomic.Pointer[durable] // nil: it is not kept

	change sync.Mutex
	// sealed is the digest of its contents, once they do not change any more.
	sealed atomic.Pointer[Digest]

	viewsMu sync.Mutex
	views   map[capability.ID]*View // +checklocks:viewsMu

	// Guarded by fam.mu.
	head     tree
	versions []*Version
	present  uint64 // chunks of head that are there
	last     int    // number of the last version
	written  bool   // somebody was let write since the fence was shut

	saved savedRegion // while it is saved, or loaded
}

// Info describes a region.
type Info struct {
	Name, Owner string
	Size        uint64
	Addr        uint64 // 0: wherever there is room
	Labels      []string
	Keep        int
	Zeros       bool
	Lineage     string // what it was forked from, NAME@VERSION
	Sealed      *Digest
	Age         time.Duration
	// Resident is how much memory there is for it, Charged what its owner is
	// charged for.
	Resident, Charged uint64
	Views             int // capabilities that it was opened by
	Mapped            uint64
	Versions          int
	// Members take part in the synchronisation in it, Waiters wait.
	Members, Waiters int
	// Persistent ones are kept in a file: Committed is the last version there, and
	// Dirty how many bytes may differ from that.
	Persistent       bool
	Committed, Dirty uint64
}

// Name is what it is called within its domain.
func (r *Region) Name() string { return r.name }

// Owner is the agent that is charged for it; "" is the domain.
func (r *Region) Owner() string { return r.owner }

// Size is in bytes, whole pages.
func (r *Region) Size() uint64 { return r.size }

// Addr is where it is mapped in every agent; 0 is wherever there is room.
func (r *Region) Addr() uint64 { return r.addr }

// MemID is the account of its pages.
func (r *Region) MemID() uint32 { return r.memID }

func (r *Region) chunks() uint64 { return (r.size + chunkSize - 1) >> chunkBits }

// Charged is what its owner is charged for: the size, and what its versions may
// come to need.
func (r *Region) Charged() uint64 {
	r.fam.mu.Lock()
	defer r.fam.mu.Unlock()
	sum := r.size
	for _, v := range r.versions {
		sum += v.charged
	}
	if d := r.disk.Load(); d != nil {
		sum += d.charged
	}
	return sum
}

// Info describes r now.
func (r *Region) Info() Info {
	i := Info{
		Name: r.name, Owner: r.owner, Size: r.size, Addr: r.addr, Labels: slices.Clone(r.labels), Keep: r.keep, Zeros: r.zeros, Lineage: r.lineage,
		Age: r.store.since(r.born), Charged: r.Charged(),
	}
	if d, ok := r.Sealed(); ok {
		i.Sealed = &d
	}
	r.viewsMu.Lock()
	i.Views = len(r.views)
	for _, v := range r.views {
		i.Mapped += v.mapped.Load()
	}
	r.viewsMu.Unlock()
	i.Members, i.Waiters = r.waits.count()
	if i.Persistent = r.Persistent(); i.Persistent {
		if vs := r.Stored(); len(vs) > 0 {
			i.Committed = vs[len(vs)-1].Number
		}
		i.Dirty = r.dirty()
	}
	r.fam.mf.UpdateUsage(map[uint32]struct{}{r.memID: {}})
	i.Resident = usage.MemoryAccounting.TotalPerCg(r.memID)
	r.fam.mu.Lock()
	i.Versions = len(r.versions)
	r.fam.mu.Unlock()
	return i
}

// err is why nothing may be done with r, or nil.
func (r *Region) err() error {
	if !r.ended.Load() {
		return nil
	}
	return errdefs.New(errdefs.NotFound, "the region is removed", errdefs.Resource("%s", r.name))
}

// invalidate has everybody who has r mapped translate again; with lost their
// private copies are gone, too.
func (r *Region) invalidate(lost bool) {
	r.viewsMu.Lock()
	views := make([]*View, 0, len(r.views))
	for _, v := range r.views {
		views = append(views, v)
	}
	r.viewsMu.Unlock()
	for _, v := range views {
		v.invalidate(lost)
	}
}

// ReadAt reads contents; fewer bytes than asked for where r ends.
func (r *Region) ReadAt(p []byte, off uint64) (int, error) {
	r.fam.mu.Lock()
	defer r.fam.mu.Unlock()
	if err := r.err(); err != nil {
		return 0, err
	}
	return r.read(&r.head, p, off)
}

// read is ReadAt of a tree.
//
// +checklocks:r.fam.mu
func (r *Region) read(t *tree, p []byte, off uint64) (int, error) {
	done := 0
	for done < len(p) && off < r.size {
		i, in := off>>chunkBits, off&(chunkSize-1)
		part := p[done:min(uint64(len(p)), uint64(done)+r.chunkLen(i)-in)]
		if f, _ := t.peek(i); f == nil {
			clear(part)
		} else if err := r.copyOut(part, f, in); err != nil {
			return done, err
		}
		done += len(part)
		off += uint64(len(part))
	}
	return done, nil
}

func (r *Region) copyOut(p []byte, f *frame, in uint64) error {
	from, err := r.fam.bytes(f.fr)
	if err == nil {
		_, err = safemem.CopySeq(safemem.BlockSeqOf(safemem.BlockFromSafeSlice(p)), from.DropFirst64(in))
	}
	return errdefs.Wrap(err, errdefs.Internal, "read memory", errdefs.Resource("%s", r.name))
}

// WriteAt writes contents; fewer bytes than asked for where r ends.
func (r *Region) WriteAt(p []byte, off uint64) (int, error) {
	r.fam.mu.Lock()
	defer r.fam.mu.Unlock()
	if err := r.err(); err != nil {
		return 0, err
	}
	if r.sealed.Load() != nil {
		return 0, r.isSealed()
	}
	done := 0
	for done < len(p) && off < r.size {
		i, in := off>>chunkBits, off&(chunkSize-1)
		part := p[done:min(uint64(len(p)), uint64(done)+r.chunkLen(i)-in)]
		f, _, err := r.ours(i, true)
		if err != nil {
			return done, err
		}
		to, err := r.fam.bytes(f.fr)
		if err == nil {
			_, err = safemem.CopySeq(to.DropFirst64(in), safemem.BlockSeqOf(safemem.BlockFromSafeSlice(part)))
		}
		if err != nil {
			return done, errdefs.Wrap(err, errdefs.Internal, "write memory", errdefs.Resource("%s", r.name))
		}
		done += len(part)
		off += uint64(len(part))
	}
	return done, nil
}

func (r *Region) isSealed() error {
	return errdefs.New(errdefs.RegionSealed, "its contents are sealed", errdefs.Resource("%s", r.name), errdefs.Fix("fork it and write to the fork"))
}
