package persist

import (
	"bytes"

	"aios.dev/aios/errdefs"
)

// Tx is what is to be committed: a version that is made of another. The store is
// locked until it ends, by Commit or Abort.
type Tx struct {
	s     *Store
	base  ptr
	root  *branch
	depth int
	took  []uint64 // blocks that were written
	pages int64    // of the version
	over  bool
}

// branch is a node that has been read, and those below it that have been changed.
type branch struct {
	node
	kids map[uint64]*branch
}

// Begin begins a version. With empty it starts from zeros, else from what was
// committed last.
//
// It is locked from Begin until Commit or Abort.
//
// +checklocksignore
func (s *Store) Begin(empty bool) (*Tx, error) {
	s.turn.Lock()
	if s.failed != nil {
		s.turn.Unlock()
		return nil, errdefs.Wrap(s.failed, errdefs.HostIO, "commit", errdefs.Resource("region %s", s.name),
			errdefs.Fix("see to the disk, and open the region again: what was committed before is there"))
	}
	t := &Tx{s: s, depth: depthFor(s.meta.pages())}
	if vs := s.meta.Versions; len(vs) > 0 && !empty {
		t.base, t.pages = vs[len(vs)-1].root(), int64(vs[len(vs)-1].Pages)
	}
	n, err := s.node(t.base)
	if err != nil {
		s.turn.Unlock()
		return nil, err
	}
	t.root = &branch{node: *n}
	return t, nil
}

// at returns the pointer to a page, in a branch that may be changed.
func (t *Tx) at(page uint64) (*ptr, error) {
	b := t.root
	for h := t.depth - 1; h > 0; h-- {
		i := index(page, h)
		kid := b.kids[i]
		if kid == nil {
			n, err := t.s.node(b.node[i])
			if err != nil {
				return nil, err
			}
			kid = &branch{node: *n}
			if b.kids == nil {
				b.kids = make(map[uint64]*branch)
			}
			b.kids[i] = kid
		}
		b = kid
	}
	return &b.node[index(page, 0)], nil
}

var zeros [BlockSize]byte

// Put writes a page.
//
// It is locked from Begin until Commit or Abort.
//
// +checklocksignore
func (t *Tx) Put(page uint64, b []byte) error {
	if page >= t.s.meta.pages() || len(b) != BlockSize {
		return errdefs.New(errdefs.InvalidArgument, "it is not a page of the region", errdefs.Resource("region %s", t.s.name))
	}
	at, err := t.at(page)
	if err != nil {
		return err
	}
	if at.block != 0 {
		t.pages--
	}
	*at = ptr{}
	if bytes.Equal(b, zeros[:]) {
		return nil
	}
	t.pages++
	*at, err = t.write(b)
	return err
}

// write puts a block where nobody needs what is there.
//
// It is locked from Begin until Commit or Abort.
//
// +checklocksignore
func (t *Tx) write(b []byte) (ptr, error) {
	p := ptr{block: t.s.used.take(1)}
	t.took = append(t.took, p.block)
	p.sum = sum(p.block, b)
	if _, err := t.s.f.WriteAt(b, int64(p.block)*BlockSize); err != nil {
		return ptr{}, failedIO(err, "commit", t.s.name)
	}
	return p, nil
}

// flush writes the branches that have changed, and returns where b is.
func (t *Tx) flush(b *branch) (ptr, error) {
	for i, kid := range b.kids {
		p, err := t.flush(kid)
		if err != nil {
			return ptr{}, err
		}
		b.node[i] = p
	}
	if b.node == (node{}) {
		return ptr{}, nil
	}
	var raw [BlockSize]byte
	b.node.encode(&raw)
	return t.write(raw[:])
}

// Commit makes it the last version; change, unless nil, changes what else there is
// to say of the region. When it returns nil, the version outlives everything; on an
// error what was committed before does, and the version may or may not.
//
// It is locked from Begin until Commit or Abort.
//
// +checklocksignore
func (t *Tx) Commit(comment string, now int64, change func(*Meta)) (Version, error) {
	root, err := t.flush(t.root)
	if err != nil {
		t.Abort()
		return Version{}, err
	}
	s := t.s
	m := s.meta
	m.Versions = append([]Version(nil), m.Versions...)
	v := Version{Number: 1, Comment: comment, Time: now, Pages: uint64(t.pages), Block: root.block, Sum: root.sum}
	if n := len(m.Versions); n > 0 {
		v.Number = m.Versions[n-1].Number + 1
	}
	m.Versions = append(m.Versions, v)
	if change != nil {
		change(&m)
	}
	gone := m.Versions[:max(0, len(m.Versions)-m.Keep)]
	m.Versions = m.Versions[len(gone):]
	if err := s.write(m); err != nil {
		t.Abort()
		return Version{}, err
	}
	for i, o := range gone {
		after := v
		if i+1 < len(gone) {
			after = gone[i+1]
		} else if len(m.Versions) > 0 {
			after = m.Versions[0]
		}
		if err := s.release(o.root(), after.root(), t.depth); err != nil {
			break // They are found to be free when it is opened again.
		}
	}
	t.over = true
	s.turn.Unlock()
	return v, nil
}

// release frees the blocks of a version that are not in the next.
//
// +checklocks:s.turn
func (s *Store) release(old, next ptr, height int) error {
	if old.block == 0 || old.block == next.block {
		return nil
	}
	if height > 0 {
		a, err := s.node(old)
		if err != nil {
			return err
		}
		b, err := s.node(next)
		if err != nil {
			return err
		}
		for i := range a {
			if err := s.release(a[i], b[i], height-1); err != nil {
				return err
			}
		}
	}
	s.used.clear(old.block)
	return nil
}

// Abort ends it: nothing has happened. After Commit it does nothing.
//
// It is locked from Begin until Commit or Abort.
//
// +checklocksignore
func (t *Tx) Abort() {
	if t.over {
		return
	}
	t.over = true
	if t.s.failed == nil { // Else a header may point to them.
		for _, b := range t.took {
			t.s.used.clear(b)
		}
	}
	t.s.turn.Unlock()
}
