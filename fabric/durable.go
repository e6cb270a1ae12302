package fabric

import (
	"bytes"
	"encoding/hex"
	"io"
	"strings"
	"sync/atomic"

	"aios.dev/aios/errdefs"
	"aios.dev/aios/fabric/persist"
)

// durable is what a region has to do with the file that it is kept in.
type durable struct {
	store *persist.Store
	file  persist.File
	// busy says that a commit is under way, or that the file is closed.
	busy atomic.Bool

	// Guarded by family.mu.
	base    tree   // what was committed last, or loaded
	charged uint64 // for base
	// whole says that base is not what the file has last: all has to be written.
	whole bool
	last  uint64 // version of the file when it was saved
}

// usualKeep is how many versions a file keeps if nobody says.
const usualKeep = 8

// Committed is a version that is kept in a file.
type Committed = persist.Version

// CreateIn makes a region of zeros that is kept in f, which is empty. When it
// returns, that is on disk, and f, if it can be, is closed with the region.
func (s *Store) CreateIn(spec Spec, f persist.File) (*Region, error) {
	if spec.Keep > persist.MaxKeep {
		return nil, errdefs.Newf(errdefs.InvalidArgument, "a file keeps at most %d versions", persist.MaxKeep).With(errdefs.Resource("%s", spec.Name))
	}
	r, err := s.Create(spec)
	if err != nil {
		return nil, err
	}
	keep := spec.Keep
	if keep == 0 {
		keep = usualKeep
	}
	store, err := persist.Create(f, persist.Meta{Name: r.name, Size: r.size, Labels: r.labels, Fixed: spec.Fixed, Addr: r.addr, Zeros: spec.Zeros, Keep: keep})
	if err != nil {
		s.Remove(r)
		return nil, err
	}
	r.disk.Store(&durable{store: store, file: f})
	return r, nil
}

// OpenIn makes a region of what f keeps: of a version, or of the last, which is 0.
// Name is for errors until it is known, owner as in Spec.
func (s *Store) OpenIn(f persist.File, name, owner string, version uint64) (*Region, error) {
	store, err := persist.Open(f, name)
	if err != nil {
		return nil, err
	}
	m := store.Meta()
	if m.Name != name {
		return nil, errdefs.New(errdefs.RegionBroken, "its file is that of region "+m.Name, errdefs.Resource("region %s", name),
			errdefs.Fix("give the file the name of its region"))
	}
	spec := Spec{Name: m.Name, Owner: owner, Size: m.Size, Labels: m.Labels, Fixed: m.Fixed, At: m.Addr, Zeros: m.Zeros, Keep: m.Keep}
	r, err := s.create(spec, &family{mf: s.opts.Memory}, m.Lineage)
	if err != nil {
		return nil, err
	}
	d := &durable{store: store, file: f}
	if n := len(m.Versions); version != 0 && n > 0 && m.Versions[n-1].Number != version {
		d.whole = true
	}
	r.waits.mu.Lock()
	r.waits.last = m.Members
	r.waits.mu.Unlock()
	err = store.Load(version, func(page uint64, b []byte) error {
		_, err := r.WriteAt(b, page*persist.BlockSize)
		return err
	})
	if err == nil && m.Digest != "" && !d.whole {
		err = r.sealedAs(m.Digest)
	}
	if err == nil {
		err = r.keepBase(d)
	}
	if err != nil {
		s.Remove(r)
		return nil, err
	}
	return r, nil
}

// sealedAs makes r what was sealed before.
func (r *Region) sealedAs(digest string) error {
	var d Digest
	text, ok := strings.CutPrefix(digest, "blake3:")
	if n, err := hex.Decode(d[:], []byte(text)); !ok || err != nil || n != len(d) {
		return errdefs.New(errdefs.RegionBroken, "its file has a digest that is none", errdefs.Resource("region %s", r.name))
	}
	r.sealed.Store(&d)
	return nil
}

// keepBase notes what was loaded.
func (r *Region) keepBase(d *durable) error {
	r.fam.mu.Lock()
	n := min(r.size, r.present<<chunkBits)
	r.fam.mu.Unlock()
	if err := r.store.charge(r, n); err != nil {
		return err
	}
	r.fam.mu.Lock()
	defer r.fam.mu.Unlock()
	d.base, d.charged = r.head.share(), n
	r.disk.Store(d)
	return nil
}

// close closes the file, unless a commit is under way, which does so when it ends.
func (d *durable) close() {
	if d.busy.CompareAndSwap(false, true) {
		if c, ok := d.file.(io.Closer); ok {
			c.Close() // What counts is synced.
		}
	}
}

// Persistent says whether r is kept in a file.
func (r *Region) Persistent() bool { return r.disk.Load() != nil }

// Stored lists the versions that the file of r keeps, the oldest first.
func (r *Region) Stored() []Committed {
	if d := r.disk.Load(); d != nil {
		return d.store.Meta().Versions
	}
	return nil
}

