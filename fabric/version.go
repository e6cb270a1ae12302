package fabric

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"time"

	"aios.dev/aios/errdefs"
)

// Version is what a region was at some moment.
type Version struct {
	number  int
	comment string
	made    time.Time
	charged uint64 // what it may come to need
	tree    tree   // guarded by family.mu
	present uint64 // chunks in it
}

// VersionInfo describes a version.
type VersionInfo struct {
	Number  int
	Comment string
	Age     time.Duration
	// Charged is what it may come to need: as much as it holds.
	Charged uint64
}

// maxComment is how long what is said about a version may be.
const maxComment = 200

// Snapshot makes a version of what r is now, and returns its number. The owner is
// charged for what it may come to need. Versions beyond those to be kept go, the
// oldest first.
func (r *Region) Snapshot(comment string) (VersionInfo, error) {
	if len(comment) > maxComment {
		return VersionInfo{}, errdefs.Newf(errdefs.InvalidArgument, "the comment is longer than %d bytes", maxComment).With(errdefs.Fix("shorten it"))
	}
	r.change.Lock()
	defer r.change.Unlock()
	if err := r.err(); err != nil {
		return VersionInfo{}, err
	}
	var gone uint64
	if r.keep > 0 {
		r.fam.mu.Lock()
		for len(r.versions) >= r.keep {
			gone += r.forget(0)
		}
		r.fam.mu.Unlock()
		r.store.release(r, gone)
	}
	v := &Version{comment: comment, made: r.store.opts.Clock.Now()}
	// What it holds is known at that moment only.
	for v.number == 0 {
		r.fam.mu.Lock()
		most := min(r.size, r.present<<chunkBits+snapshotSlack)
		r.fam.mu.Unlock()
		if err := r.store.charge(r, most); err != nil {
			return VersionInfo{}, err
		}
		err := r.still(func() {
			if v.charged = min(r.size, r.present<<chunkBits); v.charged > most {
				return
			}
			r.last++
			v.number, v.tree, v.present = r.last, r.head.share(), r.present
			r.versions = append(r.versions, v)
		})
		if err != nil || v.number == 0 {
			r.store.release(r, most)
		} else {
			r.store.release(r, most-v.charged)
		}
		if err != nil {
			return VersionInfo{}, err
		}
	}
	return r.describe(v), nil
}

// snapshotSlack is by how much a region may grow while a version is made.
const snapshotSlack = 4 << 20

// describe tells of v.
func (r *Region) describe(v *Version) VersionInfo {
	return VersionInfo{Number: v.number, Comment: v.comment, Age: r.store.since(v.made), Charged: v.charged}
}

// forget removes a version by its place, and returns what it was charged.
//
// +checklocks:r.fam.mu
func (r *Region) forget(i int) uint64 {
	v := r.versions[i]
	v.tree.drop(r.fam.free)
	r.versions = slices.Delete(r.versions, i, i+1)
	return v.charged
}

// Versions lists the versions, the oldest first.
func (r *Region) Versions() []VersionInfo {
	r.fam.mu.Lock()
	defer r.fam.mu.Unlock()
	out := make([]VersionInfo, 0, len(r.versions))
	for _, v := range r.versions {
		out = append(out, r.describe(v))
	}
	return out
}

// version finds one by its number.
//
// +checklocks:r.fam.mu
func (r *Region) version(number int) (int, error) {
	if err := r.err(); err != nil {
		return 0, err
	}
	if i := slices.IndexFunc(r.versions, func(v *Version) bool { return v.number == number }); i >= 0 {
		return i, nil
	}
	return 0, errdefs.New(errdefs.NotFound, "the region has no such version", errdefs.Resource("%s@%d", r.name, number),
		errdefs.Fix("`aiosctl fabric show %s` lists them", r.name))
}

// RemoveVersion forgets a version.
func (r *Region) RemoveVersion(number int) error {
	r.change.Lock()
	defer r.change.Unlock()
	r.fam.mu.Lock()
	i, err := r.version(number)
	var n uint64
	if err == nil {
		n = r.forget(i)
	}
	r.fam.mu.Unlock()
	if err == nil {
		r.store.release(r, n)
	}
	return err
}

// treeOf returns what a version holds; number 0 is what the region is now.
//
// +checklocks:r.fam.mu
func (r *Region) treeOf(number int) (*tree, error) {
	if number == 0 {
		return &r.head, r.err()
	}
	i, err := r.version(number)
	if err != nil {
		return nil, err
	}
	return &r.versions[i].tree, nil
}

