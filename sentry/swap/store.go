// Package swap keeps pages of memory that nobody has used for a while, where they
// take less room: compressed with zstd in memory, and then in a file.
//
// A page that is put into a [Store] becomes a [Blob], which says where it is. It is
// got back as it was: its sum is kept beside it, and a page that is not what it was
// is an error and never anything else. What is only zeros is kept nowhere.
//
// It knows nothing of address spaces: who owns a page, how old it is and when it
// moves is up to the caller. Nor does it hold memory of its own: both tiers are the
// caller's.
//
// Lock order: the Store's mutex is a leaf. Tiers are called without it, but for
// taking and giving slabs.
package swap

import (
	"sync"

	"aios.dev/aios/errdefs"
)

// PageSize is the length of a page.
const PageSize = 4096

// Place is where the bytes of a page are.
type Place uint8

const (
	// Nowhere: the page is all zeros.
	Nowhere Place = iota
	// InMemory: compressed.
	InMemory
	// InFile: in the swap file.
	InFile
)

// Blob is a page that was put into a Store. It belongs to whoever put it there,
// until Drop.
type Blob struct {
	Place Place
	len   uint16
	off   uint32
	slab  uint32
	sum   uint32
}

// Len is how many bytes it takes, where it is.
func (b Blob) Len() int { return int(b.len) }

// Usage is what a Store holds, in bytes unless it says otherwise.
type Usage struct {
	// Pages are those in each place.
	Zero, InMemory, InFile uint64
	// Memory and File are taken of the tiers, MemoryData and FileData are the pages
	// in them.
	Memory, File         uint64
	MemoryData, FileData uint64
	// FileLimit is how much of the file may be taken.
	FileLimit uint64
}

// Store keeps pages in two tiers. Its methods may be called at any time.
type Store struct {
	mu   sync.Mutex
	mem  *slots // +checklocks:mu
	file *slots // nil: there is none; +checklocks:mu
	use  Usage  // but for what slots know; +checklocks:mu
}

// New returns a Store on memory, of which it takes as much as it needs.
func New(memory Tier) *Store {
	const unbounded = 1 << 46
	return &Store{mem: newSlots(memory, unbounded)}
}

// SetFile gives the store a file of which it may use so many bytes. There is one
// at most, for good; SetFile reports whether it is this one.
func (s *Store) SetFile(file Tier, bytes uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		s.file = newSlots(file, bytes)
		return true
	}
	s.file.max = int(min(bytes/SlabSize, 1<<31))
	return false
}

// HasFile reports whether it has one that it may use.
func (s *Store) HasFile() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.file != nil && s.file.max > 0
}

// Usage is what it holds.
func (s *Store) Usage() Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.use
	u.Memory = s.mem.held()
	if s.file != nil {
		u.File, u.FileLimit = s.file.held(), uint64(s.file.max)*SlabSize
	}
	return u
}

// scratch is for pages on their way.
var scratch = sync.Pool{New: func() any { return new([2 * PageSize]byte) }}

// Put keeps page, compressed, in memory.
func (s *Store) Put(page []byte) (Blob, error) {
	if isZero(page) {
		s.mu.Lock()
		s.use.Zero++
		s.mu.Unlock()
		return Blob{}, nil
	}
	buf := scratch.Get().(*[2 * PageSize]byte)
	defer scratch.Put(buf)
	return s.put(InMemory, compress(page, buf[:]), sum(page))
}

// put keeps data in a tier.
func (s *Store) put(where Place, data []byte, sum uint32) (Blob, error) {
	s.mu.Lock()
	t := s.tierLocked(where)
	if t == nil {
		s.mu.Unlock()
		return Blob{}, errdefs.New(errdefs.SwapFull, "there is no swap file")
	}
	n, off, err := t.take(len(data))
	s.mu.Unlock()
	if err != nil {
		return Blob{}, err
	}
	err = t.tier.Write(n, off, data)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		t.give(n, off)
		return Blob{}, err
	}
	b := Blob{Place: where, len: uint16(len(data)), off: uint32(off), slab: n, sum: sum}
	s.countLocked(b, 1)
	return b, nil
}

// +checklocks:s.mu
func (s *Store) tierLocked(where Place) *slots {
	if where == InFile {
		return s.file
	}
	return s.mem
}

// countLocked adds b to what the store holds, or takes it away.
//
// +checklocks:s.mu
func (s *Store) countLocked(b Blob, n int) {
	switch b.Place {
	case Nowhere:
		s.use.Zero += uint64(n)
	case InMemory:
		s.use.InMemory += uint64(n)
		s.use.MemoryData += uint64(n * b.Len())
	case InFile:
		s.use.InFile += uint64(n)
		s.use.FileData += uint64(n * b.Len())
	}
}

// Get reads a page back. It stays where it is.
func (s *Store) Get(b Blob, page []byte) error {
	if b.Place == Nowhere {
		clear(page)
		return nil
	}
	buf := scratch.Get().(*[2 * PageSize]byte)
	defer scratch.Put(buf)
	data, err := s.read(b, buf[:])
	if err != nil {
		return err
	}
	if err := decompress(data, page); err != nil {
		return err
	}
	if sum(page) != b.sum {
		return errdefs.New(errdefs.SwapDamaged, "a page is not what it was when it was swapped out")
	}
	return nil
}

// read reads what a blob is.
func (s *Store) read(b Blob, buf []byte) ([]byte, error) {
	s.mu.Lock()
	t := s.tierLocked(b.Place)
	s.mu.Unlock()
	data := buf[:b.Len()]
	return data, errdefs.Wrap(t.tier.Read(b.slab, int(b.off), data), errdefs.SwapDamaged, "read a page that was swapped out")
}

// Demote moves a page from memory to the file. If it fails, the page is where it
// was.
func (s *Store) Demote(b Blob) (Blob, error) {
	if b.Place != InMemory {
		return b, nil
	}
	buf := scratch.Get().(*[2 * PageSize]byte)
	defer scratch.Put(buf)
	data, err := s.read(b, buf[:])
	if err != nil {
		return b, err
	}
	to, err := s.put(InFile, data, b.sum)
	if err != nil {
		return b, err
	}
	s.Drop(b)
	return to, nil
}

// Drop forgets a page.
func (s *Store) Drop(b Blob) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.countLocked(b, -1)
	if b.Place != Nowhere {
		s.tierLocked(b.Place).give(b.slab, int(b.off))
	}
}