// dirty is how many bytes may differ from what was committed last.
func (r *Region) dirty() (n uint64) {
	d := r.disk.Load()
	if d == nil {
		return 0
	}
	r.fam.mu.Lock()
	defer r.fam.mu.Unlock()
	base := d.base
	if d.whole {
		base = tree{depth: r.head.depth}
	}
	base.depth = r.head.depth
	base.differ(&r.head, func(i uint64, _, _ *frame) { n += r.chunkLen(i) })
	return n
}

// Commit writes what r is at one moment to its file, as another version. When it
// returns, that is there again after whatever happens. Nobody may wait for the disk
// with locks: agents that use r go on meanwhile. A commit that fails has not
// happened, or, if the disk failed at the last, may have.
func (r *Region) Commit(comment string) (v Committed, err error) {
	d := r.disk.Load()
	switch {
	case d == nil:
		return v, errdefs.New(errdefs.Unsupported, "it is not persistent", errdefs.Op("commit"), errdefs.Resource("region %s", r.name),
			errdefs.Fix("make it with `aiosctl fabric create --persistent`"))
	case len(comment) > maxComment:
		return v, errdefs.Newf(errdefs.InvalidArgument, "the comment is longer than %d bytes", maxComment).With(errdefs.Fix("shorten it"))
	case !d.busy.CompareAndSwap(false, true):
		return v, errdefs.New(errdefs.WrongState, "another commit is under way", errdefs.Op("commit"), errdefs.Resource("region %s", r.name),
			errdefs.Fix("wait for it"))
	}
	defer func() {
		if d.busy.Store(false); r.ended.Load() {
			d.close()
		}
	}()
	now, charged, err := r.freeze()
	if err != nil {
		return v, err
	}
	v, err = r.writeOut(d, &now, comment)
	r.fam.mu.Lock()
	old, was := d.base, d.charged
	if err != nil || r.ended.Load() {
		old, was = now, charged
	} else {
		d.base, d.charged, d.whole = now, charged, false
	}
	old.drop(r.fam.free)
	r.fam.mu.Unlock()
	r.store.release(r, was)
	return v, err
}

// freeze returns what r is at one moment, and what was charged for it.
func (r *Region) freeze() (now tree, charged uint64, err error) {
	r.change.Lock()
	defer r.change.Unlock()
	if err := r.err(); err != nil {
		return now, 0, err
	}
	for done := false; !done; {
		r.fam.mu.Lock()
		most := min(r.size, r.present<<chunkBits+snapshotSlack)
		r.fam.mu.Unlock()
		if err := r.store.charge(r, most); err != nil {
			return now, 0, err
		}
		err := r.still(func() {
			if charged = min(r.size, r.present<<chunkBits); charged <= most {
				now, done = r.head.share(), true
			}
		})
		if err != nil || !done {
			r.store.release(r, most)
		} else {
			r.store.release(r, most-charged)
		}
		if err != nil {
			return now, 0, err
		}
	}
	return now, charged, nil
}

// writeOut writes the pages in which now differs from what was committed last.
func (r *Region) writeOut(d *durable, now *tree, comment string) (v Committed, err error) {
	t, err := d.store.Begin(d.whole)
	if err != nil {
		return v, err
	}
	defer t.Abort()
	var changed []uint64
	r.fam.mu.Lock()
	base := tree{depth: now.depth}
	if !d.whole {
		base.root = d.base.root
	}
	base.differ(now, func(i uint64, _, _ *frame) { changed = append(changed, i) })
	r.fam.mu.Unlock()
	is, was := make([]byte, chunkSize), make([]byte, chunkSize)
	for _, i := range changed {
		n := r.chunkLen(i)
		if err := r.bothAt(i, now, &base, is[:n], was[:n]); err != nil {
			return v, err
		}
		for off := uint64(0); off < n; off += persist.BlockSize {
			if page := is[off : off+persist.BlockSize]; !bytes.Equal(page, was[off:off+persist.BlockSize]) {
				if err := t.Put((i<<chunkBits+off)/persist.BlockSize, page); err != nil {
					return v, err
				}
			}
		}
	}
	return t.Commit(comment, r.store.opts.Clock.Now().UnixNano(), func(m *persist.Meta) {
		r.waits.mu.Lock()
		m.Members = r.waits.last
		r.waits.mu.Unlock()
		m.Digest = ""
		if sealed, ok := r.Sealed(); ok {
			m.Digest = sealed.String()
		}
	})
}

// bothAt reads a chunk as it is and as it was.
func (r *Region) bothAt(i uint64, now, base *tree, is, was []byte) error {
	r.fam.mu.Lock()
	defer r.fam.mu.Unlock()
	if err := r.err(); err != nil { // base is gone, then.
		return err
	}
	if _, err := r.read(now, is, i<<chunkBits); err != nil {
		return err
	}
	_, err := r.read(base, was, i<<chunkBits)
	return err
}

// dropBase forgets what was committed last, and returns what was charged for it.
//
// +checklocks:r.fam.mu
func (r *Region) dropBase() (charged uint64) {
	d := r.disk.Load()
	if d == nil {
		return 0
	}
	charged = d.charged
	d.base.drop(r.fam.free)
	d.charged = 0
	return charged
}