// ReadVersion is ReadAt of a version; 0 is what the region is now.
func (r *Region) ReadVersion(number int, p []byte, off uint64) (int, error) {
	r.fam.mu.Lock()
	defer r.fam.mu.Unlock()
	t, err := r.treeOf(number)
	if err != nil {
		return 0, err
	}
	return r.read(t, p, off)
}

// Rollback makes r what it was in a version, for all who have it mapped. What
// somebody writes meanwhile may be lost, or not.
func (r *Region) Rollback(number int) error {
	r.change.Lock()
	defer r.change.Unlock()
	if r.sealed.Load() != nil {
		return r.isSealed()
	}
	var old tree
	r.fam.mu.Lock()
	i, err := r.version(number)
	r.fam.mu.Unlock()
	if err != nil {
		return err
	}
	err = r.still(func() {
		old = r.head
		r.head, r.present = r.versions[i].tree.share(), r.versions[i].present
	})
	if err != nil {
		return err
	}
	r.invalidate(false) // Who read meanwhile has what was there before.
	r.waits.stir()
	r.fam.mu.Lock()
	old.drop(r.fam.free)
	r.fam.mu.Unlock()
	return nil
}

// Fork makes another region that holds what a version of r does.
func (r *Region) Fork(number int, spec Spec) (*Region, error) {
	spec.Size = r.size
	spec.Labels = slices.Concat(spec.Labels, r.labels) // None can be shed by that.
	if number == 0 {
		return nil, errdefs.New(errdefs.InvalidArgument, "a fork is of a version", errdefs.Resource("%s", r.name), errdefs.Fix("make a snapshot first"))
	}
	r.fam.mu.Lock()
	_, err := r.version(number)
	r.fam.mu.Unlock()
	if err != nil {
		return nil, err
	}
	n, err := r.store.create(spec, r.fam, r.name+"@"+strconv.Itoa(number))
	if err != nil {
		return nil, err
	}
	r.waits.mu.Lock()
	last := r.waits.last
	r.waits.mu.Unlock()
	n.waits.mu.Lock()
	n.waits.last = last // Who has a lock there is nobody here.
	n.waits.mu.Unlock()
	r.fam.mu.Lock()
	i, err := r.version(number) // It may have gone meanwhile.
	if err == nil {
		n.head.drop(r.fam.free) // Nobody has touched it.
		n.head, n.present = r.versions[i].tree.share(), r.versions[i].present
	}
	r.fam.mu.Unlock()
	if err != nil {
		r.store.Remove(n)
		return nil, err
	}
	return n, nil
}

// Span is a part of a region.
type Span struct{ Start, End uint64 }

// String is the part in hexadecimal.
func (s Span) String() string { return fmt.Sprintf("%#x-%#x", s.Start, s.End) }

// diffPage is what differs or not as a whole.
const diffPage = 4096

// Diff returns the pages in which two versions differ, 0 being what the region is
// now, side by side as one, and how many bytes that is. At most so many spans are
// returned.
func (r *Region) Diff(a, b int, most int) (spans []Span, total uint64, err error) {
	r.fam.mu.Lock()
	defer r.fam.mu.Unlock()
	x, err := r.treeOf(a)
	if err != nil {
		return nil, 0, err
	}
	y, err := r.treeOf(b)
	if err != nil {
		return nil, 0, err
	}
	var left, right [chunkSize]byte
	x.differ(y, func(i uint64, f, g *frame) {
		n := r.chunkLen(i)
		for _, side := range []struct {
			f   *frame
			buf []byte
		}{{f, left[:n]}, {g, right[:n]}} {
			clear(side.buf)
			if side.f != nil && err == nil {
				err = r.copyOut(side.buf, side.f, 0)
			}
		}
		for at := uint64(0); at < n; at += diffPage {
			if bytes.Equal(left[at:at+diffPage], right[at:at+diffPage]) {
				continue
			}
			total += diffPage
			s := Span{i<<chunkBits + at, i<<chunkBits + at + diffPage}
			if k := len(spans); k > 0 && spans[k-1].End == s.Start {
				spans[k-1].End = s.End
			} else if k < most {
				spans = append(spans, s)
			}
		}
	})
	return spans, total, err
}
