package fabric

import (
	"bytes"
	"strconv"
	"strings"

	"gvisor.dev/gvisor/pkg/safemem"

	"aios.dev/aios/errdefs"
)

// Fold is a fork that is folded back into the region that it is one of, page by
// page and three ways: what only the fork has changed since becomes the region's,
// and where both have, there is a conflict unless they have come to the same. It
// holds the region until Keep or Undo.
type Fold struct {
	// Changed is how many bytes of the region are changed.
	Changed uint64
	// Conflicts are pages that both have changed, side by side as one, at most as
	// many as were asked for; Clashing is how many bytes those are in all. If there
	// are any and no side was taken, nothing is changed.
	Conflicts []Span
	Clashing  uint64

	into    *Region
	took    []foldChunk
	done    bool
	old     tree // what it was, if done
	present uint64
}

// foldChunk is which pages of a chunk are taken from the fork: a bit for each.
type foldChunk struct {
	i     uint64
	pages uint32
}

// Base returns the name of the region that r was forked from, and of which version.
func (r *Region) Base() (name string, version int, ok bool) {
	name, number, ok := strings.Cut(r.lineage, "@")
	version, err := strconv.Atoi(number)
	return name, version, ok && err == nil
}

// Fold folds from, which is a fork of r, back into it. In a conflict take says whose
// pages r has then: "ours", which are its own, or "theirs", those of the fork; else
// nothing is changed. With dry nothing is changed in any case. Who writes to r waits
// for it; nobody may write to from. A Fold that is returned holds r.change until Keep
// or Undo.
//
// +checklocksignore
func (r *Region) Fold(from *Region, take string, dry bool, most int) (*Fold, error) {
	name, number, ok := from.Base()
	if !ok || name != r.name || from.fam != r.fam || from == r {
		return nil, errdefs.New(errdefs.InvalidArgument, "it is no fork of "+r.name, errdefs.Op("merge"), errdefs.Resource("region %s", from.name),
			errdefs.Fix("name one that `aiosctl fabric fork` has made of it"))
	}
	f := &Fold{into: r}
	r.change.Lock()
	if r.sealed.Load() != nil {
		r.change.Unlock()
		return nil, r.isSealed()
	}
	r.fam.mu.Lock()
	_, err := r.version(number)
	r.fam.mu.Unlock()
	if err == nil {
		if still := r.still(func() { err = f.fold(from, number, take, dry, most) }); still != nil {
			err = still
		}
	}
	if err != nil {
		f.Undo()
		return nil, err
	}
	if f.done {
		r.invalidate(false)
		r.waits.stir()
	}
	return f, nil
}

// fold is Fold with family.mu held.
//
// +checklocksignore
func (f *Fold) fold(from *Region, number int, take string, dry bool, most int) error {
	r := f.into
	base, err := r.treeOf(number)
	if err != nil {
		return err
	}
	if err := f.compare(base, from, take == "theirs", most); err != nil {
		return err
	}
	if dry || f.Clashing > 0 && take != "ours" && take != "theirs" || len(f.took) == 0 {
		return nil
	}
	f.old, f.present, f.done = r.head.share(), r.present, true
	var buf [chunkSize]byte
	for _, c := range f.took {
		if err := from.chunk(&from.head, c.i, buf[:r.chunkLen(c.i)]); err != nil {
			return err
		}
		own, _, err := r.ours(c.i, true)
		if err != nil {
			return err
		}
		to, err := r.fam.bytes(own.fr)
		if err != nil {
			return errdefs.Wrap(err, errdefs.Internal, "write memory", errdefs.Resource("%s", r.name))
		}
		for p := range uint64(chunkSize / diffPage) {
			if c.pages&(1<<p) == 0 {
				continue
			}
			page := safemem.BlockSeqOf(safemem.BlockFromSafeSlice(buf[p*diffPage : (p+1)*diffPage]))
			if _, err := safemem.CopySeq(to.DropFirst64(p*diffPage), page); err != nil {
				return errdefs.Wrap(err, errdefs.Internal, "write memory", errdefs.Resource("%s", r.name))
			}
		}
	}
	return nil
}

// chunk reads one of a tree.
func (r *Region) chunk(t *tree, i uint64, p []byte) error {
	f, _ := t.peek(i)
	if f == nil {
		clear(p)
		return nil
	}
	return r.copyOut(p, f, 0)
}

// compare finds out what is taken from the fork.
func (f *Fold) compare(base *tree, from *Region, theirs bool, most int) (err error) {
	r := f.into
	var was, our, their [chunkSize]byte
	base.differ(&from.head, func(i uint64, _, _ *frame) {
		n := r.chunkLen(i)
		for _, side := range []struct {
			t *tree
			p []byte
		}{{base, was[:n]}, {&r.head, our[:n]}, {&from.head, their[:n]}} {
			if err == nil {
				err = r.chunk(side.t, i, side.p)
			}
		}
		if err != nil {
			return
		}
		c := foldChunk{i: i}
		for at := uint64(0); at < n; at += diffPage {
			b, o, t := was[at:at+diffPage], our[at:at+diffPage], their[at:at+diffPage]
			if bytes.Equal(t, b) || bytes.Equal(t, o) {
				continue
			}
			if !bytes.Equal(o, b) {
				f.clash(i<<chunkBits+at, most)
				if !theirs {
					continue
				}
			}
			c.pages |= 1 << (at / diffPage)
			f.Changed += diffPage
		}
		if c.pages != 0 {
			f.took = append(f.took, c)
		}
	})
	return err
}

func (f *Fold) clash(at uint64, most int) {
	f.Clashing += diffPage
	if k := len(f.Conflicts); k > 0 && f.Conflicts[k-1].End == at {
		f.Conflicts[k-1].End += diffPage
	} else if k < most {
		f.Conflicts = append(f.Conflicts, Span{at, at + diffPage})
	}
}

// Keep ends the fold; what was changed stays.
//
// +checklocksignore
func (f *Fold) Keep() {
	r := f.into
	if f.done {
		r.fam.mu.Lock()
		f.old.drop(r.fam.free)
		r.fam.mu.Unlock()
	}
	r.change.Unlock()
}

// Undo ends the fold; the region is what it was.
//
// +checklocksignore
func (f *Fold) Undo() {
	r := f.into
	if f.done {
		var mixed tree
		if err := r.still(func() {
			mixed = r.head
			r.head, r.present = f.old, f.present
		}); err != nil { // Somebody writes all the time, and keeps what is there.
			mixed = f.old
		}
		r.invalidate(false)
		r.waits.stir()
		r.fam.mu.Lock()
		mixed.drop(r.fam.free)
		r.fam.mu.Unlock()
	}
	r.change.Unlock()
}
