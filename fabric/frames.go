package fabric

import (
	"sync"

	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/safemem"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/usage"

	"aios.dev/aios/errdefs"
)

// slabSize is how much is taken at once where nothing is: what lies side by side
// is mapped with one fault.
const slabSize = 2 << 20

// family is what a region and its forks have in common.
type family struct {
	mu sync.Mutex
	mf *pgalloc.MemoryFile
}

// chunkLen is the length of chunk i, of which the last may be short.
func (r *Region) chunkLen(i uint64) uint64 { return min(chunkSize, r.size-i<<chunkBits) }

// allocate returns fresh memory, zero.
func (r *Region) allocate(n uint64) (memmap.FileRange, error) {
	fr, err := r.fam.mf.Allocate(n, pgalloc.AllocOpts{Kind: usage.Tmpfs, MemCgID: r.memID})
	return fr, errdefs.Wrap(err, errdefs.MemoryLimit, "take memory", errdefs.Resource("%s", r.name))
}

// free gives the memory of f back.
func (fam *family) free(f *frame) { fam.mf.DecRef(f.fr) }

// fill makes frames where there are none around chunk i.
//
// +checklocks:r.fam.mu
func (r *Region) fill(i uint64) error {
	const group = slabSize / chunkSize
	from, to := i&^(group-1), min(i|(group-1)+1, r.chunks())
	for j := from; j < to; j++ {
		if f, _ := r.head.peek(j); f != nil {
			from, to = i, i+1 // Something is there already: this one alone.
			break
		}
	}
	n := uint64(0)
	for j := from; j < to; j++ {
		n += r.chunkLen(j)
	}
	fr, err := r.allocate(n)
	if err != nil {
		return err
	}
	at := fr.Start
	for j := from; j < to; j++ {
		l := r.chunkLen(j)
		*r.head.slot(j) = &frame{fr: memmap.FileRange{Start: at, End: at + l}, refs: 1, home: r}
		at += l
	}
	r.present += to - from
	return nil
}

// ours makes chunk i one that agents of r may map, to write if that is wanted,
// and returns its frame and whether they may write.
//
// +checklocks:r.fam.mu
func (r *Region) ours(i uint64, write bool) (f *frame, writable bool, err error) {
	f, shared := r.head.peek(i)
	if f == nil {
		if err := r.fill(i); err != nil {
			return nil, false, err
		}
		f, shared = r.head.peek(i)
	}
	if f.home == nil || f.home.gone.Load() {
		f.home = r // Nobody has it mapped.
	}
	switch {
	case f.home == r && !shared:
		return f, true, nil
	case f.home == r && !write:
		return f, false, nil
	}
	copied, err := r.copyOf(f)
	if err != nil {
		return nil, false, err
	}
	at := r.head.slot(i)
	own := &frame{fr: copied, refs: 1, home: r}
	if f.home == r {
		// What r has mapped it keeps; the others get the copy.
		own.fr, f.fr = f.fr, copied
		f.home = nil
	}
	f.refs--
	*at = own
	return own, true, nil
}

// copyOf returns memory that holds what f does.
func (r *Region) copyOf(f *frame) (memmap.FileRange, error) {
	fr, err := r.allocate(f.fr.Length())
	if err != nil {
		return fr, err
	}
	from, err := r.fam.bytes(f.fr)
	if err == nil {
		var to safemem.BlockSeq
		if to, err = r.fam.bytes(fr); err == nil {
			_, err = safemem.CopySeq(to, from)
		}
	}
	if err != nil {
		r.fam.mf.DecRef(fr)
		return fr, errdefs.Wrap(err, errdefs.Internal, "copy memory", errdefs.Resource("%s", r.name))
	}
	return fr, nil
}

// bytes is memory as the kernel sees it.
func (fam *family) bytes(fr memmap.FileRange) (safemem.BlockSeq, error) {
	return fam.mf.MapInternal(fr, hostarch.ReadWrite)
}
